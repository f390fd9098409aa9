//! Counts the bytes of all bodies in memory, and chooses the body that gives way when there are too many bytes.
//!
//! A body takes room as it arrives. When there is no room for more bytes, the incomplete body with the highest cost
//! gives way. The cost of a body is its bytes times the time since it began, so clients that begin bodies and do not
//! end them lose their room to clients whose bodies arrive at once. A complete body keeps its room until it is
//! published.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use crate::handler::BodyRoom;

/// The bodies of all connections. A clone is another handle to the same bodies.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    bytes_max: usize,
    /// The bytes of all bodies, complete ones included.
    bytes: usize,
    /// The part of these bytes that batches of messages have beside their bodies.
    batch_bytes: usize,
    incomplete: BTreeMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: usize,
    since: Instant,
    /// Ends the body's reader when it is dropped.
    _gives_way: oneshot::Sender<()>,
}

/// A body whose end has not arrived.
#[derive(Debug)]
pub(super) struct Incomplete {
    bodies: Bodies,
    number: u64,
}

/// The room of a complete body. Its drop gives the room back.
#[derive(Debug)]
pub(super) struct Room {
    bodies: Bodies,
    bytes: usize,
    is_of_batch: bool,
}

/// Resolves when a body has given way.
pub(super) type GivenWay = oneshot::Receiver<()>;

/// The error of a body without room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Bodies {
    pub(super) fn new(bytes_max: usize) -> Bodies {
        Bodies { table: Arc::new(Mutex::new(Table { bytes_max, ..Table::default() })) }
    }

    /// Sets the most bytes of all bodies. Bodies beyond a smaller number keep their room.
    pub(super) fn set_max(&self, bytes_max: usize) {
        self.lock().bytes_max = bytes_max;
    }

    /// Returns the bytes of all bodies.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Returns the bytes of the incomplete bodies, which may give way.
    pub(super) fn incomplete_bytes(&self) -> usize {
        self.lock().incomplete.values().map(|entry| entry.bytes).sum()
    }

    /// Lets incomplete bodies give way, the largest first, until `bytes` are free or no body with any bytes is left.
    /// Returns how many have given way.
    pub(super) fn give_up(&self, bytes: u64) -> u64 {
        let mut table = self.lock();
        let (mut given_up, mut count) = (0, 0);
        while given_up < bytes {
            let largest = table.incomplete.iter().map(|(&number, entry)| (entry.bytes, number)).max();
            let Some((largest, number)) = largest.filter(|&(bytes, _)| bytes > 0) else { break };
            table.remove(number);
            given_up += largest as u64;
            count += 1;
        }
        count
    }

    /// Takes room for a body of `bytes` that has arrived at once. Incomplete bodies give way if their cost is not 0.
    ///
    /// # Errors
    ///
    /// If there is no room.
    pub(super) fn take(&self, bytes: usize) -> Result<Room, NoRoom> {
        let mut table = self.lock();
        if table.bytes + bytes > table.bytes_max {
            self.make_room(&mut table, Instant::now(), bytes, None)?;
        }
        table.bytes += bytes;
        Ok(Room { bodies: self.clone(), bytes, is_of_batch: false })
    }

    /// Takes room for the messages of a batch and their answers, beside the batch's body. All batches together have
    /// half of the bytes, so clients that are slow to take their answers leave room for bodies.
    ///
    /// # Errors
    ///
    /// If there is no room.
    pub(super) fn take_for_batch(&self, bytes: usize) -> Result<Room, NoRoom> {
        let most = self.lock().bytes_max / 2;
        // One batch of any size has room.
        let mut room = self.take(bytes.min(most))?;
        let mut table = self.lock();
        if table.batch_bytes + room.bytes > most {
            // The drop of the room locks the table.
            drop(table);
            return Err(NoRoom);
        }
        table.batch_bytes += room.bytes;
        room.is_of_batch = true;
        drop(table);
        Ok(room)
    }

    /// Begins a body. The second value resolves when the body has given way.
    pub(super) fn begin(&self) -> (Incomplete, GivenWay) {
        let (gives_way, given_way) = oneshot::channel();
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table.incomplete.insert(number, Entry { bytes: 0, since: Instant::now(), _gives_way: gives_way });
        drop(table);
        (Incomplete { bodies: self.clone(), number }, given_way)
    }

    /// Lets incomplete bodies give way, the body with the highest cost first, until there is room for `bytes` more. A
    /// body keeps its room if its cost is at most that of the body `own` with these bytes; a body that arrives at once
    /// has no cost. If the room of all bodies that may give way is not enough, no body gives way.
    fn make_room(&self, table: &mut Table, now: Instant, bytes: usize, own: Option<u64>) -> Result<(), NoRoom> {
        let own_cost = own.and_then(|own| table.incomplete.get(&own)).map_or(0, |own| own.cost(now, bytes));
        let others = table.incomplete.iter().filter(|(number, _)| Some(**number) != own);
        let dearer = others.filter(|(_, entry)| entry.cost(now, 0) > own_cost);
        let given: usize = dearer.map(|(_, entry)| entry.bytes).sum();
        if table.bytes - given + bytes > table.bytes_max {
            return Err(NoRoom);
        }
        while table.bytes + bytes > table.bytes_max {
            let others = table.incomplete.iter().filter(|(number, _)| Some(**number) != own);
            let dearest = others.map(|(&number, entry)| (entry.cost(now, 0), number)).max();
            let (_, number) = dearest.ok_or(NoRoom)?;
            // The task of this body drops the received bytes before it reads more.
            table.remove(number);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incomplete {
    /// Takes room for `bytes` more. Other incomplete bodies give way if their cost is higher than the cost of this body
    /// with these bytes.
    ///
    /// # Errors
    ///
    /// If there is no room, or the body has given way.
    pub(super) fn grow(&self, bytes: usize) -> Result<(), NoRoom> {
        self.grow_at(Instant::now(), bytes)
    }

    fn grow_at(&self, now: Instant, bytes: usize) -> Result<(), NoRoom> {
        let mut table = self.bodies.lock();
        if !table.incomplete.contains_key(&self.number) {
            return Err(NoRoom);
        }
        self.bodies.make_room(&mut table, now, bytes, Some(self.number))?;
        table.bytes += bytes;
        if let Some(own) = table.incomplete.get_mut(&self.number) {
            own.bytes += bytes;
        }
        Ok(())
    }

    /// Makes the body a complete one, which never gives way.
    ///
    /// # Errors
    ///
    /// If it has given way.
    pub(super) fn complete(self) -> Result<Room, NoRoom> {
        let mut table = self.bodies.lock();
        // The bytes stay in the sum.
        let Entry { bytes, .. } = table.incomplete.remove(&self.number).ok_or(NoRoom)?;
        drop(table);
        Ok(Room { bodies: self.bodies.clone(), bytes, is_of_batch: false })
    }
}

impl Drop for Incomplete {
    fn drop(&mut self) {
        self.bodies.lock().remove(self.number);
    }
}

impl BodyRoom for Room {}

impl Drop for Room {
    fn drop(&mut self) {
        let mut table = self.bodies.lock();
        table.bytes -= self.bytes;
        if self.is_of_batch {
            table.batch_bytes -= self.bytes;
        }
    }
}

impl Table {
    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.incomplete.remove(&number) {
            self.bytes -= entry.bytes;
        }
    }
}

impl Entry {
    /// Returns the cost that the body would have now with `more` additional bytes, in bytes times milliseconds.
    fn cost(&self, now: Instant, more: usize) -> u128 {
        (self.bytes + more) as u128 * now.duration_since(self.since).as_millis()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn bodies_have_a_limit_together() {
        let bodies = Bodies::new(10);
        let now = Instant::now();
        let ((one, _), (other, _)) = (bodies.begin(), bodies.begin());
        assert_eq!((one.grow_at(now, 4), other.grow_at(now, 5)), (Ok(()), Ok(())));
        assert_eq!(
            (one.grow_at(now, 2), one.grow_at(now, 1), other.grow_at(now, 1)),
            (Err(NoRoom), Ok(()), Err(NoRoom))
        );
        drop(one);
        assert_eq!((other.grow_at(now, 3), other.grow_at(now, 3)), (Ok(()), Err(NoRoom)));
        let room = other.complete().unwrap();
        assert_eq!((bodies.take(3).err(), bodies.take(2).is_ok()), (Some(NoRoom), true));
        drop(room);
        assert_eq!(bodies.lock().bytes, 0);
    }

    /// Batches leave half of the room to bodies, and one batch of any size has room.
    #[test]
    fn batches_have_half_of_the_room() {
        let bodies = Bodies::new(10);
        let taken = || {
            let table = bodies.lock();
            (table.bytes, table.batch_bytes)
        };
        let two = [bodies.take_for_batch(3).unwrap(), bodies.take_for_batch(2).unwrap()];
        assert_eq!(bodies.take_for_batch(1).err(), Some(NoRoom));
        let body = bodies.take(5).unwrap();
        drop(two);
        assert_eq!(taken(), (5, 0));
        let large = bodies.take_for_batch(100).unwrap();
        assert_eq!((taken(), bodies.take(1).err()), ((10, 5), Some(NoRoom)));
        drop((body, large));
        assert_eq!(taken(), (0, 0));
    }

    #[test]
    fn a_smaller_limit_leaves_bodies_their_room() {
        let bodies = Bodies::new(10);
        let room = bodies.take(8).unwrap();
        bodies.set_max(5);
        assert_eq!(bodies.take(1).err(), Some(NoRoom));
        drop(room);
        assert_eq!((bodies.take(6).err(), bodies.take(5).is_ok()), (Some(NoRoom), true));
        bodies.set_max(20);
        assert!(bodies.take(20).is_ok());
        assert_eq!(bodies.lock().bytes, 0);
    }

    /// While the server is short of memory the largest bodies that have not arrived whole give way, as many as needed.
    #[test]
    fn the_largest_incomplete_bodies_are_given_up() {
        let bodies = Bodies::new(100);
        let begun = [10, 30, 0, 20].map(|bytes| {
            let (body, given_way) = bodies.begin();
            body.grow(bytes).map(|()| (body, given_way)).unwrap()
        });
        let whole = bodies.take(40).unwrap();
        assert_eq!((bodies.incomplete_bytes(), bodies.give_up(31)), (60, 2));
        let have_given_way = begun.map(|(_body, mut given_way)| given_way.try_recv() == Err(TryRecvError::Closed));
        assert_eq!(have_given_way, [false, true, false, true]);
        assert_eq!((bodies.bytes(), bodies.give_up(1)), (40, 0), "a complete body keeps its room");
        drop(whole);
        assert_eq!(bodies.bytes(), 0);
    }

    /// A client may go at any moment, also before the reader of its body has waited for anything.
    #[test]
    fn a_body_that_is_dropped_before_it_is_awaited_gives_its_room_back() {
        let bodies = Bodies::new(10);
        let kept = || {
            let table = bodies.lock();
            (table.bytes, table.incomplete.len())
        };
        let (body, given_way) = bodies.begin();
        body.grow(6).unwrap();
        drop((body, given_way));
        assert_eq!(kept(), (0, 0));
        // A body that has given way has nothing to give back, whether its reader knows of that or not.
        let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let (body, given_way) = bodies.begin();
        bodies.lock().incomplete.get_mut(&body.number).unwrap().since = start;
        body.grow(6).unwrap();
        drop(given_way);
        let room = bodies.take(8).expect("the body gives way");
        assert_eq!(body.grow(1), Err(NoRoom));
        drop(body);
        assert_eq!(kept(), (8, 0));
        drop(room);
        assert_eq!(kept(), (0, 0));
    }

    /// A body loses its room only if another body then finds room.
    #[test]
    fn nothing_gives_way_in_vain() {
        let bodies = Bodies::new(10);
        let begin = |bytes: usize, at: Instant| {
            let (body, gives_way) = bodies.begin();
            bodies.lock().incomplete.get_mut(&body.number).unwrap().since = at;
            body.grow_at(at, bytes).map(|()| (body, gives_way)).unwrap()
        };
        let start = Instant::now().checked_sub(Duration::from_millis(1)).unwrap();
        let whole = begin(7, start).0.complete().unwrap();
        let (small, mut gives_way) = begin(2, start);
        assert_eq!(bodies.take(4).err(), Some(NoRoom));
        assert_eq!((gives_way.try_recv(), bodies.lock().bytes), (Err(TryRecvError::Empty), 9));
        assert_eq!(bodies.take(3).map(|room| room.bytes), Ok(3));
        assert_eq!(gives_way.try_recv(), Err(TryRecvError::Closed));
        drop((whole, small));
        assert_eq!(bodies.lock().bytes, 0);
    }

    /// The incomplete body with the highest bytes times age gives way, and never a complete one.
    #[test]
    fn the_dearest_body_gives_way() {
        let bodies = Bodies::new(10);
        let begin = |bytes: usize, at: Instant| {
            let (body, gives_way) = bodies.begin();
            bodies.lock().incomplete.get_mut(&body.number).unwrap().since = at;
            body.grow_at(at, bytes).map(|()| (body, gives_way))
        };
        let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let whole = begin(4, start).unwrap().0.complete().unwrap();
        let (large, mut large_gives_way) = begin(4, start).unwrap();
        let (small, mut small_gives_way) = begin(1, start).unwrap();
        let (new, mut new_gives_way) = begin(5, after(1)).unwrap();
        assert_eq!(large_gives_way.try_recv(), Err(TryRecvError::Closed));
        assert_eq!((large.grow_at(after(1), 1), large.complete().err()), (Err(NoRoom), Some(NoRoom)));
        // A body that would then cost more than the dearest finds no room.
        assert_eq!(small.grow_at(after(2), 9), Err(NoRoom));
        for gives_way in [&mut small_gives_way, &mut new_gives_way] {
            assert_eq!(gives_way.try_recv(), Err(TryRecvError::Empty));
        }
        // A body that arrives at once has cost nothing.
        let at_once = bodies.take(2).unwrap();
        assert_eq!(new_gives_way.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(small_gives_way.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(bodies.lock().bytes, 7);
        drop((whole, small, new, at_once));
        assert_eq!(bodies.lock().bytes, 0);
    }
}

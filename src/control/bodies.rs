//! The bytes of all bodies in memory, and which body gives way when there are too many.
//!
//! A body is paid for as it arrives. When there is no room for more, the one that has cost most so far gives way, its
//! bytes times the time since it began: so clients that begin bodies and do not end them lose them to those who send
//! theirs at once, who have cost next to nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

/// The bodies of all connections.
#[derive(Debug)]
pub(super) struct Bodies {
    bytes_max: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    bytes: usize,
    held: BTreeMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: usize,
    since: Instant,
    /// Dropping it takes the body its room. A body that is whole has none, and keeps it.
    gives_way: Option<oneshot::Sender<()>>,
}

/// One body's part of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    table: Arc<Mutex<Table>>,
    bytes_max: usize,
    number: u64,
}

/// Resolves when a body has to give way.
pub(super) type GivenWay = oneshot::Receiver<()>;

/// Why a body cannot be read: there is no room for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Bodies {
    pub(super) fn new(bytes_max: usize) -> Bodies {
        Bodies { bytes_max, table: Arc::default() }
    }

    /// Begins a body. Until it is whole its reader ends when it has to give way.
    pub(super) fn hold(&self) -> (Held, GivenWay) {
        let (gives_way, given_way) = oneshot::channel();
        let mut table = lock(&self.table);
        let number = table.next;
        table.next += 1;
        table.held.insert(number, Entry { bytes: 0, since: Instant::now(), gives_way: Some(gives_way) });
        drop(table);
        (Held { table: Arc::clone(&self.table), bytes_max: self.bytes_max, number }, given_way)
    }
}

impl Held {
    /// Holds so many bytes more. Others give way if they have cost more than this body would.
    ///
    /// # Errors
    ///
    /// If there is no room.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.grow_at(Instant::now(), bytes)
    }

    fn grow_at(&mut self, now: Instant, bytes: usize) -> Result<(), NoRoom> {
        let mut table = lock(&self.table);
        let Some(own) = table.held.get(&self.number) else { return Err(NoRoom) };
        let own_cost = own.cost(now, bytes);
        while table.bytes + bytes > self.bytes_max {
            let others = table.held.iter().filter(|(number, entry)| **number != self.number && entry.may_give_way());
            let dearest = others.map(|(&number, entry)| (entry.cost(now, 0), number)).max();
            let (_, number) = dearest.filter(|(cost, _)| *cost > own_cost).ok_or(NoRoom)?;
            // Its task drops what it has before anything else of it is read.
            table.remove(number);
        }
        table.bytes += bytes;
        if let Some(own) = table.held.get_mut(&self.number) {
            own.bytes += bytes;
        }
        Ok(())
    }

    /// Keeps the room of a body that is whole, until it is dropped.
    ///
    /// # Errors
    ///
    /// If it has had to give way.
    pub(super) fn settle(&self) -> Result<(), NoRoom> {
        let mut table = lock(&self.table);
        table.held.get_mut(&self.number).ok_or(NoRoom)?.gives_way = None;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.table).remove(self.number);
    }
}

impl Table {
    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.held.remove(&number) {
            self.bytes -= entry.bytes;
        }
    }
}

impl Entry {
    /// Returns what the body has cost so far if it had so many bytes more, in bytes times milliseconds.
    fn cost(&self, now: Instant, more: usize) -> u128 {
        (self.bytes + more) as u128 * now.duration_since(self.since).as_millis()
    }

    fn may_give_way(&self) -> bool {
        self.gives_way.is_some()
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
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
        let ((mut one, _), (mut other, _)) = (bodies.hold(), bodies.hold());
        assert_eq!((one.grow_at(now, 4), other.grow_at(now, 5)), (Ok(()), Ok(())));
        assert_eq!(
            (one.grow_at(now, 2), one.grow_at(now, 1), other.grow_at(now, 1)),
            (Err(NoRoom), Ok(()), Err(NoRoom))
        );
        drop(one);
        assert_eq!((other.grow_at(now, 5), other.grow_at(now, 1)), (Ok(()), Err(NoRoom)));
    }

    /// The one that has kept most for longest, and never one that is whole.
    #[test]
    fn the_dearest_body_gives_way() {
        let bodies = Bodies::new(10);
        let begin = |bytes: usize, at: Instant| {
            let (mut held, gives_way) = bodies.hold();
            lock(&bodies.table).held.get_mut(&held.number).unwrap().since = at;
            held.grow_at(at, bytes).map(|()| (held, gives_way))
        };
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let (whole, _) = begin(4, start).unwrap();
        whole.settle().unwrap();
        let (mut large, mut large_gives_way) = begin(4, start).unwrap();
        let (mut small, mut small_gives_way) = begin(1, start).unwrap();
        let (new, mut new_gives_way) = begin(5, after(1)).unwrap();
        assert_eq!(large_gives_way.try_recv(), Err(TryRecvError::Closed));
        assert_eq!((large.grow_at(after(1), 1), large.settle()), (Err(NoRoom), Err(NoRoom)));
        // What would then cost more than the dearest itself finds no room.
        assert_eq!(small.grow_at(after(2), 9), Err(NoRoom));
        for gives_way in [&mut small_gives_way, &mut new_gives_way] {
            assert_eq!(gives_way.try_recv(), Err(TryRecvError::Empty));
        }
        drop((whole, large, small, new));
        assert_eq!(lock(&bodies.table).bytes, 0);
    }
}

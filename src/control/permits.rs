//! Limits the connections that are served at the same time, and chooses the connection that gives way to a new one.
//!
//! HTTP allows a server to end a connection between two requests at any time (RFC 9112 9.5). So a connection that is
//! idle holds its permit only until another connection needs it; a connection whose request has begun to arrive holds
//! its permit until the request is answered and the client has taken all but `LEFT_TO_KERNEL_MAX` bytes of the answer.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use slab::Slab;
use tokio::{net::TcpStream, sync::oneshot};

use crate::handover::IdleConnection;

/// The permits for connections that are served at the same time.
#[derive(Debug)]
pub(super) struct ConnectionPermits {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    permits_max: usize,
    /// Permits that are held and have not given way.
    taken: usize,
    /// The holders by key. A permit keeps its key until it is dropped, even after it has given way.
    holders: Slab<Holder>,
    /// Connections that have become idle, in that order. An entry is out of date once its holder has another state.
    idle_queue: VecDeque<IdleEntry>,
    /// The number of changes to idle, over all connections. It serves as a timestamp.
    idle_count: u64,
}

/// The state of a connection that has a permit.
#[derive(Debug)]
struct Holder {
    state: State,
    /// The connection, once it has been idle.
    connection: Option<IdleConnection>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Busy,
    /// The connection is idle. The number is [`Table::idle_count`] when it became idle.
    Idle(u64),
    GaveWay,
}

#[derive(Debug, Clone, Copy)]
struct IdleEntry {
    key: usize,
    since: u64,
}

/// One connection's permit, until it is dropped or has given way.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    permits: Arc<ConnectionPermits>,
    key: usize,
}

impl ConnectionPermits {
    pub(super) fn new(permits_max: usize) -> Arc<ConnectionPermits> {
        Arc::new(ConnectionPermits { table: Mutex::new(Table { permits_max, ..Table::default() }) })
    }

    /// Sets the most permits. Those beyond a smaller number are kept until they are dropped.
    pub(super) fn set_max(&self, permits_max: usize) {
        self.lock().permits_max = permits_max;
    }

    /// Returns a permit for a new connection. If all are taken, the connection that has been idle longest and has no
    /// unread input gives way, and `gave_way` is called. Returns `None` if no connection gives way: at most
    /// [`IdleConnection::LOOKS_MAX`] idle ones are looked at.
    pub(super) fn admit(self: &Arc<Self>, gave_way: impl FnOnce()) -> Option<ConnectionPermit> {
        let mut table = self.lock();
        if table.taken < table.permits_max {
            table.taken += 1;
        } else {
            let longest_idle = table.take_longest_idle()?;
            let holder = &mut table.holders[longest_idle];
            holder.state = State::GaveWay;
            holder.connection.iter().for_each(IdleConnection::wake);
            gave_way();
        }
        let key = table.holders.insert(Holder { state: State::Busy, connection: None });
        drop(table);
        Some(ConnectionPermit { permits: Arc::clone(self), key })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Returns whether the holder has been idle since the entry was made.
    fn is_current(&self, entry: &IdleEntry) -> bool {
        self.holders.get(entry.key).is_some_and(|holder| holder.state == State::Idle(entry.since))
    }

    /// Takes the connection that has been idle longest out of the queue, and returns its key. Looks at
    /// [`IdleConnection::LOOKS_MAX`] sockets at most: each look is a system call under the lock.
    ///
    /// Unread input is a request, so a connection with unread input is busy. It is dequeued, so the next call does not
    /// look at it again.
    fn take_longest_idle(&mut self) -> Option<usize> {
        let mut looks = 0;
        while looks < IdleConnection::LOOKS_MAX
            && let Some(entry) = self.idle_queue.pop_front()
        {
            if !self.is_current(&entry) {
                continue;
            }
            let holder = &mut self.holders[entry.key];
            if !holder.connection.as_ref().is_some_and(IdleConnection::has_input) {
                return Some(entry.key);
            }
            holder.state = State::Busy;
            looks += 1;
        }
        None
    }

    /// Appends a connection that has become idle to the queue. Entries that are out of date are removed when the queue
    /// has twice as many entries as there are holders, and [`IDLE_SLACK`] more.
    fn enqueue_idle(&mut self, key: usize) {
        self.idle_count += 1;
        let since = self.idle_count;
        self.holders[key].state = State::Idle(since);
        if self.idle_queue.len() >= 2 * self.holders.len() + IDLE_SLACK {
            let mut idle_queue = std::mem::take(&mut self.idle_queue);
            idle_queue.retain(|entry| self.is_current(entry));
            self.idle_queue = idle_queue;
        }
        self.idle_queue.push_back(IdleEntry { key, since });
    }
}

impl ConnectionPermit {
    /// Marks the connection as idle; repeated calls keep its age. Returns whether the permit still holds; if not, the
    /// connection has to end.
    pub(super) fn set_idle(&mut self, stream: &Arc<TcpStream>, waker: &Waker) -> bool {
        let mut table = self.permits.lock();
        let holder = &mut table.holders[self.key];
        holder.connection = Some(IdleConnection::renewed(holder.connection.take(), stream, waker));
        match holder.state {
            State::Busy => table.enqueue_idle(self.key),
            State::Idle(_) => {}
            State::GaveWay => return false,
        }
        true
    }

    /// Returns whether the connection has not given way.
    #[cfg(test)]
    pub(super) fn is_held(&self) -> bool {
        self.permits.lock().holders[self.key].state != State::GaveWay
    }

    /// Marks the connection as busy. Returns whether the permit still holds; if not, the connection has to end.
    pub(super) fn set_busy(&mut self) -> bool {
        let state = &mut self.permits.lock().holders[self.key].state;
        let is_held = *state != State::GaveWay;
        if is_held {
            *state = State::Busy;
        }
        is_held
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut table = self.permits.lock();
        let holder = table.holders.remove(self.key);
        if holder.state != State::GaveWay {
            table.taken -= 1;
        }
    }
}

/// Entries that the queue may have beyond twice the number of holders.
const IDLE_SLACK: usize = 64;

/// Connections without a permit, which get one answer (a refusal or the metrics), or time to read their last one.
///
/// If `farewells_max` are under way, the oldest gives way to a new one.
#[derive(Debug)]
pub(super) struct Farewells {
    farewells_max: usize,
    /// The sending half of a channel for each farewell under way. Dropping it ends the farewell.
    under_way: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl Farewells {
    pub(super) fn new(farewells_max: usize) -> Farewells {
        Farewells { farewells_max, under_way: Mutex::default() }
    }

    /// Waits until a farewell is done, or has given way.
    pub(super) async fn run(&self, farewell: impl Future<Output = ()>) {
        let given_way = self.begin();
        tokio::select! {
            () = farewell => {}
            _ = given_way => {}
        }
    }

    /// Returns the receiver that ends when the farewell gives way.
    fn begin(&self) -> oneshot::Receiver<()> {
        let (gives_way, given_way) = oneshot::channel();
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|other| !other.is_closed());
        if under_way.len() >= self.farewells_max {
            under_way.pop_front();
        }
        under_way.push_back(gives_way);
        given_way
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use super::*;
    use crate::handover::testing::{pair, run};

    #[test]
    fn the_connection_that_was_idle_longest_gives_way() {
        run(|listener| {
            let permits = ConnectionPermits::new(3);
            let connections: Vec<_> = (0..3).map(|_| pair(listener)).collect();
            let mut held: Vec<ConnectionPermit> =
                (0..3).map(|_| permits.admit(|| panic!("there is room")).unwrap()).collect();
            let rest = |held: &mut [ConnectionPermit], at: usize| held[at].set_idle(&connections[at].0, Waker::noop());
            assert!(permits.admit(|| panic!("all are busy")).is_none());
            for at in [1, 0, 2] {
                assert!(rest(&mut held, at));
            }
            // A connection that stays idle keeps its age; the age of one that was busy in between begins anew.
            assert!(rest(&mut held, 1));
            held[0].set_busy();
            assert!(rest(&mut held, 0));
            for (nth, gives_way) in [1, 2, 0].into_iter().enumerate() {
                held.push(permits.admit(|| {}).expect("one is idle"));
                let still: Vec<bool> = (0..3).map(|at| rest(&mut held, at)).collect();
                assert_eq!(still.iter().filter(|still| !**still).count(), nth + 1);
                assert!(!still[gives_way]);
            }
            assert!(permits.admit(|| {}).is_none());
            // A connection that has given way gives no permit back.
            held.drain(..3);
            assert!(permits.admit(|| {}).is_none());
            drop(held);
            assert_eq!(permits.lock().taken, 0);
        });
    }

    #[test]
    fn a_smaller_limit_leaves_permits_to_their_holders() {
        let permits = ConnectionPermits::new(2);
        let admit = || permits.admit(|| panic!("none is idle"));
        let held = [admit().unwrap(), admit().unwrap()];
        permits.set_max(1);
        assert!(admit().is_none());
        let [one, other] = held;
        drop(one);
        assert!(admit().is_none());
        drop(other);
        let one = admit().unwrap();
        assert!(admit().is_none());
        permits.set_max(2);
        assert!(admit().is_some());
        drop(one);
    }

    /// A connection that becomes idle and busy again and again does not lengthen the queue.
    #[test]
    fn the_queue_of_the_idle_stays_short() {
        run(|listener| {
            let permits = ConnectionPermits::new(3);
            let connections: Vec<_> = (0..3).map(|_| pair(listener)).collect();
            let mut held: Vec<ConnectionPermit> = (0..3).map(|_| permits.admit(|| {}).unwrap()).collect();
            for _ in 0..1_000 {
                for (permit, (stream, _)) in held.iter_mut().zip(&connections) {
                    permit.set_busy();
                    assert!(permit.set_idle(stream, Waker::noop()));
                }
            }
            assert!(permits.lock().idle_queue.len() <= 2 * 3 + IDLE_SLACK);
            // All three are among those that may give way.
            assert!((0..3).all(|_| permits.admit(|| {}).map(|permit| held.push(permit)).is_some()));
            assert!(permits.admit(|| {}).is_none());
            drop(held);
        });
    }

    #[test]
    fn a_request_that_was_not_read_yet_keeps_its_permit() {
        run(|listener| {
            let permits = ConnectionPermits::new(2);
            let mut connections: Vec<_> = (0..2).map(|_| pair(listener)).collect();
            let mut held: Vec<ConnectionPermit> = (0..2).map(|_| permits.admit(|| {}).unwrap()).collect();
            for (permit, (stream, _)) in held.iter_mut().zip(&connections) {
                assert!(permit.set_idle(stream, Waker::noop()));
            }
            connections[0].1.write_all(b"G").unwrap();
            while !permits.lock().holders[0].connection.as_ref().unwrap().has_input() {
                std::thread::yield_now();
            }
            let new = permits.admit(|| {}).expect("the other is idle");
            assert!(held[0].set_idle(&connections[0].0, Waker::noop()));
            assert!(!held[1].set_idle(&connections[1].0, Waker::noop()));
            assert!(permits.admit(|| {}).is_none());
            drop((new, held));
        });
    }

    /// More idle connections have unread input than one call of `admit` looks at. The next call does not look at the
    /// same ones again.
    #[test]
    fn a_new_connection_looks_at_so_many_idle_ones() {
        run(|listener| {
            let count = IdleConnection::LOOKS_MAX + 2;
            let permits = ConnectionPermits::new(count);
            let mut connections: Vec<_> = (0..count).map(|_| pair(listener)).collect();
            let mut held: Vec<ConnectionPermit> = (0..count).map(|_| permits.admit(|| {}).unwrap()).collect();
            for (permit, (stream, _)) in held.iter_mut().zip(&connections) {
                assert!(permit.set_idle(stream, Waker::noop()));
            }
            for (at, (_, peer)) in connections[..=IdleConnection::LOOKS_MAX].iter_mut().enumerate() {
                peer.write_all(b"G").unwrap();
                while !permits.lock().holders[at].connection.as_ref().unwrap().has_input() {
                    std::thread::yield_now();
                }
            }
            assert!(permits.admit(|| panic!("the last one is not looked at")).is_none());
            assert_eq!(permits.lock().idle_queue.len(), 2);
            let new = permits.admit(|| {}).expect("the last one is idle");
            let is_held: Vec<bool> = held.iter().map(ConnectionPermit::is_held).collect();
            assert_eq!(is_held.iter().position(|is_held| !is_held), Some(count - 1));
            // A connection that reads its input and becomes idle again may give way again.
            assert_eq!(rustix::io::read(&*connections[0].0, &mut [0; 8]), Ok(1));
            held[0].set_busy();
            assert!(held[0].set_idle(&connections[0].0, Waker::noop()));
            let newer = permits.admit(|| {}).expect("the first one is idle again");
            assert!(!held[0].is_held() && held[1].is_held());
            // So may a connection that becomes idle without a call of `set_busy`: the look at its input had made it
            // busy.
            assert_eq!(rustix::io::read(&*connections[1].0, &mut [0; 8]), Ok(1));
            assert!(held[1].set_idle(&connections[1].0, Waker::noop()));
            let newest = permits.admit(|| {}).expect("the second one is idle again");
            assert!(!held[1].is_held() && held[2].is_held());
            drop((held, new, newer, newest));
            assert_eq!(permits.lock().taken, 0);
        });
    }

    #[test]
    fn the_oldest_farewell_gives_way() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let farewells = Arc::new(Farewells::new(2));
            let begin = || {
                let farewells = Arc::clone(&farewells);
                tokio::spawn(async move { farewells.run(std::future::pending()).await })
            };
            let first = begin();
            let second = begin();
            let third = begin();
            tokio::time::timeout(Duration::from_secs(60), first).await.expect("it gives way").unwrap();
            assert!(!second.is_finished() && !third.is_finished());
            second.abort();
            third.abort();
        });
    }
}

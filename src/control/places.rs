//! Limits the connections that are served at the same time, and chooses the one that gives way to a new one.
//!
//! HTTP allows a server to end a connection between two requests at any time (RFC 9112 9.6). So a connection that is
//! idle holds its place only until another connection wants it; one whose request has begun to arrive, or is being
//! answered, holds it to the end.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slab::Slab;
use tokio::sync::oneshot;

use crate::handover::IdleConnection;

/// The places for connections that are served at the same time.
#[derive(Debug)]
pub(super) struct Places {
    places_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    taken: usize,
    /// By the numbers of places. A place keeps its number until it is dropped, also when it has given way.
    seats: Slab<Seat>,
    /// Connections that have become idle, in that order. An entry is out of date once its seat has another state.
    idle: VecDeque<Idle>,
    /// The number of times that a connection has become idle.
    rests: u64,
}

/// The state of the connection that has a place.
#[derive(Debug)]
struct Seat {
    state: State,
    /// The connection as it last became idle.
    idle: Option<IdleConnection>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Busy,
    /// Since this [`Table::rests`].
    Idle(u64),
    GaveWay,
}

#[derive(Debug, Clone, Copy)]
struct Idle {
    seat: usize,
    since: u64,
}

/// One connection's place, until it is dropped or has given way.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    seat: usize,
}

impl Places {
    pub(super) fn new(places_max: usize) -> Arc<Places> {
        Arc::new(Places { places_max, table: Mutex::default() })
    }

    /// Returns a place for a new connection. If all are taken, the connection that has been idle longest and has no
    /// unread input gives way, and `gave_way` is called; `None` if there is none.
    pub(super) fn admit(self: &Arc<Self>, gave_way: impl FnOnce()) -> Option<Place> {
        let mut table = self.lock();
        if table.taken < self.places_max {
            table.taken += 1;
        } else {
            // What has arrived and was not read yet is a request, too.
            let has_input = |seat: usize| table.seats[seat].idle.as_ref().is_some_and(IdleConnection::has_input);
            let may_give_way = |idle: &&Idle| table.is_current(idle) && !has_input(idle.seat);
            let longest = table.idle.iter().find(may_give_way)?.seat;
            let seat = &mut table.seats[longest];
            seat.state = State::GaveWay;
            seat.idle.iter().for_each(IdleConnection::wake);
            gave_way();
        }
        let seat = table.seats.insert(Seat { state: State::Busy, idle: None });
        drop(table);
        Some(Place { places: Arc::clone(self), seat })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn is_current(&self, idle: &Idle) -> bool {
        self.seats.get(idle.seat).is_some_and(|seat| seat.state == State::Idle(idle.since))
    }

    /// Notes that a busy connection has become idle. Entries that are out of date are removed when they are half of the
    /// queue, so its length stays within twice the number of places and a few.
    fn rest(&mut self, seat: usize) {
        self.rests += 1;
        let since = self.rests;
        self.seats[seat].state = State::Idle(since);
        if self.idle.len() >= 2 * self.seats.len() + IDLE_SLACK {
            let mut idle = std::mem::take(&mut self.idle);
            idle.retain(|idle| self.is_current(idle));
            self.idle = idle;
        }
        self.idle.push_back(Idle { seat, since });
    }
}

impl Place {
    /// Marks the connection as idle; repeated calls keep its age. Returns whether it still has its place; if not, it
    /// has to end.
    pub(super) fn rest(&mut self, connection: IdleConnection) -> bool {
        let mut table = self.places.lock();
        let seat = &mut table.seats[self.seat];
        seat.idle = Some(connection);
        match seat.state {
            State::Busy => table.rest(self.seat),
            State::Idle(_) => {}
            State::GaveWay => return false,
        }
        true
    }

    /// Returns whether the connection has not given way.
    pub(super) fn is_held(&self) -> bool {
        self.places.lock().seats[self.seat].state != State::GaveWay
    }

    /// Marks the connection as busy, unless it has given way.
    pub(super) fn work(&mut self) {
        let state = &mut self.places.lock().seats[self.seat].state;
        if *state != State::GaveWay {
            *state = State::Busy;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.lock();
        let seat = table.seats.remove(self.seat);
        if seat.state != State::GaveWay {
            table.taken -= 1;
        }
    }
}

/// Entries that are out of date and may always stand in the queue.
const IDLE_SLACK: usize = 64;

/// Connections without a place, which are only refused or given the time to read their last answer.
///
/// The oldest gives way to a newer one, so no client can hold these places either.
#[derive(Debug)]
pub(super) struct Farewells {
    farewells_max: usize,
    /// Dropping one of them ends its farewell.
    under_way: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl Farewells {
    pub(super) fn new(farewells_max: usize) -> Farewells {
        Farewells { farewells_max, under_way: Mutex::default() }
    }

    /// Waits until a farewell is done, or has given way.
    pub(super) async fn bid(&self, farewell: impl Future<Output = ()>) {
        let given_way = self.begin();
        tokio::select! {
            () = farewell => {}
            _ = given_way => {}
        }
    }

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
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream as Peer},
        task::Waker,
        time::Duration,
    };

    use tokio::net::TcpStream;

    use super::*;

    fn idle(stream: &Arc<TcpStream>) -> IdleConnection {
        IdleConnection::new(stream, Waker::noop())
    }

    /// A connection's side, and its peer's.
    fn pair(listener: &TcpListener) -> (Arc<TcpStream>, Peer) {
        let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().unwrap().0;
        stream.set_nonblocking(true).unwrap();
        (Arc::new(TcpStream::from_std(stream).unwrap()), peer)
    }

    fn run(test: impl FnOnce(&TcpListener)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(&TcpListener::bind("127.0.0.1:0").unwrap()) });
    }

    #[test]
    fn who_has_been_idle_longest_gives_way() {
        run(|listener| {
            let places = Places::new(3);
            let connections: Vec<_> = (0..3).map(|_| pair(listener)).collect();
            let mut held: Vec<Place> = (0..3).map(|_| places.admit(|| panic!("there is room")).unwrap()).collect();
            let rest = |held: &mut [Place], at: usize| held[at].rest(idle(&connections[at].0));
            assert!(places.admit(|| panic!("all are busy")).is_none());
            for at in [1, 0, 2] {
                assert!(rest(&mut held, at));
            }
            // That it goes on being idle makes it no younger, that it was busy in between does.
            assert!(rest(&mut held, 1));
            held[0].work();
            assert!(rest(&mut held, 0));
            for (nth, gives_way) in [1, 2, 0].into_iter().enumerate() {
                held.push(places.admit(|| {}).expect("one is idle"));
                let still: Vec<bool> = (0..3).map(|at| rest(&mut held, at)).collect();
                assert_eq!(still.iter().filter(|still| !**still).count(), nth + 1);
                assert!(!still[gives_way]);
            }
            assert!(places.admit(|| {}).is_none());
            // A connection that has given way has no place to give back.
            held.drain(..3);
            assert!(places.admit(|| {}).is_none());
            drop(held);
            assert_eq!(places.lock().taken, 0);
        });
    }

    /// Resting and working again and again keeps the queue short.
    #[test]
    fn the_queue_of_the_idle_stays_short() {
        run(|listener| {
            let places = Places::new(3);
            let connections: Vec<_> = (0..3).map(|_| pair(listener)).collect();
            let mut held: Vec<Place> = (0..3).map(|_| places.admit(|| {}).unwrap()).collect();
            for _ in 0..1_000 {
                for (place, (stream, _)) in held.iter_mut().zip(&connections) {
                    place.work();
                    assert!(place.rest(idle(stream)));
                }
            }
            assert!(places.lock().idle.len() <= 2 * 3 + IDLE_SLACK);
            // All three are among those that may give way.
            assert!((0..3).all(|_| places.admit(|| {}).map(|place| held.push(place)).is_some()));
            assert!(places.admit(|| {}).is_none());
            drop(held);
        });
    }

    #[test]
    fn a_request_that_was_not_read_yet_keeps_its_place() {
        run(|listener| {
            let places = Places::new(2);
            let mut connections: Vec<_> = (0..2).map(|_| pair(listener)).collect();
            let mut held: Vec<Place> = (0..2).map(|_| places.admit(|| {}).unwrap()).collect();
            for (place, (stream, _)) in held.iter_mut().zip(&connections) {
                assert!(place.rest(idle(stream)));
            }
            connections[0].1.write_all(b"G").unwrap();
            while !places.lock().seats[0].idle.as_ref().unwrap().has_input() {
                std::thread::yield_now();
            }
            let new = places.admit(|| {}).expect("the other is idle");
            assert!(held[0].rest(idle(&connections[0].0)) && !held[1].rest(idle(&connections[1].0)));
            assert!(places.admit(|| {}).is_none());
            drop((new, held));
        });
    }

    #[test]
    fn the_oldest_farewell_gives_way() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let farewells = Arc::new(Farewells::new(2));
            let begin = || {
                let farewells = Arc::clone(&farewells);
                tokio::spawn(async move { farewells.bid(std::future::pending()).await })
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

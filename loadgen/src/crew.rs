//! The threads of a run, and what they tell each other. The first thread leads: it carries out the scenario and reads
//! its share of the subscribers. The others follow (`follower`): they read their shares and carry out orders.

use crate::error::Error;
use crate::generator::{Generator, Received};
use crate::judge::{Clock, Writes, histogram};
use crate::moment::{LatencyBuckets, LatencyRow};
use crate::options::{Plan, Share};
use hdrhistogram::Histogram;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the threads of a run share.
pub(crate) struct Crew {
    pub(crate) start: Instant,
    /// The run's number in its stamps.
    pub(crate) run: u16,
    pub(crate) clock: Arc<Clock>,
    /// When the messages of all publishers but those of an echo were written.
    pub(crate) writes: Arc<Writes>,
    /// The messages of each stream that were handed to their publisher's connection.
    pushed: Vec<AtomicU64>,
    /// The sum of the messages that the leading thread has pushed for all threads to read.
    published: AtomicU64,
    order: Mutex<Order>,
    /// The number of the latest order.
    number: AtomicU64,
    has_failed: AtomicBool,
    threads: Vec<Tallies>,
}

/// An order of the leading thread to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Read all subscribers, also those that have stalled.
    Read,
    /// Open this thread's share of this many subscribers.
    Open { subscribers: usize },
    /// In an echo, send messages until the next order.
    Echo,
    /// Let subscribers leave and join until the next order. `begin_ns` is the start of the churn.
    Churn { begin_ns: u64 },
    /// Let a share of the subscribers stop reading until [`Order::Read`].
    Stall,
    /// Close all connections and open them again. `begin_ns` is the start of the round.
    Reopen { begin_ns: u64 },
    /// Tell when every subscriber has every message.
    Drain,
    /// Hand over the latencies that were measured so far, and measure anew.
    HandOver,
    /// End.
    End,
}

/// The counters that a thread shows to the others, a little later than it counts. Only this thread writes them. Each
/// thread has cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Tallies {
    messages: AtomicU64,
    dropped_bytes: AtomicU64,
    reads: AtomicU64,
    published: AtomicU64,
    opened: AtomicU64,
    disconnected: AtomicU64,
    spare_ns: AtomicU64,
    waited_ns: AtomicU64,
    missing: AtomicI64,
    /// The number of the latest order that was carried out, or is being carried out if it has no end.
    done: AtomicU64,
    /// [`Crew::published`] when nothing was owed, and 1.
    settled: AtomicU64,
    /// Subscribers that are joining.
    joining: AtomicUsize,
    buckets: Mutex<LatencyBuckets>,
    handed: Mutex<Option<Handed>>,
    /// The reason for which the first connection was refused.
    refusal: Mutex<Option<String>>,
    failure: Mutex<Option<Error>>,
}

/// What a thread has measured since it last handed over.
pub(crate) struct Handed {
    pub(crate) latency: Histogram<u64>,
    pub(crate) uncorrected: Histogram<u64>,
    /// Connections that were refused.
    pub(crate) refused: u64,
    /// Connections that did not come back in a storm.
    pub(crate) missing: u64,
    /// The time at which the last connection was open.
    pub(crate) last_ns: u64,
}

impl Handed {
    /// Makes the state of a thread that has measured nothing.
    pub(crate) fn new() -> Handed {
        Handed { latency: histogram(), uncorrected: histogram(), refused: 0, missing: 0, last_ns: 0 }
    }
}

impl Tallies {
    pub(crate) fn received(&self) -> Received {
        Received {
            messages: self.messages.load(Ordering::Relaxed),
            dropped_bytes: self.dropped_bytes.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn tell(&self, generator: &Generator<'_>) {
        let Received { messages, dropped_bytes, reads } = generator.received;
        self.messages.store(messages, Ordering::Relaxed);
        self.dropped_bytes.store(dropped_bytes, Ordering::Relaxed);
        self.reads.store(reads, Ordering::Relaxed);
        self.opened.store(generator.opened as u64, Ordering::Relaxed);
        self.disconnected.store(generator.disconnected, Ordering::Relaxed);
        self.spare_ns.store(generator.spare_ns, Ordering::Relaxed);
        self.missing.store(generator.judge.missing, Ordering::Relaxed);
    }

    /// Tells what changes slowly or takes a system call.
    pub(crate) fn tell_slowly(&self, generator: &mut Generator<'_>) {
        self.waited_ns.store(crate::process::waited_ns().unwrap_or_default(), Ordering::Relaxed);
        let row = generator.judge.buckets.take_row();
        lock(&self.buckets).add(&row);
    }

    pub(crate) fn tell_published(&self, published: u64) {
        self.published.store(published, Ordering::Relaxed);
    }

    pub(crate) fn tell_joining(&self, joining: usize) {
        self.joining.store(joining, Ordering::Relaxed);
    }

    /// Tells that nothing was owed when `published` messages were published.
    pub(crate) fn tell_settled(&self, published: u64) {
        self.settled.store(published + 1, Ordering::Release);
    }

    /// Tells that something may be owed again.
    pub(crate) fn tell_unsettled(&self) {
        self.settled.store(0, Ordering::Release);
    }

    pub(crate) fn tell_refusal(&self, why: String) {
        lock(&self.refusal).get_or_insert(why);
    }

    pub(crate) fn hand_over(&self, handed: Handed) {
        *lock(&self.handed) = Some(handed);
    }

    /// Tells that an order is carried out, or goes on without an end.
    pub(crate) fn tell_done(&self, number: u64) {
        self.done.store(number, Ordering::Release);
    }
}

impl Crew {
    pub(crate) fn new(plan: &Plan) -> Crew {
        let streams = if plan.publishers == 0 { 0 } else { plan.topics.streams() };
        Crew {
            start: Instant::now(),
            run: run_number(),
            clock: Arc::default(),
            writes: Arc::new(Writes::new(streams)),
            pushed: (0..plan.topics.streams()).map(|_| AtomicU64::new(0)).collect(),
            published: AtomicU64::new(0),
            order: Mutex::new(Order::Read),
            number: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            threads: (0..plan.threads).map(|_| Tallies::default()).collect(),
        }
    }

    /// Returns the tallies of a thread.
    pub(crate) fn tallies(&self, share: Share) -> &Tallies {
        &self.threads[share.index]
    }

    /// Returns the tallies of all following threads to the leading one, and none to the others.
    pub(crate) fn others(&self, share: Share) -> impl Iterator<Item = &Tallies> {
        let others = if share.index == 0 { &self.threads[1..] } else { &[] };
        others.iter()
    }

    fn followers(&self) -> &[Tallies] {
        &self.threads[1..]
    }

    /// Returns the messages of a stream that were handed to their publisher's connection; 0 if there is no such stream.
    pub(crate) fn pushed(&self, stream: usize) -> u64 {
        // A subscriber that joins reads this after its acknowledgement has come, and owes no earlier message.
        self.pushed.get(stream).map_or(0, |pushed| pushed.load(Ordering::Acquire))
    }

    /// Notes that a message of a stream is handed to its publisher's connection, before it is written.
    pub(crate) fn note_pushed(&self, stream: usize, pushed: u64) {
        self.pushed[stream].store(pushed, Ordering::Release);
    }

    /// Notes that the leading thread has published one more message.
    pub(crate) fn note_published(&self) {
        let published = self.published.load(Ordering::Relaxed);
        self.published.store(published + 1, Ordering::Release);
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Returns the messages that the threads that follow have published.
    pub(crate) fn published_by_followers(&self) -> u64 {
        self.followers().iter().map(|thread| thread.published.load(Ordering::Relaxed)).sum()
    }

    /// Returns the open and the ended connections of the threads that follow.
    pub(crate) fn connections(&self) -> (usize, u64) {
        self.followers().iter().fold((0, 0), |(opened, ended), thread| {
            let own = thread.opened.load(Ordering::Relaxed) as usize;
            (opened + own, ended + thread.disconnected.load(Ordering::Relaxed))
        })
    }

    /// Returns the messages that are missing so far at the subscribers of the threads that follow.
    pub(crate) fn missing(&self) -> i64 {
        self.followers().iter().map(|thread| thread.missing.load(Ordering::Relaxed)).sum()
    }

    /// Returns the time to spare of each thread that follows.
    pub(crate) fn spare_ns(&self) -> Vec<u64> {
        self.followers().iter().map(|thread| thread.spare_ns.load(Ordering::Relaxed)).collect()
    }

    /// Returns the time for which each thread that follows was ready to run and had no CPU.
    pub(crate) fn waited_ns(&self) -> Vec<u64> {
        self.followers().iter().map(|thread| thread.waited_ns.load(Ordering::Relaxed)).collect()
    }

    /// Returns the number of joining subscribers of the threads that follow.
    pub(crate) fn joining(&self) -> usize {
        self.followers().iter().map(|thread| thread.joining.load(Ordering::Relaxed)).sum()
    }

    /// Returns whether all subscribers of the threads that follow have every message that is published now.
    pub(crate) fn is_settled(&self) -> bool {
        let settled = self.published() + 1;
        self.followers().iter().all(|thread| thread.settled.load(Ordering::Acquire) == settled)
    }

    /// Takes the latencies of the threads that follow since the last call.
    pub(crate) fn take_rows(&self) -> Vec<LatencyRow> {
        self.followers().iter().map(|thread| lock(&thread.buckets).take_row()).collect()
    }

    /// Takes what the threads that follow have handed over.
    pub(crate) fn take_handed(&self) -> Vec<Handed> {
        self.followers().iter().filter_map(|thread| lock(&thread.handed).take()).collect()
    }

    /// Returns the reason for which a connection of a thread that follows was refused.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.followers().iter().find_map(|thread| lock(&thread.refusal).clone())
    }

    /// Notes that a thread that follows has failed.
    pub(crate) fn note_failure(&self, share: Share, error: Error) {
        *lock(&self.tallies(share).failure) = Some(error);
        self.has_failed.store(true, Ordering::Release);
    }

    /// Takes the reason for which a thread has failed.
    pub(crate) fn failure(&self) -> Option<Error> {
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        self.threads.iter().find_map(|thread| lock(&thread.failure).take())
    }

    /// Gives the threads that follow an order.
    pub(crate) fn give(&self, order: Order) {
        let mut latest = lock(&self.order);
        *latest = order;
        // Under the lock, so that no thread takes the new order for the one before.
        self.number.fetch_add(1, Ordering::Release);
    }

    /// Returns the latest order and its number.
    pub(crate) fn order(&self) -> (u64, Order) {
        let order = lock(&self.order);
        (self.number(), *order)
    }

    /// Returns the number of the latest order.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Returns whether the threads that follow have carried out the latest order.
    fn is_done(&self) -> bool {
        let number = self.number();
        self.followers().iter().all(|thread| thread.done.load(Ordering::Acquire) == number)
    }
}

impl Generator<'_> {
    /// Reads until the threads that follow have carried out the latest order, and calls `watch` meanwhile.
    ///
    /// # Errors
    /// The failure of a thread, and the errors of `watch`.
    pub(crate) fn await_followers(
        &mut self,
        watch: &mut dyn FnMut(&mut Generator<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while !self.crew.is_done() {
            self.poll(Duration::from_millis(1))?;
            watch(self)?;
            if let Some(failure) = self.crew.failure() {
                return Err(failure);
            }
        }
        Ok(())
    }
}

/// Pins the calling thread to its CPU, if the plan has one for it.
pub(crate) fn pin(plan: &Plan, thread: usize) -> Result<(), Error> {
    let Some(&id) = plan.cpus.get(thread % plan.cpus.len().max(1)) else { return Ok(()) };
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        Ok(())
    } else {
        Err(Error::Options(format!("--cpu: cannot pin to CPU {id}, which this process may not use")))
    }
}

/// Returns a number that another run, at the same time or before, most likely does not have. A process id would not do:
/// in a container it is always the same.
fn run_number() -> u16 {
    RandomState::new().build_hasher().finish() as u16
}

/// Locks a value. No thread leaves it half changed, so that the lock of a thread that panicked can be used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

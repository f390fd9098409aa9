//! The threads of a run. The first one leads: it publishes, and reads its share of the subscribers; the others read
//! theirs.

use crate::error::Error;
use crate::generator::{Generator, Received};
use crate::judge::Clocks;
use crate::moment::{LatencyBuckets, LatencyRow};
use crate::options::{Plan, Share};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the threads of a run share.
pub(crate) struct Crew {
    pub(crate) clock: Instant,
    pub(crate) clocks: Arc<Clocks>,
    threads: Vec<Tallies>,
    is_over: AtomicBool,
}

/// What a thread tells the others, a little later than it happens. Only this thread writes.
#[derive(Default)]
pub(crate) struct Tallies {
    messages: AtomicU64,
    dropped_bytes: AtomicU64,
    reads: AtomicU64,
    opened: AtomicU64,
    disconnected: AtomicU64,
    idle_ns: AtomicU64,
    missing: AtomicI64,
    buckets: Mutex<LatencyBuckets>,
    failure: Mutex<Option<Error>>,
}

impl Tallies {
    pub(crate) fn received(&self) -> Received {
        Received {
            messages: self.messages.load(Ordering::Relaxed),
            dropped_bytes: self.dropped_bytes.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
        }
    }

    fn tell(&self, generator: &Generator<'_>, idle_ns: u64) {
        let Received { messages, dropped_bytes, reads } = generator.received;
        self.messages.store(messages, Ordering::Relaxed);
        self.dropped_bytes.store(dropped_bytes, Ordering::Relaxed);
        self.reads.store(reads, Ordering::Relaxed);
        self.opened.store(generator.opened as u64, Ordering::Relaxed);
        self.disconnected.store(generator.disconnected, Ordering::Relaxed);
        self.idle_ns.store(idle_ns, Ordering::Relaxed);
        self.missing.store(generator.judge.missing, Ordering::Relaxed);
    }
}

impl Crew {
    pub(crate) fn new(plan: &Plan) -> Crew {
        let streams = if plan.publishers == 0 { 0 } else { plan.topics.streams() };
        Crew {
            clock: Instant::now(),
            clocks: Arc::new(Clocks::new(streams)),
            threads: (0..plan.threads).map(|_| Tallies::default()).collect(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Returns the tallies of the threads that follow the one with this share, if it leads.
    pub(crate) fn others(&self, share: Share) -> impl Iterator<Item = &Tallies> {
        let others = if share.index == 0 { &self.threads[1..] } else { &[] };
        others.iter()
    }

    /// Returns the open and the ended connections of the threads that follow.
    pub(crate) fn connections(&self) -> (usize, u64) {
        self.threads[1..].iter().fold((0, 0), |(opened, ended), thread| {
            let own = thread.opened.load(Ordering::Relaxed) as usize;
            (opened + own, ended + thread.disconnected.load(Ordering::Relaxed))
        })
    }

    /// Returns the messages that are missing so far at the subscribers of the threads that follow.
    pub(crate) fn missing(&self) -> i64 {
        self.threads[1..].iter().map(|thread| thread.missing.load(Ordering::Relaxed)).sum()
    }

    /// Returns the time to spare of each thread that follows.
    pub(crate) fn idle_ns(&self) -> Vec<u64> {
        self.threads[1..].iter().map(|thread| thread.idle_ns.load(Ordering::Relaxed)).collect()
    }

    /// Takes the latencies of the threads that follow since the last call.
    pub(crate) fn take_rows(&self) -> Vec<LatencyRow> {
        let take = |thread: &Tallies| thread.buckets.lock().unwrap_or_else(PoisonError::into_inner).take_row();
        self.threads[1..].iter().map(take).collect()
    }

    /// Returns the reason for which a thread has failed.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.threads.iter().find_map(|thread| thread.failure.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    /// Ends the threads that follow.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Opens and reads a share of the subscribers until the end. Returns `None` after a failure, which the leading
    /// thread reports.
    pub(crate) fn follow<'a>(&'a self, plan: &'a Plan, share: Share) -> Option<Generator<'a>> {
        match self.try_follow(plan, share) {
            Ok(generator) => Some(generator),
            Err(error) => {
                *self.threads[share.index].failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        }
    }

    fn try_follow<'a>(&'a self, plan: &'a Plan, share: Share) -> Result<Generator<'a>, Error> {
        pin(plan, share.index)?;
        let own = &self.threads[share.index];
        let mut generator = Generator::new(plan, self, share)?;
        let total = generator.first_subscribers;
        generator.open_to(total, &mut |generator| {
            own.tell(generator, 0);
            if self.is_over() {
                Err(Error::Interrupted { opened: generator.opened, connections: total })
            } else {
                Ok(())
            }
        })?;
        let (mut idle_ns, mut shown_ns) = (0, 0);
        while !self.is_over() {
            let before_ns = generator.now_ns();
            let patience = if plan.sleep { NAP_MAX } else { Duration::ZERO };
            let ready = generator.poll(patience)?;
            let now_ns = generator.now_ns();
            if ready == 0 || plan.sleep {
                idle_ns += now_ns - before_ns;
            }
            own.tell(&generator, idle_ns);
            if now_ns - shown_ns > SHOWN_EVERY_NS {
                shown_ns = now_ns;
                let row = generator.judge.buckets.take_row();
                own.buckets.lock().unwrap_or_else(PoisonError::into_inner).add(&row);
            }
        }
        Ok(generator)
    }
}

/// Pins the calling thread to its CPU, if the plan has one for it.
pub(crate) fn pin(plan: &Plan, thread: usize) -> Result<(), Error> {
    let Some(&id) = plan.cpus.get(thread % plan.cpus.len().max(1)) else { return Ok(()) };
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        Ok(())
    } else {
        Err(Error::Options(format!("cannot pin to CPU {id}")))
    }
}

/// The longest sleep of a thread with `--sleep`.
const NAP_MAX: Duration = Duration::from_millis(10);

/// The time between two looks of the leading thread at the latencies of another.
const SHOWN_EVERY_NS: u64 = 20_000_000;

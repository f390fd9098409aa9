//! The driver of a simulated shard: the turn, the decision about the next step, and the sleep, from which another end
//! of the mesh, the network or the clock wakes the shard.

use std::{
    cell::RefCell,
    mem,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    super::driver::{AfterTurn, Next, decide},
    network::Network,
    socket::SimulatedIo,
};
use crate::{
    hub::Wake,
    metrics::Counters,
    proto::{Millis, Tick},
    shard::state::Shard,
};

/// A shard, and the rest of its thread.
pub(super) struct SimulatedDriver {
    pub(super) shard: Shard<SimulatedIo>,
    pub(super) counters: Arc<Counters>,
    pub(super) network: Rc<RefCell<Network>>,
    /// The client of each line of the network.
    pub(super) clients: Vec<usize>,
    phase: Phase,
    woken: Woken,
    /// The ticks of a drain that is to begin.
    pub(super) command: Option<u32>,
    pub(super) is_draining: bool,
    /// The shard has not drained all of its connections yet.
    pub(super) is_occupied: bool,
    /// The time that the shard was given last.
    moment: Millis,
    /// The number of messages with which the shard's handler was called.
    pub(super) handled: u64,
    /// How often the shard has gone to sleep.
    pub(super) sleeps: u64,
    /// How often another end of the mesh has ended the shard's sleep.
    pub(super) wakes: u64,
}

/// The phase of a driver between two turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A turn is due.
    Awake,
    /// A turn is due when something arrives, at the latest in the tick of this time.
    Asleep(Option<Millis>),
    /// The drain has ended.
    Ended,
}

/// A wake-up that an end of the mesh has not noticed. The wake-up stays until it ends a sleep.
#[derive(Debug, Default, Clone)]
pub(super) struct Woken(Arc<AtomicBool>);

impl Woken {
    pub(super) fn wake(&self) -> Wake {
        let woken = Arc::clone(&self.0);
        Arc::new(move || woken.store(true, Ordering::Relaxed))
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns whether a wake-up has come since the last call.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl SimulatedDriver {
    pub(super) fn new(
        shard: Shard<SimulatedIo>,
        counters: Arc<Counters>,
        network: Rc<RefCell<Network>>,
        woken: Woken,
        start: Tick,
    ) -> Self {
        SimulatedDriver {
            shard,
            counters,
            network,
            clients: Vec::new(),
            phase: Phase::Awake,
            woken,
            command: None,
            is_draining: false,
            is_occupied: true,
            moment: start.begin(),
            handled: 0,
            sleeps: 0,
            wakes: 0,
        }
    }

    /// Returns whether a turn is due.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        match self.phase {
            Phase::Awake => true,
            Phase::Asleep(until) => {
                let has_come = until.is_some_and(|until| until.tick() <= now);
                has_come || self.woken.is_set() || self.command.is_some() || self.network.borrow().has_reports()
            }
            Phase::Ended => false,
        }
    }

    pub(super) fn is_asleep(&self) -> bool {
        matches!(self.phase, Phase::Asleep(_))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Ends the sleep: an arrival or a call has come, or a turn is due.
    pub(super) fn rouse(&mut self) {
        assert_ne!(self.phase, Phase::Ended, "nothing comes to a shard that has ended");
        self.phase = Phase::Awake;
        self.shard.awake();
    }

    /// Returns the time for a call of the shard: a millisecond later than for the call before, as long as the tick
    /// lasts.
    pub(super) fn moment(&mut self, now: Tick) -> Millis {
        let last_of_tick = Millis(now.after(1).begin().0 - 1);
        self.moment = Millis(self.moment.0 + 1).clamp(now.begin(), last_of_tick);
        self.moment
    }

    /// Begins the drain that was commanded, and runs a turn. Returns whether it has left work.
    pub(super) fn turn(&mut self, now: Tick) -> bool {
        if self.is_asleep() && self.woken.take() {
            self.wakes += 1;
        }
        self.rouse();
        if let Some(ticks) = self.command.take() {
            let now = self.moment(now);
            self.shard.drain(now, ticks);
            self.is_draining = true;
        }
        let now = self.moment(now);
        let has_more = self.shard.turn(now);
        drop(self.shard.take_abandoned());
        has_more
    }

    /// Goes to sleep if nothing is left to do, or ends if the drain of all shards has ended.
    pub(super) fn follow(&mut self, has_more: bool, is_drained: bool) {
        let has_work = has_more || self.network.borrow().has_reports();
        self.phase = match decide(AfterTurn { has_work, is_drained }, || self.shard.next_deadline()) {
            Next::End => Phase::Ended,
            Next::Again => Phase::Awake,
            Next::Sleep(until) if self.shard.may_sleep() => {
                self.sleeps += 1;
                Phase::Asleep(until)
            }
            Next::Sleep(_) => Phase::Awake,
        };
    }

    /// Notes whether a drain has left no connection. Returns whether this call is the first that finds none.
    pub(super) fn sign_off(&mut self) -> bool {
        self.is_draining && self.shard.has_left() && mem::take(&mut self.is_occupied)
    }
}

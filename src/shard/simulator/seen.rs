//! Adds up the counters and events of all runs, and checks that the runs have met every situation the simulator is
//! meant to test.

use super::{events::Events, simulation::Simulation, tally::Tally};
use crate::metrics::{CountedBy, Counter, Counters};

/// The sums of all runs: a simulator that never meets a situation proves nothing about it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    counters: Counters,
    tally: Tally,
    events: Events,
}

impl Seen {
    pub(super) fn add(&mut self, simulation: &Simulation) {
        for driver in &simulation.drivers {
            for &counter in Counter::ALL {
                self.counters.add(counter, driver.counters.get(counter));
            }
            self.tally.add(&driver.network.borrow().tally);
        }
        self.events.add(&simulation.events());
    }

    pub(super) fn check(&self) {
        // These are not checked: counters of events before a connection is established, between shards or in the hot
        // ring; rates, the budget, policies and expiry, which have runs of their own; and gauges that are 0 at the end.
        let elsewhere = [
            Counter::ConnectionsOpen,
            Counter::SlowConsumers,
            Counter::Accepted,
            Counter::HandshakeTimeout,
            Counter::HttpRequests,
            Counter::HttpDisplaced,
            Counter::AcceptPaused,
            Counter::BarrierTimeout,
            Counter::HandlerPanics,
            Counter::PollsArmed,
            Counter::CancelsRepeated,
            Counter::Subscriptions,
            Counter::BacklogBytes,
            Counter::BacklogMessages,
            Counter::GatheredBytes,
            Counter::LaneEntries,
            Counter::LaneWaitingBytes,
            Counter::DroppedOldest,
            Counter::DroppedNewest,
            Counter::DroppedOutdated,
            Counter::DroppedByInterval,
            Counter::LagsTold,
            Counter::Lagging,
            // The simulator of hubs has publications with ids.
            Counter::IdsRepeated,
            Counter::IdsOtherContents,
            Counter::IdsFull,
            Counter::MemoryClosed,
            Counter::MemoryOpeningsEnded,
            Counter::TokenExpired,
            Counter::ConnectionsThrottled,
            Counter::ThrottledMessages,
            Counter::ThrottledBytes,
            Counter::RateClosedMessages,
            Counter::RateClosedBytes,
            Counter::AcceptThrottled,
            // The simulated topics keep no history.
            Counter::HistoryMessages,
            Counter::HistoryEvicted,
            // They have no members; `hub/simulator/presence.rs` has.
            Counter::PresenceMembers,
            Counter::PresenceUnlisted,
            Counter::PresenceBatches,
            Counter::Recovered,
            Counter::Unrecovered,
            Counter::UnrecoveredClosed,
            Counter::MissedInHistory,
            Counter::Replayed,
        ];
        let is_elsewhere = |counter: Counter| {
            elsewhere.contains(&counter)
                || ["refused_total", "rate_refused_total", "memory_bytes"].contains(&counter.family())
                || matches!(counter.counted_by(), CountedBy::Control | CountedBy::Process)
        };
        for counter in Counter::ALL.iter().filter(|counter| !is_elsewhere(**counter)) {
            assert!(self.counters.get(*counter) > 0, "{counter:?} was never counted");
        }
        let Tally { stale, stale_reused, polls_ended, urgent, cut_off, kept, ends_kept, .. } = self.tally;
        for count in [stale, stale_reused, polls_ended, urgent, cut_off, kept, ends_kept] {
            assert!(count > 0, "{:?}", self.tally);
        }
        self.events.check();
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for &counter in Counter::ALL {
            writeln!(f, "{} {}", counter.name(), self.counters.get(counter))?;
        }
        write!(f, "{:?}\n{:?}", self.tally, self.events)
    }
}

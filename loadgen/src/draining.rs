//! The wait for deliveries that are on their way when a window is over.

use crate::connection::State;
use crate::crew::Order;
use crate::error::Error;
use crate::generator::Generator;
use crate::progress::Progress;
use crate::publishing::{NAP_MAX, Publishing, Schedule};
use std::time::Duration;

impl Publishing<'_, '_> {
    /// Publishes what was due inside the window and is not published yet, and waits until everything is delivered, at
    /// most for the plan's drain time. Returns the time of the end, and whether the user has ended the wait.
    pub(crate) fn drain(&mut self, progress: &mut dyn Progress) -> Result<(u64, bool), Error> {
        let (plan, crew) = (self.generator.plan, self.generator.crew);
        crew.give(Order::Drain);
        let begin_ns = self.generator.now_ns();
        let mut checked_ns = begin_ns;
        let was_interrupted = progress.is_interrupted();
        loop {
            let now_ns = self.generator.now_ns();
            let is_overdue = matches!(self.schedule, Schedule::Rate(_)) && self.allowed(now_ns) > 0;
            if is_overdue {
                self.publish(now_ns)?;
            }
            let has_published = !is_overdue && self.busy.is_empty();
            // In an echo this thread does not know what the others have sent.
            let is_counted = plan.threads == 1 || !self.is_echo();
            let mut is_delivered = has_published && is_counted && self.delivered() >= self.expected;
            if !is_delivered && now_ns - checked_ns > CHECK_EVERY_NS {
                checked_ns = now_ns;
                is_delivered = has_published && self.generator.owes_nothing() && crew.is_settled();
            }
            // The signal that has ended the window does not end the wait.
            let is_interrupted = !was_interrupted && progress.is_interrupted();
            if is_delivered || is_interrupted || now_ns - begin_ns > plan.drain_ns {
                return Ok((now_ns, is_interrupted));
            }
            let patience = if plan.sleep { NAP_MAX.min(Duration::from_millis(5)) } else { Duration::ZERO };
            if self.generator.poll(patience)? == 0 {
                self.generator.note_spare(patience, now_ns);
            }
            self.note_what_is_written();
            if let Some(failure) = crew.failure() {
                return Err(failure);
            }
        }
    }
}

impl Generator<'_> {
    /// Reads a little longer, for messages that must not come.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        let end_ns = self.now_ns() + SETTLE_NS;
        while self.now_ns() < end_ns {
            self.poll(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Returns whether each open subscriber of this thread that reads has seen the last message of all its streams.
    pub(crate) fn owes_nothing(&self) -> bool {
        self.connections.iter().enumerate().all(|(index, connection)| match &connection.state {
            _ if connection.socket.is_none() || self.is_stalled(index) => true,
            State::Reading(reading) => reading.checkers.iter().enumerate().all(|(slot, checker)| {
                let stream = self.plan.topics.stream_of_slot(reading.first_topic as usize, slot);
                checker.next() >= self.crew.pushed(stream)
            }),
            State::Dropping { .. } => false,
            State::Connecting | State::Opening(_) | State::Posting(_) => true,
        })
    }
}

/// How long the generator waits for duplicates and foreign messages after it has waited for the last deliveries.
const SETTLE_NS: u64 = 100_000_000;

/// The time between two looks at what each subscriber has yet to see.
const CHECK_EVERY_NS: u64 = 20_000_000;

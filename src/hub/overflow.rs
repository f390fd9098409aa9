//! The decision about a connection whose output is beyond its limits.

use super::backlog::Backlog;
use crate::proto::Millis;

/// The limits of a connection's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// Bytes of memory that the output may take and keep alive, in addition to [`Backlog::BESIDES`].
    pub bytes_max: usize,
    /// The most messages that the backlog may hold.
    pub messages_max: u64,
    /// Milliseconds that the first unsent message with a tag may have waited; `None` for any number. Messages of topics
    /// that ask for no tags have no age.
    pub age_max_ms: Option<u64>,
}

/// The output that a connection is owed, with all that a policy looks at.
#[derive(Debug, Clone, Copy)]
pub struct OwedOutput<'a> {
    /// The bytes that the socket has not taken, and the shares after them.
    pub backlog: &'a Backlog,
    /// Bytes of memory that the frames for this connection alone take outside the backlog.
    pub outbox_bytes: usize,
    /// Whether the connection is held: none of its output is offered to the socket yet.
    pub is_held: bool,
}

/// The decision about a connection's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The connection keeps its output, and may be owed more.
    Keep,
    /// Messages are to be dropped by the policies of their topics, see [`Backlog::shed`].
    Shed,
    /// The connection is to be closed.
    Close,
}

impl OutputLimits {
    /// Returns whether output may take so many bytes. A limit of the size of two messages allows two messages.
    #[must_use]
    pub fn allows_bytes(&self, bytes: usize) -> bool {
        bytes <= self.bytes_max.saturating_add(Backlog::BESIDES)
    }
}

impl OwedOutput<'_> {
    /// Decides what becomes of the output. `now` is a time of the clock that the tags' times come from.
    #[must_use]
    pub fn decide(&self, limits: &OutputLimits, now: Millis) -> Decision {
        if !self.is_slow() || self.is_within(limits, now) && !self.backlog.is_over(now) {
            return Decision::Keep;
        }
        if self.backlog.may_shed() || self.is_within(limits, now) { Decision::Shed } else { Decision::Close }
    }

    /// Returns whether the output is within the limits of the connection. The limits of its topics do not count.
    #[must_use]
    pub fn is_within(&self, limits: &OutputLimits, now: Millis) -> bool {
        let bytes = self.backlog.bytes().saturating_add(self.outbox_bytes);
        limits.allows_bytes(bytes)
            && self.backlog.messages() <= limits.messages_max
            && limits.age_max_ms.is_none_or(|age_max| self.age(now) <= age_max)
    }

    /// Returns how many milliseconds the first unsent message with a tag has waited; 0 if there is none.
    fn age(&self, now: Millis) -> u64 {
        self.backlog.oldest().map_or(0, |time| now.0.saturating_sub(time.0))
    }

    /// Returns whether the connection has not kept up until now. A connection that had kept up is not closed because of
    /// one run, however large. A held connection cannot keep up: nothing is offered to its socket.
    fn is_slow(&self) -> bool {
        self.backlog.was_refused() || self.is_held
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{Decision::*, *};
    use crate::hub::{Piece, PieceTags, Tag, TaggedMessage, TopicName};

    const MIB: usize = 1 << 20;

    /// Returns a backlog of one piece that keeps so many bytes alive.
    fn backlog(charge: usize, messages: u32, was_refused: bool) -> Backlog {
        let mut backlog = Backlog::default();
        backlog.push(Piece { charge, ..Piece::new(Bytes::from_static(&[0; 8 * 1_024]), messages) }, None);
        if was_refused {
            backlog.refuse();
        }
        backlog
    }

    /// Each row has a backlog: its bytes relative to the limit, its messages, and whether the socket has refused a part
    /// of it. Then come the bytes of the outbox, whether the connection is held, and the decision. The limits are 1 MiB
    /// and 10 messages.
    #[test]
    fn a_slow_consumer_beyond_a_limit_is_closed() {
        let beside = Backlog::BESIDES as isize;
        for (bytes, messages, was_refused, outbox_bytes, is_held, decision) in [
            (0, 10, true, 0, false, Keep),
            (beside, 10, true, 0, false, Keep),
            (beside + 1, 10, true, 0, false, Close),
            (0, 11, true, 0, false, Close),
            // The outbox counts with the backlog.
            (-1_000, 10, true, 1_000 + Backlog::BESIDES, false, Keep),
            (-1_000, 10, true, 1_001 + Backlog::BESIDES, false, Close),
            (-1_000, 10, true, usize::MAX, false, Close),
            // The connection had kept up: one run, however large, does not close it.
            (9_000_000, 1_000, false, 0, false, Keep),
            // A held connection cannot have been refused.
            (beside, 10, false, 0, true, Keep),
            (beside + 1, 10, false, 0, true, Close),
            (0, 11, false, 0, true, Close),
            (beside + 1, 11, true, 0, true, Close),
        ] {
            // The places of the pieces count too.
            let places = backlog(0, 0, false).bytes();
            let charge = MIB.checked_add_signed(bytes).expect("no row is below nothing") - places;
            let backlog = backlog(charge, messages, was_refused);
            let output = OwedOutput { backlog: &backlog, outbox_bytes, is_held };
            let limits = OutputLimits { bytes_max: MIB, messages_max: 10, age_max_ms: None };
            let row = (bytes, messages, was_refused, outbox_bytes, is_held);
            assert_eq!(output.decide(&limits, Millis(0)), decision, "{row:?}");
        }
    }

    /// Only messages with tags have an age. The limit holds for the first of them that has not been sent whole.
    #[test]
    fn a_message_that_has_waited_for_too_long_is_beyond_a_limit() {
        let topic = TopicName::new("t").unwrap();
        let mut backlog = backlog(0, 1, true);
        for (times, topic) in [(&[][..], &topic), (&[2_000, 3_000], &topic)] {
            let tag = |time| Tag { place: None, time: Millis(time), key: None };
            let tags = times.iter().enumerate().map(|(at, &time)| TaggedMessage { end: 2 * at + 2, tag: tag(time) });
            let tags = Some(PieceTags::new(tags.collect())).filter(|_| !times.is_empty());
            backlog.push(Piece { tags, ..Piece::new(Bytes::from_static(&[0; 4]), 2) }, Some(topic));
        }
        let decide = |backlog: &Backlog, now, age_max_ms| {
            let limits = OutputLimits { bytes_max: MIB, messages_max: 10, age_max_ms };
            OwedOutput { backlog, outbox_bytes: 0, is_held: false }.decide(&limits, Millis(now))
        };
        for (now, decision) in [(0, Keep), (2_000, Keep), (2_500, Keep), (2_501, Close)] {
            assert_eq!(decide(&backlog, now, Some(500)), decision, "{now}");
            assert_eq!(decide(&backlog, now, None), Keep);
        }
        // The first message with a tag is sent, with all that stands before it and half of the second.
        backlog.advance(8 * 1_024 + 4 + 3);
        for (now, decision) in [(3_500, Keep), (3_501, Close)] {
            assert_eq!(decide(&backlog, now, Some(500)), decision, "{now}");
        }
        assert_eq!(decide(&Backlog::default(), 9_999, Some(500)), Keep);
    }

    /// A held connection may have an outbox and no backlog.
    #[test]
    fn an_outbox_alone_may_be_beyond_the_limit() {
        let backlog = Backlog::default();
        for (outbox_bytes, decision) in [(Backlog::BESIDES, Keep), (Backlog::BESIDES + 1, Close)] {
            let output = OwedOutput { backlog: &backlog, outbox_bytes, is_held: true };
            let limits = OutputLimits { bytes_max: 0, messages_max: 0, age_max_ms: None };
            assert_eq!(output.decide(&limits, Millis(0)), decision, "{outbox_bytes}");
        }
    }

    #[test]
    fn the_highest_limit_allows_everything() {
        let backlog = backlog(MIB, u32::MAX, true);
        let output = OwedOutput { backlog: &backlog, outbox_bytes: usize::MAX, is_held: true };
        let limits = OutputLimits { bytes_max: usize::MAX, messages_max: u64::MAX, age_max_ms: None };
        assert_eq!(output.decide(&limits, Millis(0)), Keep);
    }

    proptest! {
        /// More output, or lower limits, never save a connection that would be closed otherwise. Only a slow consumer
        /// is closed.
        #[test]
        fn more_output_is_never_better(
            (charge, messages, outbox_bytes) in (0..4 * MIB, 0..100_u32, 0..MIB),
            (more_charge, more_messages, more_outbox) in (0..MIB, 0..10_u32, 0..MIB),
            (bytes_max, messages_max) in (0..4 * MIB, 0..100_u64),
            (was_refused, is_held) in any::<(bool, bool)>(),
        ) {
            let decide = |charge, messages, outbox_bytes, limits| {
                let backlog = backlog(charge, messages, was_refused);
                OwedOutput { backlog: &backlog, outbox_bytes, is_held }.decide(limits, Millis(0))
            };
            let limits = OutputLimits { bytes_max, messages_max, age_max_ms: None };
            let decision = decide(charge, messages, outbox_bytes, &limits);
            prop_assert!(was_refused || is_held || decision == Keep);
            if decision == Close {
                let (charge, messages) = (charge + more_charge, messages + more_messages);
                prop_assert_eq!(decide(charge, messages, outbox_bytes + more_outbox, &limits), Close);
                let lower = OutputLimits { bytes_max: bytes_max / 2, messages_max: messages_max / 2, age_max_ms: None };
                prop_assert_eq!(decide(charge, messages, outbox_bytes, &lower), Close);
            }
        }
    }
}

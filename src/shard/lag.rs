//! The measures of backlogs: the size that gauges count, and the wait of single bytes.

use std::time::Duration;

use crate::{hub::Backlog, proto::Millis};

/// The size of a backlog, or of all backlogs of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BacklogSize {
    /// Bytes of memory, as [`Backlog::bytes`] counts them.
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
    /// The backlogs with a lag that its client has not been told of.
    pub(crate) lagging: u64,
}

impl BacklogSize {
    pub(super) fn of(backlog: &Backlog) -> Self {
        if backlog.is_empty() {
            return BacklogSize::default();
        }
        let lagging = u64::from(backlog.has_lags());
        BacklogSize { bytes: backlog.bytes() as u64, messages: backlog.messages(), lagging }
    }

    /// Replaces the size of one backlog in the size of all.
    ///
    /// # Panics
    ///
    /// If `before` is not a part of this size.
    pub(super) fn replace(&mut self, before: BacklogSize, after: BacklogSize) {
        let without = |all: u64, one: u64| all.checked_sub(one).expect("a backlog has been counted");
        self.bytes = without(self.bytes, before.bytes) + after.bytes;
        self.messages = without(self.messages, before.messages) + after.messages;
        self.lagging = without(self.lagging, before.lagging) + after.lagging;
    }
}

/// A byte of a backlog whose wait is measured: the last one at the time of the mark. One byte at a time is enough,
/// since the bytes leave in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MarkedByte {
    /// The bytes up to this one, itself included, that the socket has not taken.
    pub(super) ahead: usize,
    /// The time of the mark.
    pub(super) since: Millis,
}

impl MarkedByte {
    /// Marks the last byte of a backlog with bytes.
    pub(super) fn last_of(backlog: &Backlog, now: Millis) -> Option<Self> {
        (!backlog.is_empty()).then(|| MarkedByte { ahead: backlog.length(), since: now })
    }

    /// Notes that the socket has taken so many bytes more. Returns whether the marked byte is among them.
    pub(super) fn advance(&mut self, count: usize) -> bool {
        self.ahead = self.ahead.saturating_sub(count);
        self.ahead == 0
    }

    /// Returns how long the byte has waited.
    pub(super) fn waited(&self, now: Millis) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.since.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Piece;

    #[test]
    fn the_sum_has_each_backlog_once() {
        let mut all = BacklogSize::default();
        let (small, large) =
            (BacklogSize { bytes: 10, messages: 1, lagging: 0 }, BacklogSize { bytes: 500, messages: 7, lagging: 1 });
        all.replace(BacklogSize::default(), small);
        all.replace(BacklogSize::default(), large);
        all.replace(small, large);
        assert_eq!(all, BacklogSize { bytes: 1_000, messages: 14, lagging: 2 });
        all.replace(large, BacklogSize::default());
        all.replace(large, BacklogSize::default());
        assert_eq!(all, BacklogSize::default());
    }

    #[test]
    #[should_panic(expected = "a backlog has been counted")]
    fn a_backlog_that_was_not_counted_is_an_error() {
        BacklogSize::default().replace(BacklogSize { bytes: 1, messages: 0, lagging: 0 }, BacklogSize::default());
    }

    /// The byte waits until the socket has taken it, however much is appended after it.
    #[test]
    fn a_byte_waits_for_those_before_it() {
        let mut backlog = Backlog::default();
        assert_eq!(MarkedByte::last_of(&backlog, Millis(0)), None);
        backlog.push(Piece::new(vec![0; 100].into(), 1), None);
        let mut byte = MarkedByte::last_of(&backlog, Millis(1_000)).unwrap();
        backlog.push(Piece::new(vec![0; 9_000].into(), 1), None);
        assert!(!byte.advance(99));
        assert_eq!(byte.waited(Millis(1_250)), Duration::from_millis(250));
        assert!(byte.advance(1));
        let (mut one, mut many) =
            (MarkedByte { ahead: 1, since: Millis(0) }, MarkedByte { ahead: 1, since: Millis(0) });
        assert!(one.advance(1) && many.advance(1_000));
    }
}

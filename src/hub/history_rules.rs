//! The rules of a topic for its history: how much is kept of the messages that were published.

use crate::proto::Millis;

/// The rules of a topic for its history. A topic whose rules are the default keeps nothing.
///
/// All limits hold together. A limit that is `None` does not limit, so a history with one limit alone may grow until
/// that limit, or the server's budget for all histories, is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryRules {
    /// The most messages that are kept.
    pub messages_max: Option<u64>,
    /// The most bytes that are kept, of payloads and names together. The newest message is kept whatever its size.
    pub bytes_max: Option<u64>,
    /// The longest time, in milliseconds, for which a message is kept.
    pub age_max_ms: Option<u64>,
    /// Whether the newest message is kept beyond its age. A rule with this word alone keeps one message.
    pub retains_last: bool,
}

impl HistoryRules {
    /// Returns whether messages are kept at all.
    #[inline]
    #[must_use]
    pub fn keeps_messages(&self) -> bool {
        *self != HistoryRules::default()
    }

    /// Returns the most messages that are kept.
    pub(super) fn most_messages(&self) -> u64 {
        let has_no_limit = self.messages_max.is_none() && self.bytes_max.is_none() && self.age_max_ms.is_none();
        if has_no_limit { 1 } else { self.messages_max.unwrap_or(u64::MAX).max(1) }
    }

    /// Returns when a message of this time becomes too old.
    pub(super) fn expiry(&self, time: Millis) -> Option<Millis> {
        self.age_max_ms.map(|most| Millis(time.0.saturating_add(most)))
    }

    /// Returns whether a message of this time has become too old.
    pub(super) fn has_expired(&self, time: Millis, now: Millis) -> bool {
        self.expiry(time).is_some_and(|end| end <= now)
    }
}

/// The most bytes of a part of a history that a connection reads, one message of any size aside. It reads the next part
/// when its socket has taken all that it was owed. A subscriber with the policy
/// [`Overflow::Replay`](super::slow::Overflow::Replay) that is owed more than this reads the history instead.
pub const HISTORY_PART_BYTES: usize = 64 * 1_024;

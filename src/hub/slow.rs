//! The rules of a topic for subscribers that do not keep up: a policy, and how much may wait for each subscriber.

/// A policy for slow subscribers: it decides what becomes of a subscriber whose output is beyond its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The connection is closed.
    #[default]
    Close,
    /// The topic's oldest messages that wait for the subscriber are dropped.
    DropOldest,
    /// The topic's newest messages that wait for the subscriber are dropped.
    DropNewest,
    /// Of the topic's messages that wait for the subscriber, only the newest of each key is kept. If these are still
    /// too many, the connection is closed.
    Latest,
    /// The topic's messages that wait for the subscriber are dropped, and read from the topic's history as soon as the
    /// subscriber has room for them. Only a topic that keeps a history can have this policy. A lag with this policy
    /// tells of messages that the history did not keep for long enough.
    Replay,
}

impl Overflow {
    /// Returns the name of the policy, as the settings and notices of lags have it.
    ///
    /// ```
    /// assert_eq!(ringhub::Overflow::DropOldest.name(), "drop_oldest");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Overflow::Close => "close",
            Overflow::DropOldest => "drop_oldest",
            Overflow::DropNewest => "drop_newest",
            Overflow::Latest => "latest",
            Overflow::Replay => "replay",
        }
    }
}

/// The rules of a topic for slow subscribers. A limit that is `None` is only that of the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlowRules {
    /// The policy.
    pub overflow: Overflow,
    /// The most bytes that the topic's messages may take while they wait for a subscriber: their frames, and what the
    /// hub keeps about them.
    pub bytes_max: Option<u64>,
    /// The most messages of the topic that may wait for a subscriber.
    pub messages_max: Option<u64>,
    /// The most milliseconds that the first of these messages may wait before it begins to be sent.
    pub age_max_ms: Option<u64>,
}

impl SlowRules {
    /// Returns whether the hub must know single messages in order to keep to the rules.
    #[must_use]
    pub fn needs_tags(&self) -> bool {
        *self != SlowRules::default()
    }

    /// Returns whether so many messages may wait, which take so many bytes of memory. One message may always wait.
    #[must_use]
    pub(super) fn allow(&self, bytes: usize, messages: u64) -> bool {
        let allows_bytes = self.bytes_max.is_none_or(|most| bytes as u64 <= most);
        messages <= 1 || allows_bytes && self.messages_max.is_none_or(|most| messages <= most)
    }
}

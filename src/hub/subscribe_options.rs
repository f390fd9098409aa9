//! The options of a subscription.

/// The options of a subscription. By default, a subscriber does not see the messages that it publishes itself.
///
/// ```
/// use ringhub::SubscribeOptions;
/// assert!(!SubscribeOptions::default().has_echo);
/// assert!(SubscribeOptions::default().echo().has_echo);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Whether the subscriber sees the messages that it publishes itself.
    pub has_echo: bool,
    /// Whether the topic's policy may drop messages although no frame tells the client of it. Without this option, a
    /// client whose format has no frames about lags is closed when it is too slow.
    pub has_silent_lags: bool,
    /// Whether the subscriber is told of the topic's members that join and leave. Needs a topic with
    /// [`TopicRule::presence`](crate::TopicRule::presence), and counts as one more subscription of the connection.
    pub has_presence: bool,
}

impl SubscribeOptions {
    /// Lets the subscriber also see the messages that it publishes itself.
    #[must_use]
    pub fn echo(mut self) -> Self {
        self.has_echo = true;
        self
    }

    /// Lets the subscriber also get messages about the topic's members that join and leave: at most ten in a second,
    /// each a text of JSON that docs/presence.md describes.
    #[must_use]
    pub fn presence(mut self) -> Self {
        self.has_presence = true;
        self
    }

    /// Lets the topic's policy drop messages although no frame tells the client of it. The handler is told by
    /// [`Handler::on_lag`](crate::Handler::on_lag).
    #[must_use]
    pub fn silent_lags(mut self) -> Self {
        self.has_silent_lags = true;
        self
    }
}

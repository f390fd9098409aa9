//! What a `TopicClient` may say about a subscription, and what it is told of it.

use super::topic_event::TopicPlace;

/// What a [`TopicClient`](super::TopicClient) says about a subscription. By default the subscription begins live, and
/// the client gets none of its own messages. Of [`TopicOptions::since`], [`TopicOptions::earliest`] and
/// [`TopicOptions::last`] the last one that is called counts.
///
/// ```
/// use ringhub::client::TopicOptions;
/// let options = TopicOptions::new().echo(true).last(20);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct TopicOptions {
    pub(super) has_echo: bool,
    pub(super) start: Option<Start>,
}

/// The part of the topic's history that a subscription begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    After(TopicPlace),
    Earliest,
    Last(u64),
}

impl TopicOptions {
    /// Returns the default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether the client gets its own messages too.
    #[must_use]
    pub fn echo(mut self, echo: bool) -> Self {
        self.has_echo = echo;
        self
    }

    /// Begins with the messages of the history after this place.
    #[must_use]
    pub fn since(mut self, place: TopicPlace) -> Self {
        self.start = Some(Start::After(place));
        self
    }

    /// Begins with all messages of the history.
    #[must_use]
    pub fn earliest(mut self) -> Self {
        self.start = Some(Start::Earliest);
        self
    }

    /// Begins with so many of the newest messages of the history, or with all if it keeps fewer.
    #[must_use]
    pub fn last(mut self, messages: u64) -> Self {
        self.start = Some(Start::Last(messages));
        self
    }
}

/// The answer to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSubscribed {
    /// The place after which the messages follow, if the server knows it.
    pub place: Option<TopicPlace>,
    /// Whether every message follows that the options have asked for: `Some(false)` if the history does not keep them
    /// any more, if the topic keeps none, or if the place is of another epoch or in the future; `None` for a
    /// subscription that begins live.
    pub recovered: Option<bool>,
}

impl Start {
    /// Returns the members `since` and `last` of the command.
    pub(super) fn members(start: Option<Start>) -> (Option<String>, Option<u64>) {
        match start {
            Some(Start::After(TopicPlace { epoch, offset })) => (Some(format!("{epoch}.{offset}")), None),
            Some(Start::Earliest) => (Some("earliest".into()), None),
            Some(Start::Last(messages)) => (None, Some(messages)),
            None => (None, None),
        }
    }
}

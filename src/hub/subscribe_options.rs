//! The options of a subscription.

use super::{history_page::HistoryFrom, publication::OrderEnd};

/// The options of a subscription. By default, a subscriber does not see the messages that it publishes itself, and sees
/// none that were published before.
///
/// ```
/// use ringhub::{Resume, SubscribeOptions};
/// assert!(!SubscribeOptions::default().has_echo);
/// assert!(SubscribeOptions::default().echo().has_echo);
/// let last = SubscribeOptions::default().resume(Resume::Last(1)).accept_unrecovered();
/// assert_eq!(last.resume, Some(Resume::Last(1)));
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
    /// The messages of the topic's history that the subscriber gets first; `None` for no such message.
    pub resume: Option<Resume>,
    /// Whether the subscription begins although messages after the position in [`SubscribeOptions::resume`] may be
    /// missing. Without this option, the connection is closed then, with [`UNRECOVERED`](crate::handler::UNRECOVERED).
    pub accepts_unrecovered: bool,
}

/// The part of a topic's history that a subscriber gets before the messages that are published from now on, without a
/// gap between the two. The topic's rules say how much there is ([`TopicRule::history_messages`]).
///
/// [`TopicRule::history_messages`]: crate::TopicRule::history_messages
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// All messages that are kept.
    Earliest,
    /// The messages after a position, such as the [`Place`](crate::Place) of the last message that the subscriber got
    /// on an earlier connection.
    After {
        /// The epoch.
        epoch: u64,
        /// The offset.
        offset: u64,
    },
    /// So many of the newest messages, or all that are kept if these are fewer.
    Last(u64),
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

    /// Lets the subscriber first get messages of the topic's history.
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.resume = Some(resume);
        self
    }

    /// Lets the subscription begin although messages may be missing. The handler is told by
    /// [`Connection::is_recovered`](crate::Connection::is_recovered).
    #[must_use]
    pub fn accept_unrecovered(mut self) -> Self {
        self.accepts_unrecovered = true;
        self
    }
}

impl From<Resume> for HistoryFrom {
    fn from(resume: Resume) -> Self {
        match resume {
            Resume::Earliest => HistoryFrom::Earliest,
            Resume::After { epoch, offset } => HistoryFrom::After(OrderEnd { epoch, offset }),
            Resume::Last(messages) => HistoryFrom::Last(messages),
        }
    }
}

//! The intents of requests, which the judge decides about.

use crate::{
    auth::{Right, TopicRight},
    proto::{Refusal, RequestHead},
};

/// The intended use of an endpoint by a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Open a WebSocket of a handler, or read files, the page, or another endpoint that needs only the gate.
    Use,
    /// Receive from a topic, publish to it, or both.
    Attach { subscribes: bool, publishes: bool },
    /// Receive from a topic, beginning in its history, and perhaps publish to it.
    Resume { publishes: bool },
    /// Publish to a topic.
    Publish,
    /// Read the history of a topic.
    ReadHistory,
    /// Read who is subscribed to a topic.
    ReadPresence,
    /// Forget the history of a topic.
    ForgetHistory,
    /// Read the metrics.
    ReadMetrics,
    /// Read the busiest topics and the largest backlogs, with the addresses of clients.
    ReadTop,
    /// List and close connections, and revoke.
    Administer,
}

impl Intent {
    /// Returns the rights for which the server may require a token.
    pub(super) fn rights(self) -> &'static [Right] {
        match self {
            Intent::Use => &[],
            Intent::Attach { subscribes: true, publishes: true } | Intent::Resume { publishes: true } => {
                &[Right::Subscribe, Right::Publish]
            }
            Intent::Attach { subscribes: true, publishes: false } | Intent::Resume { publishes: false } => {
                &[Right::Subscribe]
            }
            Intent::Attach { subscribes: false, .. } | Intent::Publish => &[Right::Publish],
            Intent::ReadHistory | Intent::ReadPresence => &[Right::Subscribe],
            Intent::ForgetHistory => &[Right::Administer],
            Intent::ReadMetrics => &[Right::Metrics],
            Intent::ReadTop | Intent::Administer => &[Right::Administer],
        }
    }

    /// Returns the rights that the request needs over the topic of its path or of its message, if there is one.
    pub(super) fn topic_rights(self) -> &'static [TopicRight] {
        match self {
            Intent::Use | Intent::ReadMetrics | Intent::ReadTop | Intent::Administer => &[],
            Intent::Attach { subscribes: true, publishes: true } => &[TopicRight::Subscribe, TopicRight::Publish],
            Intent::Attach { subscribes: true, publishes: false } => &[TopicRight::Subscribe],
            Intent::Attach { subscribes: false, .. } | Intent::Publish => &[TopicRight::Publish],
            Intent::Resume { publishes: true } => &[TopicRight::Subscribe, TopicRight::History, TopicRight::Publish],
            // Whoever may not subscribe may not read what subscribers got, either.
            Intent::ReadHistory | Intent::Resume { publishes: false } => &[TopicRight::Subscribe, TopicRight::History],
            Intent::ReadPresence => &[TopicRight::Subscribe, TopicRight::Presence],
            // The server's own token is enough, whoever may read the topic.
            Intent::ForgetHistory => &[],
        }
    }
}

/// Reads the intent of a request, for one endpoint.
///
/// # Errors
///
/// The refusal of a head that the endpoint does not understand, mostly of its query.
pub(crate) type ReadIntent = fn(&RequestHead) -> Result<Intent, Refusal>;

//! What a `TopicClient` may say about a message that it publishes, and what it is told of it.

use std::fmt;

use serde::Deserialize;

/// What a [`TopicClient`](super::TopicClient) says about a message that it publishes. By default it says nothing.
///
/// The names, keys and ids have 1 to 255 bytes of UTF-8 without control characters; the server refuses others as
/// `bad_member`.
///
/// ```
/// use ringhub::client::PublishOptions;
/// let options = PublishOptions::new().event("paid").key("order-17").id("8e03978e-40d5").receipt(true);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct PublishOptions<'a> {
    pub(super) event: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) has_receipt: bool,
}

impl<'a> PublishOptions<'a> {
    /// Returns the default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the event that the message tells of.
    #[must_use]
    pub fn event(mut self, name: &'a str) -> Self {
        self.event = Some(name);
        self
    }

    /// Names the thing that the message is about: a policy of the topic may drop a message for a newer one with the
    /// same key.
    #[must_use]
    pub fn key(mut self, key: &'a str) -> Self {
        self.key = Some(key);
        self
    }

    /// Gives the message an id, its idempotency key: the server publishes a message with this id to the topic once
    /// within its `idempotency_window`, and answers a repetition as the first. So a message whose answer was lost
    /// ([`TopicError::Lost`](super::TopicError::Lost)) can be published again.
    #[must_use]
    pub fn id(mut self, id: &'a str) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets whether the answer tells what became of the message for its subscribers. It then comes when all shards have
    /// handed the message out, at the latest after the server's `receipt_timeout`.
    #[must_use]
    pub fn receipt(mut self, has_receipt: bool) -> Self {
        self.has_receipt = has_receipt;
        self
    }
}

/// What has become of a message for the subscribers that it was for. Each of them counts in `matched`, and in one of
/// the other numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct TopicReceipt {
    /// The subscribers that the message was for, without the publisher unless it has subscribed with echo.
    pub matched: u32,
    /// The subscribers whose sockets have taken the message whole.
    pub sent: u32,
    /// The subscribers for which the message, or its end, waits in the server.
    pub queued: u32,
    /// The subscribers for which a policy of the topic has dropped the message.
    pub dropped: u32,
    /// The subscribers whose connections were closed, or have ended, before their sockets had taken the message.
    pub closed: u32,
}

/// The reason for which a message that was published has no receipt.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct NoTopicReceipt {
    /// The name of the reason: `timed_out`, `too_many` or `not_asked` (docs/topics.md).
    #[serde(rename = "error")]
    pub name: String,
}

impl fmt::Display for NoTopicReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the message was published without a receipt: {}", self.name)
    }
}

impl std::error::Error for NoTopicReceipt {}

//! Pages of a topic's history: what a reader asks for, and what it gets.

use super::{
    connection_id::ConnectionId,
    memory::{ALLOCATION, pinned},
    publication::{OrderEnd, Publication},
};

/// A request for a part of a topic's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The part.
    pub from: HistoryFrom,
    /// The most messages.
    pub messages_max: usize,
    /// The most bytes of payloads and names. The first message comes whatever its size.
    pub bytes_max: u64,
}

/// The beginning and the direction of a part of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryFrom {
    /// All messages that are kept, the oldest first.
    Earliest,
    /// The messages after a position, the oldest first.
    After(OrderEnd),
    /// All messages that are kept, the newest first.
    Newest,
    /// The messages before a position, the newest first.
    Before(OrderEnd),
    /// So many of the newest messages, the oldest first.
    Last(u64),
}

/// A part of the history of a topic.
#[derive(Debug, Clone)]
pub struct HistoryPage {
    /// The end of the topic's order; `None` if an engine orders the topic and has not told of any place yet.
    pub end: Option<OrderEnd>,
    /// The offset of the last message before those that are kept.
    pub floor: u64,
    /// Whether the position of the request is not known, so that messages after it may be missing: it belongs to
    /// another epoch, is above the end of the order, or is below `floor`.
    pub has_gap: bool,
    /// The messages.
    pub messages: Vec<KeptMessage>,
    /// Whether there are further messages of the part.
    pub has_more: bool,
    /// Whether the rules of the topic keep messages.
    pub is_kept: bool,
}

impl HistoryPage {
    /// Returns the bytes that the page keeps alive.
    pub(super) fn kept(&self) -> usize {
        let of_message = |message: &KeptMessage| {
            let KeptMessage { publication, .. } = message;
            size_of_val(message) + pinned(publication.frame()) + publication.names_bytes()
        };
        size_of_val(self) + ALLOCATION + self.messages.iter().map(of_message).sum::<usize>()
    }
}

/// A message of a history.
#[derive(Debug, Clone)]
pub struct KeptMessage {
    /// The offset in the order of the topic.
    pub offset: u64,
    /// The connection that has published the message.
    pub source: Option<ConnectionId>,
    /// The message, with its time.
    pub publication: Publication,
}

//! What stands in the lanes between shards, and what it weighs.

use std::sync::Arc;

use super::{
    Command, ConnectionId, Published, Reply, TopicName,
    memory::{ALLOCATION, pinned},
};
use crate::proto::PreparedMessage;

/// A message of a topic. All ends that it goes to share one.
#[derive(Debug)]
pub struct Publication {
    /// The topic.
    pub topic: TopicName,
    /// The connection that sent it, which does not receive it unless its subscription asks for its own messages.
    pub source: Option<ConnectionId>,
    /// The message.
    pub message: PreparedMessage,
}

/// What a shard asks of a topic's home.
#[derive(Debug, Clone)]
pub enum Request {
    /// The topic's home gives this message the next offset and sends it to each interested shard.
    Publish(Arc<Publication>),
    /// The same for an end that is no shard and wants to know the message's place.
    Submit {
        /// The message.
        publication: Arc<Publication>,
        /// What the answer is told apart by.
        ticket: u64,
    },
    /// Do something with connections, for an end that is no shard.
    Command {
        /// What to do.
        command: Box<Command>,
        /// What the answer is told apart by.
        ticket: u64,
    },
    /// The asking shard wants this much of the topic from now on, whatever it wished before.
    Interest {
        /// The topic.
        topic: TopicName,
        /// The asking shard's number for this request; larger than those before it.
        number: u64,
        /// How much.
        wish: Wish,
    },
}

/// What a shard wants of a topic whose home is another shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: no connection names it.
    Nothing,
    /// That its offsets are remembered: some connections publish to it, and none subscribes.
    Remember,
    /// Its messages.
    Deliver,
}

/// What a topic's home tells a shard.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// The topic's next message.
    Message {
        /// The message.
        publication: Arc<Publication>,
        /// Its place in the topic's order.
        published: Published,
    },
    /// The answer to a [`Request::Submit`] or a [`Request::Command`].
    Reply {
        /// Its number.
        ticket: u64,
        /// The answer.
        reply: Reply,
    },
    /// Every message of the topic from here on comes down this lane.
    Acknowledged {
        /// The topic.
        topic: TopicName,
        /// The number of the [`Request::Interest`] that is answered.
        number: u64,
    },
}

/// The memory that an entry of a lane takes and keeps alive: its own place, its allocations, its frame. What several
/// entries share is charged to each.
pub(super) trait Weight: Sized {
    /// What it keeps alive outside of itself, in bytes. The same as long as it exists.
    fn kept(&self) -> usize;

    /// All of it. A queue that doubles as it grows has two places for each of its entries.
    fn weight(&self) -> usize {
        2 * size_of::<Self>() + self.kept()
    }
}

impl Weight for Request {
    fn kept(&self) -> usize {
        match self {
            Request::Publish(publication) | Request::Submit { publication, .. } => publication.kept(),
            Request::Command { command, .. } => COMMAND + command.kept(),
            // The name belongs to the topic.
            Request::Interest { .. } => 0,
        }
    }
}

impl Weight for Delivery {
    fn kept(&self) -> usize {
        match self {
            Delivery::Message { publication, .. } => publication.kept(),
            Delivery::Reply { reply: Reply::Connections(ids), .. } => ALLOCATION + size_of_val(&**ids),
            Delivery::Reply { .. } | Delivery::Acknowledged { .. } => 0,
        }
    }
}

impl Publication {
    /// The memory of a publication and of all that it keeps alive, in bytes.
    fn kept(&self) -> usize {
        // The name of a topic that the publishing shard does not know is the publication's own.
        PUBLICATION + ALLOCATION + self.topic.as_str().len() + pinned(self.message.frame())
    }
}

impl Command {
    fn kept(&self) -> usize {
        match self {
            Command::Send { message, .. } => pinned(message.frame()),
            Command::Close { reason, .. } => ALLOCATION + reason.len(),
            Command::List | Command::KeepAlive { .. } => 0,
        }
    }
}

/// A publication with the two counters of its `Arc`.
const PUBLICATION: usize = size_of::<Publication>() + 2 * size_of::<usize>() + ALLOCATION;

/// A command in its box.
const COMMAND: usize = size_of::<Command>() + ALLOCATION;

const _: () =
    assert!(size_of::<Request>() <= 32 && size_of::<Delivery>() <= 40, "an entry is little beside its message");

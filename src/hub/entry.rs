//! The entries of the lanes between ends, and their weights.

use std::sync::Arc;

use super::{
    chunk::{Chunk, ReadOn},
    command::{Command, Reply},
    connection_id::ConnectionId,
    encoding::DearFormats,
    memory::{ALLOCATION, pinned},
    presence::{Presence, PresenceChange},
    publication::{OrderEnd, Place, Posted},
    receipt::Receipt,
    topic_name::TopicName,
};

/// A request from one end of the mesh to another: to a shard or to an engine.
#[derive(Debug, Clone)]
pub enum Request {
    /// The topic's home gives this publication the next place and sends it to each interested shard.
    Publish(Arc<Posted>),
    /// The same as [`Request::Publish`], from an end that wants the place: the home answers with the publication's
    /// place.
    Submit {
        /// The publication.
        posted: Arc<Posted>,
        /// The number that goes back with the answer.
        ticket: u64,
    },
    /// The shard runs a command for an external end.
    Command {
        /// The command.
        command: Box<Command>,
        /// The number that goes back with the answer.
        ticket: u64,
    },
    /// From now on the requesting shard has this interest in the topic, instead of the interest announced before.
    Interest {
        /// The topic.
        topic: TopicName,
        /// The requesting shard's number for this announcement, larger than all its earlier numbers.
        number: u64,
        /// The interest.
        interest: Interest,
    },
    /// An engine gives this publication a place, and returns it as [`Request::Distribute`]. The requesting shard is the
    /// home of the publication's topic.
    Order(Box<Unplaced>),
    /// The topic's home sends this publication to each interested shard. An engine has given the publication its place.
    Distribute(Box<Placed>),
    /// The count of a shard for the receipt of a publication, for the home of the publication's topic.
    Counted(Box<Counted>),
    /// The topic's home notes who has joined and left on the requesting shard.
    Presence(Box<PresenceNews>),
    /// The topic's home answers with a part of the topic's history, for a connection that resumes there.
    ReadOn(Box<ReadOn>),
    /// No request from before the drain follows.
    Barrier,
    /// The home returns the mark as [`Delivery::Mark`] to the shard of the connection, whose close frame waits for the
    /// mark. If there is an engine, the home passes the mark on to the engine first, and the engine returns it to the
    /// home.
    Mark {
        /// The connection.
        id: ConnectionId,
    },
}

/// The count of a shard for the receipt of a publication: the walks of the shard with the publication have ended.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// The number that the home has given to the receipt.
    pub number: u64,
    /// The count.
    pub receipt: Receipt,
}

/// Changes of the members of a topic on one shard.
#[derive(Debug, Clone)]
pub struct PresenceNews {
    /// The topic.
    pub topic: TopicName,
    /// The changes, each member once.
    pub changes: Box<[PresenceChange]>,
}

/// A publication that an engine is to give a place.
#[derive(Debug, Clone)]
pub struct Unplaced {
    /// The publication.
    pub posted: Arc<Posted>,
    /// The end that waits for the place, and its ticket.
    pub asker: Option<(u16, u64)>,
}

/// A publication that an engine has given a place.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The publication.
    pub unplaced: Unplaced,
    /// Its place in the topic's order.
    pub place: Place,
}

/// The interest of a shard in a topic whose home is another shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Nothing: no connection of the shard is attached to the topic.
    None,
    /// The home remembers the topic's offsets: connections of the shard publish to the topic, and none subscribes.
    Offsets,
    /// The home sends the topic's messages.
    Messages {
        /// The dear formats that subscribers of the shard want.
        dear: DearFormats,
    },
}

/// A delivery of a shard to another end of the mesh.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// The topic's next publication, from its home.
    Publication {
        /// The publication.
        posted: Arc<Posted>,
        /// Its place in the topic's order.
        place: Place,
    },
    /// The answer to a [`Request::Submit`] or a [`Request::Command`].
    Reply {
        /// The request's ticket.
        ticket: u64,
        /// The answer.
        reply: Reply,
    },
    /// Every later message of the topic comes down this lane.
    Acknowledged {
        /// The topic.
        topic: TopicName,
        /// The number of the [`Request::Interest`] that is answered.
        number: u64,
        /// The end of the topic's order so far, if the home knows it.
        end: Option<Box<OrderEnd>>,
    },
    /// The answer to a [`Request::ReadOn`].
    Chunk(Box<Chunk>),
    /// No message from before the drain follows.
    Barrier,
    /// The answer to a [`Request::Mark`]: every message that was requested before the mark has been ordered, and its
    /// delivery stands in this lane before this answer.
    Mark {
        /// The connection that waits.
        id: ConnectionId,
    },
}

/// The memory that an entry of a lane takes and keeps alive: its own place, its allocations, its frame. Memory that
/// several entries share is charged to each.
pub(super) trait Weight: Sized {
    /// Returns the bytes that the entry keeps alive outside of itself. The number does not change while the entry
    /// exists.
    fn kept(&self) -> usize;

    /// Returns the weight of the entry. The weight counts two places, since a queue that doubles has up to two for each
    /// entry.
    fn weight(&self) -> usize {
        2 * size_of::<Self>() + self.kept()
    }
}

impl Weight for Request {
    fn kept(&self) -> usize {
        match self {
            Request::Publish(posted) | Request::Submit { posted, .. } => posted.kept(),
            Request::Order(unplaced) => ALLOCATION + size_of::<Unplaced>() + unplaced.posted.kept(),
            Request::Distribute(placed) => ALLOCATION + size_of::<Placed>() + placed.unplaced.posted.kept(),
            Request::Command { command, .. } => COMMAND + command.kept(),
            Request::Counted(counted) => ALLOCATION + size_of_val(&**counted),
            Request::Presence(news) => {
                let kept: usize = news.changes.iter().map(PresenceChange::kept).sum();
                2 * ALLOCATION + size_of_val(&**news) + size_of_val(&*news.changes) + kept
            }
            Request::ReadOn(question) => question.kept(),
            // The name belongs to the topic.
            Request::Interest { .. } | Request::Barrier | Request::Mark { .. } => 0,
        }
    }
}

impl Weight for Delivery {
    fn kept(&self) -> usize {
        match self {
            Delivery::Publication { posted, .. } => posted.kept(),
            Delivery::Reply { reply, .. } => reply.kept(),
            Delivery::Acknowledged { end, .. } => end.as_ref().map_or(0, |end| ALLOCATION + size_of_val(&**end)),
            Delivery::Chunk(chunk) => chunk.kept(),
            Delivery::Barrier | Delivery::Mark { .. } => 0,
        }
    }
}

impl Reply {
    fn kept(&self) -> usize {
        match self {
            Reply::Connections(ids) => ALLOCATION + size_of_val(&**ids),
            Reply::Top(top) => ALLOCATION + top.kept(),
            Reply::Page(part) => {
                let rows = part.connections.iter().map(|row| size_of_val(row) + row.kept()).sum::<usize>();
                2 * ALLOCATION + size_of_val(&**part) + rows
            }
            // The names belong to the topics.
            Reply::Topics(part) => 2 * ALLOCATION + size_of_val(&**part) + size_of_val(&*part.topics),
            Reply::Counts(counts) => ALLOCATION + size_of_val(&**counts),
            Reply::History(page) => ALLOCATION + page.kept(),
            // The texts belong to the topic.
            Reply::Presence(presence) => {
                let members = presence.as_ref().map_or(0, |presence| size_of_val(&*presence.members));
                2 * ALLOCATION + size_of::<Presence>() + members
            }
            Reply::Receipted(published) => ALLOCATION + size_of_val(&**published),
            Reply::Forgotten(_)
            | Reply::Published(_)
            | Reply::NotPublished(_)
            | Reply::Sent(_)
            | Reply::Done(_)
            | Reply::Closed { .. }
            | Reply::Subscribed(_) => 0,
        }
    }
}

impl Posted {
    /// Returns the bytes of the publication and of all that it keeps alive.
    fn kept(&self) -> usize {
        let names = self.publication.names_bytes() + self.publication.prepared_bytes();
        // If the publishing shard does not know the topic, the name's memory is the publication's own.
        POSTED + ALLOCATION + self.topic.as_str().len() + names + pinned(self.publication.frame())
    }
}

impl Command {
    fn kept(&self) -> usize {
        match self {
            Command::Send { message, .. } => pinned(message.frame()),
            Command::Close { reason, .. } => ALLOCATION + reason.len(),
            Command::CloseAll { who, reason, .. } => 2 * ALLOCATION + who.name().len() + reason.len(),
            Command::Page { filter, .. } => {
                ALLOCATION + size_of_val(&**filter) + filter.identity.as_ref().map_or(0, |name| name.len())
            }
            Command::CountSubscribers(topics) => ALLOCATION + size_of_val(&**topics),
            Command::Subscribe { topic, .. }
            | Command::Unsubscribe { topic, .. }
            | Command::ReadHistory { topic, .. }
            | Command::ReadPresence { topic, .. }
            | Command::ForgetHistory(topic) => ALLOCATION + topic.as_str().len(),
            Command::Topics { prefix, .. } => ALLOCATION + prefix.len(),
            Command::List | Command::Top | Command::KeepAlive { .. } => 0,
        }
    }
}

/// Bytes of a publication on its way, with the two counters of its `Arc`.
const POSTED: usize = size_of::<Posted>() + 2 * size_of::<usize>() + ALLOCATION;

/// Bytes of a command in its box.
const COMMAND: usize = size_of::<Command>() + ALLOCATION;

const _: () =
    assert!(size_of::<Request>() <= 32 && size_of::<Delivery>() <= 40, "an entry is little beside its message");

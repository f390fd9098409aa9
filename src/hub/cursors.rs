//! Cursors: the subscriptions that read the history of their topic before they become members.
//!
//! Nothing is gathered for a cursor. Its connection asks the topic's home for one part of the history after the other,
//! each when its socket has taken the part before. With several cursors, the connection reads a part for each
//! in turn.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{connection_id::ConnectionId, history_page::HistoryFrom, subscribe_options::Resume, topic_id::TopicId};

/// The cursors of all connections of a shard.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    readers: HashMap<ConnectionId, Reader>,
    /// The connections that may read on, in their order.
    ready: BTreeMap<u64, ConnectionId>,
    /// How many parts homes have been asked for that have not come.
    asked: usize,
    /// The last number that was given to a place in `ready`, or to a part.
    number: u64,
}

/// A connection with cursors.
#[derive(Debug, Default)]
struct Reader {
    /// The first one reads next. It is the one that a part was asked for.
    cursors: VecDeque<Cursor>,
    /// The part that a home has been asked for.
    asked: Option<Asked>,
    /// The place in [`Cursors::ready`].
    place: Option<u64>,
}

/// A subscription that reads the history of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) topic: TopicId,
    /// The messages that are to be read.
    pub(super) from: HistoryFrom,
    /// Whether the topic's messages come to this shard, so that the cursor may read.
    pub(super) is_live: bool,
    /// Whether the first part has come, by which the position of the subscription is known.
    pub(super) is_placed: bool,
    /// Whether the subscription goes on although messages may be missing.
    pub(super) accepts_unrecovered: bool,
}

/// A part of a history that a home has been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// The number of the part, which no other part of the shard has.
    pub(super) number: u64,
    /// The most bytes that the connection has room for.
    pub(super) bytes_max: usize,
}

impl Cursor {
    /// Returns the cursor of a subscription that resumes. [`Cursors::start`] lets it read.
    pub(super) fn new(topic: TopicId, resume: Resume, accepts_unrecovered: bool) -> Self {
        Cursor { topic, from: resume.into(), is_live: false, is_placed: false, accepts_unrecovered }
    }
}

impl Cursors {
    /// Adds the cursor of a subscription.
    pub(super) fn add(&mut self, id: ConnectionId, cursor: Cursor) {
        self.readers.entry(id).or_default().cursors.push_back(cursor);
        if cursor.is_live {
            self.let_read_on(id);
        }
    }

    /// Returns whether there is no cursor.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// Returns whether a subscription is a cursor.
    pub(super) fn has(&self, id: ConnectionId, topic: TopicId) -> bool {
        self.accepts_unrecovered(id, topic).is_some()
    }

    /// Returns whether the cursor of a subscription goes on although messages may be missing; `None` if the
    /// subscription is no cursor.
    pub(super) fn accepts_unrecovered(&self, id: ConnectionId, topic: TopicId) -> Option<bool> {
        let mut cursors = self.readers.get(&id)?.cursors.iter();
        cursors.find(|cursor| cursor.topic == topic).map(|cursor| cursor.accepts_unrecovered)
    }

    /// Lets a cursor read: its topic's messages come to this shard from now on.
    pub(super) fn start(&mut self, id: ConnectionId, topic: TopicId) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        for cursor in reader.cursors.iter_mut().filter(|cursor| cursor.topic == topic) {
            cursor.is_live = true;
        }
        self.let_read_on(id);
    }

    /// Lets a connection read on, if it has a cursor that may read and waits for no part.
    pub(super) fn let_read_on(&mut self, id: ConnectionId) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let may_read = reader.asked.is_none() && reader.cursors.iter().any(|cursor| cursor.is_live);
        if may_read && reader.place.is_none() {
            self.number += 1;
            reader.place = Some(self.number);
            self.ready.insert(self.number, id);
        }
    }

    /// Returns the connection that reads next.
    pub(super) fn next(&self) -> Option<ConnectionId> {
        self.ready.first_key_value().map(|(_, id)| *id)
    }

    /// Takes the connection that reads next out of the order.
    pub(super) fn take_next(&mut self) -> Option<ConnectionId> {
        let (_, id) = self.ready.pop_first()?;
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.place = None;
        }
        Some(id)
    }

    /// Returns the cursor of a connection that reads next.
    pub(super) fn first(&mut self, id: ConnectionId) -> Option<&mut Cursor> {
        let reader = self.readers.get_mut(&id)?;
        let index = reader.cursors.iter().position(|cursor| cursor.is_live)?;
        reader.cursors.rotate_left(index);
        reader.cursors.front_mut()
    }

    /// Notes that a home is asked for a part for the cursor that reads next. Returns the number of the part.
    pub(super) fn ask(&mut self, id: ConnectionId, bytes_max: usize) -> u64 {
        self.number += 1;
        self.asked += 1;
        let reader = self.readers.get_mut(&id).expect("the cursor of a connection reads");
        reader.asked = Some(Asked { number: self.number, bytes_max });
        self.number
    }

    /// Notes that a part has come. Returns the question, if the connection still waits for the part.
    pub(super) fn take_asked(&mut self, id: ConnectionId, number: u64) -> Option<Asked> {
        self.asked -= 1;
        self.readers.get_mut(&id)?.asked.take_if(|asked| asked.number == number)
    }

    /// Lets the other cursors of a connection read before the one that has read last.
    pub(super) fn give_way(&mut self, id: ConnectionId) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.cursors.rotate_left(1);
        }
    }

    /// Lets a cursor read from another position.
    pub(super) fn go_back(&mut self, id: ConnectionId, topic: TopicId, from: HistoryFrom) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let Some(index) = reader.cursors.iter().position(|cursor| cursor.topic == topic) else { return };
        reader.cursors[index].from = from;
        if index == 0 {
            // The part under way does not follow this position.
            reader.asked = None;
        }
        self.let_read_on(id);
    }

    /// Removes the cursor of a subscription.
    pub(super) fn remove(&mut self, id: ConnectionId, topic: TopicId) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let Some(index) = reader.cursors.iter().position(|cursor| cursor.topic == topic) else { return };
        reader.cursors.remove(index);
        if index == 0 && reader.asked.take().is_some() && !reader.cursors.is_empty() {
            // No part comes for this connection any more, after which the others would read on.
            self.let_read_on(id);
            return;
        }
        if reader.cursors.is_empty()
            && let Some(place) = self.readers.remove(&id).and_then(|reader| reader.place)
        {
            self.ready.remove(&place);
        }
    }

    /// Returns how many parts homes have been asked for that have not come.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// Returns how many connections have cursors.
    pub(super) fn readers(&self) -> usize {
        self.readers.len()
    }
}

//! The state of a connection's session and socket, which the shard keeps in addition to the hub's state of the
//! connection.

use bytes::BytesMut;

use super::{
    lag::{BacklogSize, MarkedByte},
    session::Session,
    sides::Sides,
};
use crate::{
    hub::{self, Attachment, Backlog, Connections, Format, OutputLimits},
    proto::{State, Tick},
};

/// A connection of a shard.
pub(crate) type ShardConnection = hub::HubConnection<IoState>;

/// The hub of a shard.
pub(crate) type IoHub = hub::ShardHub<IoState>;

/// The session of one connection, and its input and output. While the connection is idle it owns nothing outside this
/// struct.
#[derive(Debug)]
pub(crate) struct IoState {
    /// The connection's protocol, in its present state.
    pub(crate) session: Session,
    /// The beginning of a frame that has not arrived whole, or input that is not parsed to its end.
    pub(crate) partial: Option<Box<BytesMut>>,
    /// Frames for this connection alone, and its backlog.
    pub(crate) output: Option<Box<Output>>,
    /// Whether the connection is received from.
    pub(crate) reading: Reading,
    /// There is input that was received and is not parsed to its end.
    pub(crate) has_unparsed: bool,
    /// The connection stands in one of the shard's queues of connections with output.
    pub(crate) is_dirty: bool,
    /// When the timer wheel looks at the connection next.
    pub(crate) timer: Option<Tick>,
    /// The form in which the connection gets publications.
    pub(crate) format: Format,
    /// How far the two sides of the socket have come to their end.
    pub(crate) sides: Sides,
}

impl Attachment for IoState {
    type Note = BatchEntry;

    #[inline]
    fn format(&self) -> Format {
        self.format
    }

    #[inline]
    fn is_open(&self) -> bool {
        self.session.state() == State::Open
    }
}

const _: () =
    assert!(Connections::<IoState>::SLOT_BYTES == 112, "ARCHITECTURE.md adds up what an idle connection costs");

/// The entry in a batch of a connection with several subscriptions. The connection's shares of all walks of the batch
/// are in that entry, since a connection stands at most once in a batch. Any other connection is in at most one walk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BatchEntry {
    /// The batch's number; from 1.
    pub(crate) batch: u64,
    /// The entry's index.
    pub(crate) index: u32,
    /// Pieces of memory in the entry so far.
    pub(crate) pieces: u32,
}

/// Whether a connection is received from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The socket has reported nothing since the connection was last received from.
    Idle,
    /// The connection stands in one of the shard's queues of connections to receive from.
    Queued,
    /// The connection is not received from until it has taken some of its backlog.
    Parked,
    /// The connection is not received from until a home, or a topic, that its messages go to is not behind any more.
    AwaitsHome,
    /// The connection is not received from until its rates allow it.
    Throttled,
}

/// The output that a connection is owed in addition to its shares of the walks under way.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Whole frames for this connection alone, such as the opening answer, pongs and the goodbye. They leave with the
    /// next flush if there is no backlog.
    pub(crate) outbox: Vec<u8>,
    /// The output that the socket did not take, and the output that is queued after it.
    pub(crate) backlog: Backlog,
    /// The room in the socket for the backlog.
    pub(crate) room: Room,
    /// The watch for progress of the peer.
    pub(crate) watch: Option<Watch>,
    /// The size of the backlog that the shard's gauges count.
    pub(crate) counted: BacklogSize,
    /// The byte of the backlog whose wait is measured.
    pub(crate) marked: Option<MarkedByte>,
}

/// The room in a socket for a backlog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing is known: the backlog may be offered to the socket.
    #[default]
    Unknown,
    /// The socket has refused some of the backlog. A report of room is awaited, or the next tick if the kernel is short
    /// of memory.
    Awaited,
    /// Room was reported, and none of the backlog has been offered since.
    Found,
}

/// The progress of a peer that has a backlog: the bytes that it has taken since the watch began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    /// When the watch began.
    pub(crate) since: Tick,
    /// The bytes that the peer had not taken from the socket when the watch began.
    held: usize,
    /// The bytes of the backlog that the socket has taken since.
    sent: usize,
}

impl Watch {
    /// Begins a watch over a peer whose socket holds so many bytes.
    pub(crate) fn new(since: Tick, held: usize) -> Self {
        Watch { since, held, sent: 0 }
    }

    /// Returns whether the peer has taken bytes since the watch began, or has taken all. The socket now holds `held`
    /// bytes.
    pub(crate) fn sees_progress(&self, held: usize) -> bool {
        held == 0 || held < self.held + self.sent
    }
}

impl Output {
    /// Marks the next `count` bytes of the backlog as sent. Returns the byte whose wait is measured if it is among
    /// them.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub(crate) fn advance(&mut self, count: usize) -> Option<MarkedByte> {
        self.backlog.advance(count);
        if let Some(watch) = &mut self.watch {
            watch.sent += count;
        }
        self.marked.take_if(|marked| marked.advance(count))
    }

    /// Appends frames for this connection alone.
    pub(crate) fn append(&mut self, frames: &[u8]) {
        let length = self.outbox.len();
        if self.outbox.capacity() - length < frames.len() {
            // The limit counts the unused part too, so a large outbox does not double.
            let part = if length < OUTBOX_DOUBLES { length } else { length / 8 };
            self.outbox.reserve_exact(frames.len().max(part));
        }
        self.outbox.extend_from_slice(frames);
    }

    /// Returns whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.outbox.is_empty() && self.backlog.is_empty()
    }

    /// Returns the memory of all output, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.backlog.bytes() + self.outbox.capacity()
    }

    /// Returns whether so many bytes more would be within the limit.
    pub(crate) fn has_room_for(&self, more: usize, limits: &OutputLimits) -> bool {
        limits.allows_bytes(self.bytes().saturating_add(more))
    }
}

impl IoState {
    /// Returns the state of a new connection: nothing was received from it, and nothing is owed to it.
    pub(crate) fn new(session: Session) -> Self {
        IoState {
            session,
            partial: None,
            output: None,
            reading: Reading::Idle,
            has_unparsed: false,
            is_dirty: false,
            timer: None,
            format: Format::RAW,
            sides: Sides::open(),
        }
    }

    /// Returns whether anything is still to be sent.
    pub(crate) fn owes_output(&self) -> bool {
        self.output.is_some()
    }

    /// Returns whether there is a backlog: the connection is a slow consumer.
    pub(crate) fn has_backlog(&self) -> bool {
        self.output.as_ref().is_some_and(|output| !output.backlog.is_empty())
    }

    /// Returns whether the socket has refused some of the backlog, and the rest waits for the peer.
    pub(crate) fn awaits_peer(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.backlog.was_refused())
    }

    /// Returns whether the backlog waits for room in the socket.
    pub(crate) fn awaits_room(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.room == Room::Awaited)
    }

    /// Frees the output's memory once nothing is in it.
    pub(crate) fn drop_empty_output(&mut self) {
        if self.output.as_ref().is_some_and(|output| output.is_empty()) {
            self.output = None;
        }
    }
}

/// An outbox doubles up to so many bytes.
const OUTBOX_DOUBLES: usize = 4 * 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Piece;

    /// Bytes that the socket takes are no progress of the peer; bytes that leave the socket are.
    #[test]
    fn a_watch_sees_the_progress_of_the_peer() {
        let mut output = Output::default();
        output.backlog.push(Piece::new(vec![0; 1_000].into(), 1), None);
        output.watch = Some(Watch::new(Tick(5), 100));
        let sees_progress = |output: &Output, held| output.watch.unwrap().sees_progress(held);
        assert!(!sees_progress(&output, 100));
        assert!(sees_progress(&output, 99) && sees_progress(&output, 0));
        output.advance(30);
        assert!(!sees_progress(&output, 130));
        assert!(sees_progress(&output, 129) && sees_progress(&output, 100));
        assert!(sees_progress(&Output { watch: Some(Watch::new(Tick(5), 0)), ..Output::default() }, 0));
    }
}

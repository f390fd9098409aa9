//! One connection of a simulated network, seen from both ends.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
};

use super::stream::Stream;
use crate::sys::Key;

/// The end after the last byte that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client has finished sending, and may read on.
    Finished,
    /// The client has closed its socket: what it is sent is refused, sooner or later.
    Closed,
    /// The connection was reset.
    Reset,
}

/// One connection, seen from both ends.
#[derive(Debug)]
pub(super) struct Line {
    /// Bytes that the client has sent and that have not arrived yet.
    pub(super) on_the_way: VecDeque<u8>,
    /// The end that comes after them.
    pub(super) end: Option<End>,
    /// Bytes that have arrived at the server's socket.
    pub(super) arrived: VecDeque<u8>,
    pub(super) arrived_end: Option<End>,
    pub(super) reset_reported: bool,
    /// Bytes that the server's socket has taken and the client has not fetched.
    pub(super) sent: VecDeque<u8>,
    /// The check of everything that the server's socket has taken.
    pub(super) stream: Stream,
    /// How many bytes `sent` may hold.
    pub(super) room: usize,
    /// The server's socket takes everything whole, whatever the weather.
    pub(super) steady: bool,
    /// The client fetches nothing at present.
    pub(super) stalled: bool,
    /// Bytes that the client has fetched and not looked at.
    pub(super) fetched: Vec<u8>,
    pub(super) key: Option<Key>,
    pub(super) disarmed: bool,
    /// The server will send nothing more.
    pub(super) finished: bool,
    /// The server has given up the socket.
    pub(super) dropped: bool,
    /// Dropping the socket resets the connection.
    pub(super) reset: bool,
    /// The socket did not take everything once.
    pub(super) was_short: bool,
    /// How many sends the socket was offered.
    pub(super) offers: u64,
    /// A reset has discarded bytes that had arrived.
    pub(super) is_lost: bool,
    /// The server has received an end or a reset.
    pub(super) end_received: bool,
}

impl Line {
    /// Returns a line whose server must send `answer` before anything else, and whose socket has so much room.
    pub(super) fn new(answer: &[u8], room: usize) -> Self {
        Line {
            on_the_way: VecDeque::new(),
            end: None,
            arrived: VecDeque::new(),
            arrived_end: None,
            reset_reported: false,
            sent: VecDeque::new(),
            stream: Stream::new(answer),
            room,
            steady: room == usize::MAX,
            stalled: false,
            fetched: Vec::new(),
            key: None,
            disarmed: false,
            finished: false,
            dropped: false,
            reset: false,
            was_short: false,
            offers: 0,
            is_lost: false,
            end_received: false,
        }
    }

    /// Returns whether everything has arrived that can.
    pub(super) fn is_quiet(&self) -> bool {
        self.on_the_way.is_empty() && self.end == self.arrived_end && (self.sent.is_empty() || self.stalled)
    }

    /// Returns whether room is reported: like Linux, from a third of the buffer on.
    pub(super) fn has_room(&self) -> bool {
        let free = self.room.saturating_sub(self.sent.len());
        free > 0 && free >= self.room / 3
    }

    /// Lets the server's socket take up to `most` bytes of the pieces. Returns how many there was room for.
    pub(super) fn take(&mut self, pieces: &[IoSlice<'_>], most: usize) -> usize {
        let count = most.min(self.room.saturating_sub(self.sent.len()));
        self.stream.take(pieces, count);
        let mut left = count;
        for piece in pieces {
            let taken = left.min(piece.len());
            self.sent.extend(&piece[..taken]);
            left -= taken;
        }
        count
    }

    /// Returns what a receive finds after the last byte: nothing yet, a reset once, and the end from then on.
    pub(super) fn receive_end(&mut self) -> io::Result<()> {
        let Some(end) = self.arrived_end else { return Err(io::ErrorKind::WouldBlock.into()) };
        self.end_received = true;
        if end == End::Reset && !mem::replace(&mut self.reset_reported, true) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

//! One connection of a simulated network, seen from both ends.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
};

use super::{sealing::Sealing, stream::Stream};
use crate::sys::{Key, RECORD_BYTES_MAX, SendLimits};

/// The end after the last byte that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client has finished sending, and may read on.
    Finished,
    /// The client has closed its socket: sooner or later a reset answers the bytes that it is sent.
    Closed,
    /// The connection was reset.
    Reset,
}

/// One connection, seen from both ends.
#[derive(Debug)]
pub(super) struct Line {
    /// The client's side of a transport with records; `None` if the bytes are the socket's own.
    pub(super) sealing: Option<Sealing>,
    /// Bytes that the client has sent and that have not arrived yet.
    pub(super) on_the_way: VecDeque<u8>,
    /// The end that comes after the bytes on the way.
    pub(super) end: Option<End>,
    /// Bytes that have arrived at the server's socket.
    pub(super) arrived: VecDeque<u8>,
    pub(super) arrived_end: Option<End>,
    pub(super) reset_reported: bool,
    /// Bytes that the server's socket has taken and the client has not fetched.
    pub(super) sent: VecDeque<u8>,
    /// The check of all bytes that the socket, or its transport, has taken from the shard.
    pub(super) stream: Stream,
    /// Bytes that the shard has sent, from the first byte on that was not compared yet.
    pub(super) promised: VecDeque<u8>,
    /// Bytes that the socket has taken, from the first byte on that was not compared yet.
    pub(super) witnessed: VecDeque<u8>,
    /// How many bytes `sent` may hold.
    pub(super) room: usize,
    /// The limits of the output that the server's socket keeps.
    pub(super) limits: SendLimits,
    /// The server's socket takes everything whole, whatever the weather.
    pub(super) steady: bool,
    /// The client fetches nothing at present.
    pub(super) stalled: bool,
    /// Bytes that the client has fetched and not looked at.
    pub(super) fetched: Vec<u8>,
    pub(super) key: Option<Key>,
    pub(super) disarmed: bool,
    /// The shard will send nothing more.
    pub(super) is_end_asked: bool,
    /// The server's socket will send nothing more.
    pub(super) finished: bool,
    /// The server has dropped the socket.
    pub(super) dropped: bool,
    /// Dropping the socket resets the connection.
    pub(super) reset: bool,
    /// The socket has at least once not taken everything.
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
            sealing: None,
            on_the_way: VecDeque::new(),
            end: None,
            arrived: VecDeque::new(),
            arrived_end: None,
            reset_reported: false,
            sent: VecDeque::new(),
            stream: Stream::new(answer),
            promised: VecDeque::new(),
            witnessed: VecDeque::new(),
            room,
            limits: SendLimits::default(),
            steady: room == usize::MAX,
            stalled: false,
            fetched: Vec::new(),
            key: None,
            disarmed: false,
            is_end_asked: false,
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
        !self.has_on_the_way() && self.end == self.arrived_end && (self.sent.is_empty() || self.stalled)
    }

    /// Returns whether room is reported: like Linux, from a third of the buffer on.
    pub(super) fn has_room(&self) -> bool {
        let free = self.room.saturating_sub(self.sent.len());
        free > 0 && free >= self.room / 3
    }

    /// Lets the server's socket take up to `most` bytes of the pieces. Returns how many bytes there was room for.
    pub(super) fn take(&mut self, pieces: &[IoSlice<'_>], most: usize) -> usize {
        let count = most.min(self.room.saturating_sub(self.sent.len()));
        let taken = first_bytes(pieces, count);
        self.witness(&taken);
        self.sent.extend(taken);
        count
    }

    /// Notes bytes that the socket has taken.
    pub(super) fn witness(&mut self, taken: &[u8]) {
        match &mut self.sealing {
            Some(sealing) => self.witnessed.extend(&sealing.witness(taken)[..]),
            None => self.witnessed.extend(taken),
        }
    }

    /// Notes bytes that count as sent for the shard, and compares them with the bytes that the socket has taken.
    pub(super) fn promise(&mut self, pieces: &[IoSlice<'_>], count: usize) {
        self.stream.take(pieces, count);
        self.promised.extend(first_bytes(pieces, count));
        self.compare();
        let (kept, is_sealed) = (self.promised.len(), self.sealing.is_some());
        assert!(kept == 0 || is_sealed && kept <= RECORD_BYTES_MAX, "{kept} bytes are kept");
    }

    /// Compares the bytes that the socket has taken with those that the shard had sent by then.
    pub(super) fn compare(&mut self) {
        let count = self.witnessed.len();
        assert!(count <= self.promised.len(), "a socket takes bytes that the shard has not sent");
        let (promised, witnessed) = (take_front(&mut self.promised, count), take_front(&mut self.witnessed, count));
        assert!(promised == witnessed, "a socket takes other bytes than were sent");
    }

    /// Returns whether the transport keeps bytes, or an end, that the shard counts as sent.
    pub(super) fn has_kept(&self) -> bool {
        !self.promised.is_empty() || self.is_end_asked != self.finished
    }

    /// Returns whether bytes of the client have not arrived.
    pub(super) fn has_on_the_way(&self) -> bool {
        !self.on_the_way.is_empty() || self.sealing.as_ref().is_some_and(|sealing| !sealing.on_the_way.is_empty())
    }

    /// Returns what a receive finds after the last byte: nothing yet, a reset once, and the end from then on.
    pub(super) fn receive_end(&mut self) -> io::Result<()> {
        let Some(end) = self.arrived_end else { return Err(io::ErrorKind::WouldBlock.into()) };
        if end == End::Reset && !mem::replace(&mut self.reset_reported, true) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

/// Removes bytes at the front of a queue, and returns them. It takes them in two parts: taking them one by one would be
/// most of a simulated run's time, since tests are built without optimisation.
pub(super) fn take_front(queue: &mut VecDeque<u8>, count: usize) -> Vec<u8> {
    let (front, back) = queue.as_slices();
    let at = count.min(front.len());
    let bytes = [&front[..at], &back[..count - at]].concat();
    queue.drain(..count);
    bytes
}

/// Returns the first bytes of pieces.
fn first_bytes(pieces: &[IoSlice<'_>], count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    for piece in pieces {
        bytes.extend_from_slice(&piece[..piece.len().min(count - bytes.len())]);
    }
    bytes
}

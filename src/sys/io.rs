//! The operations of the kernel that a shard uses, as a trait that the simulator implements too.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
};

use bytes::BytesMut;

/// The sockets of one shard, as its turn sees them.
///
/// `receive` and `send` are *synchronous batches*: when they return, every entry has been tried once, nothing is
/// borrowed any more and nothing is still on its way. Only readiness arrives later, and only through [`Io::reap`].
pub trait Io {
    /// An established connection's socket. Dropping it closes it.
    type Socket;

    /// Reports input on `socket` under `key` until [`Io::disarm`]. What has arrived before is reported too.
    fn arm(&mut self, key: Key, socket: &Self::Socket);

    /// Reports once, as [`Readiness::writable`], when `socket` has room for more output.
    fn await_room(&mut self, key: Key, socket: &Self::Socket);

    /// Ends what [`Io::arm`] and [`Io::await_room`] began, whatever is happening on the socket. It may be dropped right
    /// after this call; a report that is already on its way carries the old key.
    fn disarm(&mut self, key: Key);

    /// Makes sure that what `arm`, `await_room` and `disarm` asked for is under way. Before the caller sleeps.
    fn submit(&mut self);

    /// Moves what has become ready since the last call into `ready`. A key may appear more than once.
    fn reap(&mut self, ready: &mut Vec<Readiness>);

    /// Tries each entry once and fills in its result.
    fn receive(&mut self, batch: &mut [Receive<'_, Self::Socket>]);

    /// Drops up to `most` bytes of input, without a copy, and returns their number; `Ok(0)` is the end of input.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is there; otherwise the failure of the socket.
    fn discard(&mut self, socket: &Self::Socket, most: usize) -> io::Result<usize>;

    /// Tries each entry once, in order. Entries that are not named in `refused` have been sent whole.
    ///
    /// A batch must name a socket at most once: if the first of two sends is short, the second would follow the gap.
    fn send(&mut self, batch: &[SendEntry<'_, Self::Socket>], refused: &mut Vec<Unsent>);

    /// The addresses of both ends, the peer's first; nothing where they cannot be told any more.
    fn addresses(&self, socket: &Self::Socket) -> (Option<SocketAddr>, Option<SocketAddr>);

    /// Tells the peer that nothing more will be sent (TCP FIN after what is queued).
    fn finish(&mut self, socket: &Self::Socket);

    /// Returns how many bytes have arrived at the socket and were not received.
    fn unread(&self, socket: &Self::Socket) -> usize;

    /// Returns how many bytes that the socket took the peer has not taken from it. The end is one, if it was finished.
    fn unacknowledged(&self, socket: &Self::Socket) -> usize;

    /// Returns whether the socket still holds something that the peer has not taken, the end included if it was
    /// finished.
    fn has_unsent(&self, socket: &Self::Socket) -> bool {
        self.unacknowledged(socket) > 0
    }

    /// Makes dropping the socket reset the connection (TCP RST): what the peer has not taken is given up instead of
    /// being kept and sent for as long as the peer pleases.
    fn reset(&mut self, socket: &Self::Socket);
}

/// Names one connection in the shard: a slot, and which of the slot's owners is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The slot's index.
    pub slot: u32,
    /// Counts the slot's owners; 24 bits.
    pub generation: u32,
}

/// Something happened on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The connection it happened to.
    pub key: Key,
    /// Input, the end of input, or an error waits to be received.
    pub readable: bool,
    /// The peer has finished sending or the socket has failed: receive until the end shows.
    pub hung_up: bool,
    /// There is room for output ([`Io::await_room`]).
    pub writable: bool,
    /// This was the last report: [`Io::arm`] must be called again.
    pub disarmed: bool,
}

/// One entry of a receive batch.
#[derive(Debug)]
pub struct Receive<'a, S> {
    /// Where to receive from.
    pub socket: &'a S,
    /// Up to [`Receive::BYTES_MAX`] bytes are appended to this buffer, within its spare capacity, which must not be
    /// empty.
    pub buffer: &'a mut BytesMut,
    /// How many bytes were appended; `Ok(0)` is the end of input. `WouldBlock` if nothing is there; `Interrupted` if it
    /// was not looked, for want of memory for example, and the caller is to come again.
    pub result: io::Result<usize>,
}

impl<'a, S> Receive<'a, S> {
    /// One receive takes at most so many bytes, however large its buffer is: a batch of them is a bounded part of a
    /// turn.
    pub const BYTES_MAX: usize = 64 * 1_024;

    /// An entry that has not been tried yet.
    pub fn new(socket: &'a S, buffer: &'a mut BytesMut) -> Self {
        Receive { socket, buffer, result: Err(io::ErrorKind::WouldBlock.into()) }
    }
}

/// One entry of a send batch.
#[derive(Debug, Clone, Copy)]
pub struct SendEntry<'a, S> {
    /// Where to send to.
    pub socket: &'a S,
    /// What to send: 1 to [`SendEntry::PIECES_MAX`] pieces, none of them empty.
    pub pieces: &'a [IoSlice<'a>],
}

impl<S> SendEntry<'_, S> {
    /// The kernel takes at most this many pieces in one send (`UIO_MAXIOV`).
    pub const PIECES_MAX: usize = 1_024;
}

/// An entry of a send batch that was not sent whole.
#[derive(Debug)]
pub struct Unsent {
    /// The entry's index in the batch.
    pub index: usize,
    /// How many of its bytes were sent, or why the socket takes none any more.
    pub sent: io::Result<usize>,
}

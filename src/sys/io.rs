//! The operations of the kernel that a shard uses, as a trait that the simulator implements too.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
};

use bytes::BytesMut;

/// The sockets of one shard, as its turn sees them.
///
/// `receive` and `send` are *synchronous batches*: when they return, the kernel borrows nothing any more and has no
/// work left. It has tried every entry once, except those that it had no memory for: the result of such an entry asks
/// for another try (`Interrupted` for a receive, `WouldBlock` for a send). Only readiness comes later, and only by
/// [`Io::reap`].
pub trait Io {
    /// An established connection's socket. Its drop closes the socket.
    type Socket;

    /// Reports input on `socket` under `key` until [`Io::disarm`], or until a report is [`Readiness::disarmed`]. Input
    /// that has arrived before is reported too.
    fn arm(&mut self, key: Key, socket: &Self::Socket);

    /// Reports once, as [`Readiness::writable`], when `socket` has room for more output. Call it for a socket that has
    /// just been armed, or is armed and has just not taken a send whole: after [`Io::arm`] or [`Io::send`], and before
    /// the next [`Io::reap`].
    fn await_room(&mut self, key: Key, socket: &Self::Socket);

    /// Ends the reports that [`Io::arm`] and [`Io::await_room`] began, whatever is happening on the socket. The socket
    /// may be dropped right after this call. A report that is already on its way has the old key.
    fn disarm(&mut self, key: Key);

    /// Submits the requests of `arm`, `await_room` and `disarm`. Call it before sleeping.
    fn submit(&mut self);

    /// Appends to `ready` what was reported since the last `reap`. A key may appear more than once.
    fn reap(&mut self, ready: &mut Vec<Readiness>);

    /// Returns whether [`Io::reap`] is due before a sleep: it would find reports, or requests are to be submitted.
    fn has_reports(&mut self) -> bool;

    /// Takes the report that `socket` is [`Readiness::writable`]. Call this for each such report. If a transport keeps
    /// bytes of `socket`, they are sent first.
    fn resume(&mut self, _key: Key, _socket: &Self::Socket) -> Resumed {
        Resumed::Room
    }

    /// Tries again to send what a transport keeps of `socket`, and awaits room for the rest. Call this a while after
    /// [`Resumed::Refused`].
    fn retry(&mut self, _socket: &Self::Socket) {}

    /// Tries each entry at most once and fills in its outcome. Receive again from a socket that [has more
    /// input](Receive::has_more): no report comes for this input.
    fn receive(&mut self, batch: &mut [Receive<'_, Self::Socket>]);

    /// Drops up to `most` bytes of input, without a copy, and returns their number; `Ok(0)` is the end of input.
    /// Nothing may be received afterwards: a transport has lost its place in the input.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is there; otherwise the failure of the socket.
    fn discard(&mut self, socket: &Self::Socket, most: usize) -> io::Result<usize>;

    /// Tries each entry at most once, in order. Entries that are not named in `refused` have been sent whole.
    ///
    /// A batch must name a socket at most once: if the first of two sends is short, the second would follow the gap.
    ///
    /// The bytes that a transport has taken count as sent, since they have their place in its stream for good. Of these
    /// the transport keeps what the kernel has not taken: at most [`UNSENT_BYTES_MAX`], the transport's own records
    /// included. It awaits room for these bytes by itself, sends them before newer bytes, and refuses newer bytes until
    /// then (`WouldBlock`). A connection that owes such bytes is not done: they count in [`Io::unacknowledged`], and
    /// the end that [`Io::finish`] asks for comes after them. If they cannot be sent any more, they are dropped; the
    /// next send or receive fails.
    ///
    /// [`UNSENT_BYTES_MAX`]: super::UNSENT_BYTES_MAX
    fn send(&mut self, batch: &[SendEntry<'_, Self::Socket>], refused: &mut Vec<Unsent>);

    /// Limits the output that the kernel keeps for a socket.
    fn limit_output(&mut self, socket: &Self::Socket, limits: SendLimits);

    /// Returns the addresses of both ends, the peer's first; `None` for an address that the kernel no longer knows.
    fn addresses(&self, socket: &Self::Socket) -> (Option<SocketAddr>, Option<SocketAddr>);

    /// Tells the peer that nothing more will be sent: the goodbye of a transport, and a TCP FIN after the queued
    /// output. Both come later by themselves if a transport keeps bytes of the socket.
    fn finish(&mut self, socket: &Self::Socket);

    /// Returns how many bytes have arrived and were not received. Those that stand in records of a transport may count
    /// with their records.
    fn unread(&self, socket: &Self::Socket) -> usize;

    /// Returns how many bytes the socket, or a transport, holds that the peer has not taken. Bytes in records of a
    /// transport count with their records. After [`Io::finish`] the end counts as one.
    fn unacknowledged(&self, socket: &Self::Socket) -> usize;

    /// Returns whether the socket still holds bytes that the peer has not taken, or the end after [`Io::finish`].
    fn has_unsent(&self, socket: &Self::Socket) -> bool {
        self.unacknowledged(socket) > 0
    }

    /// Makes the drop of the socket reset the connection (TCP RST). Output that the peer has not taken is then lost,
    /// also what a transport keeps. Without the reset the kernel would keep this output until the peer takes it.
    fn reset(&mut self, socket: &Self::Socket);
}

/// A connection of the shard: its slot, and its number among the slot's owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The slot's index.
    pub slot: u32,
    /// The number of the owner of the slot; 24 bits.
    pub generation: u32,
}

/// A report about a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The connection of the socket.
    pub key: Key,
    /// Whether input, the end of input, or an error waits to be received.
    pub readable: bool,
    /// Whether the peer has finished sending or the socket has failed. Receive until the end of input or the error.
    pub hung_up: bool,
    /// Whether there is room for output ([`Io::await_room`]).
    pub writable: bool,
    /// Whether this was the last report, so that [`Io::arm`] must be called again.
    pub disarmed: bool,
}

/// What a report of room means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// There is room for output of the caller, who has asked for it.
    Room,
    /// The report was for bytes that a transport keeps. Room for output of the caller is not known yet; another report
    /// will announce it.
    Nothing,
    /// A transport keeps bytes of which the kernel has taken none although it has reported room: it is short of memory.
    /// The caller has to call [`Io::retry`] a while later, and then to offer its own output for the socket again.
    Refused,
}

/// One entry of a receive batch.
#[derive(Debug)]
pub struct Receive<'a, S> {
    /// The socket to receive from.
    pub socket: &'a S,
    /// The buffer to which up to [`Receive::BYTES_MAX`] bytes are appended, within its spare capacity, which must not
    /// be 0.
    pub buffer: &'a mut BytesMut,
    /// The number of bytes that were appended; `Ok(0)` is the end of input. `WouldBlock` if no input is there;
    /// `Interrupted` if the entry could not be tried, for example because the kernel had no memory, and the caller must
    /// try again.
    pub result: io::Result<usize>,
    /// Whether the socket still had input after these bytes; the end of input may count as well. A receive may be short
    /// although there is more input: the kernel lets it end in front of an urgent byte (tcp(7)).
    pub has_more: bool,
}

impl<'a, S> Receive<'a, S> {
    /// The most bytes of one receive, however large its buffer is, so that a batch is a bounded part of a turn.
    pub const BYTES_MAX: usize = 64 * 1_024;

    /// Returns an entry that has not been tried yet.
    pub fn new(socket: &'a S, buffer: &'a mut BytesMut) -> Self {
        Receive { socket, buffer, result: Err(io::ErrorKind::WouldBlock.into()), has_more: false }
    }
}

/// Limits of the output that the kernel keeps for a socket. A limit that is `None` stays as it is, at first as the
/// kernel chooses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendLimits {
    /// The socket's send buffer, in bytes (`SO_SNDBUF`): output that the peer has not acknowledged. The kernel takes
    /// twice as many bytes, for its own records of them.
    pub send_buffer_bytes: Option<usize>,
    /// The unsent bytes from which on the socket takes no more (`TCP_NOTSENT_LOWAT`); at least 1. A send that begins
    /// below may exceed them by one segment of the kernel, 64 KiB at most.
    pub unsent_low_water_bytes: Option<usize>,
}

impl SendLimits {
    /// Returns the smaller one of each limit.
    #[must_use]
    pub fn min(self, other: SendLimits) -> SendLimits {
        let min = |one: Option<usize>, other: Option<usize>| one.into_iter().chain(other).min();
        SendLimits {
            send_buffer_bytes: min(self.send_buffer_bytes, other.send_buffer_bytes),
            unsent_low_water_bytes: min(self.unsent_low_water_bytes, other.unsent_low_water_bytes),
        }
    }
}

/// One entry of a send batch.
#[derive(Debug, Clone, Copy)]
pub struct SendEntry<'a, S> {
    /// The socket to send to.
    pub socket: &'a S,
    /// The bytes to send: 1 to [`SendEntry::PIECES_MAX`] pieces, none of them empty.
    pub pieces: &'a [IoSlice<'a>],
}

impl<S> SendEntry<'_, S> {
    /// The most pieces that the kernel takes in one send (`UIO_MAXIOV`).
    pub const PIECES_MAX: usize = 1_024;
}

/// An entry of a send batch that was not sent whole.
#[derive(Debug)]
pub struct Unsent {
    /// The entry's index in the batch.
    pub index: usize,
    /// The number of its bytes that were sent, or the reason for which the socket takes none.
    pub sent: io::Result<usize>,
}

impl Unsent {
    /// Returns how many bytes were taken by a socket that did not take everything: none if it has no room, or the
    /// kernel no memory.
    ///
    /// # Errors
    ///
    /// The failure of the socket.
    pub fn taken(sent: io::Result<usize>) -> io::Result<usize> {
        match sent {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory) => Ok(0),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS)) => Ok(0),
            sent => sent,
        }
    }
}

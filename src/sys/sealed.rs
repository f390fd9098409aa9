//! A socket whose connection's bytes travel in records, and the bytes that wait between the connection and the socket.

use std::{cell::RefCell, fmt, io, mem};

use bytes::{Buf as _, BytesMut};

use super::{direct::DirectSocket, io::Key};

/// The two directions of a transport that packs a connection's bytes into records.
///
/// It holds no bytes: those that wait stand beside it, in a [`SealedSocket`].
pub trait Records: fmt::Debug + Send {
    /// Appends records of these bytes, 1 to [`RECORD_BYTES_MAX`] of them, to `sealed`. The records are longer than the
    /// bytes by [`OVERHEAD_BYTES_MAX`] at most. They must be sent after all earlier ones: whatever is sealed has its
    /// place in the order for good.
    fn seal(&mut self, bytes: &[u8], sealed: &mut Vec<u8>);

    /// Opens the whole records at the front of `received`, whose bytes it may change: appends their bytes to `opened`,
    /// and the records that answer them to `answers`. A record is at most [`RECORD_BYTES_MAX`] and
    /// [`OVERHEAD_BYTES_MAX`] long.
    ///
    /// # Errors
    ///
    /// The offence of the peer against the transport. Nothing is received any more.
    fn open(&mut self, received: &mut [u8], opened: &mut BytesMut, answers: &mut Vec<u8>) -> io::Result<OpenedRecords>;

    /// Appends the goodbye, of at most [`OVERHEAD_BYTES_MAX`], after which nothing is sealed.
    fn say_goodbye(&mut self, sealed: &mut Vec<u8>);
}

/// The outcome of opening records.
#[derive(Debug, Clone, Copy)]
pub struct OpenedRecords {
    /// The bytes of the opened records.
    pub bytes: usize,
    /// Whether the last of them was the peer's goodbye, which ends the input.
    pub is_last: bool,
}

/// A socket whose connection's bytes travel in records.
pub struct SealedSocket<S> {
    pub(super) socket: S,
    state: RefCell<SealedState>,
}

/// The bytes that wait between a connection and its socket. While there are none, they have no memory.
#[derive(Debug)]
pub(super) struct SealedState {
    records: Box<dyn Records>,
    /// Records that the kernel has not taken, of [`UNSENT_BYTES_MAX`] at most.
    pub(super) unsent: Vec<u8>,
    /// The beginning of a record that has not arrived whole.
    partial: BytesMut,
    /// Bytes of opened records that the connection has not taken.
    opened: BytesMut,
    /// The end after `opened`.
    end: Option<InputEnd>,
    /// The name of the connection, once it is armed.
    pub(super) key: Option<Key>,
    /// Whether a report of room is under way.
    pub(super) awaits_room: bool,
    /// Whether the connection itself waits for room.
    pub(super) is_room_wanted: bool,
    goodbye: Goodbye,
}

/// The end of a connection's input.
#[derive(Debug)]
enum InputEnd {
    /// The peer has said goodbye, or has ended its side.
    Finished,
    /// The socket or the transport has failed; reported once.
    Failed(io::Error),
}

/// The progress of our goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    NotSaid,
    /// The goodbye stands at the end of the unsent records, and the FIN is due after it.
    Said,
    Finished,
}

impl<S> SealedSocket<S> {
    /// Returns a socket on which nothing was sent or received, with a transport over it.
    pub fn new(socket: S, records: Box<dyn Records>) -> Self {
        let state = SealedState {
            records,
            unsent: Vec::new(),
            partial: BytesMut::new(),
            opened: BytesMut::new(),
            end: None,
            key: None,
            awaits_room: false,
            is_room_wanted: false,
            goodbye: Goodbye::NotSaid,
        };
        SealedSocket { socket, state: RefCell::new(state) }
    }

    /// Returns the same transport over the socket that `change` makes of this one.
    ///
    /// # Errors
    ///
    /// The error of `change`.
    pub fn try_map<T>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<SealedSocket<T>> {
        Ok(SealedSocket { socket: change(self.socket)?, state: self.state })
    }

    /// Calls `act` with the state, which nobody else may look at meanwhile.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut SealedState) -> T) -> T {
        act(&mut self.state.borrow_mut())
    }

    /// Returns whether there is input, or an end of the input, that the socket does not report.
    pub(super) fn has_input(&self) -> bool {
        self.with(|state| state.has_input())
    }

    /// Returns how many bytes are kept because the kernel has not taken them.
    pub(super) fn kept_bytes(&self) -> usize {
        self.with(|state| state.unsent.len())
    }

    pub(super) fn say_goodbye(&self) {
        self.with(SealedState::say_goodbye);
    }
}

impl<S: DirectSocket> SealedSocket<S> {
    pub(super) fn receive_now(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut received = 0;
        loop {
            received += self.with(|state| state.take_opened(buffer, usize::MAX));
            if received > 0 && buffer.len() == buffer.capacity() {
                return Ok(received);
            }
            if let Some(end) = self.with(|state| state.take_end(received > 0)) {
                return end.map(|()| received);
            }
            let mut chunk = self.with(|state| mem::take(&mut state.partial));
            chunk.reserve(CHUNK_BYTES);
            let outcome = self.socket.receive_direct(&mut chunk);
            self.with(|state| state.open(chunk));
            match outcome {
                Ok(0) => self.with(|state| state.end = Some(InputEnd::Finished)),
                // A failure to send shows with the next send.
                Ok(_) => drop(self.flush_now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if received > 0 { Ok(received) } else { Err(error) };
                }
                Err(error) => self.with(|state| state.end = Some(InputEnd::Failed(error))),
            }
        }
    }

    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.flush_now()?;
        let count = bytes.len().min(RECORD_BYTES_MAX);
        self.with(|state| {
            let mut sealed = mem::take(&mut state.unsent);
            state.seal(&bytes[..count], &mut sealed);
            state.unsent = sealed;
        });
        match self.flush_now() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    pub(super) fn flush_now(&self) -> io::Result<()> {
        self.with(|state| {
            while !state.unsent.is_empty() {
                let outcome = self.socket.send_direct(&state.unsent);
                state.settle(outcome)?;
            }
            Ok(())
        })
    }
}

impl<S: fmt::Debug> fmt::Debug for SealedSocket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the bytes, and without keys.
        f.debug_struct("SealedSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl SealedState {
    /// Seals bytes, which count as sent from now on.
    pub(super) fn seal(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) {
        assert_eq!(self.goodbye, Goodbye::NotSaid, "nothing is sent after a goodbye");
        self.records.seal(bytes, sealed);
    }

    /// Keeps records that the kernel has not taken.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        self.unsent.extend_from_slice(rest);
        debug_assert!(self.unsent.len() <= UNSENT_BYTES_MAX, "{} bytes are kept", self.unsent.len());
    }

    /// Notes the outcome of a send of the kept records. After a failure they are dropped: nobody will take them.
    ///
    /// # Errors
    ///
    /// The failure of the send, or `WouldBlock` if the kernel has taken nothing.
    pub(super) fn settle(&mut self, outcome: io::Result<usize>) -> io::Result<()> {
        match outcome {
            Ok(count) if count < self.unsent.len() => drop(self.unsent.drain(..count)),
            Ok(_) => self.unsent = Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => {
                self.unsent = Vec::new();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Says goodbye after everything that was sent, unless that is done.
    pub(super) fn say_goodbye(&mut self) {
        if self.goodbye == Goodbye::NotSaid {
            self.goodbye = Goodbye::Said;
            self.records.say_goodbye(&mut self.unsent);
        }
    }

    /// Returns whether the FIN after the goodbye has yet to be sent.
    pub(super) fn owes_end(&self) -> bool {
        self.goodbye == Goodbye::Said
    }

    /// Returns whether the FIN is due now: the kernel has taken everything before it. Returns `true` only once.
    pub(super) fn take_end_of_output(&mut self) -> bool {
        let is_due = self.owes_end() && self.unsent.is_empty();
        if is_due {
            self.goodbye = Goodbye::Finished;
        }
        is_due
    }

    /// Drops what is kept: the connection is about to be reset.
    pub(super) fn give_up(&mut self) {
        (self.unsent, self.goodbye) = (Vec::new(), Goodbye::Finished);
    }

    /// Takes the beginning of a record that has not arrived whole. The next bytes are received after it.
    pub(super) fn take_partial(&mut self) -> BytesMut {
        mem::take(&mut self.partial)
    }

    /// Opens the records of `received`, and keeps the beginning of one that has not arrived whole.
    pub(super) fn open(&mut self, mut received: BytesMut) {
        if self.end.is_some() || received.is_empty() {
            return;
        }
        let mut answers = Vec::new();
        match self.records.open(&mut received, &mut self.opened, &mut answers) {
            Ok(OpenedRecords { bytes, is_last }) => {
                received.advance(bytes);
                if !received.is_empty() {
                    // The buffer of a receive is much larger than most rests.
                    self.partial = BytesMut::from(&received[..]);
                }
                self.end = is_last.then_some(InputEnd::Finished);
            }
            Err(error) => self.end = Some(InputEnd::Failed(error)),
        }
        if self.goodbye != Goodbye::NotSaid {
            // Nothing may follow a goodbye.
        } else if self.unsent.len() + answers.len() > UNSENT_BYTES_MAX - OVERHEAD_BYTES_MAX {
            let error = "the peer asks for more answers of its transport than it takes";
            self.end = Some(InputEnd::Failed(io::Error::new(io::ErrorKind::InvalidData, error)));
        } else {
            self.unsent.extend_from_slice(&answers);
        }
    }

    /// Moves up to `most` opened bytes to `buffer`, within its spare capacity, and returns their number.
    pub(super) fn take_opened(&mut self, buffer: &mut BytesMut, most: usize) -> usize {
        let count = self.opened.len().min(most).min(buffer.capacity() - buffer.len());
        buffer.extend_from_slice(&self.opened[..count]);
        self.drop_opened(count);
        count
    }

    /// Drops so many opened bytes.
    pub(super) fn drop_opened(&mut self, count: usize) {
        self.opened.advance(count);
        if self.opened.is_empty() {
            self.opened = BytesMut::new();
        }
    }

    /// Returns how many opened bytes the connection has not taken.
    pub(super) fn opened_bytes(&self) -> usize {
        self.opened.len()
    }

    /// Returns whether opened bytes, or an end that no report of the socket announces, wait for the connection.
    pub(super) fn has_input(&self) -> bool {
        !self.opened.is_empty() || self.end.is_some()
    }

    /// Returns whether the end of the input is known.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Returns the end of the input if all opened bytes are taken. If bytes have just been taken (`has_received`), a
    /// failure is left for the next call.
    pub(super) fn take_end(&mut self, has_received: bool) -> Option<io::Result<()>> {
        if !self.opened.is_empty() {
            return None;
        }
        match self.end.take()? {
            InputEnd::Failed(error) if !has_received => {
                self.end = Some(InputEnd::Finished);
                Some(Err(error))
            }
            end => {
                self.end = Some(end);
                Some(Ok(()))
            }
        }
    }

    /// Notes that the socket has failed, or that its input has ended.
    pub(super) fn end_input(&mut self, failure: Option<io::Error>) {
        if self.end.is_none() {
            self.end = Some(failure.map_or(InputEnd::Finished, InputEnd::Failed));
        }
    }
}

/// The most bytes that are sealed before the kernel has taken everything that was sealed earlier.
pub const RECORD_BYTES_MAX: usize = 16 * 1_024;

/// The most bytes by which records are longer than their contents, and the length of a goodbye.
pub const OVERHEAD_BYTES_MAX: usize = 256;

/// The most bytes that a transport keeps of what the kernel has not taken: a record, a goodbye, and answers to records
/// of the peer.
pub const UNSENT_BYTES_MAX: usize = RECORD_BYTES_MAX + 4 * OVERHEAD_BYTES_MAX;

/// The bytes that are received at once, without those of a record that has begun.
pub(super) const CHUNK_BYTES: usize = RECORD_BYTES_MAX + OVERHEAD_BYTES_MAX;

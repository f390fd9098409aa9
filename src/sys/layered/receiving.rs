//! Receives a batch with connections whose bytes travel in records, and opens the records.

use std::{io, mem};

use bytes::BytesMut;

use super::Layered;
use crate::sys::{
    io::{Io, Receive},
    sealed::CHUNK_BYTES,
    transport::Transport,
};

/// The state of an entry of a receive batch whose bytes travel in records.
struct Opening {
    /// The entry's index in the batch.
    index: usize,
    /// The bytes that were appended to its buffer.
    received: usize,
    /// The bytes of the socket, after the beginning of a record.
    chunk: BytesMut,
    /// Whether the last receive has left nothing in the socket.
    is_socket_empty: bool,
}

impl<S, I: Io<Socket = Transport<S>>> Layered<I> {
    pub(super) fn receive_mixed(&mut self, batch: &mut [Receive<'_, Transport<S>>]) {
        let is_sealed = |(index, entry): (usize, &Receive<'_, Transport<S>>)| entry.socket.sealed().map(|_| index);
        let sealed = batch.iter().enumerate().filter_map(is_sealed);
        let mut openings: Vec<Opening> = sealed.map(Opening::new).collect();
        for part in 0..PARTS_MAX {
            openings.retain_mut(|opening| self.needs_more(&mut batch[opening.index], opening));
            if part > 0 && openings.is_empty() {
                return;
            }
            let mut outcomes = self.receive_part(batch, &mut openings, part == 0).into_iter();
            openings.retain_mut(|opening| {
                let (result, has_more) = outcomes.next().expect("each has an outcome");
                opening.is_socket_empty = !has_more && opening.chunk.len() < opening.chunk.capacity();
                self.open(&mut batch[opening.index], opening, result)
            });
        }
        openings.retain_mut(|opening| self.needs_more(&mut batch[opening.index], opening));
        // Records without contents follow each other: the rest is received with another batch.
        for opening in openings {
            self.interrupt(&mut batch[opening.index], opening.received);
        }
    }

    /// Hands out opened bytes. Returns whether more have to be received; otherwise the entry has its result.
    fn needs_more(&mut self, entry: &mut Receive<'_, Transport<S>>, opening: &mut Opening) -> bool {
        let Some(sealed) = entry.socket.sealed() else { return false };
        let most = Receive::<Transport<S>>::BYTES_MAX;
        opening.received += sealed.with(|state| state.take_opened(entry.buffer, most - opening.received));
        let received = opening.received;
        if received == most || entry.buffer.len() == entry.buffer.capacity() {
            entry.result = Ok(received);
            return false;
        }
        if let Some(end) = sealed.with(|state| state.take_end(received > 0)) {
            entry.result = end.map(|()| received);
            if received > 0 {
                self.report_input(sealed);
            }
            return false;
        }
        if received > 0 && opening.is_socket_empty {
            entry.result = Ok(received);
            return false;
        }
        true
    }

    /// Receives the bytes of the sockets after the beginnings of their records; with the first part also those of the
    /// entries that go down as they are. Returns the results of `openings`, and whether their sockets have more input.
    fn receive_part(
        &mut self,
        batch: &mut [Receive<'_, Transport<S>>],
        openings: &mut [Opening],
        is_first: bool,
    ) -> Vec<(io::Result<usize>, bool)> {
        let is_plain = |socket: &Transport<S>| is_first && socket.sealed().is_none();
        let mut chunks = openings.iter_mut().peekable();
        let mut entries: Vec<Receive<'_, Transport<S>>> = Vec::with_capacity(batch.len());
        for (index, entry) in batch.iter_mut().enumerate() {
            if let Some(opening) = chunks.next_if(|opening| opening.index == index) {
                let partial = entry.socket.sealed().map(|sealed| sealed.with(|state| state.take_partial()));
                opening.chunk = partial.unwrap_or_default();
                opening.chunk.reserve(CHUNK_BYTES);
                entries.push(Receive::new(entry.socket, &mut opening.chunk));
            } else if is_plain(entry.socket) {
                entries.push(Receive::new(entry.socket, entry.buffer));
            }
        }
        self.inner.receive(&mut entries);
        let outcomes: Vec<_> = entries.into_iter().map(|entry| (entry.result, entry.has_more)).collect();
        let mut outcomes = outcomes.into_iter();
        let mut opening_outcomes = Vec::with_capacity(openings.len());
        let mut openings = openings.iter().peekable();
        for (index, entry) in batch.iter_mut().enumerate() {
            if openings.next_if(|opening| opening.index == index).is_some() {
                opening_outcomes.extend(outcomes.next());
            } else if is_plain(entry.socket) {
                (entry.result, entry.has_more) = outcomes.next().expect("each entry has an outcome");
            }
        }
        opening_outcomes
    }

    /// Opens the records that have arrived, and sends the answers to them. Returns whether the entry goes on; otherwise
    /// it has its result.
    fn open(
        &mut self,
        entry: &mut Receive<'_, Transport<S>>,
        opening: &mut Opening,
        result: io::Result<usize>,
    ) -> bool {
        let Some(sealed) = entry.socket.sealed() else { return false };
        let chunk = mem::take(&mut opening.chunk);
        sealed.with(|state| state.open(chunk));
        match result {
            Ok(0) => sealed.with(|state| state.end_input(None)),
            Ok(_) => {
                if !sealed.with(|state| state.awaits_room) {
                    self.push_and_await(entry.socket, sealed);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // At an urgent byte the kernel may say so although there is input.
                entry.has_more = opening.received > 0 && self.inner.unread(entry.socket) > 0;
                entry.result = if opening.received > 0 { Ok(opening.received) } else { Err(error) };
                return false;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.interrupt(entry, opening.received);
                return false;
            }
            Err(error) => sealed.with(|state| state.end_input(Some(error))),
        }
        true
    }

    /// Ends an entry although the socket may hold more input, which is reported or tried again.
    fn interrupt(&mut self, entry: &mut Receive<'_, Transport<S>>, received: usize) {
        if received == 0 {
            entry.result = Err(io::ErrorKind::Interrupted.into());
            return;
        }
        entry.result = Ok(received);
        if let Some(sealed) = entry.socket.sealed() {
            self.report_input(sealed);
        }
    }
}

impl Opening {
    fn new(index: usize) -> Self {
        Opening { index, received: 0, chunk: BytesMut::new(), is_socket_empty: false }
    }
}

/// The most parts of a receive batch, since a peer may send any number of records without contents.
pub(super) const PARTS_MAX: usize = 8;

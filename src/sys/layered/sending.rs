//! Sends a batch with connections whose bytes travel in records: in parts, each with at most one record of each
//! connection.

use std::{collections::VecDeque, io, io::IoSlice, ops::Range};

use super::Layered;
use crate::sys::{
    io::{Io, SendEntry, Unsent},
    sealed::RECORD_BYTES_MAX,
    transport::Transport,
};

/// An entry of a part of a send batch.
struct Part {
    /// The entry's index in the batch.
    index: usize,
    /// The bytes of the entry that are sealed, with those of this part.
    sealed_bytes: usize,
    /// The place of the part's record in [`Layered::records`]; `None` for an entry that goes down as it is.
    record: Option<Range<usize>>,
}

impl<S, I: Io<Socket = Transport<S>>> Layered<I> {
    pub(super) fn send_mixed(&mut self, batch: &[SendEntry<'_, Transport<S>>], refused: &mut Vec<Unsent>) {
        let mut left: VecDeque<(usize, usize)> = (0..batch.len()).map(|index| (index, 0)).collect();
        let mut parts = Vec::new();
        while !left.is_empty() {
            self.seal_part(batch, &mut left, &mut parts, refused);
            self.send_part(batch, &parts, &mut left, refused);
            parts.clear();
        }
    }

    /// Seals a record of each of the next entries, as long as there is memory for records. `left` has the entries that
    /// are left, each with the number of its bytes that are sealed.
    fn seal_part(
        &mut self,
        batch: &[SendEntry<'_, Transport<S>>],
        left: &mut VecDeque<(usize, usize)>,
        parts: &mut Vec<Part>,
        refused: &mut Vec<Unsent>,
    ) {
        self.records.clear();
        // An entry that has more bytes goes to the end of `left`, so that no part names a socket twice.
        while self.records.len() < RECORDS_BYTES
            && let Some((index, sealed_bytes)) = left.pop_front()
        {
            let SendEntry { socket, pieces } = batch[index];
            let Some(sealed) = socket.sealed() else {
                parts.push(Part { index, sealed_bytes, record: None });
                continue;
            };
            if sealed.kept_bytes() > 0 {
                refused.push(Unsent { index, sent: Err(io::ErrorKind::WouldBlock.into()) });
                continue;
            }
            let contents = contents(pieces, sealed_bytes, &mut self.gathered);
            let begin = self.records.len();
            sealed.with(|state| state.seal(contents, &mut self.records));
            let sealed_bytes = sealed_bytes + contents.len();
            parts.push(Part { index, sealed_bytes, record: Some(begin..self.records.len()) });
        }
    }

    /// Sends a part of a batch. Entries of which the kernel has taken all that was sealed, and that have more bytes,
    /// are appended to `left`.
    fn send_part(
        &mut self,
        batch: &[SendEntry<'_, Transport<S>>],
        parts: &[Part],
        left: &mut VecDeque<(usize, usize)>,
        refused: &mut Vec<Unsent>,
    ) {
        let mut unsent = Vec::new();
        let records: Vec<IoSlice<'_>> =
            parts.iter().map(|part| IoSlice::new(&self.records[part.record.clone().unwrap_or_default()])).collect();
        let entry = |(part, record)| {
            let Part { index, record: sealed, .. }: &Part = part;
            let SendEntry { socket, pieces } = batch[*index];
            SendEntry { socket, pieces: if sealed.is_some() { std::slice::from_ref(record) } else { pieces } }
        };
        let entries: Vec<SendEntry<'_, Transport<S>>> = parts.iter().zip(&records).map(entry).collect();
        self.inner.send(&entries, &mut unsent);
        unsent.sort_unstable_by_key(|entry| entry.index);
        let mut unsent = unsent.into_iter().peekable();
        let mut keeping = Vec::new();
        for (at, Part { index, sealed_bytes, record }) in parts.iter().enumerate() {
            let (index, sealed_bytes) = (*index, *sealed_bytes);
            let SendEntry { socket, pieces } = batch[index];
            let unsent = unsent.next_if(|entry| entry.index == at);
            let (Some(record), Some(sealed)) = (record, socket.sealed()) else {
                refused.extend(unsent.map(|Unsent { sent, .. }| Unsent { index, sent }));
                continue;
            };
            let has_more = sealed_bytes < pieces.iter().map(|piece| piece.len()).sum();
            match unsent.map(|entry| Unsent::taken(entry.sent)) {
                None if has_more => left.push_back((index, sealed_bytes)),
                None => {}
                Some(Ok(taken)) => {
                    sealed.with(|state| state.keep(&self.records[record.clone()][taken..]));
                    keeping.push(index);
                    if has_more {
                        refused.push(Unsent { index, sent: Ok(sealed_bytes) });
                    }
                }
                Some(Err(error)) => refused.push(Unsent { index, sent: Err(error) }),
            }
        }
        for index in keeping {
            let socket = batch[index].socket;
            socket.sealed().into_iter().for_each(|sealed| self.await_room_for_kept(socket, sealed));
        }
    }
}

/// Returns the contents of the record after the first `begin` bytes of the pieces: as they stand in memory, or gathered
/// from several pieces, since a record costs as much as the copy of hundreds of bytes.
pub(super) fn contents<'a>(pieces: &'a [IoSlice<'a>], mut begin: usize, gathered: &'a mut Vec<u8>) -> &'a [u8] {
    let mut pieces = pieces.iter().map(|piece| &piece[..]);
    let first = pieces.find_map(|piece| {
        let left = piece.get(begin..).filter(|left| !left.is_empty());
        begin = begin.saturating_sub(piece.len());
        left
    });
    let Some(first) = first else { return &[] };
    if first.len() >= RECORD_BYTES_MAX {
        return &first[..RECORD_BYTES_MAX];
    }
    let Some(second) = pieces.next() else { return first };
    gathered.clear();
    for piece in [first, second].into_iter().chain(pieces) {
        let left = RECORD_BYTES_MAX - gathered.len();
        gathered.extend_from_slice(&piece[..piece.len().min(left)]);
        if gathered.len() == RECORD_BYTES_MAX {
            break;
        }
    }
    gathered
}

/// The bytes of records after which a part of a batch ends; its last record may exceed this number. So many bytes stay
/// in the processor's cache.
pub(super) const RECORDS_BYTES: usize = 256 * 1_024;

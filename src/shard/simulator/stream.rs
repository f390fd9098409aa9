//! The check of a server's output on one connection, byte by byte as its socket takes it.

use std::io::IoSlice;

use crate::shard::session::client_end::Protocol;

/// Accepts the whole answer of the opening handshake, then whole frames, then the goodbye of the connection's protocol,
/// and nothing after it.
#[derive(Debug)]
pub(super) struct Stream {
    protocol: Protocol,
    /// The missing bytes of the answer.
    answer: Vec<u8>,
    /// The beginning of a header, or of a goodbye.
    header: Vec<u8>,
    /// Missing bytes of the present frame or goodbye.
    missing: u64,
    goodbye_begun: bool,
    taken: u64,
}

impl Stream {
    pub(super) fn new(answer: &[u8]) -> Self {
        let mut answer = answer.to_vec();
        answer.reverse();
        Stream { protocol: Protocol::WebSocket, answer, header: Vec::new(), missing: 0, goodbye_begun: false, taken: 0 }
    }

    /// Expects the output of another protocol than a WebSocket.
    pub(super) fn expect(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// Returns whether the last byte of a goodbye has been taken.
    pub(super) fn has_ended(&self) -> bool {
        self.goodbye_begun && self.missing == 0
    }

    /// Returns how many bytes have been taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Checks the first `count` bytes of the pieces, which have been taken.
    pub(super) fn take(&mut self, pieces: &[IoSlice<'_>], count: usize) {
        self.taken += count as u64;
        let mut left = count;
        for piece in pieces {
            let taken = left.min(piece.len());
            self.take_bytes(&piece[..taken]);
            left -= taken;
        }
    }

    fn take_bytes(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if let Some(expected) = self.answer.pop() {
                assert_eq!(first, expected, "something overtakes the answer of the opening handshake");
                bytes = &bytes[1..];
                continue;
            }
            if self.missing > 0 {
                let skipped = bytes.len().min(self.missing as usize);
                self.missing -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            assert!(!self.goodbye_begun, "something follows a goodbye");
            self.header.push(first);
            bytes = &bytes[1..];
            if let Some((missing, is_goodbye)) = self.protocol.begins_part(&self.header) {
                (self.missing, self.goodbye_begun) = (missing, is_goodbye);
                self.header.clear();
            }
        }
    }
}

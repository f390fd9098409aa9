//! What has been received and not yet consumed.

use bytes::{Buf, BytesMut};

/// The received bytes that stand in front of a connection, with a cursor behind what was consumed.
///
/// A caller makes one from the buffer it received into, calls [`WebSocket::receive`](super::WebSocket::receive) until
/// that returns `None`, and then takes back [`Input::into_rest`]. What is left must come first in the next input,
/// unchanged: it may hold part of a frame, whose payload has already been unmasked in place.
#[derive(Debug, Default)]
pub struct Input {
    pub(super) bytes: BytesMut,
    pub(super) at: usize,
}

impl Input {
    /// All of `bytes` is to be consumed.
    #[inline]
    pub fn new(bytes: BytesMut) -> Self {
        Self { bytes, at: 0 }
    }

    /// The bytes that were not consumed yet.
    #[inline]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The buffer, in front of which stand the bytes that were not consumed; when all were, it is empty with its
    /// capacity whole.
    #[inline]
    pub fn into_rest(mut self) -> BytesMut {
        if self.at == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.advance(self.at);
        }
        self.bytes
    }

    #[inline]
    pub(super) fn rest_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.at..]
    }

    #[inline]
    pub(super) fn consume(&mut self, bytes: usize) {
        self.at += bytes;
        debug_assert!(self.at <= self.bytes.len());
    }

    #[inline]
    pub(super) fn consume_all(&mut self) {
        self.at = self.bytes.len();
    }

    /// Gives away everything up to `end`, all of it consumed before.
    pub(super) fn take_to(&mut self, end: usize) -> BytesMut {
        self.at -= end;
        self.bytes.split_to(end)
    }
}

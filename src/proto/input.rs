//! Received bytes that are not yet consumed.

use bytes::{Buf, BytesMut};

/// The received bytes that stand in front of a connection, with a cursor behind what was consumed.
///
/// A caller makes one from the buffer it received into, calls [`WebSocket::receive`](super::WebSocket::receive) until
/// that returns `None`, and then takes back [`Input::into_rest`]. What is left must come first in the next input,
/// unchanged: it may hold part of a frame, whose payload has already been unmasked in place.
///
/// A caller that serves many connections limits how many frames one of them may have parsed at once
/// ([`Input::limit_frames`]); what is left when they are used up is parsed later, before anything else is received.
#[derive(Debug)]
pub struct Input {
    pub(super) bytes: BytesMut,
    pub(super) at: usize,
    frames_left: u32,
}

impl Default for Input {
    fn default() -> Self {
        Self::new(BytesMut::new())
    }
}

impl Input {
    /// All of `bytes` is to be consumed.
    #[inline]
    pub fn new(bytes: BytesMut) -> Self {
        Self { bytes, at: 0, frames_left: u32::MAX }
    }

    /// At most so many frames, data or control, are taken from here on;
    /// [`WebSocket::receive`](super::WebSocket::receive) returns `None` when they are used up. A frame of which not all
    /// is there does not count.
    ///
    /// ```
    /// use ringhub::proto::{Event, Input, MessageLimits, Role, Tick, WebSocket};
    /// let mut websocket = WebSocket::new(Role::Server, Tick(0));
    /// let mut input = Input::new(b"\x8a\x80\0\0\0\0\x8a\x80\0\0\0\0"[..].into()); // two pongs
    /// input.limit_frames(1);
    /// let (limits, mut replies) = (MessageLimits::DEFAULT, Vec::new());
    /// assert!(matches!(websocket.receive(Tick(1), &mut input, &limits, &mut replies)?, Some(Event::Pong(_))));
    /// assert!(websocket.receive(Tick(1), &mut input, &limits, &mut replies)?.is_none());
    /// assert_eq!((input.frames_left(), input.rest().len()), (0, 6));
    /// # Ok::<(), ringhub::proto::ProtocolError>(())
    /// ```
    #[inline]
    pub fn limit_frames(&mut self, frames: u32) {
        self.frames_left = frames;
    }

    /// Returns the number of frames that may still be taken.
    #[inline]
    pub fn frames_left(&self) -> u32 {
        self.frames_left
    }

    /// Counts a frame that was taken.
    #[inline]
    pub(super) fn count_frame(&mut self) {
        self.frames_left -= 1;
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

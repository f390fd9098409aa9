//! Received bytes that are not yet consumed.

use bytes::{Buf, BytesMut};

/// A connection's received bytes, with a cursor after the consumed ones.
///
/// A caller makes an `Input` from the buffer that it received into, and calls
/// [`WebSocket::receive`](super::WebSocket::receive) until the call returns `None`. Then the caller takes the buffer
/// back by [`Input::into_rest`]. The rest must be the beginning of the next input, unchanged: it may be a part of a
/// frame whose payload has already been unmasked in place.
///
/// A caller that serves many connections limits the number of frames that are parsed for one of them at once
/// ([`Input::limit_frames`]). Such a caller parses the frames beyond this limit later, before it receives anything else
/// for the connection.
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
    /// Returns an input of which nothing has been consumed.
    #[inline]
    pub fn new(bytes: BytesMut) -> Self {
        Self { bytes, at: 0, frames_left: u32::MAX }
    }

    /// Limits the number of frames, data or control, that are taken from here on. When that many have been taken,
    /// [`WebSocket::receive`](super::WebSocket::receive) returns `None`. A frame counts when it is whole; a data frame
    /// that is dropped after our close frame counts when its header is whole.
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
    pub(crate) fn count_frame(&mut self) {
        self.frames_left -= 1;
    }

    /// Returns the bytes that were not consumed yet.
    #[inline]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Returns the buffer without the consumed bytes. If all bytes were consumed, the buffer is empty and keeps its
    /// whole capacity.
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

    /// Consumes so many bytes.
    #[inline]
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.at += bytes;
        debug_assert!(self.at <= self.bytes.len());
    }

    /// Consumes all bytes.
    #[inline]
    pub(crate) fn consume_all(&mut self) {
        self.at = self.bytes.len();
    }

    /// Consumes so many bytes, and returns them.
    #[cfg(test)]
    pub(crate) fn take(&mut self, bytes: usize) -> &[u8] {
        let from = self.at;
        self.consume(bytes);
        &self.bytes[from..self.at]
    }

    /// Splits off the buffer's bytes up to `end`, all of which were consumed before.
    pub(super) fn take_to(&mut self, end: usize) -> BytesMut {
        self.at -= end;
        self.bytes.split_to(end)
    }
}

//! A fragmented message under way (RFC 6455 5.4), and UTF-8 as it arrives (RFC 6455 8.1).

use super::message::HEADER_ROOM;
use super::{FrameHeader, Message, MessageLimits, MessageType, ProtocolError, masking};
use bytes::BytesMut;

/// The fragments received so far, behind room for the header of the one frame that they become.
///
/// The payload of a fragment is taken as it arrives, so that a message in large fragments needs no second buffer and
/// grows by what was received, never by what was announced.
#[derive(Debug)]
pub(super) struct Assembly {
    message_type: MessageType,
    buffer: BytesMut,
    /// Everything in `buffer` before this is known to be UTF-8, if the message is text.
    utf8_end: usize,
    /// The fragments begun so far.
    fragments: u32,
    /// The fragment whose payload stands at the front of the input; `None` between fragments.
    fragment: Option<Fragment>,
}

impl Assembly {
    /// A message of which no fragment has begun.
    pub(super) fn new(message_type: MessageType) -> Self {
        let buffer = BytesMut::zeroed(HEADER_ROOM);
        Self { message_type, buffer, utf8_end: HEADER_ROOM, fragments: 0, fragment: None }
    }

    /// Begins the fragment whose header has just been consumed.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::MessageTooBig`] or [`ProtocolError::TooManyFragments`].
    pub(super) fn begin(&mut self, header: &FrameHeader, limits: &MessageLimits) -> Result<(), ProtocolError> {
        debug_assert!(self.fragment.is_none());
        let received = (self.buffer.len() - HEADER_ROOM) as u64;
        if received + header.payload_len > u64::from(limits.message_bytes_max) {
            return Err(ProtocolError::MessageTooBig);
        }
        self.fragments += 1;
        if self.fragments > limits.fragments_max {
            return Err(ProtocolError::TooManyFragments);
        }
        self.fragment = Some(Fragment { missing: header.payload_len as u32, key: header.mask, fin: header.fin });
        Ok(())
    }

    /// The payload bytes that the fragment at the front of the input still needs; `None` between fragments.
    pub(super) fn missing(&self) -> Option<u32> {
        self.fragment.as_ref().map(|fragment| fragment.missing)
    }

    /// Takes what belongs to the fragment from the front of `received`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`].
    pub(super) fn append(&mut self, received: &[u8]) -> Result<Progress, ProtocolError> {
        let Some(fragment) = &mut self.fragment else { return Ok(Progress { taken: 0, end: None }) };
        let taken = received.len().min(fragment.missing as usize);
        let piece_at = self.buffer.len();
        self.buffer.extend_from_slice(&received[..taken]);
        if let Some(key) = &mut fragment.key {
            masking::apply(&mut self.buffer[piece_at..], *key, 0);
            *key = masking::rotate(*key, taken);
        }
        fragment.missing -= taken as u32;
        let end = (fragment.missing == 0).then_some(if fragment.fin { End::Message } else { End::Fragment });
        if end.is_some() {
            self.fragment = None;
        }
        if self.message_type == MessageType::Text {
            self.utf8_end += utf8_prefix(&self.buffer[self.utf8_end..])?;
            if end == Some(End::Message) && self.utf8_end != self.buffer.len() {
                return Err(ProtocolError::InvalidUtf8);
            }
        }
        Ok(Progress { taken, end })
    }

    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The message, after [`End::Message`].
    pub(super) fn finish<'a>(self) -> Message<'a> {
        Message::assembled(self.message_type, self.buffer)
    }
}

/// What [`Assembly::append`] took, and what that ended.
pub(super) struct Progress {
    pub(super) taken: usize,
    pub(super) end: Option<End>,
}

/// The last byte of a fragment ends it, and the last byte of the last fragment its message too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Fragment,
    Message,
}

/// How many bytes at the front are whole characters; the up to three behind them may become one.
///
/// # Errors
///
/// [`ProtocolError::InvalidUtf8`] when no continuation can make them UTF-8.
#[inline]
pub(super) fn utf8_prefix(bytes: &[u8]) -> Result<usize, ProtocolError> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(ProtocolError::InvalidUtf8),
    }
}

#[derive(Debug)]
struct Fragment {
    missing: u32,
    /// As it stands for the next byte.
    key: Option<[u8; 4]>,
    fin: bool,
}

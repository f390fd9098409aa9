//! A fragmented message under way (RFC 6455 5.4).

use super::{
    error::ProtocolError,
    frame::{FrameHeader, HEADER_ROOM, MessageType},
    limits::{Deliver, MessageLimits},
    masking,
    message::{FragmentPlace, Message},
    utf8::Utf8,
};
use bytes::BytesMut;

/// A message whose last fragment has not come: the fragments received so far, after room for the header of the one
/// frame that they become. Where fragments are delivered one by one, only their number and length are kept.
///
/// A fragment is added in pieces ([`begin`](Self::begin), [`append`](Self::append)) or at once ([`whole`](Self::whole),
/// [`drop_payload`](Self::drop_payload)). The first way needs no second buffer for a large fragment: the buffer grows
/// with the bytes that have arrived, whatever length a header announces. The second way is for a caller that has the
/// whole payload unmasked in its input.
#[derive(Debug)]
pub(super) struct Assembly {
    message_type: MessageType,
    deliver: Deliver,
    /// The check of text; `None` for a binary message, or where text is not checked.
    utf8: Option<Utf8>,
    /// Stays empty where fragments are delivered one by one.
    buffer: BytesMut,
    /// Bytes of payload so far.
    length: u32,
    /// How many fragments have begun so far.
    fragments: u32,
    /// Whether a fragment was kept or delivered, and not only dropped.
    has_begun: bool,
    /// The fragment whose payload stands at the front of the input; `None` between fragments.
    fragment: Option<Incoming>,
}

impl Assembly {
    /// Returns a message of which no fragment has begun.
    pub(super) fn new(message_type: MessageType, limits: &MessageLimits) -> Self {
        Self {
            message_type,
            deliver: limits.deliver,
            utf8: (message_type == MessageType::Text && limits.checks_utf8).then(Utf8::default),
            buffer: match limits.deliver {
                Deliver::Messages => {
                    let mut buffer = BytesMut::with_capacity(FIRST_BYTES);
                    buffer.resize(HEADER_ROOM, 0);
                    buffer
                }
                Deliver::Fragments => BytesMut::new(),
            },
            length: 0,
            fragments: 0,
            has_begun: false,
            fragment: None,
        }
    }

    /// Checks that a fragment is within the limits, as the next fragment of the message under way or the first of a new
    /// one.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::MessageTooBig`] or [`ProtocolError::TooManyFragments`].
    pub(super) fn check_limits(
        under_way: Option<&Self>,
        header: &FrameHeader,
        limits: &MessageLimits,
    ) -> Result<(), ProtocolError> {
        let (length, fragments) = under_way.map_or((0, 0), |message| (message.length, message.fragments));
        if u64::from(length) + header.payload_len > u64::from(limits.message_bytes_max) {
            return Err(ProtocolError::MessageTooBig);
        }
        if fragments >= limits.fragments_max {
            return Err(ProtocolError::TooManyFragments);
        }
        Ok(())
    }

    /// Begins the fragment whose header has just been consumed.
    ///
    /// # Errors
    ///
    /// As [`Assembly::check_limits`].
    pub(super) fn begin(&mut self, header: &FrameHeader, limits: &MessageLimits) -> Result<(), ProtocolError> {
        debug_assert!(self.fragment.is_none());
        Self::check_limits(Some(self), header, limits)?;
        self.fragments += 1;
        self.has_begun = true;
        self.fragment =
            Some(Incoming { missing: header.payload_len as u32, key: header.mask, fin: header.fin.is_set() });
        Ok(())
    }

    /// Returns the number of payload bytes that are missing from the fragment at the front of the input; `None` between
    /// fragments.
    pub(super) fn missing(&self) -> Option<u32> {
        self.fragment.as_ref().map(|fragment| fragment.missing)
    }

    /// Takes the fragment's bytes from the front of `received`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`].
    pub(super) fn append(&mut self, received: &[u8]) -> Result<Progress, ProtocolError> {
        let Some(fragment) = &mut self.fragment else { return Ok(Progress { taken: 0, end: None }) };
        let taken = received.len().min(fragment.missing as usize);
        let piece_at = self.buffer.len();
        if piece_at == HEADER_ROOM && !fragment.fin {
            // The next fragment is probably as long.
            self.buffer.reserve(2 * taken);
        }
        self.buffer.extend_from_slice(&received[..taken]);
        let mut is_ascii = false;
        if let Some(key) = &mut fragment.key {
            is_ascii = masking::apply(&mut self.buffer[piece_at..], *key, 0);
            *key = masking::rotate(*key, taken);
        }
        self.length += taken as u32;
        fragment.missing -= taken as u32;
        let end = (fragment.missing == 0).then_some(if fragment.fin { End::Message } else { End::Fragment });
        if end.is_some() {
            self.fragment = None;
        }
        if let Some(utf8) = &mut self.utf8 {
            if !is_ascii || utf8.is_cut() {
                utf8.append(&self.buffer[piece_at..])?;
            }
            if end == Some(End::Message) {
                utf8.end()?;
            }
        }
        Ok(Progress { taken, end })
    }

    /// Checks the next bytes of the message, if they are text to check.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`].
    pub(super) fn check_utf8(&mut self, piece: &[u8]) -> Result<(), ProtocolError> {
        self.utf8.as_mut().map_or(Ok(()), |utf8| utf8.append(piece))
    }

    /// Takes a whole fragment, unmasked and checked, and returns its place.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`] if the fragment is the last and stops inside a character.
    pub(super) fn whole(&mut self, payload: &[u8], fin: bool) -> Result<FragmentPlace, ProtocolError> {
        if fin && let Some(utf8) = &self.utf8 {
            utf8.end()?;
        }
        if self.deliver == Deliver::Messages {
            self.buffer.extend_from_slice(payload);
        }
        self.length += payload.len() as u32;
        self.fragments += 1;
        let is_first = !self.has_begun;
        self.has_begun = true;
        let (message_type, message_length) = (self.message_type, self.length);
        Ok(FragmentPlace { message_type, is_first, is_last: fin, message_length })
    }

    /// Counts a fragment whose payload is dropped. Returns whether this fragment ends a message: it is the last
    /// fragment, and an earlier one was not dropped.
    pub(super) fn drop_payload(&mut self, fin: bool) -> bool {
        self.fragments += u32::from(!fin);
        fin && self.has_begun
    }

    pub(super) fn deliver(&self) -> Deliver {
        self.deliver
    }

    /// Returns the bytes of payload so far.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Returns the bytes of memory that the fragments take; 0 where fragments are delivered one by one.
    pub(super) fn memory(&self) -> usize {
        match self.deliver {
            Deliver::Messages => size_of::<Self>() + self.buffer.capacity(),
            Deliver::Fragments => 0,
        }
    }

    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Returns the message, after [`End::Message`].
    pub(super) fn finish<'a>(self) -> Message<'a> {
        Message::assembled(self.message_type, self.buffer)
    }
}

/// The first length of the buffer: room for a header and some short fragments.
const FIRST_BYTES: usize = 128;

/// The bytes that [`Assembly::append`] took, and the end that they made.
pub(super) struct Progress {
    pub(super) taken: usize,
    pub(super) end: Option<End>,
}

/// The end that the last byte of a fragment makes: of the fragment alone, or of the message too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Fragment,
    Message,
}

#[derive(Debug)]
struct Incoming {
    missing: u32,
    /// The masking key, rotated so that its first byte masks the next byte of payload.
    key: Option<[u8; 4]>,
    fin: bool,
}

//! The steps that work through the frame at the front of a connection's input.
//!
//! A connection has no buffer for whole frames. An unfragmented frame stays in the input until it is whole. The bytes
//! that have arrived are unmasked in place and checked at once. [`Front`] has the two positions up to which bytes are
//! unmasked and checked. So no byte is unmasked twice, and at most the three bytes of a cut character are checked
//! twice. Bad UTF-8 is refused at its first bad octet. The payload of a fragment moves into an [`Assembly`] as it
//! arrives; a fragment that is a separate event stays in the input like an unfragmented frame. A payload to be dropped
//! is skipped as it arrives.
//!
//! A hook judges whole frames. So with a hook every frame stays in the input until it is whole. Only data frames after
//! our close frame are dropped as they arrive. Text is checked after the verdict: a dropped payload need not be UTF-8.
//! The constant parameter `HOOKED` says whether there is a hook ([`WebSocket::advance`]), so a connection without a
//! hook pays nothing for it.

use super::{
    super::{
        assembly::{Assembly, End},
        error::ProtocolError,
        event::Verdict,
        frame::{FrameHeader, MASK, MessageType, OpCode, decode_first},
        input::Input,
        limits::{Deliver, MessageLimits},
        masking,
        message::FragmentPlace,
        utf8::utf8_prefix,
    },
    state::{Front, State, WebSocket, assert_may_send},
};
use std::ops::Range;

/// The outcome of one step. Ranges are positions in the input's buffer.
pub(super) enum Step {
    /// Bytes were consumed, without an event.
    Again,
    /// The frame needs more bytes.
    Starved,
    Whole(MessageType, Range<usize>),
    Assembled(Box<Assembly>),
    Fragment(FragmentPlace, Range<usize>),
    Control(OpCode, Range<usize>),
}

impl WebSocket {
    /// Consumes the frame at the front of the input, or the part of it that can be consumed already.
    #[inline]
    pub(super) fn step<const HOOKED: bool>(
        &mut self,
        input: &mut Input,
        limits: &MessageLimits,
        hook: &mut impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Step, ProtocolError> {
        if !HOOKED && let Some(step) = self.step_short(input, limits)? {
            return Ok(step);
        }
        if let Some(assembly) = &mut self.assembly
            && assembly.missing().is_some()
        {
            let progress = assembly.append(input.rest())?;
            input.consume(progress.taken);
            return Ok(match progress.end {
                None => Step::Starved,
                Some(End::Fragment) => Step::Again,
                Some(End::Message) => self.assembly.take().map_or(Step::Again, Step::Assembled),
            });
        }
        if let Front::Skip(missing) = self.front {
            let skipped = input.rest().len().min(missing as usize);
            input.consume(skipped);
            self.front = Front::skip(missing - skipped as u32);
            if self.front != Front::FRESH {
                return Ok(Step::Starved);
            }
        }
        self.check_start(input.rest())?;
        let Some((header, header_len)) = FrameHeader::decode(input.rest())? else { return Ok(Step::Starved) };
        if header.opcode.is_control() {
            return self.step_control::<HOOKED>(&header, header_len, input, hook);
        }
        if header.payload_len > u64::from(limits.frame_bytes_max) {
            return Err(ProtocolError::FrameTooBig);
        }
        if self.state == State::Closing {
            input.consume(header_len);
            self.front = Front::skip(header.payload_len as u32);
            return Ok(Step::Again);
        }
        let message_type = match header.opcode {
            OpCode::Text => MessageType::Text,
            _ => MessageType::Binary,
        };
        if header.fin.is_set() && header.opcode != OpCode::Continuation {
            return self.step_whole::<HOOKED>(message_type, &header, header_len, input, limits, hook);
        }
        let deliver = self.assembly.as_ref().map_or(limits.deliver, |assembly| assembly.deliver());
        if HOOKED || deliver == Deliver::Fragments {
            return self.step_fragment::<HOOKED>(message_type, &header, header_len, input, limits, hook);
        }
        input.consume(header_len);
        self.assembly.get_or_insert_with(|| Box::new(Assembly::new(message_type, limits))).begin(&header, limits)?;
        Ok(Step::Again)
    }

    /// Handles the frame of a short message that has come whole, as nearly every frame of a client is. Returns `None`
    /// for any other frame, of which nothing is changed.
    ///
    /// The plain version is the rest of [`WebSocket::step`], which handles every frame and names every error, but looks
    /// at each of the header's parts by itself. Here a comparison of the first byte checks FIN, the RSV bits and the
    /// opcode. The masking key and the payload stand at fixed places after it.
    #[inline(always)]
    fn step_short(&mut self, input: &mut Input, limits: &MessageLimits) -> Result<Option<Step>, ProtocolError> {
        let is_plain = self.state == State::Open && self.front == Front::FRESH && limits.deliver == Deliver::Messages;
        if !is_plain || self.assembly.is_some() || self.masking.is_some() || limits.fragments_max == 0 {
            return Ok(None);
        }
        let rest = input.rest_mut();
        let Some(&[first, second]) = rest.first_chunk() else { return Ok(None) };
        let message_type = match first {
            WHOLE_TEXT => MessageType::Text,
            WHOLE_BINARY => MessageType::Binary,
            _ => return Ok(None),
        };
        let (payload_len, key_at) = match second.wrapping_sub(MASK) {
            short @ 0..126 => (usize::from(short), 2),
            126 => match rest {
                [_, _, high, low, ..] if *high > 0 || *low >= 126 => {
                    (usize::from(u16::from_be_bytes([*high, *low])), 4)
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let payload_max = limits.frame_bytes_max.min(limits.message_bytes_max).min(BLOCK as u32);
        let Some((key, payload)) = rest.get_mut(key_at..).and_then(|rest| rest.split_first_chunk_mut()) else {
            return Ok(None);
        };
        if payload_len > payload_max as usize || payload_len > payload.len() {
            return Ok(None);
        }
        let payload = &mut payload[..payload_len];
        let is_ascii = masking::apply(payload, *key, 0);
        if !is_ascii && message_type == MessageType::Text && limits.checks_utf8 && cut_length(payload)? > 0 {
            return Err(ProtocolError::InvalidUtf8);
        }
        let header_len = key_at + key.len();
        input.consume(header_len + payload_len);
        Ok(Some(Step::Whole(message_type, input.at - payload_len..input.at)))
    }

    /// Checks the first two bytes of a frame against the state of the connection. The checks here, and then those in
    /// [`FrameHeader::decode`], come in the order of the bytes: so the first error does not depend on how the bytes
    /// arrive.
    #[inline]
    fn check_start(&self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let Some(&first) = bytes.first() else { return Ok(()) };
        let (_, rsv, opcode) = decode_first(first)?;
        if rsv != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        if self.state == State::Open && !opcode.is_control() {
            match (opcode == OpCode::Continuation, self.assembly.is_some()) {
                (true, false) => return Err(ProtocolError::NothingToContinue),
                (false, true) => return Err(ProtocolError::MessageInterrupted),
                _ => {}
            }
        }
        match (bytes.get(1).map(|second| second & MASK != 0), self.masking.is_some()) {
            (Some(false), false) => Err(ProtocolError::MaskMissing),
            (Some(true), true) => Err(ProtocolError::MaskUnexpected),
            _ => Ok(()),
        }
    }

    /// Handles the frame of an unfragmented message.
    #[inline]
    fn step_whole<const HOOKED: bool>(
        &mut self,
        message_type: MessageType,
        header: &FrameHeader,
        header_len: usize,
        input: &mut Input,
        limits: &MessageLimits,
        hook: &mut impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Step, ProtocolError> {
        if header.payload_len > u64::from(limits.message_bytes_max) {
            return Err(ProtocolError::MessageTooBig);
        }
        if limits.fragments_max == 0 {
            return Err(ProtocolError::TooManyFragments);
        }
        let is_checked = message_type == MessageType::Text && limits.checks_utf8;
        let Some((payload, utf8_tail)) = self.hold(is_checked && !HOOKED, header, header_len, input)? else {
            return Ok(Step::Starved);
        };
        let mut is_cut = utf8_tail != 0;
        if HOOKED {
            let payload = &input.bytes[payload.clone()];
            if is_dropped(hook(header, payload))? {
                return Ok(Step::Again);
            }
            is_cut = is_checked && utf8_prefix(payload)? != payload.len();
        }
        if is_cut {
            return Err(ProtocolError::InvalidUtf8);
        }
        Ok(match limits.deliver {
            Deliver::Messages => Step::Whole(message_type, payload),
            Deliver::Fragments => {
                let message_length = payload.len() as u32;
                Step::Fragment(FragmentPlace { message_type, is_first: true, is_last: true, message_length }, payload)
            }
        })
    }

    /// Handles a fragment that is a separate event, or for which there is a hook. The function is not inlined, so that
    /// other connections pay nothing for it.
    #[inline(never)]
    fn step_fragment<const HOOKED: bool>(
        &mut self,
        message_type: MessageType,
        header: &FrameHeader,
        header_len: usize,
        input: &mut Input,
        limits: &MessageLimits,
        hook: &mut impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Step, ProtocolError> {
        Assembly::check_limits(self.assembly.as_deref(), header, limits)?;
        let (seen, payload_at) = (self.front.held().0, input.at + header_len);
        // `hold` checks the text of a first fragment. A later fragment continues a text, which `assembly` checks.
        let is_checked = self.assembly.is_none() && message_type == MessageType::Text && limits.checks_utf8;
        let held = self.hold(is_checked && !HOOKED, header, header_len, input)?;
        if let Some(assembly) = &mut self.assembly
            && !HOOKED
        {
            let end = held.as_ref().map_or(input.bytes.len(), |(payload, _)| payload.end);
            assembly.check_utf8(&input.bytes[payload_at + seen..end])?;
        }
        let Some((mut range, utf8_tail)) = held else { return Ok(Step::Starved) };
        let mut payload = &input.bytes[range.clone()];
        let is_dropped = HOOKED && is_dropped(hook(header, payload))?;
        let assembly = self.assembly.get_or_insert_with(|| Box::new(Assembly::new(message_type, limits)));
        if is_dropped {
            if !assembly.drop_payload(header.fin.is_set()) {
                self.assembly = self.assembly.take().filter(|_| !header.fin.is_set());
                return Ok(Step::Again);
            }
            // The fragment still ends the message, with an empty payload.
            (range, payload) = (range.end..range.end, &[]);
        } else {
            assembly.check_utf8(if HOOKED { payload } else { &payload[payload.len() - utf8_tail..] })?;
        }
        let place = assembly.whole(payload, header.fin.is_set())?;
        Ok(match assembly.deliver() {
            Deliver::Messages if !place.is_last => Step::Again,
            Deliver::Messages => self.assembly.take().map_or(Step::Again, Step::Assembled),
            Deliver::Fragments => {
                self.assembly = self.assembly.take().filter(|_| !place.is_last);
                Step::Fragment(place, range)
            }
        })
    }

    /// Unmasks the bytes of the data frame at the front that have arrived since the last call; if `is_checked`, checks
    /// that they continue the frame's text. When the frame is whole, consumes it and returns the range of its payload.
    /// If a character is cut at the payload's end, also returns the number of its bytes (else 0; 0 without
    /// `is_checked`).
    #[inline]
    fn hold(
        &mut self,
        is_checked: bool,
        header: &FrameHeader,
        header_len: usize,
        input: &mut Input,
    ) -> Result<Option<(Range<usize>, usize)>, ProtocolError> {
        let (unmasked, utf8_tail) = self.front.held();
        let payload_len = header.payload_len as usize;
        let received = &mut input.rest_mut()[header_len..];
        let available = received.len().min(payload_len);
        let received = &mut received[..available];
        let utf8_tail = match header.mask {
            Some(key) => unmask(received, key, unmasked, is_checked.then_some(utf8_tail))?,
            None if is_checked => cut_length(&received[unmasked - utf8_tail..])?,
            None => 0,
        };
        if available < payload_len {
            self.front = Front::Payload { unmasked: available as u32, utf8_tail: utf8_tail as u8 };
            return Ok(None);
        }
        self.front = Front::FRESH;
        input.consume(header_len + payload_len);
        Ok(Some((input.at - payload_len..input.at, utf8_tail)))
    }

    /// Handles a control frame once it is whole. After our close frame, all control frames except the peer's close
    /// frame are ignored.
    #[inline]
    fn step_control<const HOOKED: bool>(
        &self,
        header: &FrameHeader,
        header_len: usize,
        input: &mut Input,
        hook: &mut impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Step, ProtocolError> {
        let payload_len = header.payload_len as usize;
        let Some(payload) = input.rest_mut().get_mut(header_len..header_len + payload_len) else {
            return Ok(Step::Starved);
        };
        if let Some(key) = header.mask {
            masking::apply(payload, key, 0);
        }
        let is_ignored = self.state == State::Closing && header.opcode != OpCode::Close;
        let is_ignored = is_ignored || (HOOKED && is_dropped(hook(header, payload))?);
        input.consume(header_len + payload_len);
        if is_ignored {
            return Ok(Step::Again);
        }
        Ok(Step::Control(header.opcode, input.at - payload_len..input.at))
    }
}

/// Unmasks the bytes from `unmasked` on. With `utf8_tail`, checks that they continue text, whose last `utf8_tail`
/// unmasked bytes begin a character. Returns how many bytes at the end begin a character; 0 without `utf8_tail`.
///
/// # Errors
///
/// [`ProtocolError::InvalidUtf8`].
#[inline]
fn unmask(
    received: &mut [u8],
    key: [u8; 4],
    mut unmasked: usize,
    utf8_tail: Option<usize>,
) -> Result<usize, ProtocolError> {
    let Some(mut utf8_tail) = utf8_tail else {
        masking::apply(&mut received[unmasked..], key, unmasked);
        return Ok(0);
    };
    while unmasked < received.len() {
        let end = received.len().min(unmasked + BLOCK);
        let is_ascii = masking::apply(&mut received[unmasked..end], key, unmasked);
        if !is_ascii || utf8_tail > 0 {
            utf8_tail = cut_length(&received[unmasked - utf8_tail..end])?;
        }
        unmasked = end;
    }
    Ok(utf8_tail)
}

/// Returns how many bytes at the end of a text begin a character whose end is missing.
///
/// # Errors
///
/// [`ProtocolError::InvalidUtf8`].
#[inline]
fn cut_length(text: &[u8]) -> Result<usize, ProtocolError> {
    Ok(text.len() - utf8_prefix(text)?)
}

/// The first byte of a text message in one frame without extension bits (RFC 6455 5.2).
const WHOLE_TEXT: u8 = 0x80 | OpCode::Text as u8;
/// The first byte of a binary message in one frame without extension bits.
const WHOLE_BINARY: u8 = 0x80 | OpCode::Binary as u8;

/// Bytes that are unmasked before they are checked, so few that they are still in the nearest cache.
pub(super) const BLOCK: usize = 8 * 1_024;

/// Returns whether the verdict drops the frame.
///
/// # Errors
///
/// [`ProtocolError::Refused`].
fn is_dropped(verdict: Verdict) -> Result<bool, ProtocolError> {
    match verdict {
        Verdict::Pass => Ok(false),
        Verdict::Drop => Ok(true),
        Verdict::Fail(code) => {
            assert_may_send(code);
            Err(ProtocolError::Refused(code))
        }
    }
}

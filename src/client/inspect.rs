//! `Inspect`: checks the bytes between the socket and fastwebsockets against RFC 6455.
//!
//! fastwebsockets returns whole frames. Three checks need the bytes themselves: a length above its limit must fail the
//! connection before the payload is read; text that is not UTF-8 must fail at its first bad byte; and a frame from
//! fastwebsockets no longer shows whether it was masked, or whether its length was written longer than necessary. So
//! `Inspect` follows the headers, and turns the first violation into an error of the stream. The sound bytes before the
//! violation are still read.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

use crate::proto::{FrameHeader, MessageLimits, OpCode, ProtocolError};

/// The bytes of a server's frames. At the first violation reading fails with a [`ProtocolError`] in an [`io::Error`].
pub(super) struct Inspect<R> {
    inner: R,
    frames: Frames,
    pulse: Arc<Pulse>,
    violation: Option<ProtocolError>,
}

impl<R> Inspect<R> {
    pub(super) fn new(inner: R, limits: MessageLimits, pulse: Arc<Pulse>) -> Self {
        Self { inner, frames: Frames::new(limits), pulse, violation: None }
    }

    /// Returns the unchecked stream.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Inspect<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(violation) = self.violation {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
        }
        let begin = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let received = &buffer.filled()[begin..];
        if !received.is_empty() {
            self.pulse.beat();
        }
        let Err((sound, violation)) = self.frames.follow(received) else { return Poll::Ready(Ok(())) };
        self.violation = Some(violation);
        buffer.set_filled(begin + sound);
        // A read of 0 bytes would be the end of the stream.
        if sound == 0 { self.poll_read(context, buffer) } else { Poll::Ready(Ok(())) }
    }
}

/// The time of the last received byte.
pub(super) struct Pulse {
    begin: Instant,
    last_ms: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { begin: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    pub(super) fn beat(&self) {
        // The task that stores the time is the one that reads it, so no ordering is needed.
        self.last_ms.store(self.begin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.begin + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// The position in a server's frames.
struct Frames {
    limits: MessageLimits,
    header: [u8; FrameHeader::LEN_MAX],
    header_len: usize,
    /// The frame whose payload is being received.
    frame: Option<Frame>,
    /// The message whose last fragment has not come.
    message: Option<Message>,
}

struct Frame {
    /// The number of payload bytes that have not come.
    missing: u64,
    /// False for a control frame, which may come between the fragments of a message.
    is_data: bool,
    fin: bool,
}

struct Message {
    utf8: Option<Utf8>,
    bytes: u64,
    fragments: u32,
}

impl Frames {
    fn new(limits: MessageLimits) -> Self {
        Self { limits, header: [0; FrameHeader::LEN_MAX], header_len: 0, frame: None, message: None }
    }

    /// Follows received bytes.
    ///
    /// # Errors
    ///
    /// The first violation, and the number of sound bytes before it. The sound bytes do not complete the frame of the
    /// violation.
    fn follow(&mut self, received: &[u8]) -> Result<(), (usize, ProtocolError)> {
        let mut at = 0;
        while at < received.len() {
            let taken = match &self.frame {
                None => self.header_byte(received[at]).map(|()| 1),
                Some(_) => self.payload(&received[at..]),
            };
            at += taken.map_err(|violation| (at, violation))?;
        }
        Ok(())
    }

    fn header_byte(&mut self, byte: u8) -> Result<(), ProtocolError> {
        self.header[self.header_len] = byte;
        self.header_len += 1;
        match self.header_len {
            1 => self.first_byte(byte)?,
            2 if byte & MASK_BIT != 0 => return Err(ProtocolError::MaskUnexpected),
            _ => {}
        }
        let Some((header, _)) = FrameHeader::decode(&self.header[..self.header_len])? else { return Ok(()) };
        self.header_len = 0;
        self.begin(&header)?;
        self.end_if_whole()
    }

    /// Checks the reserved bits, the opcode and the order of fragments (RFC 6455 5.2 and 5.4).
    fn first_byte(&self, byte: u8) -> Result<(), ProtocolError> {
        FrameHeader::decode(&[byte])?;
        if byte & RSV_BITS != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = OpCode::from_bits(byte)?;
        match (opcode.is_control(), opcode == OpCode::Continuation, self.message.is_some()) {
            (false, true, false) => Err(ProtocolError::NothingToContinue),
            (false, false, true) => Err(ProtocolError::MessageInterrupted),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, header: &FrameHeader) -> Result<(), ProtocolError> {
        let is_data = !header.opcode.is_control();
        self.frame = Some(Frame { missing: header.payload_len, is_data, fin: header.fin.is_set() });
        if !is_data {
            return Ok(());
        }
        if header.payload_len > u64::from(self.limits.frame_bytes_max) {
            return Err(ProtocolError::FrameTooBig);
        }
        let message = self.message.get_or_insert_with(|| Message {
            utf8: (header.opcode == OpCode::Text).then(Utf8::default),
            bytes: 0,
            fragments: 0,
        });
        message.bytes += header.payload_len;
        message.fragments += 1;
        if message.bytes > u64::from(self.limits.message_bytes_max) {
            return Err(ProtocolError::MessageTooBig);
        }
        if message.fragments > self.limits.fragments_max {
            return Err(ProtocolError::TooManyFragments);
        }
        Ok(())
    }

    fn payload(&mut self, received: &[u8]) -> Result<usize, ProtocolError> {
        let Some(frame) = &mut self.frame else { return Ok(0) };
        let taken = received.len().min(usize::try_from(frame.missing).unwrap_or(usize::MAX));
        frame.missing -= taken as u64;
        if frame.is_data
            && let Some(Message { utf8: Some(utf8), .. }) = &mut self.message
        {
            utf8.follow(&received[..taken])?;
        }
        self.end_if_whole()?;
        Ok(taken)
    }

    fn end_if_whole(&mut self) -> Result<(), ProtocolError> {
        let Some(frame) = self.frame.take_if(|frame| frame.missing == 0) else { return Ok(()) };
        if !frame.is_data || !frame.fin {
            return Ok(());
        }
        match self.message.take() {
            Some(Message { utf8: Some(utf8), .. }) if !utf8.is_whole() => Err(ProtocolError::InvalidUtf8),
            _ => Ok(()),
        }
    }
}

/// A check of text that arrives in pieces.
#[derive(Default)]
struct Utf8 {
    /// The first bytes of a character whose last byte has not come.
    begun: [u8; 4],
    begun_len: usize,
}

impl Utf8 {
    fn follow(&mut self, mut piece: &[u8]) -> Result<(), ProtocolError> {
        while self.begun_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            self.begun[self.begun_len] = byte;
            self.begun_len += 1;
            piece = rest;
            if incomplete_tail(&self.begun[..self.begun_len])? == 0 {
                self.begun_len = 0;
            }
        }
        self.begun_len = incomplete_tail(piece)?;
        self.begun[..self.begun_len].copy_from_slice(&piece[piece.len() - self.begun_len..]);
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.begun_len == 0
    }
}

/// Returns the number of bytes at the end that begin a character without completing it.
fn incomplete_tail(bytes: &[u8]) -> Result<usize, ProtocolError> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(_) => Ok(0),
        Err(error) if error.error_len().is_none() => Ok(bytes.len() - error.valid_up_to()),
        Err(_) => Err(ProtocolError::InvalidUtf8),
    }
}

/// The reserved bits (RFC 6455 5.2), to which no negotiated extension gives a meaning.
const RSV_BITS: u8 = 0x70;

/// The bit that a server never sets (RFC 6455 5.1).
const MASK_BIT: u8 = 0x80;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::proto::{Input, Role, Tick, WebSocket, encode_frame};

    const LIMITS: MessageLimits =
        MessageLimits { frame_bytes_max: 200, message_bytes_max: 300, fragments_max: 4, ..MessageLimits::DEFAULT };

    /// Checks the bytes in one piece, in two pieces cut at every position, and byte by byte.
    #[track_caller]
    fn check(bytes: &[u8], expected: Result<(), ProtocolError>) {
        for cut in 0..=bytes.len() {
            let mut frames = Frames::new(LIMITS);
            let (first, second) = bytes.split_at(cut);
            let followed = frames.follow(first).and_then(|()| frames.follow(second));
            assert_eq!(followed.map_err(|(_, error)| error), expected, "cut at {cut}");
        }
        let mut frames = Frames::new(LIMITS);
        let followed = bytes.iter().try_for_each(|&byte| frames.follow(&[byte]));
        assert_eq!(followed.map_err(|(_, error)| error), expected);
    }

    fn frame(opcode: OpCode, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(opcode, fin.into(), payload, &mut out);
        out
    }

    #[test]
    fn sound_frames() {
        let mut bytes = frame(OpCode::Text, false, "é⚡".as_bytes());
        bytes.extend(frame(OpCode::Ping, true, b"\xff not text"));
        bytes.extend(frame(OpCode::Continuation, false, &"⚡".as_bytes()[..1]));
        bytes.extend(frame(OpCode::Continuation, false, b""));
        bytes.extend(frame(OpCode::Continuation, true, &"⚡".as_bytes()[1..]));
        bytes.extend(frame(OpCode::Binary, true, &[0xff; 200]));
        bytes.extend(frame(OpCode::Text, true, b""));
        check(&bytes, Ok(()));
    }

    /// RFC 6455 5.1 to 5.5.
    #[test]
    fn violations() {
        check(b"\xc1\x00", Err(ProtocolError::ReservedBits));
        check(b"\x83\x00", Err(ProtocolError::ReservedOpCode(3)));
        check(b"\x09\x00", Err(ProtocolError::FragmentedControl));
        check(b"\x89\x7e\x00\x7e", Err(ProtocolError::ControlTooLong));
        check(b"\x81\x7e\x00\x7d", Err(ProtocolError::LengthNotMinimal));
        check(b"\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00", Err(ProtocolError::LengthTooLarge));
        check(b"\x81\x80\x00\x00\x00\x00", Err(ProtocolError::MaskUnexpected));
        check(b"\x80\x00", Err(ProtocolError::NothingToContinue));
        check(b"\x01\x00\x82\x00", Err(ProtocolError::MessageInterrupted));
    }

    /// RFC 6455 10.4: the header alone shows that a limit is exceeded.
    #[test]
    fn limits() {
        check(b"\x82\x7e\x00\xc9", Err(ProtocolError::FrameTooBig));
        let mut bytes = frame(OpCode::Binary, false, &[0; 200]);
        bytes.extend(b"\x00\x65");
        check(&bytes, Err(ProtocolError::MessageTooBig));
        check(b"\x02\x00\x00\x00\x00\x00\x00\x00\x80\x00", Err(ProtocolError::TooManyFragments));
    }

    /// RFC 6455 8.1.
    #[test]
    fn text_that_is_not_utf8() {
        check(b"\x81\x7e\x00\xc8\xff", Err(ProtocolError::InvalidUtf8));
        check(b"\x81\x03\xe2\x9a\x00", Err(ProtocolError::InvalidUtf8));
        check(b"\x81\x02\xe2\x9a", Err(ProtocolError::InvalidUtf8));
        check(b"\x01\x01\xe2\x80\x00", Err(ProtocolError::InvalidUtf8));
        check(b"\x01\x01\xe2\x80\x01\x41", Err(ProtocolError::InvalidUtf8));
        // The first two bytes of a code point beyond U+10FFFF.
        check(b"\x01\x02\xf4\x90", Err(ProtocolError::InvalidUtf8));
    }

    /// Compares the first violation with that of `proto`'s client, which shares only the header's decoder with this.
    fn check_against_proto(bytes: &[u8]) {
        let mut websocket = WebSocket::new(Role::Client { masking_seed: [0; 16] }, Tick(0));
        let (mut input, mut replies, mut found) = (Input::new(bytes.into()), Vec::new(), Ok(()));
        loop {
            match websocket.receive(Tick(0), &mut input, &LIMITS, &mut replies) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(violation) => {
                    found = Err(violation);
                    break;
                }
            }
        }
        let followed = Frames::new(LIMITS).follow(bytes).map_err(|(_, violation)| violation);
        assert_eq!(followed, found, "{bytes:x?}");
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let opcode = prop_oneof![Just(0_u8), Just(1), Just(2), Just(9), Just(10)];
        let text = prop_oneof!["[a-zé⚡😀]{0,40}".prop_map(String::into_bytes), vec(any::<u8>(), 0..4)];
        (opcode, any::<bool>(), text, 0_usize..3).prop_map(|(opcode, fin, payload, cut)| {
            let payload = &payload[..payload.len().saturating_sub(cut)];
            let mut bytes = vec![opcode | u8::from(fin) << 7, payload.len() as u8];
            bytes.extend_from_slice(payload);
            bytes
        })
    }

    proptest! {
        #[test]
        fn frames_as_proto_sees_them(
            frames in vec(any_frame(), 0..8),
            flip in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut bytes = frames.concat();
            if let Some((at, mask)) = flip.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
            // `proto` stops at a close frame, and `Frames` does not.
            if !bytes.iter().any(|byte| byte & 0x0F == 8) {
                check_against_proto(&bytes);
            }
        }
    }

    /// The bytes before a violation are sound, and do not complete its frame.
    #[test]
    fn the_sound_part() {
        let whole = frame(OpCode::Text, true, b"one");
        for bad in [&b"\x81\x02\xff"[..], b"\xf1", b"\x81\x80\x00\x00\x00\x00", b"\x81\x01\xe2"] {
            let bytes = [&whole, bad].concat();
            let (sound, _) = Frames::new(LIMITS).follow(&bytes).unwrap_err();
            assert!((whole.len()..bytes.len()).contains(&sound), "{bad:x?}: {sound}");
        }
    }
}

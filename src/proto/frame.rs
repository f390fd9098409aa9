//! The frame header (RFC 6455 5.2): decoded from a slice, encoded into a slice. Nothing here depends on a connection.

use super::{error::ProtocolError, masking};

/// The type of a frame (RFC 6455 5.2, 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// More of a fragmented message (RFC 6455 5.4).
    Continuation = 0x0,
    /// A text message or its first fragment (RFC 6455 5.6).
    Text = 0x1,
    /// A binary message or its first fragment (RFC 6455 5.6).
    Binary = 0x2,
    /// RFC 6455 5.5.1.
    Close = 0x8,
    /// RFC 6455 5.5.2.
    Ping = 0x9,
    /// RFC 6455 5.5.3.
    Pong = 0xA,
}

impl OpCode {
    /// Reads the low four bits of a frame's first byte.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::ReservedOpCode`].
    #[inline]
    pub const fn from_bits(bits: u8) -> Result<Self, ProtocolError> {
        Ok(match bits & OPCODE_BITS {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            reserved => return Err(ProtocolError::ReservedOpCode(reserved)),
        })
    }

    /// Returns whether this is close, ping or pong. Such a frame is never fragmented, has at most 125 bytes of payload,
    /// and may stand between the fragments of a message (RFC 6455 5.5).
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// The type of a message (RFC 6455 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

impl MessageType {
    /// Returns the opcode of the message's first frame.
    #[inline]
    pub const fn opcode(self) -> OpCode {
        match self {
            Self::Text => OpCode::Text,
            Self::Binary => OpCode::Binary,
        }
    }
}

/// The FIN bit of a frame (RFC 6455 5.2).
///
/// ```
/// use ringhub::proto::Fin;
/// assert_eq!((Fin::from(true), Fin::from(false)), (Fin::Set, Fin::Unset));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fin {
    /// More fragments of the message follow.
    Unset,
    /// The frame is the last fragment of its message, or the only one.
    Set,
}

impl Fin {
    /// Returns whether the frame is the last of its message.
    #[inline]
    #[must_use]
    pub const fn is_set(self) -> bool {
        matches!(self, Fin::Set)
    }
}

impl From<bool> for Fin {
    #[inline]
    fn from(is_set: bool) -> Self {
        if is_set { Fin::Set } else { Fin::Unset }
    }
}

/// Everything in front of a frame's payload (RFC 6455 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether the frame is the last fragment of its message.
    pub fin: Fin,
    /// RSV1, RSV2 and RSV3 as the bits 4, 2 and 1: for extensions, and 0 where none is negotiated.
    pub rsv: u8,
    /// The type of the frame.
    pub opcode: OpCode,
    /// The masking key of a client's frame (RFC 6455 5.3).
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload, below 2^63.
    pub payload_len: u64,
}

impl FrameHeader {
    /// The longest header there is: an eight-byte length and a masking key.
    pub const LEN_MAX: usize = 14;

    /// Returns the header of an unmasked frame without extension bits.
    #[inline]
    pub const fn new(opcode: OpCode, fin: Fin, payload_len: usize) -> Self {
        Self { fin, rsv: 0, opcode, mask: None, payload_len: payload_len as u64 }
    }

    /// Reads the header at the front of `bytes`, and returns it with its length; `Ok(None)` if the header's end is
    /// missing.
    ///
    /// # Errors
    ///
    /// A violation of RFC 6455 5.2 or 5.5 that the header shows by itself, as soon as the bytes at hand show it. RSV
    /// bits, masking and the order of fragments depend on the connection; [`WebSocket`](super::WebSocket) checks them.
    ///
    /// ```
    /// use ringhub::proto::{Fin, FrameHeader, OpCode};
    /// let (header, header_len) = FrameHeader::decode(b"\x81\x05Hello")?.expect("whole");
    /// assert_eq!((header, header_len), (FrameHeader::new(OpCode::Text, Fin::Set, 5), 2));
    /// # Ok::<(), ringhub::proto::ProtocolError>(())
    /// ```
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let (fin, rsv, opcode) = decode_first(first)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let short = second & LENGTH_BITS;
        if opcode.is_control() && usize::from(short) > CONTROL_PAYLOAD_MAX {
            return Err(ProtocolError::ControlTooLong);
        }
        let Some(payload_len) = (match short {
            LENGTH_16 => decode_length_16(&bytes[2..])?,
            LENGTH_64 => decode_length_64(&bytes[2..])?,
            _ => Some(u64::from(short)),
        }) else {
            return Ok(None);
        };
        let header_len = encoded_len(second);
        let mask = match second & MASK {
            0 => None,
            _ => match bytes.get(header_len - 4..header_len) {
                Some(key) => Some([key[0], key[1], key[2], key[3]]),
                None => return Ok(None),
            },
        };
        Ok(Some((Self { fin, rsv, opcode, mask, payload_len }, header_len)))
    }

    /// Writes the header to the front of `out` and returns its length.
    #[inline]
    pub fn encode(&self, out: &mut [u8; Self::LEN_MAX]) -> usize {
        out[0] = u8::from(self.fin.is_set()) << 7 | (self.rsv & 0x7) << 4 | self.opcode as u8;
        let length_end = match self.payload_len {
            0..126 => {
                out[1] = self.payload_len as u8;
                2
            }
            126..=0xFFFF => {
                out[1] = LENGTH_16;
                out[2..4].copy_from_slice(&(self.payload_len as u16).to_be_bytes());
                4
            }
            _ => {
                out[1] = LENGTH_64;
                out[2..10].copy_from_slice(&self.payload_len.to_be_bytes());
                10
            }
        };
        let Some(key) = self.mask else { return length_end };
        out[1] |= MASK;
        out[length_end..length_end + 4].copy_from_slice(&key);
        length_end + 4
    }

    /// Returns the number of bytes that [`FrameHeader::encode`] writes.
    #[inline]
    pub const fn encoded_len(&self) -> usize {
        let length_end = match self.payload_len {
            0..126 => 2,
            126..=0xFFFF => 4,
            _ => 10,
        };
        length_end + if self.mask.is_some() { 4 } else { 0 }
    }
}

/// Returns the length of the header at the front of `bytes`, or, if fewer than two bytes are here, the minimum of 2.
pub(super) fn header_len_at_least(bytes: &[u8]) -> usize {
    bytes.get(1).map_or(2, |&second| encoded_len(second))
}

/// Reads the parts of a frame's first byte.
///
/// # Errors
///
/// [`ProtocolError::ReservedOpCode`] or [`ProtocolError::FragmentedControl`].
#[inline]
pub(super) fn decode_first(first: u8) -> Result<(Fin, u8, OpCode), ProtocolError> {
    let (fin, opcode) = (Fin::from(first & FIN != 0), OpCode::from_bits(first)?);
    if opcode.is_control() && !fin.is_set() {
        return Err(ProtocolError::FragmentedControl);
    }
    Ok((fin, (first & RSV) >> 4, opcode))
}

/// Appends an unmasked frame, as a server sends it (RFC 6455 5.1).
pub fn encode_frame(opcode: OpCode, fin: Fin, payload: &[u8], out: &mut Vec<u8>) {
    let mut header = [0; FrameHeader::LEN_MAX];
    let header_len = FrameHeader::new(opcode, fin, payload.len()).encode(&mut header);
    out.extend_from_slice(&header[..header_len]);
    out.extend_from_slice(payload);
}

/// Appends a masked frame, as a client sends it (RFC 6455 5.1, 5.3).
///
/// The key of a real connection must be unpredictable (RFC 6455 10.3).
///
/// ```
/// use ringhub::proto::{Fin, OpCode, encode_masked};
/// let mut out = Vec::new();
/// encode_masked(OpCode::Text, Fin::Set, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut out);
/// assert_eq!(out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"); // RFC 6455 5.7
/// ```
pub fn encode_masked(opcode: OpCode, fin: Fin, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    let mut header = [0; FrameHeader::LEN_MAX];
    let header_len =
        FrameHeader { mask: Some(key), ..FrameHeader::new(opcode, fin, payload.len()) }.encode(&mut header);
    out.extend_from_slice(&header[..header_len]);
    let payload_at = out.len();
    out.extend_from_slice(payload);
    masking::apply(&mut out[payload_at..], key, 0);
}

/// The longest payload of a control frame (RFC 6455 5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;

/// The MASK bit of a frame's second byte.
pub(super) const MASK: u8 = 0x80;

#[inline]
fn decode_length_16(bytes: &[u8]) -> Result<Option<u64>, ProtocolError> {
    match bytes {
        [0, 0..=125, ..] => Err(ProtocolError::LengthNotMinimal),
        [high, low, ..] => Ok(Some(u64::from(u16::from_be_bytes([*high, *low])))),
        _ => Ok(None),
    }
}

#[inline]
fn decode_length_64(bytes: &[u8]) -> Result<Option<u64>, ProtocolError> {
    match bytes {
        [0x80..=0xFF, ..] => Err(ProtocolError::LengthTooLarge),
        [0, 0, 0, 0, 0, 0, ..] => Err(ProtocolError::LengthNotMinimal),
        _ => Ok(bytes.first_chunk().map(|length| u64::from_be_bytes(*length))),
    }
}

/// Returns the length of a header by its second byte.
#[inline]
const fn encoded_len(second: u8) -> usize {
    let length_end = match second & LENGTH_BITS {
        LENGTH_16 => 4,
        LENGTH_64 => 10,
        _ => 2,
    };
    length_end + if second & MASK != 0 { 4 } else { 0 }
}

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const OPCODE_BITS: u8 = 0x0F;
const LENGTH_BITS: u8 = 0x7F;
/// In place of a length: the next two bytes are the length.
const LENGTH_16: u8 = 126;
/// In place of a length: the next eight bytes are the length.
const LENGTH_64: u8 = 127;

/// Room for an unmasked header in front of an assembled message.
pub(super) const HEADER_ROOM: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::hex;
    use proptest::prelude::*;

    /// Decodes all of `bytes`, and each prefix: every shorter prefix must ask for more.
    fn check(bytes: &str, expected: Result<FrameHeader, ProtocolError>) {
        let bytes = hex(bytes);
        let header_len = match expected {
            Ok(header) => {
                let mut encoded = [0; 14];
                let header_len = header.encode(&mut encoded);
                assert_eq!((&encoded[..header_len], header_len), (&bytes[..header_len], header.encoded_len()));
                header_len
            }
            Err(_) => bytes.len(),
        };
        assert_eq!(FrameHeader::decode(&bytes), expected.map(|header| Some((header, header_len))));
        for len in 0..header_len {
            assert_eq!(FrameHeader::decode(&bytes[..len]), Ok(None), "{len} bytes");
            let at_least = header_len_at_least(&bytes[..len]);
            assert!(at_least > len && (expected.is_err() || at_least <= header_len), "{len} bytes");
        }
    }

    fn header(opcode: OpCode, fin: bool, mask: Option<&str>, payload_len: u64) -> Result<FrameHeader, ProtocolError> {
        Ok(FrameHeader {
            fin: fin.into(),
            rsv: 0,
            opcode,
            mask: mask.map(|key| hex(key).try_into().unwrap()),
            payload_len,
        })
    }

    /// RFC 6455 5.7. Examples
    #[test]
    fn examples() {
        check("81 05 48656c6c6f", header(OpCode::Text, true, None, 5));
        check("81 85 37fa213d 7f9f4d5158", header(OpCode::Text, true, Some("37fa213d"), 5));
        check("01 03 48656c", header(OpCode::Text, false, None, 3));
        check("80 02 6c6f", header(OpCode::Continuation, true, None, 2));
        check("89 05 48656c6c6f", header(OpCode::Ping, true, None, 5));
        check("8a 85 37fa213d 7f9f4d5158", header(OpCode::Pong, true, Some("37fa213d"), 5));
        check("82 7e 0100", header(OpCode::Binary, true, None, 256));
        check("82 7f 0000000000010000", header(OpCode::Binary, true, None, 65536));
    }

    /// RFC 6455 5.2: "the minimal number of bytes MUST be used to encode the length".
    #[test]
    fn lengths_are_minimal() {
        check("82 7d", header(OpCode::Binary, true, None, 125));
        check("82 7e 007e", header(OpCode::Binary, true, None, 126));
        check("82 7e ffff", header(OpCode::Binary, true, None, 65535));
        check("82 ff 0000000000010000 01020304", header(OpCode::Binary, true, Some("01020304"), 65536));
        check("82 7f 7fffffffffffffff", header(OpCode::Binary, true, None, i64::MAX as u64));
        check("82 7e 0000", Err(ProtocolError::LengthNotMinimal));
        check("82 7e 007d", Err(ProtocolError::LengthNotMinimal));
        check("82 7f 000000000000", Err(ProtocolError::LengthNotMinimal));
        check("82 7f 80", Err(ProtocolError::LengthTooLarge));
    }

    /// RFC 6455 5.5: control frames are not fragmented and carry at most 125 bytes.
    #[test]
    fn control_frames() {
        check("88 7d", header(OpCode::Close, true, None, 125));
        for (first, last) in [("08", "8"), ("09", "9"), ("0a", "a")] {
            check(first, Err(ProtocolError::FragmentedControl));
            check(&format!("8{last} 7e"), Err(ProtocolError::ControlTooLong));
            check(&format!("8{last} ff"), Err(ProtocolError::ControlTooLong));
        }
    }

    /// RFC 6455 5.2: %x3-7 and %xB-F are reserved.
    #[test]
    fn reserved_opcodes() {
        for opcode in (3..=7).chain(11..=15) {
            check(&format!("8{opcode:x}"), Err(ProtocolError::ReservedOpCode(opcode)));
            check(&format!("0{opcode:x}"), Err(ProtocolError::ReservedOpCode(opcode)));
        }
    }

    proptest! {
        #[test]
        fn encode_then_decode_is_identity(
            first in any::<u8>(), mask in any::<Option<[u8; 4]>>(), payload_len in 0u64..1 << 63, shift in 0u32..63,
        ) {
            let Ok((fin, rsv, opcode)) = decode_first(first) else { return Ok(()) };
            let payload_len = if opcode.is_control() { payload_len % 126 } else { payload_len >> shift };
            let header = FrameHeader { fin, rsv, opcode, mask, payload_len };
            let mut encoded = [0; 14];
            let header_len = header.encode(&mut encoded);
            prop_assert_eq!(FrameHeader::decode(&encoded[..header_len]), Ok(Some((header, header_len))));
        }
    }
}

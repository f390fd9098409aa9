//! The frames of RFC 6455 5.2 for a client: reads the unmasked frames of a server, and writes masked frames.

use std::fmt;

/// Opcodes, RFC 6455 section 5.2.
pub mod opcode {
    /// A text message.
    pub const TEXT: u8 = 0x1;
    /// A binary message.
    pub const BINARY: u8 = 0x2;
    /// A close frame.
    pub const CLOSE: u8 = 0x8;
    /// A ping.
    pub const PING: u8 = 0x9;
    /// A pong, which answers a ping.
    pub const PONG: u8 = 0xa;
}

/// A whole message of a server, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// See [`opcode`].
    pub opcode: u8,
    /// The unmasked payload.
    pub payload: &'a [u8],
}

/// Splits the bytes of a server into messages and control frames. It keeps bytes only while a part is missing.
#[derive(Debug, Default)]
pub struct FrameReader {
    partial: Vec<u8>,
    /// The fragments of a message so far; none if no fragmented message is under way.
    fragments: Option<Box<Fragments>>,
}

#[derive(Debug)]
struct Fragments {
    opcode: u8,
    payload: Vec<u8>,
}

impl FrameReader {
    /// Calls `each` for every message and control frame that `input` completes, and keeps the rest for the next call.
    ///
    /// # Errors
    /// An error is returned if the bytes are not frames that are expected from a server. The reader is of no use after
    /// an error.
    pub fn read(&mut self, input: &[u8], mut each: impl FnMut(Frame<'_>)) -> Result<(), FrameError> {
        let mut rest = input;
        while !self.partial.is_empty() {
            let (needed, header) = match head(&self.partial)? {
                Head::Needs(length) => (length, None),
                Head::Known(header) => (header.length + header.payload_length, Some(header)),
            };
            let (piece, remainder) = rest.split_at(rest.len().min(needed - self.partial.len()));
            self.partial.extend_from_slice(piece);
            rest = remainder;
            if self.partial.len() < needed {
                return Ok(());
            }
            if let Some(header) = header {
                take(&mut self.fragments, &header, &self.partial[header.length..], &mut each)?;
                self.partial.clear();
            }
        }
        while let Head::Known(header) = head(rest)? {
            let end = header.length + header.payload_length;
            if rest.len() < end {
                break;
            }
            take(&mut self.fragments, &header, &rest[header.length..end], &mut each)?;
            rest = &rest[end..];
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Returns whether the stream is between two messages.
    pub fn is_at_boundary(&self) -> bool {
        self.partial.is_empty() && self.fragments.is_none()
    }
}

/// Calls `each` with the message that a frame is or completes, and with a control frame (RFC 6455 5.4).
fn take(
    fragments: &mut Option<Box<Fragments>>,
    header: &Header,
    payload: &[u8],
    each: &mut impl FnMut(Frame<'_>),
) -> Result<(), FrameError> {
    let opcode = header.opcode;
    match (header.place, fragments.as_mut()) {
        (Place::Whole, _) if opcode >= opcode::CLOSE => each(Frame { opcode, payload }),
        (Place::Whole, None) if opcode != CONTINUATION => each(Frame { opcode, payload }),
        (Place::Unfinished, None) if opcode != CONTINUATION && opcode < opcode::CLOSE => {
            *fragments = Some(Box::new(Fragments { opcode, payload: payload.to_vec() }));
        }
        (place, Some(message)) if opcode == CONTINUATION => {
            if message.payload.len() + payload.len() > PAYLOAD_MAX {
                return Err(FrameError::TooLarge);
            }
            message.payload.extend_from_slice(payload);
            if place == Place::Whole {
                each(Frame { opcode: message.opcode, payload: &message.payload });
                *fragments = None;
            }
        }
        _ => return Err(FrameError::Fragmented),
    }
    Ok(())
}

/// An error in the bytes of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// RFC 6455 section 5.1: a server must not mask.
    Masked,
    /// A reserved bit or opcode, although no extension was negotiated.
    Reserved,
    /// A control frame in fragments, a continuation without a begin, or a message within another one (RFC 6455 5.4).
    Fragmented,
    /// A control frame with more than 125 bytes (RFC 6455 5.5).
    Control,
    /// A message larger than [`PAYLOAD_MAX`].
    TooLarge,
}

impl fmt::Display for FrameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FrameError::Masked => "a masked frame from the server",
            FrameError::Reserved => "a reserved bit or opcode",
            FrameError::Fragmented => "fragments in a wrong order",
            FrameError::Control => "a control frame of more than 125 bytes",
            FrameError::TooLarge => "a message beyond the size limit",
        })
    }
}

/// Returns the length of an unmasked frame whose payload has `payload_length` bytes.
pub const fn server_frame_length(payload_length: usize) -> usize {
    let header = match payload_length {
        0..=125 => 2,
        126..=65_535 => 4,
        _ => 10,
    };
    header + payload_length
}

/// Appends one masked frame with the FIN bit to `out`, and returns where its payload begins.
pub fn write_masked(opcode: u8, key: [u8; 4], payload: &[u8], out: &mut Vec<u8>) -> usize {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(key, &mut out[start..]);
    start
}

/// Masks bytes of a payload (RFC 6455 5.3). The offset of the first byte in the payload must be divisible by four.
pub fn mask(key: [u8; 4], bytes: &mut [u8]) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
}

/// Whether a frame ends its message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Whole,
    Unfinished,
}

struct Header {
    opcode: u8,
    place: Place,
    length: usize,
    payload_length: usize,
}

enum Head {
    /// At least this many bytes are needed to know more.
    Needs(usize),
    Known(Header),
}

fn head(bytes: &[u8]) -> Result<Head, FrameError> {
    let &[first, second, ref extended @ ..] = bytes else { return Ok(Head::Needs(2)) };
    let opcode = first & 0x0f;
    if first & 0x70 != 0 || matches!(opcode, 0x3..=0x7 | 0xb..=0xf) {
        return Err(FrameError::Reserved);
    }
    let place = if first & 0x80 == 0 { Place::Unfinished } else { Place::Whole };
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    let (length, payload_length) = match second {
        126 => match extended.first_chunk() {
            Some(&length) => (4, u64::from(u16::from_be_bytes(length))),
            None => return Ok(Head::Needs(4)),
        },
        127 => match extended.first_chunk() {
            Some(&length) => (10, u64::from_be_bytes(length)),
            None => return Ok(Head::Needs(10)),
        },
        short => (2, u64::from(short)),
    };
    if opcode >= opcode::CLOSE && payload_length > CONTROL_PAYLOAD_MAX {
        return Err(FrameError::Control);
    }
    if payload_length > PAYLOAD_MAX as u64 {
        return Err(FrameError::TooLarge);
    }
    Ok(Head::Known(Header { opcode, place, length, payload_length: payload_length as usize }))
}

/// The opcode of a fragment that is not the first of its message.
const CONTINUATION: u8 = 0x0;

/// RFC 6455 section 5.5.
const CONTROL_PAYLOAD_MAX: u64 = 125;

/// The largest payload that is published or accepted.
pub const PAYLOAD_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[&[u8]]) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut reader = FrameReader::default();
        let mut seen = Vec::new();
        for piece in pieces {
            reader.read(piece, |frame| seen.push((frame.opcode, frame.payload.to_vec())))?;
        }
        assert!(reader.is_at_boundary());
        Ok(seen)
    }

    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x80 | opcode];
        match payload.len() {
            length @ 0..=125 => bytes.push(length as u8),
            length @ 126..=65_535 => {
                bytes.push(126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(payload);
        bytes
    }

    /// RFC 6455 section 5.7: a single-frame unmasked text message, then an unmasked ping.
    #[test]
    fn examples_of_the_rfc() {
        let bytes = b"\x81\x05Hello\x89\x05Hello";
        assert_eq!(frames(&[bytes]), Ok(vec![(opcode::TEXT, b"Hello".into()), (opcode::PING, b"Hello".into())]));
    }

    /// RFC 6455 section 5.7: a fragmented unmasked text message, here with a ping between its fragments.
    #[test]
    fn fragments_become_a_message() {
        let bytes = b"\x01\x03Hel\x89\x00\x00\x00\x80\x02lo\x82\x01x";
        let expected = vec![(opcode::PING, b"".into()), (opcode::TEXT, b"Hello".into()), (opcode::BINARY, b"x".into())];
        for step in 1..bytes.len() {
            assert_eq!(frames(&bytes.chunks(step).collect::<Vec<_>>()).as_ref(), Ok(&expected), "in steps of {step}");
        }
    }

    #[test]
    fn any_split_gives_the_same_frames() {
        let sizes = [0, 1, 125, 126, 127, 300, 65_535, 65_536];
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for size in sizes {
            let payload: Vec<u8> = (0..size).map(|index| index as u8).collect();
            bytes.extend(server_frame(opcode::BINARY, &payload));
            assert_eq!(server_frame(opcode::BINARY, &payload).len(), server_frame_length(size));
            expected.push((opcode::BINARY, payload));
        }
        for step in [1, 2, 3, 7, 64, 1_000, 70_000, bytes.len()] {
            let pieces: Vec<&[u8]> = bytes.chunks(step).collect();
            assert_eq!(frames(&pieces).as_ref(), Ok(&expected), "in steps of {step}");
        }
    }

    #[test]
    fn what_a_server_must_not_send() {
        assert_eq!(frames(&[b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"]), Err(FrameError::Masked));
        assert_eq!(frames(&[b"\xc1\x00"]), Err(FrameError::Reserved));
        assert_eq!(frames(&[b"\x83\x00"]), Err(FrameError::Reserved));
        assert_eq!(frames(&[b"\x89\x7e\x00\x7e"]), Err(FrameError::Control));
        assert_eq!(frames(&[b"\x80\x02lo"]), Err(FrameError::Fragmented));
        assert_eq!(frames(&[b"\x09\x00"]), Err(FrameError::Fragmented));
        assert_eq!(frames(&[b"\x01\x03Hel\x01\x02lo"]), Err(FrameError::Fragmented));
        assert_eq!(frames(&[b"\x01\x03Hel\x81\x02lo"]), Err(FrameError::Fragmented));
        assert_eq!(frames(&[b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"]), Err(FrameError::TooLarge));
    }

    /// RFC 6455 section 5.7: a single-frame masked text message.
    #[test]
    fn masked_hello() {
        let mut out = Vec::new();
        let start = write_masked(opcode::TEXT, [0x37, 0xfa, 0x21, 0x3d], b"Hello", &mut out);
        assert_eq!(out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        assert_eq!(start, 6);
    }
}

//! The plain reference: RFC 6455 as its text has it, byte by byte, without SIMD and without shared memory.

/// The parts of a frame's header (RFC 6455 5.2).
pub(super) struct Header {
    pub(super) is_last: bool,
    pub(super) opcode: u8,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) payload_len: usize,
}

impl Header {
    /// Reads the header at the front of `bytes`, and returns it with its length; `None` if its end is missing.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Header, usize)> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert!(first & 0x70 == 0, "no extension is negotiated");
        let mut at = 2;
        let payload_len = match second & 0x7f {
            126 => {
                at += 2;
                u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))
            }
            127 => {
                at += 8;
                u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)
            }
            length => u64::from(length),
        };
        let mut mask = None;
        if second & 0x80 != 0 {
            mask = Some(bytes.get(at..at + 4)?.try_into().ok()?);
            at += 4;
        }
        let (is_last, opcode) = (first & 0x80 != 0, first & 0x0f);
        Some((Header { is_last, opcode, mask, payload_len: payload_len as usize }, at))
    }

    /// Writes the header to the front of `out`, and returns its length.
    pub(super) fn encode(&self, out: &mut [u8; 14]) -> usize {
        out[0] = u8::from(self.is_last) << 7 | self.opcode;
        let mut at = 2;
        out[1] = match self.payload_len {
            0..126 => self.payload_len as u8,
            126..=0xffff => {
                out[2..4].copy_from_slice(&(self.payload_len as u16).to_be_bytes());
                at = 4;
                126
            }
            _ => {
                out[2..10].copy_from_slice(&(self.payload_len as u64).to_be_bytes());
                at = 10;
                127
            }
        };
        if let Some(key) = self.mask {
            out[1] |= 0x80;
            out[at..at + 4].copy_from_slice(&key);
            at += 4;
        }
        at
    }
}

/// RFC 6455 5.3: transformed-octet-i = original-octet-i XOR masking-key-octet-(i MOD 4).
pub(super) fn unmask(payload: &mut [u8], key: [u8; 4]) {
    for (i, octet) in payload.iter_mut().enumerate() {
        *octet ^= key[i % 4];
    }
}

/// Returns whether the bytes are UTF-8, by the table of RFC 3629 4.
pub(super) fn is_utf8(mut bytes: &[u8]) -> bool {
    loop {
        bytes = match bytes {
            [] => return true,
            [0x00..=0x7f, rest @ ..]
            | [0xc2..=0xdf, 0x80..=0xbf, rest @ ..]
            | [0xe0, 0xa0..=0xbf, 0x80..=0xbf, rest @ ..]
            | [0xe1..=0xec | 0xee..=0xef, 0x80..=0xbf, 0x80..=0xbf, rest @ ..]
            | [0xed, 0x80..=0x9f, 0x80..=0xbf, rest @ ..]
            | [0xf0, 0x90..=0xbf, 0x80..=0xbf, 0x80..=0xbf, rest @ ..]
            | [0xf1..=0xf3, 0x80..=0xbf, 0x80..=0xbf, 0x80..=0xbf, rest @ ..]
            | [0xf4, 0x80..=0x8f, 0x80..=0xbf, 0x80..=0xbf, rest @ ..] => rest,
            _ => return false,
        }
    }
}

/// A reader of messages.
#[derive(Default)]
pub(super) struct Reader {
    message: Vec<u8>,
    is_text: bool,
}

impl Reader {
    /// Reads the frame at the front of `bytes`. Passes the message to `see` if this frame ends it. Returns the length
    /// of the frame, or 0 if the frame's end is missing.
    pub(super) fn read(&mut self, bytes: &[u8], mut see: impl FnMut(bool, &[u8])) -> usize {
        let Some((header, header_len)) = Header::decode(bytes) else { return 0 };
        let end = header_len + header.payload_len;
        let Some(payload) = bytes.get(header_len..end) else { return 0 };
        if header.opcode != 0 {
            self.message.clear();
            self.is_text = header.opcode == 1;
        }
        let begin = self.message.len();
        self.message.extend_from_slice(payload);
        unmask(&mut self.message[begin..], header.mask.expect("a client masks its frames"));
        if header.is_last {
            assert!(!self.is_text || is_utf8(&self.message), "text is UTF-8");
            see(self.is_text, &self.message);
        }
        end
    }
}

/// Checks that the standard library finds the same bytes to be UTF-8.
pub(super) fn check() {
    for first in 0..=255 {
        for second in 0..=255 {
            for tail in [&[][..], &[0x80], &[0xbf, 0x80], &[0xa0, 0x80, 0x41]] {
                let bytes = [&[first, second], tail].concat();
                assert_eq!(is_utf8(&bytes), std::str::from_utf8(&bytes).is_ok(), "{bytes:x?}");
            }
        }
    }
}

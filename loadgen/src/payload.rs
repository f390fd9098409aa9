//! What every published message says about itself: a stamp of fixed-width hex, so that it is valid text, then printable
//! padding.
//!
//! ```text
//! rh  run   publisher  sequence    due           padding
//! 2   4     4          10          12            to the size asked for      bytes
//! ```

use crate::frame;

/// The identity of a message and the time it should have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Tells this run's messages from those of another generator on the same topic.
    pub run: u16,
    /// Index of the publisher.
    pub publisher: u16,
    /// Counts a publisher's messages from 0; 40 bits.
    pub sequence: u64,
    /// Nanoseconds of the run's clock at which the schedule wanted it sent, however late it really was; 48 bits, three
    /// days.
    pub due_ns: u64,
}

/// Bytes of an encoded stamp, hence the smallest payload.
pub const STAMP_LENGTH: usize = 32;

impl Stamp {
    /// The stamp as text.
    pub fn encode(&self) -> [u8; STAMP_LENGTH] {
        let mut bytes = [0; STAMP_LENGTH];
        bytes[..2].copy_from_slice(MAGIC);
        put_hex(&mut bytes[2..6], u64::from(self.run));
        put_hex(&mut bytes[6..10], u64::from(self.publisher));
        put_hex(&mut bytes[10..20], self.sequence);
        put_hex(&mut bytes[20..], self.due_ns);
        bytes
    }

    /// Reads the stamp at the start of `payload`; `None` when there is none.
    pub fn decode(payload: &[u8]) -> Option<Stamp> {
        let bytes = payload.first_chunk::<STAMP_LENGTH>()?;
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        Some(Stamp {
            run: hex(&bytes[2..6])? as u16,
            publisher: hex(&bytes[6..10])? as u16,
            sequence: hex(&bytes[10..20])?,
            due_ns: hex(&bytes[20..])?,
        })
    }
}

/// The padding that follows the stamp in a payload of `size` bytes.
pub fn padding(size: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(size.saturating_sub(STAMP_LENGTH)).collect()
}

/// A publisher's masked frame, built once; only the stamp is encoded again for each message.
#[derive(Debug)]
pub struct Template {
    key: [u8; 4],
    frame: Vec<u8>,
    payload_start: usize,
}

impl Template {
    /// A frame of `opcode` around `size` payload bytes, of which at least [`STAMP_LENGTH`] are needed.
    pub fn new(opcode: u8, key: [u8; 4], size: usize) -> Template {
        let mut payload = vec![0; STAMP_LENGTH];
        payload.extend(padding(size));
        let mut frame = Vec::new();
        let payload_start = frame::write_masked(opcode, key, &payload, &mut frame);
        Template { key, frame, payload_start }
    }

    /// The frame with this stamp.
    pub fn stamped(&mut self, stamp: &Stamp) -> &[u8] {
        let mut bytes = stamp.encode();
        frame::mask(self.key, &mut bytes);
        self.frame[self.payload_start..][..STAMP_LENGTH].copy_from_slice(&bytes);
        &self.frame
    }
}

fn put_hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
    debug_assert_eq!(value, 0, "a stamp field overflowed");
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

const MAGIC: &[u8; 2] = b"rh";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::opcode;

    const STAMP: Stamp = Stamp { run: 0xbeef, publisher: 7, sequence: 0x12_3456_789a, due_ns: 0xfedc_ba98_7654 };

    #[test]
    fn stamp_is_printable_and_comes_back() {
        assert_eq!(&STAMP.encode(), b"rhbeef0007123456789afedcba987654");
        assert_eq!(Stamp::decode(&STAMP.encode()), Some(STAMP));
    }

    #[test]
    fn no_stamp_in_other_text() {
        assert_eq!(Stamp::decode(b""), None);
        assert_eq!(Stamp::decode(&STAMP.encode()[..31]), None);
        assert_eq!(Stamp::decode(b"Xhbeef0007123456789afedcba987654"), None);
        assert_eq!(Stamp::decode(b"rhbeef000712345678 afedcba987654"), None);
    }

    #[test]
    fn template_is_a_masked_frame_of_the_size_asked_for() {
        for size in [32, 33, 125, 126, 128, 70_000] {
            let key = [1, 2, 3, 4];
            let mut template = Template::new(opcode::TEXT, key, size);
            let start = template.payload_start;
            let mut payload = template.stamped(&STAMP)[start..].to_vec();
            frame::mask(key, &mut payload);
            assert_eq!(payload.len(), size);
            assert_eq!(Stamp::decode(&payload), Some(STAMP));
            assert_eq!(payload[STAMP_LENGTH..], padding(size));
            assert!(payload.is_ascii());
        }
    }
}

//! The payload of every published message: a stamp of fixed width that is valid text, then printable padding.
//!
//! A stamp has one of two forms. Below each field of a form stands the number of bytes that the field takes:
//!
//! ```text
//! rh  run   stream     sequence    due           padding             digits of 4 bits
//! 2   4     4          10          12            the rest
//!
//! rs  run   stream     sequence                  padding             digits of 6 bits, for payloads below 32 bytes
//! 2   3     3          9                         the rest
//! ```
//!
//! The last eight bytes of a payload of 40 or more are check digits of its stamp instead of padding: a payload whose
//! end belongs to another message is noticed, and so is a stamp that has changed.

use crate::frame;
use crate::pattern::{Filled, id_digits};

/// The identity of a message and the time at which it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run's number, which distinguishes its messages from those of another generator on the same topic.
    pub run: u16,
    /// The index of the stream: the messages of one publisher to one topic.
    pub publisher: u16,
    /// Counts a stream's messages from 0; 40 bits.
    pub sequence: u64,
    /// The time at which the message was due by the run's schedule, in nanoseconds of the run's clock: 48 bits, three
    /// days. The message may be sent later than it was due. A short stamp has no room for this time.
    pub due_ns: Option<u64>,
}

/// The form of a stamp, which depends on the size of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With the time at which the message was due.
    Timed,
    /// Without this time, in [`SHORT_STAMP_LENGTH`] bytes.
    Short,
}

/// The number of bytes of a stamp with a time.
pub const STAMP_LENGTH: usize = 32;

/// The number of check digits of a stamp with a time.
pub const CHECK_LENGTH: usize = 8;

/// The number of bytes of a stamp without a time. No payload is smaller.
pub const SHORT_STAMP_LENGTH: usize = 17;

impl Form {
    /// Returns the form for payloads of `size` bytes.
    pub fn of(size: usize) -> Form {
        if size < STAMP_LENGTH { Form::Short } else { Form::Timed }
    }

    /// Returns the number of bytes of a stamp.
    pub fn length(self) -> usize {
        match self {
            Form::Timed => STAMP_LENGTH,
            Form::Short => SHORT_STAMP_LENGTH,
        }
    }
}

impl Stamp {
    /// Writes the stamp as text into `out`, which has the length of `form`.
    pub fn encode(&self, form: Form, out: &mut [u8]) {
        debug_assert_eq!(out.len(), form.length());
        let (run, publisher) = (u64::from(self.run), u64::from(self.publisher));
        match form {
            Form::Timed => {
                out[..2].copy_from_slice(TIMED_MAGIC);
                put_digits::<4>(&mut out[2..6], run);
                put_digits::<4>(&mut out[6..10], publisher);
                put_digits::<4>(&mut out[10..20], self.sequence);
                put_digits::<4>(&mut out[20..], self.due_ns.unwrap_or_default());
            }
            Form::Short => {
                out[..2].copy_from_slice(SHORT_MAGIC);
                put_digits::<6>(&mut out[2..5], run);
                put_digits::<6>(&mut out[5..8], publisher);
                put_digits::<6>(&mut out[8..], self.sequence);
            }
        }
    }

    /// Returns the digits at the end of a payload that has room for them.
    pub fn check_digits(&self) -> [u8; CHECK_LENGTH] {
        let identity = u64::from(self.run) << 48 | u64::from(self.publisher) << 32;
        let mixed = (identity ^ self.sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 29 ^ self.due_ns.unwrap_or_default()).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        // A digit is a letter from a to p, of 4 bits each: valid text, without a table.
        let spread = [mixed >> 32, mixed >> 40, mixed >> 48, mixed >> 56];
        let mut digits = [0; CHECK_LENGTH];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(spread) {
            pair[0] = b'a' + (byte as u8 & 0x0f);
            pair[1] = b'a' + (byte as u8 >> 4);
        }
        digits
    }

    /// Reads the stamp of this form at the start of `payload`; `None` if there is no stamp.
    pub fn decode(form: Form, payload: &[u8]) -> Option<Stamp> {
        match form {
            Form::Timed => {
                let bytes = payload.first_chunk::<STAMP_LENGTH>()?.strip_prefix(TIMED_MAGIC)?;
                Some(Stamp {
                    run: digits::<4>(&bytes[..4])? as u16,
                    publisher: digits::<4>(&bytes[4..8])? as u16,
                    sequence: digits::<4>(&bytes[8..18])?,
                    due_ns: Some(digits::<4>(&bytes[18..])?),
                })
            }
            Form::Short => {
                let bytes = payload.first_chunk::<SHORT_STAMP_LENGTH>()?.strip_prefix(SHORT_MAGIC)?;
                Some(Stamp {
                    run: u16::try_from(digits::<6>(&bytes[..3])?).ok()?,
                    publisher: u16::try_from(digits::<6>(&bytes[3..6])?).ok()?,
                    sequence: digits::<6>(&bytes[6..])?,
                    due_ns: None,
                })
            }
        }
    }
}

/// Returns the padding that follows the stamp in a payload of `size` bytes.
pub fn padding(size: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(size.saturating_sub(Form::of(size).length())).collect()
}

/// A publisher's message: a masked frame, or a request of HTTP. It is built once; for each message only the stamp is
/// encoded again, and the `{id}` if the message has one.
#[derive(Debug)]
pub struct Template {
    form: Form,
    /// The key that the bytes from `masked_from` on are masked with; zeros mask nothing.
    key: [u8; 4],
    bytes: Vec<u8>,
    masked_from: usize,
    payload_at: usize,
    /// The place of the check digits; `None` if the payload has no room for them.
    check_at: Option<usize>,
    id_at: Option<usize>,
}

impl Template {
    /// Makes a frame with `opcode` and `size` bytes of payload, at least [`SHORT_STAMP_LENGTH`].
    pub fn new(opcode: u8, key: [u8; 4], size: usize) -> Template {
        let payload = Filled { bytes: vec![0; size], payload_at: Some(0), id_at: None };
        Template::of_frame(opcode, key, &payload, size)
    }

    /// Makes a frame of a text with room for a payload of `size` bytes.
    pub(crate) fn of_frame(opcode: u8, key: [u8; 4], text: &Filled, size: usize) -> Template {
        let mut bytes = Vec::new();
        let start = frame::write_masked(opcode, key, &text.bytes, &mut bytes);
        let payload_at = start + text.payload_at.expect("a message that is published has a payload");
        let id_at = text.id_at.map(|at| start + at);
        Template { key, masked_from: start, ..Template::of_bytes(bytes, payload_at, id_at, size) }.padded(size)
    }

    /// Makes a message of bytes that are not masked, with `size` bytes of payload at `payload_at`.
    pub(crate) fn of_bytes(bytes: Vec<u8>, payload_at: usize, id_at: Option<usize>, size: usize) -> Template {
        let check_at = (size >= STAMP_LENGTH + CHECK_LENGTH).then(|| payload_at + size - CHECK_LENGTH);
        Template { form: Form::of(size), key: [0; 4], bytes, masked_from: 0, payload_at, check_at, id_at }.padded(size)
    }

    fn padded(mut self, size: usize) -> Template {
        let padding = padding(size);
        self.put(self.payload_at + self.form.length(), &padding);
        self
    }

    /// Returns the message with this stamp.
    pub fn stamped(&mut self, stamp: &Stamp) -> &[u8] {
        let mut text = [0; STAMP_LENGTH];
        let text = &mut text[..self.form.length()];
        stamp.encode(self.form, text);
        self.put(self.payload_at, text);
        if let Some(at) = self.check_at {
            self.put(at, &stamp.check_digits());
        }
        &self.bytes
    }

    /// Sets the `{id}` of the next message, if the message has one.
    pub(crate) fn set_id(&mut self, id: u32) {
        if let Some(at) = self.id_at {
            self.put(at, id_digits(id).as_bytes());
        }
    }

    /// Puts bytes in their place, masked as the frame is (RFC 6455 5.3).
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let place = &mut self.bytes[at..at + bytes.len()];
        place.copy_from_slice(bytes);
        let mut key = self.key;
        key.rotate_left((at - self.masked_from) % 4);
        frame::mask(key, place);
    }
}

/// Fills `out` with `value` in [`DIGITS`] of `BITS` bits each.
fn put_digits<const BITS: u32>(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[(value & ((1 << BITS) - 1)) as usize];
        value >>= BITS;
    }
    debug_assert_eq!(value, 0, "a stamp field overflowed");
}

fn digits<const BITS: u32>(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'z' => digit - b'a' + 10,
            b'A'..=b'Z' => digit - b'A' + 36,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        (digit < 1 << BITS).then_some(value << BITS | u64::from(digit))
    })
}

const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
const TIMED_MAGIC: &[u8; 2] = b"rh";
const SHORT_MAGIC: &[u8; 2] = b"rs";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::opcode;

    const STAMP: Stamp = Stamp { run: 0xbeef, publisher: 7, sequence: 0x12_3456_789a, due_ns: Some(0xfedc_ba98_7654) };

    fn text(form: Form, stamp: &Stamp) -> Vec<u8> {
        let mut bytes = vec![0; form.length()];
        stamp.encode(form, &mut bytes);
        bytes
    }

    #[test]
    fn stamp_is_printable_and_comes_back() {
        let timed = text(Form::Timed, &STAMP);
        assert_eq!(timed, b"rhbeef0007123456789afedcba987654");
        assert_eq!(Stamp::decode(Form::Timed, &timed), Some(STAMP));
        let short = text(Form::Short, &STAMP);
        assert_eq!(short, b"rsbXL0070018QlDyq");
        assert_eq!(Stamp::decode(Form::Short, &short), Some(Stamp { due_ns: None, ..STAMP }));
        let largest = Stamp { run: u16::MAX, publisher: u16::MAX, sequence: (1 << 54) - 1, due_ns: None };
        assert_eq!(Stamp::decode(Form::Short, &text(Form::Short, &largest)), Some(largest));
    }

    #[test]
    fn check_digits_differ_with_every_field() {
        let own = STAMP.check_digits();
        assert!(own.iter().all(u8::is_ascii_lowercase));
        for other in [
            Stamp { run: 0xbeee, ..STAMP },
            Stamp { publisher: 6, ..STAMP },
            Stamp { sequence: STAMP.sequence + 1, ..STAMP },
            Stamp { due_ns: STAMP.due_ns.map(|due_ns| due_ns + 1), ..STAMP },
        ] {
            assert_ne!(other.check_digits(), own, "{other:?}");
        }
    }

    #[test]
    fn no_stamp_in_other_text() {
        for form in [Form::Timed, Form::Short] {
            let stamp = text(form, &STAMP);
            assert_eq!(Stamp::decode(form, b""), None);
            assert_eq!(Stamp::decode(form, &stamp[..form.length() - 1]), None);
            for (at, byte) in [(0, b'X'), (1, b'X'), (form.length() - 1, b' '), (3, b'\xc3')] {
                let mut wrong = stamp.clone();
                wrong[at] = byte;
                assert_eq!(Stamp::decode(form, &wrong), None, "{form:?}, byte {at}");
            }
        }
        assert_eq!(Stamp::decode(Form::Timed, &text(Form::Short, &STAMP)), None);
        assert_eq!(Stamp::decode(Form::Timed, b"rhbeeg0007123456789afedcba987654"), None);
        // These digits give more than 16 bits.
        assert_eq!(Stamp::decode(Form::Short, b"rs___000000000000"), None);
    }

    #[test]
    fn template_is_a_masked_frame_of_the_size_asked_for() {
        for size in [17, 18, 31, 32, 33, 125, 126, 128, 70_000] {
            let (form, key) = (Form::of(size), [1, 2, 3, 4]);
            let mut template = Template::new(opcode::TEXT, key, size);
            let start = template.payload_at;
            let mut payload = template.stamped(&STAMP)[start..].to_vec();
            frame::mask(key, &mut payload);
            assert_eq!(payload.len(), size);
            let expected = if size < 32 { Stamp { due_ns: None, ..STAMP } } else { STAMP };
            assert_eq!(Stamp::decode(form, &payload), Some(expected));
            let mut expected = padding(size);
            if let Some(end) = expected.last_chunk_mut().filter(|_| size >= 40) {
                *end = STAMP.check_digits();
            }
            assert_eq!(payload[form.length()..], expected);
            assert!(payload.is_ascii());
        }
    }

    #[test]
    fn template_wraps_the_payload_wherever_it_stands() {
        use crate::pattern::{Text, Values};
        for before in ["", "x", "xy", "xyz", "{id}", "a{id}"] {
            let text = Text::parse(&format!("{before}{{payload}}|end"));
            let filled = text.fill(&Values { topic: "t", size: 40, connection: 0, id: 0 });
            let key = [1, 2, 3, 4];
            let mut template = Template::of_frame(opcode::TEXT, key, &filled, 40);
            template.set_id(7);
            let start = template.masked_from;
            let mut payload = template.stamped(&STAMP)[start..].to_vec();
            frame::mask(key, &mut payload);
            let prefix = before.replace("{id}", "1000000007");
            let inner = payload.strip_prefix(prefix.as_bytes()).and_then(|rest| rest.strip_suffix(b"|end")).unwrap();
            assert_eq!(Stamp::decode(Form::Timed, inner), Some(STAMP), "{before}");
            assert_eq!(inner[STAMP_LENGTH..], STAMP.check_digits());
        }
    }
}

//! Frames of clients, valid and broken.

use super::Random;

/// Returns the payload of a message to a topic with honest subscribers, which check that the message is whole.
pub(crate) fn foreign(length: usize) -> Vec<u8> {
    format!("foreign {length} {}", "y".repeat(length)).into_bytes()
}

/// Draws the size of a payload, from 0 to more than `most`.
pub(crate) fn size(random: &mut Random, most: usize) -> usize {
    match random.below(8) {
        0 => random.pick(&[0, 0, 1, 2, 3]),
        1 => random.pick(&[124, 125, 126, 127, 128]),
        2 => random.below(400),
        3 => random.pick(&[1_000, 4_095, 4_096, 4_097]),
        4 => random.pick(&[16_383, 16_384, 16_385]),
        5 => random.pick(&[65_534, 65_535, 65_536, 65_537]),
        6 => random.pick(&[most - 1, most, most + 1]),
        _ => random.below(most + most / 8),
    }
}

/// Returns a masked frame with its length in the shortest form.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(first, payload.len() as u64, Form::shortest(payload.len()), true);
    let key = KEY;
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(octet, key)| octet ^ key));
    out
}

/// Draws several frames that keep to the protocol: messages whole and in fragments, with control frames between them.
pub(crate) fn valid(random: &mut Random, most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + random.below(6) {
        match random.below(6) {
            0 => out.extend(control(random)),
            1 | 2 => {
                let length = size(random, most).min(most);
                let mut rest = vec![b'a'; length];
                let mut opcode = 1 + random.below(2) as u8;
                while random.once_in(2) {
                    let part = rest.split_off(random.below(rest.len() + 1).min(rest.len()));
                    out.extend(frame(opcode, &rest));
                    (rest, opcode) = (part, 0);
                    if random.once_in(2) {
                        out.extend(control(random));
                    }
                }
                out.extend(frame(0x80 | opcode, &rest));
            }
            _ => {
                let length = size(random, most).min(most);
                let payload = if random.once_in(2) { text(random, length) } else { random.bytes(length.min(2_000)) };
                let first = if str::from_utf8(&payload).is_ok() { random.pick(&[0x81, 0x82]) } else { 0x82 };
                out.extend(frame(first, &payload));
            }
        }
    }
    out
}

/// Draws a ping or a pong of any size.
pub(crate) fn control(random: &mut Random) -> Vec<u8> {
    let payload = vec![b'p'; random.pick(&[0, 1, 60, 125])];
    frame(random.pick(&[0x89, 0x8a]), &payload)
}

/// Draws frames of which the last breaks the protocol or a limit.
pub(crate) fn broken(random: &mut Random, most: usize) -> Vec<u8> {
    let mut out = if random.once_in(2) { valid(random, 300) } else { Vec::new() };
    out.extend(match random.below(12) {
        0 => header(0x81, 2, Form::Short, false).into_iter().chain(*b"hi").collect(),
        1 => frame(random.pick(&[0xc1, 0xa1, 0x91, 0xf2, 0x99]), b"x"),
        2 => frame(0x80 | random.pick(&[3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), b""),
        3 => frame(random.pick(&[0x80, 0x00]), b"continues nothing"),
        4 => [frame(0x01, b"begun"), frame(0x81, b"again")].concat(),
        5 => frame(random.pick(&[0x08, 0x09, 0x0a]), b""),
        6 => frame(random.pick(&[0x88, 0x89, 0x8a]), &vec![0x20; 126 + random.below(2_000)]),
        7 => close(random),
        8 => {
            let (length, form) =
                random.pick(&[(0, Form::Medium), (125, Form::Medium), (0, Form::Long), (65_535, Form::Long)]);
            header(0x82, length, form, true)
        }
        9 => {
            let length = random.pick(&[1 << 20, 1 << 31, 1 << 32, u64::MAX >> 1, 1 << 63, u64::MAX]);
            header(0x82, length, Form::Long, true)
        }
        10 => {
            let bad = random.pick(&[
                &b"\xc3\x28"[..],
                b"\xed\xa0\x80",
                b"\xf4\x90\x80\x80",
                b"\xc0\x80",
                b"\xff",
                b"\xe2\x82",
            ]);
            let before = text(random, random_length(most));
            frame(0x81, &[&before, bad].concat())
        }
        _ => frame(0x82, &vec![1; most + 1 + random_length(most)]),
    });
    out
}

/// Draws a close frame with any payload, valid or not.
pub(crate) fn close(random: &mut Random) -> Vec<u8> {
    let code: u16 = random.pick(&[0, 999, 1_000, 1_001, 1_004, 1_005, 1_006, 1_015, 1_016, 2_999, 3_000, 4_999, 5_000]);
    let [high, low] = code.to_be_bytes();
    match random.below(5) {
        0 => frame(0x88, b""),
        1 => frame(0x88, &[high]),
        2 => frame(0x88, &[high, low, 0xff, 0xfe]),
        3 => frame(0x88, &[&[high, low][..], &[b'r'; 123]].concat()),
        _ => frame(0x88, &[high, low]),
    }
}

/// Returns the header of a frame whose payload does not come.
pub(crate) fn announced(first: u8, length: u64) -> Vec<u8> {
    let form = Form::shortest(usize::try_from(length).unwrap_or(usize::MAX));
    let mut out = header(first, length, form, true);
    out.extend_from_slice(&KEY);
    out
}

/// A form of a payload's length (RFC 6455 5.2).
#[derive(Clone, Copy)]
enum Form {
    Short,
    Medium,
    Long,
}

impl Form {
    fn shortest(length: usize) -> Form {
        match length {
            0..=125 => Form::Short,
            126..=65_535 => Form::Medium,
            _ => Form::Long,
        }
    }
}

fn header(first: u8, length: u64, form: Form, is_masked: bool) -> Vec<u8> {
    let mask = if is_masked { 0x80 } else { 0 };
    match form {
        Form::Short => vec![first, mask | length as u8],
        Form::Medium => [&[first, mask | 126][..], &(length as u16).to_be_bytes()].concat(),
        Form::Long => [&[first, mask | 127][..], &length.to_be_bytes()].concat(),
    }
}

fn text(random: &mut Random, length: usize) -> Vec<u8> {
    random.pick(&["a", "é", "€", "🦀"]).repeat(length / 4).into_bytes()
}

fn random_length(most: usize) -> usize {
    most / 16
}

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

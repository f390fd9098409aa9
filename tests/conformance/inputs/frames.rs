//! Streams of frames, for `bodies::frames`.

use crate::random::Random;

/// Makes a recipe for a few frames, most of them valid, some with one fault. One stream in eight is cut or spoiled.
pub(crate) fn frames(random: &mut Random) -> Vec<u8> {
    let mut recipe = Vec::new();
    let mut is_fragmented = false;
    for _ in 0..1 + random.below(8) {
        let mut first = match random.below(10) {
            0 => random.pick(&[0x89, 0x8A]),
            1 => 0x88,
            _ if is_fragmented => 0x80 * random.below(2) as u8,
            _ => random.pick(&[0x81, 0x82, 0x01, 0x02]),
        };
        if random.once_in(30) {
            first = random.byte();
        }
        is_fragmented = if first & 0x08 == 0 { first & 0x80 == 0 } else { is_fragmented };
        let payload = if first & 0x0F == 8 { close(random) } else { payload(random) };
        let mut form = if first & 0x08 == 0 && random.once_in(3) { random.pick(&[0x08, 0x10, 0x38]) } else { 0 };
        if random.once_in(30) {
            form = random.byte() & 0x7F;
        }
        recipe.extend([first, form, payload.len() as u8]);
        recipe.extend(payload);
    }
    if random.once_in(8) {
        random.spoil(&mut recipe);
    }
    if random.once_in(8) {
        return [vec![0], random.bytes(24)].concat();
    }
    [vec![1], recipe].concat()
}

fn payload(random: &mut Random) -> Vec<u8> {
    if random.once_in(20) {
        return vec![b'x'; 120 + random.below(136)];
    }
    let pieces: [&[u8]; 12] = [
        b"text",
        b"a",
        "é".as_bytes(),
        "⚡".as_bytes(),
        "😀".as_bytes(),
        b"",
        b"plain ",
        "ü".as_bytes(),
        // The beginning and the end of one character, a whole character, and an invalid one.
        b"\xF0\x9F",
        b"\x98\x80",
        b"\xE2\x9A\xA1",
        b"\xED\xA0\x80",
    ];
    let common = if random.once_in(3) { pieces.len() } else { 8 };
    (0..random.below(6)).flat_map(|_| random.pick(&pieces[..common]).to_vec()).collect()
}

fn close(random: &mut Random) -> Vec<u8> {
    if random.once_in(8) {
        let count = random.below(4);
        return random.bytes(count);
    }
    let codes: [u16; 16] = [0, 999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1012, 1014, 1015, 2999, 3000, 4999];
    [&random.pick(&codes).to_be_bytes()[..], &payload(random)[..]].concat()
}

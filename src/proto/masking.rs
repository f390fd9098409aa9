//! Masking (RFC 6455 5.3), piece by piece, and the keys of a client (RFC 6455 10.3).

use std::fmt;
use std::hash::{DefaultHasher, Hasher};

/// Masks or unmasks a piece that begins `offset` bytes into its payload. Both are the same operation. Returns whether
/// every byte of the result is ASCII.
///
/// The plain version is `piece[i] ^= key[(offset + i) % 4]`. This version takes eight bytes at once, and the compiler
/// makes SIMD of the loop. The loop also gathers the bits of the result: so text in ASCII, which is UTF-8, is passed
/// over once and not twice. A long piece is cut where a vector may stand, since a vector in two cache lines is slow.
#[inline]
pub fn apply(piece: &mut [u8], key: [u8; 4], offset: usize) -> bool {
    let key = rotate(key, offset);
    if piece.len() < LONG {
        return apply_words(piece, key) & HIGHEST_BITS == 0;
    }
    let (head, rest) = piece.split_at_mut(piece.as_ptr().align_offset(VECTOR).min(VECTOR));
    let rest_key = rotate(key, head.len());
    (apply_words(head, key) | apply_words(rest, rest_key)) & HIGHEST_BITS == 0
}

/// Masks a piece, and returns the bits of all its words and bytes together.
#[inline]
fn apply_words(piece: &mut [u8], key: [u8; 4]) -> u64 {
    let [a, b, c, d] = key;
    let word_key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = piece.as_chunks_mut();
    let mut bits = 0;
    for word in words {
        let masked = u64::from_ne_bytes(*word) ^ word_key;
        bits |= masked;
        *word = masked.to_ne_bytes();
    }
    for (octet, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *octet ^= key;
        bits |= u64::from(*octet);
    }
    bits
}

/// Rotates the key, so that its first byte masks the payload's byte at `offset`.
#[inline]
pub(super) fn rotate(key: [u8; 4], offset: usize) -> [u8; 4] {
    u32::from_le_bytes(key).rotate_right(8 * (offset as u32 & 3)).to_le_bytes()
}

/// From this length on a piece is cut so that its vectors are aligned.
const LONG: usize = 512;

/// The length of a vector of SSE2 or NEON.
const VECTOR: usize = 16;

/// The highest bit of each byte, which ASCII does not have.
const HIGHEST_BITS: u64 = 0x8080_8080_8080_8080;

/// The source of a client's masking keys. A key is a keyed hash of a counter, so the keys on the wire do not reveal the
/// next key.
pub(super) struct MaskingKeys {
    seed: [u8; 16],
    made: u64,
}

impl MaskingKeys {
    pub(super) fn new(seed: [u8; 16]) -> Self {
        Self { seed, made: 0 }
    }

    pub(super) fn next(&mut self) -> [u8; 4] {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.seed);
        hasher.write_u64(self.made);
        self.made += 1;
        (hasher.finish() as u32).to_ne_bytes()
    }
}

/// Leaves out the seed, from which every key could be computed.
impl fmt::Debug for MaskingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaskingKeys").field("made", &self.made).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// RFC 6455 5.3: transformed-octet-i = original-octet-i XOR masking-key-octet-(i MOD 4), however the payload is
        /// cut.
        #[test]
        fn pieces_are_masked_as_the_whole(mut payload: Vec<u8>, key: [u8; 4], cuts: [prop::sample::Index; 2]) {
            let expected: Vec<u8> = payload.iter().enumerate().map(|(i, octet)| octet ^ key[i % 4]).collect();
            let mut cuts = cuts.map(|cut| cut.index(payload.len() + 1));
            cuts.sort();
            for (start, end) in [(0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], payload.len())] {
                apply(&mut payload[start..end], key, start);
            }
            prop_assert_eq!(payload, expected);
        }
    }

    /// Long pieces are cut at their vectors, so the test has long and short ones at every place in a vector.
    #[test]
    fn pieces_of_any_length_and_alignment_are_masked() {
        const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
        let lengths = (0..40).chain(LONG - 2..LONG + 40).chain([2_000]);
        for (length, begin) in lengths.flat_map(|length| (0..VECTOR + 1).map(move |begin| (length, begin))) {
            for offset in 0..4 {
                let mut buffer: Vec<u8> = (0..begin + length + 1).map(|i| (i * 7) as u8).collect();
                let mut expected = buffer.clone();
                for (i, octet) in expected[begin..begin + length].iter_mut().enumerate() {
                    *octet ^= KEY[(offset + i) % 4];
                }
                apply(&mut buffer[begin..begin + length], KEY, offset);
                assert_eq!(buffer, expected, "{length} bytes at {begin}, {offset} bytes into the payload");
            }
        }
    }

    /// Any single byte that is not ASCII is found.
    #[test]
    fn ascii_is_told_from_other_bytes() {
        for length in [1, 7, 8, 9, 63, 200, LONG, LONG + 39] {
            let mut payload = vec![0x7F; length];
            assert!(apply(&mut payload, [0; 4], 0), "{length} bytes of ASCII");
            for at in 0..length {
                payload[at] = 0x80;
                assert!(!apply(&mut payload, [0; 4], 0), "{length} bytes, of which byte {at} is not ASCII");
                payload[at] = 0x7F;
            }
            // The result counts, not what it is made of.
            let mut payload = vec![0x8F; length];
            assert!(apply(&mut payload, [0x80; 4], 0));
            assert!(!apply(&mut payload, [0x80; 4], 0));
        }
    }

    #[test]
    fn keys_differ_by_counter_and_seed() {
        let mut keys = HashSet::new();
        for seed in 0..10 {
            let mut source = MaskingKeys::new([seed; 16]);
            keys.extend((0..100).map(|_| source.next()));
        }
        assert!(keys.len() > 990, "{} of 1000 differ", keys.len());
    }
}

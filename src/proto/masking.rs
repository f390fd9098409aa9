//! Masking (RFC 6455 5.3), piece by piece, and the keys of a client (RFC 6455 10.3).

use std::fmt;
use std::hash::{DefaultHasher, Hasher};

/// Masks or unmasks a piece that begins `offset` bytes into its payload. Both are the same operation.
#[inline]
pub(super) fn apply(piece: &mut [u8], key: [u8; 4], offset: usize) {
    fastwebsockets::unmask(piece, rotate(key, offset));
}

/// Rotates the key, so that its first byte masks the payload's byte at `offset`.
#[inline]
pub(super) fn rotate(key: [u8; 4], offset: usize) -> [u8; 4] {
    u32::from_le_bytes(key).rotate_right(8 * (offset as u32 & 3)).to_le_bytes()
}

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

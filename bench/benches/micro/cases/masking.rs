//! Unmasking of payloads, which stand behind their headers, so at any alignment.

use super::{Case, KEY, OURS, REFERENCE, SIZES, TOTAL_BYTES, add, plain};
use ringhub::proto::parts;

pub(super) fn cases() -> Vec<Case> {
    SIZES.iter().map(|&(size, name)| case(size, name)).collect()
}

fn case(size: usize, name: &str) -> Case {
    let number = TOTAL_BYTES / size;
    let body = |unmask: fn(&mut [u8], [u8; 4])| {
        let mut frames = vec![0; number * (HEADER + size)];
        move || {
            let mut digest = 0;
            for frame in frames.chunks_exact_mut(HEADER + size) {
                unmask(&mut frame[HEADER..], KEY);
                add(&mut digest, &frame[HEADER..]);
            }
            digest
        }
    };
    Case::new(format!("unmask, {name}"), number * size, "bytes")
        .side(
            OURS,
            body(|payload, key| {
                parts::mask(payload, key, 0);
            }),
        )
        .side(REFERENCE, body(plain::unmask))
        .side("fastwebsockets", body(fastwebsockets::unmask))
}

/// The length of a short header with its key.
const HEADER: usize = 6;

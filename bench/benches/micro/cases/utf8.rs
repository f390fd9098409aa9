//! The check of text.

use super::{Case, OURS, REFERENCE, SIZES, TOTAL_BYTES, add, ascii, mixed, plain};
use ringhub::proto::parts;

pub(super) fn cases() -> Vec<Case> {
    let texts = SIZES.iter().map(|&(size, name)| case(&ascii(size), &format!("UTF-8, {name} of ASCII")));
    texts.chain([case(&mixed(1_024), "UTF-8, 1 KiB of many scripts")]).collect()
}

fn case(text: &str, name: &str) -> Case {
    let number = TOTAL_BYTES / text.len();
    let body = |is_utf8: fn(&[u8]) -> bool| {
        let texts = text.repeat(number).into_bytes();
        let length = text.len();
        move || {
            let mut digest = 0;
            for text in texts.chunks_exact(length) {
                assert!(is_utf8(text));
                add(&mut digest, text);
            }
            digest
        }
    };
    Case::new(name, number * text.len(), "bytes")
        .side(OURS, body(|text| parts::utf8_prefix(text) == Ok(text.len())))
        .side(REFERENCE, body(plain::is_utf8))
        .side("std", body(|text| std::str::from_utf8(text).is_ok()))
        .side("simdutf8", body(|text| simdutf8::basic::from_utf8(text).is_ok()))
}

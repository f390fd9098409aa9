//! The cases: what is done, how much of it, and the bodies that do it.
//!
//! All bodies of a case do the same work and return the same digest of its results. A digest is cheap, so that a
//! body's time is the time of the work.

mod encoding;
mod headers;
mod history;
mod lanes;
mod masking;
mod plain;
mod publishing;
mod reading;
mod utf8;

use std::collections::HashSet;

/// Some work, and the sides that do it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) work: Work,
    /// `"ours"`, `"reference"` and the names of crates, each with its body.
    pub(crate) sides: Vec<(&'static str, Body)>,
}

/// The amount of work that one call of a body does: so many bytes or other things.
pub(crate) struct Work {
    pub(crate) amount: usize,
    pub(crate) noun: &'static str,
}

/// Does the work of a case once, and returns the digest of the results.
pub(crate) type Body = Box<dyn FnMut() -> u64>;

impl Case {
    fn new(name: impl Into<String>, amount: usize, noun: &'static str) -> Case {
        Case { name: name.into(), work: Work { amount, noun }, sides: Vec::new() }
    }

    fn side(mut self, side: &'static str, body: impl FnMut() -> u64 + 'static) -> Case {
        self.sides.push((side, Box::new(body)));
        self
    }
}

/// Returns all cases.
pub(crate) fn all() -> Vec<Case> {
    let cases = [
        reading::cases(),
        masking::cases(),
        utf8::cases(),
        headers::cases(),
        publishing::cases(),
        lanes::cases(),
        encoding::cases(),
        history::cases(),
    ];
    cases.into_iter().flatten().collect()
}

/// Checks that all sides of each case have the same results, and that no two cases have one name.
pub(crate) fn check() {
    plain::check();
    reading::check();
    let mut names = HashSet::new();
    for Case { name, work, sides } in all() {
        assert!(work.amount > 0 && !work.noun.is_empty(), "{name}");
        assert_eq!((sides[0].0, sides[1].0), (OURS, REFERENCE), "{name}");
        // A body carries its state from one call to the next.
        let digests: Vec<_> = sides.into_iter().map(|(side, mut body)| (side, [body(), body()])).collect();
        for (side, digest) in &digests {
            assert_eq!(*digest, digests[0].1, "{name}: {side}");
            assert_ne!(digest[0], 0, "{name}: {side}");
        }
        assert!(names.insert(name.clone()), "two cases are called {name}");
    }
}

/// The sides' names of the hub and of the plain reference.
pub(crate) const OURS: &str = "ours";
pub(crate) const REFERENCE: &str = "reference";

/// The bytes of payload that one call of a body reads, at least.
const TOTAL_BYTES: usize = 256 * 1_024;

/// The lengths of payloads, with their names.
const SIZES: [(usize, &str); 4] = [(64, "64 B"), (1_024, "1 KiB"), (16 * 1_024, "16 KiB"), (64 * 1_024, "64 KiB")];

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Adds some bytes to a digest: their number, the first and the last.
fn add(digest: &mut u64, bytes: &[u8]) {
    let ends = bytes.first().zip(bytes.last()).map_or(0, |(&first, &last)| u64::from(first) << 8 | u64::from(last));
    *digest = digest.wrapping_mul(31).wrapping_add((bytes.len() as u64) << 16 | ends);
}

/// Text of this length, in ASCII.
fn ascii(length: usize) -> String {
    let line = r#"{"user":"ada","room":"engines","text":"The engine weaves algebraic patterns, as the loom does."}"#;
    line.chars().cycle().take(length).collect()
}

/// Text of this length, most of whose characters take two to four bytes.
fn mixed(length: usize) -> String {
    let mut text = String::new();
    for character in "Größe: 12 km, «Тише едешь — дальше будешь», 千里の道も一歩から, ok 🙂. ".chars().cycle()
    {
        if text.len() + character.len_utf8() > length {
            break;
        }
        text.push(character);
    }
    text.extend(std::iter::repeat_n('.', length - text.len()));
    text
}

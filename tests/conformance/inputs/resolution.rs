//! Tables of endpoints and targets, for `endpoints::fuzz::resolution`.

use crate::random::Random;

/// Makes a table with a few entries, and a few targets. Most segments of the targets come from the list of segments
/// that the patterns use.
pub(crate) fn resolution(random: &mut Random) -> Vec<u8> {
    let mut text = String::from(random.pick(&["", "page\n", "operations\n", "page\noperations\n"]));
    for _ in 0..1 + random.below(6) {
        let kind = random.pick(&["route ", "route ", "route ", "path ", "path ", "files ", "page "]);
        text += kind;
        text += &pattern(random, ["route ", "path "].contains(&kind));
        text += "\n";
    }
    for _ in 0..1 + random.below(8) {
        text += random.pick(&["", "", "", "", "http://a", "//a"]);
        text += &path(random);
        text += random.pick(&["", "", "", "?/t/x", "?"]);
        text += "\n";
    }
    text.into_bytes()
}

fn pattern(random: &mut Random, has_parameters: bool) -> String {
    let mut pattern = String::new();
    for at in 0..1 + random.below(4) {
        pattern += "/";
        match random.below(if has_parameters { 8 } else { 5 }) {
            0..=4 => pattern += random.pick(FIXED),
            5 => pattern += "{topic}",
            6 => pattern += &format!("{{x{at}}}"),
            _ => {
                pattern += random.pick(&["{topic...}", "{rest...}"]);
                break;
            }
        }
    }
    pattern
}

fn path(random: &mut Random) -> String {
    let segments = (0..1 + random.below(5)).map(|_| {
        let odd = random.once_in(12);
        "/".to_owned() + if odd { random.pick(ODD) } else { random.pick(FIXED) }
    });
    let mut path: String = segments.collect();
    if random.once_in(40) {
        path = random.pick(&["*", "a:80", "", "a", "/"]).into();
    }
    path
}

const FIXED: &[&str] = &["a", "a", "b", "b", "t", "site", "%61", "%74", "healthz", "metrics", "", "a%2Fb", "%C3%BC"];

const ODD: &[&str] = &[
    "%",
    "%4",
    "%zz",
    "%ff",
    "%00",
    "%0A",
    ".",
    "..",
    "%2e",
    "%2E.",
    "{a}",
    "%7Btopic%7D",
    "%7Brest...%7D",
    "`",
    "<",
    "\\",
    "+",
    ";x",
    "@",
    "%C2%85",
    "\u{fc}",
];

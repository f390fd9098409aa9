//! Splits Rust sources into words, without comments, literals and spaces.

use std::{collections::BTreeSet, path::Path};

/// Returns the names that follow `root::`, also in groups: for `root::{a::b, c}` they are `a` and `c`.
pub(crate) fn named_under(words: &[String], root: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for at in 0..words.len().saturating_sub(2) {
        if words[at] != root || words[at + 1] != "::" {
            continue;
        }
        if words[at + 2] != "{" {
            names.insert(words[at + 2].clone());
            continue;
        }
        let (mut depth, mut starts) = (0, true);
        for word in &words[at + 2..] {
            match &**word {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," => starts = depth == 1,
                name if depth == 1 && starts => {
                    names.insert(name.into());
                    starts = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

/// Returns whether a chain of `super::` leads out of the folder of `src` that the file belongs to. A module within the
/// file is one level deeper.
pub(crate) fn climbs_out(path: &Path, words: &[String]) -> bool {
    let is_index = path.file_name().is_some_and(|name| name == "mod.rs");
    // `src/hub/run.rs` is `hub::run`.
    let depth = path.components().count() - 1 - usize::from(is_index);
    let (mut braces, mut inner, mut chain) = (0, Vec::new(), 0);
    for (at, word) in words.iter().enumerate() {
        match &**word {
            "super" => chain += 1,
            "::" => {}
            _ => chain = 0,
        }
        match &**word {
            "{" => {
                braces += 1;
                if at >= 2 && words[at - 2] == "mod" {
                    inner.push(braces);
                }
            }
            "}" => {
                inner.pop_if(|inner| *inner == braces);
                braces -= 1;
            }
            _ => {}
        }
        if chain > depth - 1 + inner.len() {
            return true;
        }
    }
    false
}

/// Returns the modules that a file declares and that are in other files.
pub(crate) fn modules(words: &[String]) -> Vec<String> {
    let declared = words.windows(3).filter(|three| three[0] == "mod" && three[2] == ";");
    declared.map(|three| three[1].clone()).collect()
}

/// Returns the names, `::`, and other characters of a Rust source, without its comments and literals.
pub(crate) fn words(source: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let name: usize = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum();
        let after = &rest[name..];
        let hashes = after.len() - after.trim_start_matches('#').len();
        let is_raw = ["r", "br", "cr"].contains(&&rest[..name]) && after[hashes..].starts_with('"');
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment_length(rest)
        } else if is_raw {
            let end = format!("\"{}", "#".repeat(hashes));
            let text = name + hashes + 1;
            text + rest[text..].find(&end).map_or(rest.len() - text, |at| at + end.len())
        } else if first == '"' || (first == '\'' && is_character(rest)) {
            literal_length(rest)
        } else if name > 0 {
            words.push(rest[..name].to_string());
            name
        } else if rest.starts_with("::") {
            words.push("::".into());
            2
        } else {
            if !first.is_whitespace() {
                words.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[skip..];
    }
    words
}

/// Returns the length of a block comment, which may contain others.
fn comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        match (here.starts_with(b"/*"), here.starts_with(b"*/")) {
            (true, _) => depth += 1,
            (_, true) => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Returns whether the text, which begins with a quote, is a character's literal rather than a lifetime.
fn is_character(text: &str) -> bool {
    let mut letters = text.chars().skip(1);
    letters.next() == Some('\\') || letters.next() == Some('\'')
}

/// Returns the length of a string's or character's literal, with its quotes.
fn literal_length(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut at = 1;
    while at < text.len() && text.as_bytes()[at] != quote {
        at += if text.as_bytes()[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// `words` reads sources as Rust does, since the checks depend on it.
#[test]
fn sources_are_read_as_rust() {
    let source = r##"
        //! unsafe tokio
        use std::{collections::HashMap, fmt::{self, net}, net::SocketAddr}; // crate::sys
        /* std::fs /* nested */ crate::sys */
        use crate::{hub::{proto, Hub}, surface};
        mod inner { mod own; fn f<'a>(text: &'a str) -> char { let _ = "crate::sys \" unsafe"; '"' } }
        pub(crate) mod other;
        const RAW: &str = r#"crate::sys " "#;
        fn g() -> u8 { crate::config::new(b'\'', '\u{41}', br"unsafe\") }
    "##;
    let words = words(source);
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert!(words.iter().all(|word| word != "unsafe" && word != "sys" && word != "fs"), "{words:?}");
    assert_eq!(named_under(&words, "std"), set(&["collections", "fmt", "net"]));
    assert_eq!(named_under(&words, "crate"), set(&["config", "hub", "surface"]));
    assert_eq!(modules(&words), ["own", "other"]);
    let climbs = |source: &str| climbs_out(Path::new("src/hub/run.rs"), &self::words(source));
    assert!(climbs("use super::super::sys; mod tests {}"));
    assert!(climbs("mod tests { use super::super::super::sys; }"));
    assert!(!climbs("use super::Hub; mod tests { fn f() { super::super::Hub } }"));
}

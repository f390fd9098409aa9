//! Compares ARCHITECTURE.md with the code that it maps.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    assert_none,
    files::{is_rust, root, texts},
};

/// The map has one line for each file of `src`: its path and the first sentence of its documentation. With
/// `RINGHUB_WRITE=1` this test writes the lists.
#[test]
fn the_code_map_repeats_the_first_sentence_of_each_file() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut lists: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in texts().filter(|(path, _)| is_rust(path) && path.starts_with("src") && !is_test(path)) {
        let list = lists.entry(folder(&path)).or_default();
        list.push(format!("- `{}`: {}", path.strip_prefix("src").unwrap().display(), first_sentence(&path, &text)));
    }
    let mut written = page.clone();
    let mut offenders = Vec::new();
    for (folder, lines) in &mut lists {
        lines.sort();
        let (begin, end) = (format!("<!-- files of {folder} -->\n"), "\n<!-- end -->");
        let Some((before, rest)) = written.split_once(&begin) else {
            offenders.push(format!("no list of {folder}"));
            continue;
        };
        let (old, after) = rest.split_once(end).expect("a list has an end");
        let new = lines.iter().flat_map(|line| wrapped(line)).collect::<Vec<_>>().join("\n");
        if old != new {
            offenders.push(format!("the list of {folder} is not what its files say; RINGHUB_WRITE=1 writes it"));
        }
        written = format!("{before}{begin}{new}{end}{after}");
    }
    if std::env::var_os("RINGHUB_WRITE").is_some() {
        fs::write(root().join("ARCHITECTURE.md"), written).unwrap();
        return;
    }
    assert_none(&offenders);
    assert_eq!(page.matches("<!-- files of ").count(), lists.len(), "a list of a folder that is gone");
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// Returns the folder below `src` whose list has the file; for files of `src` itself it is `src`.
fn folder(path: &Path) -> String {
    let below: PathBuf = path.strip_prefix("src").unwrap().to_path_buf();
    let parts: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.len() > 1 { parts[0].clone() } else { "src".into() }
}

fn first_sentence(path: &Path, text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with("//!"));
    let paragraph = lines.map(|line| line.trim_start_matches("//!").trim()).take_while(|line| !line.is_empty());
    let paragraph = paragraph.collect::<Vec<_>>().join(" ");
    let end = paragraph.find(". ").map_or(paragraph.len(), |end| end + 1);
    assert!(!paragraph.is_empty(), "{} has no documentation of itself", path.display());
    let sentence = &paragraph[..end];
    // Links of rustdoc do not work in ARCHITECTURE.md.
    let mut plain = String::new();
    for (at, part) in sentence.split("](").enumerate() {
        plain += if at == 0 { part } else { part.split_once(')').map_or(part, |(_, rest)| rest) };
    }
    plain.replace("[`", "`").replace("`]", "`").trim_end_matches([':', '.']).to_string() + "."
}

fn wrapped(line: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split(' ') {
        let last = lines.last_mut().expect("at least one");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > WRAPPED_COLUMNS {
            lines.push(format!("  {word}"));
        } else {
            *last += &format!("{}{word}", if last.is_empty() { "" } else { " " });
        }
    }
    lines
}

const WRAPPED_COLUMNS: usize = 124;

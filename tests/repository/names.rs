//! Checks of the names in the crate's API.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{
    assert_none,
    files::{is_rust, texts},
    tidy::part,
    words::words,
};

/// In code, `Event` is clear to a reader only if no other public type has this name.
#[test]
fn no_two_public_types_share_a_name() {
    let files: Vec<_> = texts().filter(|(path, _)| is_rust(path) && path.starts_with("src")).collect();
    let library = files.iter().find(|(path, _)| path == Path::new("src/lib.rs")).expect("the crate's root");
    let words_of_library = words(&library.1);
    let modules: BTreeSet<&str> = declared(&words_of_library, &["mod"]).collect();
    assert!(modules.contains("server") && !modules.contains("shard"), "{modules:?}");
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in files.iter().filter(|(path, _)| modules.contains(&*part(path))) {
        for name in declared(&words(text), &["struct", "enum", "trait", "union", "type"]) {
            types.entry(name.into()).or_default().push(path.display().to_string());
        }
    }
    assert!(types.len() > 100 && types.contains_key("Handler"), "only {} types", types.len());
    let shared = types.iter().filter(|(_, paths)| paths.len() > 1);
    assert_none(&shared.map(|(name, paths)| format!("{name}: {}", paths.join(", "))).collect::<Vec<_>>());
}

/// Returns the names that follow `pub` and one of these words.
fn declared<'a>(words: &'a [String], kinds: &[&str]) -> impl Iterator<Item = &'a str> {
    let is_declaration = move |three: &&[String]| three[0] == "pub" && kinds.contains(&&*three[1]);
    words.windows(3).filter(is_declaration).map(|three| &*three[2])
}

//! Checks of the tree's files that no compiler makes: what may see what, cycles of imports, long lines, forgotten
//! markers, dead files.

#[path = "tidy/imports.rs"]
mod imports;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ringhub::{
    config::{Preset, SETTINGS, Setting},
    metrics::Counter,
};

/// What each part of `src` may name by `crate::`. A part that is not listed may name everything but `shard` and `sys`.
const ARROWS: &[(&str, &[&str])] = &[
    ("proto", &["proto"]),
    ("hub", &["hub", "proto"]),
    ("surface", &["surface", "auth", "endpoints", "handler", "hub", "proto"]),
    ("sys", &["sys"]),
    ("client", &["client", "proto"]),
    ("metrics", &["metrics"]),
    ("logs", &["logs", "config", "metrics"]),
    ("handover", &["handover", "seldom"]),
    ("seldom", &["seldom"]),
    ("error", &["error", "sys"]),
    ("auth", &["auth", "hub", "proto"]),
    ("documents", &["documents", "proto"]),
    ("endpoints", &["endpoints", "auth", "documents", "handler", "hub", "proto"]),
    ("config", &["auth", "config", "documents", "endpoints", "error", "handler", "hub", "proto", "sys"]),
    ("handler", &["handler", "auth", "hub", "proto"]),
    (
        "control",
        &[
            "control",
            "auth",
            "config",
            "documents",
            "endpoints",
            "error",
            "handler",
            "handover",
            "hub",
            "metrics",
            "proto",
            "seldom",
            "surface",
            "sys",
        ],
    ),
    (
        "shard",
        &[
            "shard",
            "auth",
            "config",
            "endpoints",
            "error",
            "handler",
            "handover",
            "hub",
            "metrics",
            "proto",
            "seldom",
            "surface",
            "sys",
        ],
    ),
    (
        "server",
        &[
            "server",
            "auth",
            "config",
            "control",
            "documents",
            "endpoints",
            "error",
            "handler",
            "handover",
            "hub",
            "proto",
            "metrics",
            "shard",
            "surface",
            "sys",
        ],
    ),
];

/// What of `sys` is seen from outside `server` and `shard`.
const WINDOWS: &[(&str, &str)] =
    &[("config", "cpu"), ("config", "memory"), ("control", "net"), ("error", "probe"), ("main", "net")];

/// What plain data does without: sockets, files, clocks, threads, and anything that waits.
const IMPURE_STD: &[&str] = &["env", "fs", "io", "net", "os", "process", "thread", "time"];
const IMPURE: &[&str] = &[
    "async",
    "await",
    "tokio",
    "tokio_uring",
    "io_uring",
    "rustix",
    "libc",
    "socket2",
    "core_affinity",
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "OwnedFd",
    "RawFd",
];

const COLUMNS_MAX: usize = 120;

/// Constants that are limits, besides those that `src/config` declares.
const LIMITS: &[&str] = &[
    "HEADERS_MAX",
    "HEAD_BYTES_MAX",
    "LINES_MAX",
    "REQUESTS_MAX",
    "SLOTS_MAX",
    "UNPARSED_MAX",
    "VISITS_MAX",
    "WORK_MAX",
];

/// The page of limits names every setting whose key says that it is one, every constant of `src/config` that is one,
/// and all of [`LIMITS`]; and every test that the page names exists.
#[test]
fn the_page_of_limits_is_complete() {
    let page = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let code: String = texts().filter(|(path, _)| is_rust(path)).map(|(_, text)| text).collect();
    let is_limit = |key: &str| {
        key.starts_with("max_") || key.ends_with("_timeout") || key.ends_with("_interval") || key.starts_with("min_")
    };
    let missing = SETTINGS.iter().map(|row| row.key).filter(|key| is_limit(key) && !page.contains(&format!("`{key}`")));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new(), "settings that docs/limits.md does not name");
    let declared = texts().filter(|(path, _)| path.starts_with("src/config")).flat_map(|(_, text)| {
        let words = words(&text);
        let names = words.windows(3).filter(|three| three[0] == "pub" && three[1] == "const");
        names.map(|three| three[2].clone()).collect::<Vec<_>>()
    });
    let constants: BTreeSet<String> =
        declared.filter(|name| name.ends_with("_MAX")).chain(LIMITS.iter().map(ToString::to_string)).collect();
    assert!(constants.len() > LIMITS.len() + 5, "{constants:?}");
    assert_none(&constants.iter().filter(|name| !code.contains(&format!("const {name}:"))).collect::<Vec<_>>());
    assert_none(&constants.iter().filter(|name| !page.contains(&format!("{name}`"))).collect::<Vec<_>>());
    let mut tests = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| limit")) {
        let named = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        for test in named.split('`').skip(1).step_by(2) {
            assert!(code.contains(&format!("fn {test}(")), "{test} is no test: {row}");
            tests += 1;
        }
    }
    assert!(tests > 30, "the page names {tests} tests");
}

#[test]
fn lines_are_not_too_long() {
    let mut offenders = Vec::new();
    for (path, text) in texts().filter(|(path, _)| is_rust(path)) {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.chars().count() > COLUMNS_MAX) {
            offenders.push(format!("{}:{}: {} columns", path.display(), number + 1, line.chars().count()));
        }
    }
    assert_none(&offenders);
}

#[test]
fn nothing_was_left_to_be_done() {
    // Put together here, so that this file does not find itself.
    let markers =
        ["TO DO", "FIX ME", "X XX", "dbg !", "todo !", "unimplemented !"].map(|marker| marker.replace(' ', ""));
    let mut offenders = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            for marker in markers.iter().filter(|marker| line.contains(*marker)) {
                offenders.push(format!("{}:{}: {marker}", path.display(), number + 1));
            }
        }
    }
    assert_none(&offenders);
}

#[test]
fn no_path_of_somebodys_machine() {
    let places = ["/work /", "/tmp /wt", "/root /", "/home /"].map(|place| place.replace(' ', ""));
    let mut offenders = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            for place in places.iter().filter(|place| line.contains(*place)) {
                offenders.push(format!("{}:{}: {place}", path.display(), number + 1));
            }
        }
    }
    assert_none(&offenders);
}

#[test]
fn only_sys_is_unsafe() {
    let mut offenders = Vec::new();
    for (path, text) in texts().filter(|(path, _)| is_rust(path) && !path.starts_with("src/sys")) {
        if words(&text).iter().any(|word| word == "unsafe") {
            offenders.push(path.display().to_string());
        }
    }
    assert_none(&offenders);
}

#[test]
fn arrows_point_one_way() {
    let mut offenders = Vec::new();
    for (path, text) in texts().filter(|(path, _)| is_rust(path) && path.starts_with("src")) {
        let part = part(&path);
        if part == "lib" {
            continue;
        }
        let words = words(&text);
        let root = if part == "main" { "ringhub" } else { "crate" };
        let mut seen = named_under(&words, root);
        if climbs_out(&path, &words) {
            seen.insert("super, out of its part".into());
        }
        let allowed = ARROWS.iter().find(|(name, _)| *name == part).map(|(_, allowed)| *allowed);
        let windows: Vec<&str> = WINDOWS.iter().filter(|(name, _)| *name == part).map(|(_, module)| *module).collect();
        for other in seen {
            let is_allowed = match allowed {
                Some(allowed) => allowed.contains(&&*other),
                None => (other != "shard" && other != "sys") || (other == "sys" && !windows.is_empty()),
            };
            if !is_allowed {
                offenders.push(format!("{}: {part} names {other}", path.display()));
            }
        }
        if !windows.is_empty() {
            for module in named_under(&words, "sys").into_iter().filter(|module| !windows.contains(&&**module)) {
                offenders.push(format!("{}: {part} names sys::{module}", path.display()));
            }
        }
    }
    assert_none(&offenders);
}

/// The parts of `src` whose files still import each other in cycles. A part without a cycle must leave this list.
const WITH_CYCLES: &[&str] = &[];

/// A file in a cycle cannot be understood before all others of the cycle.
#[test]
fn no_file_imports_a_file_that_imports_it() {
    let files = texts().filter(|(path, _)| is_rust(path) && path.starts_with("src"));
    let files: BTreeMap<PathBuf, Vec<String>> = files.map(|(path, text)| (path, words(&text))).collect();
    let imports = imports::imports(&files);
    let count: usize = imports.values().map(BTreeSet::len).sum();
    assert!(imports.len() > 100 && count > 300, "only {count} imports of {} files", imports.len());
    let (mut offenders, mut parts) = (Vec::new(), BTreeSet::new());
    for cycle in imports::cycles(&imports) {
        let here: BTreeSet<String> = cycle.iter().map(|path| self::part(path)).collect();
        if !here.iter().all(|part| WITH_CYCLES.contains(&&**part)) {
            let files: Vec<String> = cycle.iter().chain(&cycle[..1]).map(|path| path.display().to_string()).collect();
            offenders.push(files.join(" -> "));
        }
        parts.extend(here);
    }
    let mended = WITH_CYCLES.iter().filter(|part| !parts.contains(**part));
    offenders.extend(mended.map(|part| format!("WITH_CYCLES names {part}, which has no cycle")));
    assert_none(&offenders);
}

#[test]
fn proto_and_hub_are_plain_data() {
    let mut offenders = Vec::new();
    let is_pure = |path: &Path| path.starts_with("src/proto") || path.starts_with("src/hub");
    for (path, text) in texts().filter(|(path, _)| is_rust(path) && is_pure(path)) {
        let words = words(&text);
        let std = named_under(&words, "std").into_iter().filter(|name| IMPURE_STD.contains(&&**name));
        let others = IMPURE.iter().filter(|name| words.iter().any(|word| word == *name)).map(ToString::to_string);
        for name in std.map(|name| format!("std::{name}")).chain(others) {
            offenders.push(format!("{}: {name}", path.display()));
        }
    }
    assert_none(&offenders);
}

#[test]
fn every_counter_counts_something() {
    let mut used: BTreeSet<String> = texts()
        .filter(|(path, _)| is_rust(path) && path.starts_with("src") && path != Path::new("src/metrics.rs"))
        .flat_map(|(_, text)| named_under(&words(&text), "Counter"))
        .collect();
    // Refusals are counted by their status.
    assert!(used.contains("refused"));
    used.extend((400..=599).map(|status| format!("{:?}", Counter::refused(status))));
    let names = Counter::ALL.iter().map(|counter| format!("{counter:?}"));
    assert_none(&names.filter(|name| !used.contains(name)).collect::<Vec<_>>());
}

/// Writing to a standard stream may wait for whoever reads it, and panics if it fails: `logs` does so on threads of its
/// own, and `main` where nothing is served.
#[test]
fn standard_streams_are_written_by_logs_alone() {
    let streams = ["stdout", "stderr", "println", "eprintln", "print", "eprint"];
    let may_write =
        |path: &Path| ["src/logs.rs", "src/main.rs", "src/shard/simulator.rs"].contains(&path.to_str().unwrap());
    let mut offenders = Vec::new();
    for (path, text) in texts().filter(|(path, _)| is_rust(path) && path.starts_with("src") && !may_write(path)) {
        let words = words(&text);
        // A macro or a function, not a field or a method of that name.
        let is_call = |at: usize| words.get(at + 1).is_some_and(|next| next == "!" || next == "(");
        let is_method = |at: usize| at > 0 && (words[at - 1] == "." || words[at - 1] == "fn");
        let calls = (0..words.len()).filter(|at| streams.contains(&&*words[*at]) && is_call(*at) && !is_method(*at));
        offenders.extend(calls.map(|at| format!("{}: {}", path.display(), words[at])));
    }
    assert_none(&offenders);
}

#[test]
fn every_file_is_used() {
    let files: BTreeMap<PathBuf, String> = texts().filter(|(path, _)| path.starts_with("src")).collect();
    let mut used = BTreeSet::new();
    let mut open = vec![PathBuf::from("src/lib.rs"), PathBuf::from("src/main.rs")];
    while let Some(path) = open.pop() {
        let text = files.get(&path).unwrap_or_else(|| panic!("{} is missing", path.display()));
        let stem = path.file_stem().unwrap_or_default();
        let beside = path.parent().unwrap().to_path_buf();
        let below =
            if ["lib", "main", "mod"].iter().any(|name| stem == *name) { beside.clone() } else { beside.join(stem) };
        for name in modules(&words(text)) {
            let candidates = [below.join(format!("{name}.rs")), below.join(&name).join("mod.rs")];
            open.extend(candidates.into_iter().filter(|candidate| files.contains_key(candidate)));
        }
        for included in text.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            used.insert(beside.join(included));
        }
        used.insert(path);
    }
    assert_none(&files.keys().filter(|path| !used.contains(*path)).map(|path| path.display()).collect::<Vec<_>>());
}

/// Each flag of the help is a setting, so a variable and a key too, and the README has its row and its default.
#[test]
fn the_readme_knows_every_flag() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let output = Command::new(support::binary_path()).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let flags = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let flags = flags.filter(|flag| {
        flag.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-')
    });
    let mut flags: BTreeSet<String> = flags.map(String::from).collect();
    for no_setting in ["help", "config"] {
        assert!(flags.remove(no_setting), "{help}");
        assert!(readme.contains(&format!("--{no_setting}")));
    }
    assert_eq!(flags, SETTINGS.iter().map(Setting::flag).collect());
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `--")).collect();
    let expected = SETTINGS.iter().map(|setting| match setting.preset {
        Preset::Value(value) => format!("| `--{}` | `{value}` |", setting.flag()),
        Preset::Otherwise { words, .. } => format!("| `--{}` | {words} |", setting.flag()),
    });
    let expected: Vec<String> = expected.collect();
    let has_row = |expected: &&String| rows.iter().any(|row| row.starts_with(&**expected));
    assert_none(&expected.iter().filter(|expected| !has_row(expected)).collect::<Vec<_>>());
    assert_eq!(rows.len(), expected.len());
}

/// What the guide's tables name stands in its code too, which is compiled.
#[test]
fn the_guide_names_what_is_there() {
    let guide = fs::read_to_string(root().join("docs/coming-from.md")).unwrap();
    let (mut tables, mut code, mut is_code) = (Vec::new(), String::new(), false);
    for line in guide.lines() {
        match line.strip_prefix("```") {
            Some(_) => is_code = !is_code,
            None if is_code => code += &(line.trim_start_matches("# ").to_string() + "\n"),
            // The first cell is theirs.
            None => tables.extend(line.strip_prefix("| ").and_then(|row| row.split_once(" | "))),
        }
    }
    let compiled: BTreeSet<String> = words(&code).into_iter().collect();
    let is_name = |span: &&str| span.starts_with(char::is_alphabetic) && span.chars().all(is_path);
    let spans = tables.iter().flat_map(|(_, ours)| ours.split('`').skip(1).step_by(2)).filter(is_name);
    let names: Vec<&str> = spans.filter(|span| span.contains("::")).collect();
    assert!(names.len() > 100, "{names:?}");
    let last = |name: &str| name.rsplit("::").next().unwrap_or_default().to_string();
    assert_none(&names.iter().filter(|name| !compiled.contains(&last(name))).collect::<Vec<_>>());
}

fn is_path(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'
}

/// The reader of sources that the checks above stand on.
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

/// The top-level part of the tree that a file belongs to: `hub` of `src/hub/run.rs`, `config` of `src/config.rs`.
fn part(path: &Path) -> String {
    let part = path.components().nth(1).expect("a file of src").as_os_str().to_string_lossy();
    part.trim_end_matches(".rs").to_string()
}

/// The names that follow `root::` anywhere, also in groups: of `root::{a::b, c}` they are `a` and `c`.
fn named_under(words: &[String], root: &str) -> BTreeSet<String> {
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

/// Does a chain of `super::` leave the part that the file belongs to? A module within the file is one level deeper.
fn climbs_out(path: &Path, words: &[String]) -> bool {
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

/// The modules that a file declares to stand in files of their own.
fn modules(words: &[String]) -> Vec<String> {
    let declared = words.windows(3).filter(|three| three[0] == "mod" && three[2] == ";");
    declared.map(|three| three[1].clone()).collect()
}

/// Names, `::`, and other characters of a Rust source, without its comments and literals.
fn words(source: &str) -> Vec<String> {
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

/// Comments nest.
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

/// Is it `'a'` rather than the lifetime `'a`?
fn is_character(text: &str) -> bool {
    let mut letters = text.chars().skip(1);
    letters.next() == Some('\\') || letters.next() == Some('\'')
}

/// A string's or character's literal up to its closing quote.
fn literal_length(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut at = 1;
    while at < text.len() && text.as_bytes()[at] != quote {
        at += if text.as_bytes()[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// The project's own text files, by their paths from its root: what git tracks, or else what lies there.
fn texts() -> impl Iterator<Item = (PathBuf, String)> {
    let mut paths = tracked().unwrap_or_else(|| lying_under(&root()));
    paths.retain(|path| path.file_name().is_some_and(|name| name != "Cargo.lock") && !path.starts_with("fuzz/corpus"));
    assert!(paths.len() > 20, "only {} files", paths.len());
    paths.into_iter().filter_map(|path| Some((path.clone(), fs::read_to_string(root().join(path)).ok()?)))
}

fn tracked() -> Option<Vec<PathBuf>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().ok()?;
    let names = String::from_utf8(output.stdout).ok().filter(|names| output.status.success() && !names.is_empty())?;
    Some(names.split_terminator('\0').map(PathBuf::from).collect())
}

fn lying_under(root: &Path) -> Vec<PathBuf> {
    let (mut open, mut files) = (vec![root.to_path_buf()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if !path.is_dir() {
                files.push(path.strip_prefix(root).unwrap().to_path_buf());
            } else if entry.file_name() != ".git" && entry.file_name() != "target" {
                open.push(path);
            }
        }
    }
    files
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

#[track_caller]
fn assert_none(offenders: &[impl ToString]) {
    let lines: Vec<String> = offenders.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

//! Checks that the compiler does not make: which folder may use which, cycles of imports, long lines, forgotten
//! markers, dead files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use ringhub::metrics::Counter;

use crate::{
    assert_none,
    files::{is_rust, root, texts},
    imports,
    words::{climbs_out, modules, named_under, words},
};

/// The modules of `sys` that folders other than `server` and `shard` use.
const WINDOWS: &[(&str, &str)] = &[
    ("config", "cpu"),
    ("config", "memory"),
    ("control", "bounded_close"),
    ("control", "memory"),
    ("control", "net"),
    ("control", "transport"),
    ("error", "sandbox"),
    ("error", "uring"),
    ("handover", "transport"),
    ("main", "net"),
    ("seccomp", "system_calls"),
    ("service_manager", "inherited"),
];

/// The files of the binary, which use only the library's public interface.
const COMMAND_LINE: &[&str] =
    &["main", "health", "listening", "manual", "operate", "outcome", "owner", "reload", "seccomp", "service_manager"];

/// The modules and words that plain data must not use: sockets, files, clocks, threads, and asynchronous code.
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
fn no_markers_of_unfinished_work() {
    // The markers are put together here, so that the check does not find them in this file.
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
fn no_path_of_a_developers_machine() {
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
    let mut arrows = arrows(&fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap());
    assert!(arrows.len() > 15 && arrows["sys"].is_empty() && arrows["hub"].len() == 1, "{arrows:?}");
    // The command line may name everything except the folders of the threads.
    arrows.remove("main");
    let mut offenders: Vec<String> = Vec::new();
    offenders.extend(arrows.keys().filter(|part| !is_part(part)).map(|part| format!("ARCHITECTURE.md names {part}")));
    for (path, text) in texts().filter(|(path, _)| is_rust(path) && path.starts_with("src")) {
        let part = part(&path);
        if part == "lib" {
            continue;
        }
        let words = words(&text);
        let is_command_line = COMMAND_LINE.contains(&&*part);
        let root = if is_command_line { "ringhub" } else { "crate" };
        let mut seen = named_under(&words, root);
        if climbs_out(&path, &words) {
            seen.insert("super, out of its folder".into());
        }
        let allowed = arrows.get(&part);
        if allowed.is_none() && !is_command_line {
            offenders.push(format!("{}: ARCHITECTURE.md has no arrow of {part}", path.display()));
        }
        let windows: Vec<&str> = WINDOWS.iter().filter(|(name, _)| *name == part).map(|(_, module)| *module).collect();
        for other in seen {
            let is_allowed = match allowed {
                Some(allowed) => other == part || allowed.contains(&other),
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

/// Returns the folders that each folder may use: those to its right in any line of the map's block of arrows.
fn arrows(map: &str) -> BTreeMap<String, BTreeSet<String>> {
    let (_, behind) = map.split_once("Arrows point one way").expect("ARCHITECTURE.md has the arrows");
    let block = behind.split("```").nth(1).expect("the arrows stand in a block");
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in block.lines().filter(|line| line.contains('→')) {
        let groups: Vec<Vec<&str>> = line.split('→').map(|group| group.split(',').map(str::trim).collect()).collect();
        for (at, group) in groups.iter().enumerate() {
            for part in group {
                let below = groups[at + 1..].iter().flatten().map(ToString::to_string);
                arrows.entry((*part).to_string()).or_default().extend(below);
            }
        }
    }
    arrows
}

fn is_part(name: &str) -> bool {
    root().join("src").join(name).is_dir() || root().join("src").join(format!("{name}.rs")).is_file()
}

/// The parts of `src` whose files still import each other in cycles. A part without a cycle must leave this list.
const WITH_CYCLES: &[&str] = &["config"];

/// Files do not import each other in cycles: a file in a cycle cannot be understood before the others of the cycle.
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
    // Tests of simulated runs read their seeds from the environment.
    let is_test = |path: &Path| path == Path::new("src/hub/seeds.rs");
    let is_pure = |path: &Path| (path.starts_with("src/proto") || path.starts_with("src/hub")) && !is_test(path);
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
    // Code uses the counters of refusals by their status (`Counter::refused`).
    assert!(used.contains("refused"));
    used.extend((400..=599).map(|status| format!("{:?}", Counter::refused(status))));
    let names = Counter::ALL.iter().map(|counter| format!("{counter:?}"));
    assert_none(&names.filter(|name| !used.contains(name)).collect::<Vec<_>>());
}

/// A write to a standard stream may wait for the reader, and `println` panics if the write fails. So only `logs`
/// writes, on its own threads, and `main`, where nothing is served.
#[test]
fn standard_streams_are_written_by_logs_alone() {
    let streams = ["stdout", "stderr", "println", "eprintln", "print", "eprint"];
    let may_write = |path: &Path| {
        ["src/logs.rs", "src/main.rs"].contains(&path.to_str().unwrap())
            || path.starts_with("src/shard/simulator")
            || path == Path::new("src/shard/simulator.rs")
    };
    let mut offenders = Vec::new();
    for (path, text) in texts().filter(|(path, _)| is_rust(path) && path.starts_with("src") && !may_write(path)) {
        let words = words(&text);
        // The word is a macro or a function, not a field or a method of that name.
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
            // `client_js.rs` writes this form of the source.
            used.extend(included.strip_suffix(".min.js").map(|source| beside.join(format!("{source}.js"))));
        }
        used.insert(path);
    }
    assert_none(&files.keys().filter(|path| !used.contains(*path)).map(|path| path.display()).collect::<Vec<_>>());
}

/// Returns the part of `src` that a file belongs to: `hub` for `src/hub/run.rs`, `config` for `src/config.rs`.
pub(crate) fn part(path: &Path) -> String {
    let part = path.components().nth(1).expect("a file of src").as_os_str().to_string_lossy();
    part.trim_end_matches(".rs").to_string()
}

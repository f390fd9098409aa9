//! Checks statements of the documents about the code: limits, settings, names.

use std::{collections::BTreeSet, fs, process::Command};

use ringhub::config::{Preset, SETTINGS, Setting};

use crate::{
    assert_none,
    files::{is_rust, root, texts},
    words::words,
};

/// Constants that are limits, besides those that `src/config` declares.
const LIMITS: &[&str] = &[
    "HEADERS_MAX",
    "HEAD_BYTES_MAX",
    "LEFT_TO_KERNEL_MAX",
    "LINES_MAX",
    "LOOKS_MAX",
    "REQUESTS_MAX",
    "SLOTS_MAX",
    "UNPARSED_MAX",
    "HANDOFFS_MAX",
    "WORK_MAX",
];

/// The page of limits names every setting whose key is that of a limit, every limit among the constants of
/// `src/config`, and all of [`LIMITS`]. Every test that the page names exists.
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

/// Each flag of the help is a setting, and the page of settings has its row with its default.
#[test]
fn the_page_of_settings_has_every_flag() {
    let page = fs::read_to_string(root().join("docs/settings.md")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ringhub")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let flags = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let flags = flags.filter(|flag| {
        flag.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-')
    });
    let mut flags: BTreeSet<String> = flags.map(String::from).collect();
    for no_setting in ["help", "config"] {
        assert!(flags.remove(no_setting), "{help}");
        assert!(page.contains(&format!("--{no_setting}")));
    }
    assert_eq!(flags, SETTINGS.iter().map(Setting::flag).collect());
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `--")).collect();
    let has_row = |setting: &&Setting| {
        let names = format!("| `--{}`<br>`{}`<br>`{}` |", setting.flag(), setting.variable(), setting.key);
        let default = match setting.preset {
            Preset::Value(value) => format!(" | `{value}` | "),
            Preset::Otherwise { words, .. } => format!(" | {words} | "),
        };
        rows.iter().any(|row| row.starts_with(&names) && row.contains(&default))
    };
    let missing: Vec<&str> = SETTINGS.iter().filter(|setting| !has_row(setting)).map(|setting| setting.key).collect();
    assert_none(&missing);
    assert_eq!(rows.len(), SETTINGS.len());
}

/// Each name of ours in the guide's tables is also in its code, which is compiled.
#[test]
fn the_guide_names_what_is_there() {
    let guide = fs::read_to_string(root().join("docs/coming-from.md")).unwrap();
    let (mut tables, mut code, mut is_code) = (Vec::new(), String::new(), false);
    for line in guide.lines() {
        match line.strip_prefix("```") {
            Some(_) => is_code = !is_code,
            None if is_code => code += &(line.trim_start_matches("# ").to_string() + "\n"),
            // The first cell has the names of the other server.
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

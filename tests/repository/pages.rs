//! Checks README.md and the pages of `docs/`: links have targets, and numbers and names agree with the code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ringhub::config::{Config, Settings};

use crate::files::root;

/// The README is short enough to be read in two minutes.
#[test]
fn the_readme_is_short() {
    assert!(page("README.md").lines().count() <= 150);
}

/// Lines of prose have a limit, tables and links have none.
#[test]
fn prose_is_not_too_wide() {
    for name in pages() {
        let page = page(&name);
        let mut is_code = false;
        for line in page.lines() {
            is_code ^= line.starts_with("```");
            let is_prose = !is_code && !line.starts_with('|');
            assert!(!is_prose || line.chars().count() <= PROSE_COLUMNS_MAX, "{name}: {line}");
        }
    }
}

/// Links lead to files and headings that exist.
#[test]
fn links_have_targets() {
    let mut links = 0;
    for name in pages() {
        let page = page(&name);
        let folder = Path::new(&name).parent().unwrap();
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            links += 1;
            let path = if file.is_empty() { PathBuf::from(&name) } else { folder.join(file) };
            assert!(root().join(&path).exists(), "{name}: {link}");
            let is_there =
                || self::page(path.to_str().unwrap()).lines().any(|line| anchor(line) == Some(heading.into()));
            assert!(heading.is_empty() || is_there(), "{name}: {link}");
        }
    }
    assert!(links > 50, "only {links} links");
}

/// No snippet is on two pages, since a change of one copy would miss the other.
#[test]
fn no_snippet_is_there_twice() {
    let mut seen = BTreeSet::new();
    for name in pages() {
        for (language, code) in blocks(&page(&name)) {
            assert!(!language.is_empty(), "{name}: a block without a language:\n{code}");
            assert!(seen.insert(code.to_string()), "{name} repeats:\n{code}");
        }
    }
}

/// The limits in compose.yaml and in the commands on two pages are the same.
#[test]
fn the_pages_run_the_container_as_compose_does() {
    let compose = page("compose.yaml");
    let (deploy, readme) = (page("docs/deploy.md"), page("README.md"));
    let value = |key: &str| {
        let line = compose.lines().find_map(|line| line.trim().strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}")).trim().trim_matches('"').to_string()
    };
    let (soft, hard) = (value("soft:"), value("hard:"));
    assert!(deploy.contains(&format!("`--ulimit nofile={soft}:{hard}`")));
    let (port, grace) = (value("- \"127"), value("stop_grace_period:"));
    let flags = format!("-p 127{port} --stop-timeout {} ", grace.trim_end_matches('s'));
    for text in [&deploy, &readme] {
        assert!(text.contains(&flags), "{flags}");
    }
}

/// The sentences about reserved descriptors have the same numbers as the code.
#[test]
fn reserved_descriptors_on_pages_are_those_of_the_code() {
    let reserved = |shards, listen: &str, has_metrics: bool| -> u64 {
        let settings = Settings {
            shards: Some(shards),
            listen: listen.split(',').map(|address| address.parse().unwrap()).collect(),
            metrics_listen: has_metrics.then(|| "127.0.0.1:3".parse().unwrap()),
            ..Settings::default()
        };
        Config::new(&settings, 1 << 30).unwrap().descriptors().iter().map(|part| part.count).sum()
    };
    let (one, two) = ("127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2");
    let least = reserved(1, one, false);
    let shard = reserved(2, one, false) - least;
    let later = reserved(33, one, false) - reserved(32, one, false);
    assert_eq!(reserved(32, one, false), least + 31 * shard);
    assert_eq!(reserved(256, one, false), least + 31 * shard + 224 * later);
    let address = reserved(1, two, false) - least;
    assert_eq!(reserved(2, two, false), least + shard + 2 * address);
    let metrics = reserved(1, one, true) - least;
    let parts = [
        format!("{least} with one shard and one address;"),
        format!("{shard} for each further shard, {later} from the 33rd on;"),
        format!("{address} on each shard for each further address;"),
        format!("{metrics} for `"),
    ];
    for name in ["docs/deploy.md", "docs/limits.md"] {
        let page = page(name).split_whitespace().collect::<Vec<_>>().join(" ");
        for part in &parts {
            assert!(page.contains(part), "{name} has not: {part}");
        }
    }
}

/// Returns README.md and all pages of `docs/`.
fn pages() -> Vec<String> {
    let files = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = files.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".md"));
    let pages: Vec<String> =
        std::iter::once("README.md".into()).chain(names.map(|name| format!("docs/{name}"))).collect();
    assert!(pages.len() > 6, "{pages:?}");
    pages
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the fenced blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let fences: Vec<&str> = page.split("```").collect();
    assert!(fences.len() % 2 == 1, "a block without an end");
    fences.iter().skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

/// Returns the anchor of a line if it is a heading: lower case, without punctuation, with dashes for spaces.
fn anchor(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

const PROSE_COLUMNS_MAX: usize = 130;

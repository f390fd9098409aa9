//! Checks the floors of folders in which several files define the methods of one type. A method calls only methods of
//! its own file and of files on lower floors.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::{
    assert_none,
    files::{is_rust, texts},
    imports::without_tests,
    words::words,
};

/// A type whose methods are in several files.
struct Building {
    /// The name of the type.
    name: &'static str,
    /// The folder of the files.
    folder: &'static str,
    /// The files without their ending, from the lowest floor up.
    floors: &'static [&'static str],
}

/// The types whose methods are in several files, with the floors that ARCHITECTURE.md describes.
const BUILDINGS: &[Building] = &[
    Building {
        name: "ShardHub",
        folder: "src/hub",
        floors: &[
            "hub",
            "fanout",
            "interest",
            "keeping",
            "attending",
            "order",
            "announcing",
            "membership",
            "resuming",
            "mail",
        ],
    },
    Building {
        name: "Simulation",
        folder: "src/shard",
        floors: &[
            "simulator/simulation",
            "simulator/notes",
            "simulator/owed",
            "simulator/promises",
            "simulator/memory",
            "simulator/engine",
            "simulator/rest",
            "simulator/tags",
            "simulator/checks",
            "simulator/outcome",
            "simulator/actions",
            "simulator/calls",
            "simulator/turns",
            "simulator",
        ],
    },
    Building {
        name: "Shard",
        folder: "src/shard",
        floors: &[
            "state",
            "kernel_limits",
            "owed",
            "charging",
            "schedule",
            "parking",
            "ending",
            "shedding",
            "slow",
            "top",
            "census",
            "throttling",
            "memory_watch",
            "attending",
            "handlers",
            "resuming",
            "several",
            "flush",
            "mail",
            "deadlines",
            "drain",
            "input",
            "adopt",
            "receive",
            "reload",
            "turn",
        ],
    },
];

/// Files whose methods call each other in both directions cannot be read one after the other.
#[test]
fn methods_call_only_down() {
    let files = texts().filter(|(path, _)| is_rust(path) && path.starts_with("src"));
    let files: BTreeMap<PathBuf, Vec<String>> = files.map(|(path, text)| (path, words(&text))).collect();
    assert_none(&BUILDINGS.iter().flat_map(|building| offenders(building, &files)).collect::<Vec<_>>());
}

/// Returns the offenders: calls of a method that only a higher floor defines, files with methods of the type but
/// without a floor, and floors without such a file. `files` has the words of each file.
fn offenders(building: &Building, files: &BTreeMap<PathBuf, Vec<String>>) -> Vec<String> {
    let methods: BTreeMap<&Path, Methods> = files
        .iter()
        .filter(|(path, _)| path.starts_with(building.folder))
        .map(|(path, words)| (&**path, Methods::of(building.name, &without_tests(words))))
        .filter(|(_, methods)| !methods.defined.is_empty())
        .collect();
    let path = |floor: &str| Path::new(building.folder).join(format!("{floor}.rs"));
    let floors: Vec<PathBuf> = building.floors.iter().map(|floor| path(floor)).collect();
    let homeless = methods.keys().filter(|path| !floors.iter().any(|floor| floor == *path));
    let mut offenders: Vec<String> = homeless.map(|path| format!("{} has no floor", path.display())).collect();
    let mut below: BTreeSet<&str> = BTreeSet::new();
    let all: BTreeSet<&str> = methods.values().flat_map(|methods| &methods.defined).map(|name| &**name).collect();
    for floor in &floors {
        let Some(methods) = methods.get(&**floor) else {
            offenders.push(format!("{} has no method of {}", floor.display(), building.name));
            continue;
        };
        below.extend(methods.defined.iter().map(|name| &**name));
        let upward = methods.called.iter().filter(|name| all.contains(&***name) && !below.contains(&***name));
        offenders.extend(upward.map(|name| format!("{} calls {name}, which is on a higher floor", floor.display())));
    }
    offenders
}

/// The methods of one type that a file defines, and the names of those that they call.
#[derive(Default)]
struct Methods {
    defined: BTreeSet<String>,
    called: BTreeSet<String>,
}

impl Methods {
    fn of(name: &str, words: &[String]) -> Self {
        let mut methods = Methods::default();
        let (mut braces, mut at) = (0, 0);
        while at < words.len() {
            match &*words[at] {
                "impl" if braces == 0 => {
                    let head = words[at..].iter().take_while(|word| *word != "{").count();
                    let body = at + head;
                    let end = block_end(words, body);
                    if words[at..body].iter().any(|word| word == name) {
                        methods.read(name, &words[body..end]);
                    }
                    at = end;
                    continue;
                }
                "{" => braces += 1,
                "}" => braces -= 1,
                _ => {}
            }
            at += 1;
        }
        methods
    }

    /// Reads the body of an `impl`. A closure's parameter with the type's name in lower case counts as a receiver too.
    fn read(&mut self, name: &str, words: &[String]) {
        let receiver = name.to_lowercase();
        for (at, four) in words.windows(4).enumerate() {
            if four[0] == "fn" {
                self.defined.insert(four[1].clone());
            }
            let is_call = four[3] == "(";
            let is_method = (four[0] == "self" || four[0] == receiver) && four[1] == ".";
            let is_path = (four[0] == "Self" || four[0] == name) && four[1] == "::";
            let is_field = at > 0 && words[at - 1] == ".";
            if is_call && !is_field && (is_method || is_path) {
                self.called.insert(four[2].clone());
            }
        }
    }
}

/// Returns the end of the block that begins at `at`: the place after its closing brace.
fn block_end(words: &[String], at: usize) -> usize {
    let mut depth = 0;
    for (index, word) in words.iter().enumerate().skip(at) {
        match &**word {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    words.len()
}

#[test]
fn a_call_upward_a_file_without_a_floor_and_an_empty_floor_are_found() {
    let sources = [
        ("low", "impl<I: Io> Hall<I> { fn low(&mut self) { self.low(); self.high(); self.hall.middle(); } }"),
        (
            "middle",
            "impl Hall<()> { fn middle() { Self::low(); step(|hall| hall.high()) } } impl Desk { fn high() {} }",
        ),
        ("high", "impl Door for Hall { fn high(&self) { Hall::middle(self); self.low() } }"),
        ("other", "impl Hall { fn other() { self.low() } } #[cfg(test)] mod tests { impl Hall { fn test() {} } }"),
        ("desk", "impl Desk { fn low(&self) { self.high() } } #[cfg(test)] impl Hall { fn test() {} }"),
    ];
    let file = |(name, text): (&str, &str)| (PathBuf::from(format!("src/hall/{name}.rs")), words(text));
    let files = sources.map(file).into();
    let building = Building { name: "Hall", folder: "src/hall", floors: &["low", "middle", "gone", "high"] };
    let expected = [
        "src/hall/other.rs has no floor",
        "src/hall/low.rs calls high, which is on a higher floor",
        "src/hall/middle.rs calls high, which is on a higher floor",
        "src/hall/gone.rs has no method of Hall",
    ];
    assert_eq!(offenders(&building, &files), expected);
}

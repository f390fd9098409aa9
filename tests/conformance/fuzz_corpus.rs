//! Runs every fuzz target as an ordinary test, over its corpus and over inputs made from seeds. `cargo +nightly fuzz
//! run TARGET` searches for further inputs.
//!
//! `RINGHUB_SEED=n` replays one seed, and `RINGHUB_SEEDS=n` runs more of them.

use std::{collections::BTreeSet, env, fs, panic, path::Path};

use ringhub::{endpoints_fuzz, proto::fuzz, surface::v1};

use crate::{bodies, inputs, random::Random};

/// Runs a target over its corpus.
fn corpus(target: &str, body: impl FnMut(&[u8])) {
    let inputs = read_corpus(target);
    assert!(inputs.len() >= 10, "{} inputs of {target}", inputs.len());
    inputs.iter().map(Vec::as_slice).for_each(body);
}

pub(crate) fn read_corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("the target has a corpus");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let read = |path| {
        println!("{path:?}");
        fs::read(path).expect("a readable file")
    };
    paths.map(read).collect()
}

/// Runs a target over inputs made from seeds. Returns whether all seeds of an ordinary run were used.
fn seeds(count: u64, make: fn(&mut Random) -> Vec<u8>, mut body: impl FnMut(&[u8])) -> bool {
    let seeds = match number_of("RINGHUB_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_of("RINGHUB_SEEDS").unwrap_or(count),
    };
    let is_ordinary = seeds.contains(&0) && seeds.end >= count;
    for seed in seeds {
        let input = make(&mut Random::new(seed));
        let run = panic::AssertUnwindSafe(|| body(&input));
        if let Err(cause) = panic::catch_unwind(run) {
            println!("replay with RINGHUB_SEED={seed}; its input: {:?}", String::from_utf8_lossy(&input));
            panic::resume_unwind(cause);
        }
    }
    is_ordinary
}

pub(crate) fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn frame_header() {
    corpus("frame_header", fuzz::frame_header);
}

#[test]
fn receive() {
    corpus("receive", fuzz::receive);
}

#[test]
fn handshake() {
    corpus("handshake", fuzz::handshake);
}

#[test]
fn client_address() {
    corpus("client_address", fuzz::client_address);
    seeds(4_000, inputs::client_address, fuzz::client_address);
}

#[test]
fn command() {
    corpus("command", v1::fuzz::command);
    seeds(20_000, inputs::command, v1::fuzz::command);
}

#[test]
fn resolution() {
    corpus("resolution", endpoints_fuzz::resolution);
    seeds(4_000, inputs::resolution, endpoints_fuzz::resolution);
}

/// The receivers differ only in the known differences, and each known difference still exists.
#[test]
fn frames() {
    let mut seen = BTreeSet::new();
    corpus("frames", |bytes| seen.extend(bodies::frames::frames(bytes)));
    if seeds(10_000, inputs::frames, |bytes| seen.extend(bodies::frames::frames(bytes))) {
        let known = bodies::frames::DIFFERENCES.iter().map(|row| (row.name, row.section));
        check_known(known, &seen);
    }
}

#[test]
fn requests() {
    let mut seen = BTreeSet::new();
    corpus("requests", |bytes| seen.extend(bodies::requests::requests(bytes)));
    if seeds(10_000, inputs::requests, |bytes| seen.extend(bodies::requests::requests(bytes))) {
        let known = bodies::requests::DIFFERENCES.iter().map(|row| (row.name, row.section));
        let known = known.chain(bodies::requests::KINDS.map(|kind| (kind, "RFC 9112 6")));
        check_known(known, &seen);
    }
}

#[test]
fn settings() {
    let mut valid = 0;
    let mut run = |bytes: &[u8]| valid += u32::from(bodies::settings::settings(bytes));
    corpus("settings", &mut run);
    if seeds(3_000, inputs::settings, run) {
        assert!(valid > 100, "only {valid} files are valid");
    }
}

/// The example is valid as it is, and with any one of its settings uncommented, beside those that need another one.
#[test]
fn settings_of_the_example() {
    let example = ringhub::config::example();
    assert!(bodies::settings::settings(example.as_bytes()));
    let settings = example.lines().filter(|line| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1);
    // This process may not be allowed to use the CPU in the example, and the file of authorities is not there.
    let elsewhere = ["#cpus", "#outbound_ca", "#proxy_protocol", "#callback_url", "#callback_secrets"];
    let settings = settings.take_while(|line| !line.starts_with("#[["));
    let settings = settings.filter(|line| !elsewhere.iter().any(|name| line.starts_with(name)));
    for line in settings {
        assert!(bodies::settings::settings(example.replacen(line, &line[1..], 1).as_bytes()), "{line}");
    }
}

#[test]
fn hub() {
    let mut received = 0;
    corpus("hub", |bytes| received += bodies::hub::hub(bytes));
    if seeds(1_500, inputs::hub, |bytes| received += bodies::hub::hub(bytes)) {
        assert!(received > 10_000, "only {received} messages");
    }
}

fn check_known(known: impl Iterator<Item = (&'static str, &'static str)>, seen: &BTreeSet<&str>) {
    for (name, section) in known {
        assert!(seen.contains(name), "no input shows this any more: \"{name}\" ({section})");
    }
}

//! A hostile crowd, drawn by a seed, beside an honest one that must not notice.
//!
//! A mix is a server with drawn limits, a hostile crowd, and publishers and subscribers that number and check their
//! messages. While the crowds are there, every honest subscriber receives every message once and in order, no honest
//! client is disconnected, no hostile client receives a private message or file, no forged request is accepted, and the
//! server's memory stays within the sum of `check-config`. When they have gone, they have left no socket, descriptor,
//! connection or topic, and the server ends in order.
//!
//! `RINGHUB_HOSTILE_MINUTES` makes more mixes, as `tests/hostility` does, and `RINGHUB_HOSTILE_MIXES` fewer;
//! `RINGHUB_SEED` is the seed of the first.

mod aftermath;
mod crowd;
mod honest;
mod ledger;
mod mix;
#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "these tests use a part of it")]
mod support;

use std::{
    env,
    time::{Duration, Instant},
};

use mix::Mix;

/// Mixes on servers of one and of four shards, in turns.
#[test]
fn crowds_beside_honest_clients() {
    let number = |variable: &str| -> Option<u64> {
        env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
    };
    let first = number("RINGHUB_SEED").unwrap_or(1);
    let begin = Instant::now();
    match number("RINGHUB_HOSTILE_MINUTES") {
        None => {
            let mixes = number("RINGHUB_HOSTILE_MIXES").unwrap_or(MIXES);
            (0..mixes).for_each(|at| mix(first + at).run(SHORT));
        }
        Some(minutes) => {
            let mut seed = first;
            while begin.elapsed() < Duration::from_secs(minutes * 60) {
                mix(seed).run(LONG);
                seed += 1;
            }
            println!("{} mixes, seeds {first} to {}, in {} s", seed - first, seed - 1, begin.elapsed().as_secs());
        }
    }
}

/// Returns the mix of a seed: odd ones have one shard, even ones four.
fn mix(seed: u64) -> Mix {
    Mix::draw(seed, if seed % 2 == 1 { 1 } else { 4 })
}

/// Mixes of an ordinary run, and how long each of them lasts.
const MIXES: u64 = 4;
const SHORT: Duration = Duration::from_secs(15);

/// How long a mix of a longer run lasts.
const LONG: Duration = Duration::from_secs(40);

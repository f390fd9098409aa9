//! A hostile crowd, drawn from a seed, beside an honest crowd that must not notice it.
//!
//! A mix is a server with drawn limits, a hostile crowd, and publishers and subscribers that number and check their
//! messages. While the crowds are there, every honest subscriber receives every message once and in order, and no
//! honest client is disconnected. No hostile client receives a private message or file, and no forged request is
//! accepted. The server's memory stays within the sum of `check-config`. Afterwards no socket, descriptor, connection
//! or topic is left, and the server ends orderly.
//!
//! With `RINGHUB_HOSTILE_MINUTES` more mixes run (`tests/hostility` sets it). `RINGHUB_SEED` is the seed of the first.

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

/// Runs mixes on servers with one and with four shards alternately.
#[test]
fn crowds_beside_honest_clients() {
    let number = |variable: &str| -> Option<u64> {
        env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
    };
    let first = number("RINGHUB_SEED").unwrap_or(1);
    let begin = Instant::now();
    match number("RINGHUB_HOSTILE_MINUTES") {
        None => (0..MIXES).for_each(|at| mix(first + at).run(SHORT)),
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

/// Returns the mix of a seed: one shard for an odd seed, four for an even one.
fn mix(seed: u64) -> Mix {
    Mix::draw(seed, if seed % 2 == 1 { 1 } else { 4 })
}

/// The number of mixes of an ordinary run, and how long each lasts.
const MIXES: u64 = 4;
const SHORT: Duration = Duration::from_secs(15);

/// How long a mix of a longer run lasts.
const LONG: Duration = Duration::from_secs(40);

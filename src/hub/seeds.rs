//! The seeds of simulated runs, which the environment may choose.

use std::{env, ops::Range, panic};

/// Calls `run` with `count` seeds from 0 on, or with as many as `RINGHUB_SEEDS` says, and `seen` with each result.
/// Returns the number of seeds. If `RINGHUB_SEED` is set, runs that seed alone, and returns `None`.
///
/// # Panics
///
/// If a run panics. The text names the run's seed.
pub(crate) fn each_seed<R>(test: &str, count: u64, run: impl Fn(u64) -> R, mut seen: impl FnMut(R)) -> Option<u64> {
    if let Some(seed) = number_of("RINGHUB_SEED") {
        run(seed);
        return None;
    }
    let seeds: Range<u64> = 0..number_of("RINGHUB_SEEDS").unwrap_or(count);
    let number = seeds.end;
    for seed in seeds {
        match panic::catch_unwind(panic::AssertUnwindSafe(|| run(seed))) {
            Ok(result) => seen(result),
            Err(_) => panic!("replay with RINGHUB_SEED={seed} cargo test --lib {test} -- --nocapture"),
        }
    }
    Some(number)
}

/// Returns the number in an environment variable.
pub(crate) fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

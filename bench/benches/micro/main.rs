//! The parts of the hub's path in memory, each beside a plain reference and beside the crates that people use.
//!
//! `bench/run micro` runs these benchmarks in rounds and writes `target/bench/micro.json`. Each benchmark's name is
//! `CASE/SIDE/NOUN`: the noun says what the case counts.

mod cases;

use cases::Case;
use criterion::{BenchmarkId, Criterion, Throughput};
use std::time::Duration;

fn main() {
    cases::check();
    // Short measurements: the rounds of `bench/run micro` run them again and again, in turn.
    let criterion = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(SAMPLES);
    let mut criterion = criterion.nresamples(RESAMPLES).configure_from_args();
    for Case { name, work, sides } in cases::all() {
        let mut group = criterion.benchmark_group(name);
        let amount = work.amount as u64;
        group.throughput(if work.noun == "bytes" { Throughput::Bytes(amount) } else { Throughput::Elements(amount) });
        for (side, mut body) in sides {
            group.bench_function(BenchmarkId::new(side, work.noun), |bencher| bencher.iter(&mut body));
        }
        group.finish();
    }
    criterion.final_summary();
}

const WARM_UP: Duration = Duration::from_millis(300);
const MEASUREMENT: Duration = Duration::from_secs(1);
const SAMPLES: usize = 40;
const RESAMPLES: usize = 2_000;

//! A load generator for WebSocket broadcast servers that checks every delivery.
//!
//! One thread opens every subscriber and publisher, publishes stamped messages and checks each delivery; with
//! `--verify sample` it checks only the number of bytes of most subscribers. If a delivery
//! is lost, repeated, out of order or invented, the exit status says so. A run whose figures cannot be trusted is
//! *void*, and shows no figures.
//!
//! The life of a run: [`Options`] are checked into a [`Plan`]; [`run`] opens all connections (`open`), publishes and
//! reads (`run`), waits for deliveries on their way, and returns a [`Report`].
//!
//! **Invariant:** nothing here uses the hub's crate, since a shared codec would hide its own mistakes.

pub mod frame;
pub mod manual;
pub mod payload;
pub mod sequence;
pub mod window;

mod cli;
mod connection;
mod error;
mod generator;
mod machine;
mod moment;
mod open;
mod options;
mod output;
mod process;
mod progress;
mod report;
mod run;
mod sampling;
mod scenario_figures;

pub use cli::{Cli, Command};
pub use error::Error;
pub use machine::Machine;
pub use moment::{BUCKETS_PER_OCTAVE, LatencyBuckets, LatencyRow, MOMENTS_MAX, Moment, Series, bucket_start_ns};
pub use options::{Load, Options, Plan, Span, Verify, VerifyFlag};
pub use output::{
    Assertion, CheckedAssertion, Comparison, FileError, Interrupt, Live, Output, OutputOptions, Verdict,
    comparison_page, hgrm, page, verdict, without_secrets,
};
pub use process::{Cpu, Memory, cpu_of, machine_busy_ns, memory_of, reset_peak};
pub use progress::{NoProgress, Progress};
pub use report::{
    Counts, Distribution, Figures, GeneratorFigures, Latency, Opening, Outcome, PercentileRow, Report, SCHEMA_VERSION,
    ServerFigures, SubscriberCounts,
};
pub use run::run;
pub use scenario_figures::ScenarioFigures;

//! A load generator that checks every delivery of a WebSocket server.
//!
//! One or more threads open all subscribers and publishers, publish stamped messages, and check each delivery. The exit
//! status says whether a delivery was lost, repeated, out of order, changed or invented. A run whose figures cannot be
//! trusted is *void*, and shows no figures. With `--verify sample` the threads check most subscribers only by their
//! number of bytes.
//!
//! The life of a run: [`Options`] are checked into a [`Plan`]. What the server expects is text: a preset (`preset`) and
//! flags (`options/target`) become a `protocol`, whose texts and patterns (`pattern`) make and recognise messages.
//! [`run`] starts the threads (`crew`). The first one carries out the scenario (`scenario`): it opens connections
//! (`open`), publishes (`publishing`), reads (`generator`, `connection`) and waits for deliveries on their way
//! (`draining`). The others read, and carry out its orders (`follower`). Every payload is judged when it arrives
//! (`judge`, `sequence`); at the end `reporting` makes the [`Report`].
//!
//! A *stream* is what one publisher publishes to one topic (`topics`): its messages are numbered, and each subscriber
//! checks the streams of its own topics.
//!
//! **Invariant:** nothing here uses the hub's crate, since a shared codec would hide its own mistakes.

pub mod frame;
pub mod manual;
pub mod payload;
pub mod sequence;
pub mod window;

mod cli;
mod connection;
mod crew;
mod disturbance;
mod draining;
mod ending;
mod error;
mod follower;
mod generator;
mod hints;
mod http;
mod judge;
mod machine;
mod moment;
mod open;
mod options;
mod output;
mod pattern;
mod ports;
mod preset;
mod process;
mod progress;
mod protocol;
mod publishing;
mod replay;
mod report;
mod reporting;
mod run;
mod sampling;
mod scenario;
mod scenario_figures;
mod tls;
mod topics;
mod units;
mod url;

pub use cli::{Cli, Command};
pub use error::Error;
pub use machine::Machine;
pub use moment::{BUCKETS_PER_OCTAVE, LatencyBuckets, LatencyRow, MOMENTS_MAX, Moment, Series, bucket_start_ns};
pub use options::{
    ChurnOptions, EchoOptions, IdleOptions, Load, LoadFlags, MachineFlags, Options, PackingFlag, Plan, RampBy,
    RampOptions, ReplayOptions, Scenario, Span, StallOptions, StormOptions, TargetFlags, Verify, VerifyFlag,
};
pub use output::{
    Assertion, CheckedAssertion, Comparison, FileError, Interrupt, Live, Output, OutputOptions, Verdict,
    comparison_page, escape, hgrm, page, verdict, without_secrets,
};
pub use preset::PresetName;
pub use process::{Cpu, Memory, cpu_of, machine_busy_ns, memory_of, reset_peak};
pub use progress::{NoProgress, Progress};
pub use report::{
    Counts, Distribution, Figures, GeneratorFigures, Latency, Opening, Outcome, PercentileRow, Report, SCHEMA_VERSION,
    ServerFigures, SubscriberCounts,
};
pub use run::run;
pub use scenario_figures::{MemoryStep, RampStep, ScenarioFigures, StormRound};
pub use topics::Spread;

//! A load generator for WebSocket broadcast servers that tells the truth.
//!
//! One thread opens every subscriber and publisher, publishes stamped messages and accounts for each delivery: a run
//! that lost, repeated, reordered or invented one says so in its exit status, and a run whose figures cannot be trusted
//! is *void* and presents none.
//!
//! The life of a run: [`Options`] are checked into a [`Plan`]; [`run`] connects everything (`open`), publishes while it
//! reads (`run`), waits for what is still on its way, and returns a [`Report`].
//!
//! **Invariant:** nothing here comes from the hub's own crate, so that a mistake in its codec cannot hide itself.

pub mod frame;
pub mod payload;
pub mod sequence;
pub mod window;

mod connection;
mod error;
mod generator;
mod open;
mod options;
mod process;
mod report;
mod run;

pub use error::Error;
pub use options::{Load, Options, Plan, Span, Verify, VerifyFlag};
pub use process::{Cpu, Memory, cpu_of, machine_busy_ns, memory_of, reset_peak};
pub use report::{Counts, Figures, GeneratorFigures, Latency, Outcome, Report, ServerFigures};
pub use run::run;

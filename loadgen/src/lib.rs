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

//! The flags that say what is printed and written.

use super::assertion::Assertion;
use clap::Args;
use std::path::PathBuf;

/// What is printed and written, beside the verdict in the exit status.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// Print the report as one JSON object instead of text. docs/loadgen-report.md explains its fields.
    #[arg(long)]
    pub json: bool,
    /// Show no progress line. There is none either with --json, or if standard error is no terminal.
    #[arg(long)]
    pub quiet: bool,
    /// Write the percentiles of the latency in microseconds, in the text format of HdrHistogram.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write the report as a page: one file of HTML that needs no other file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Exit with status 4 unless this holds, such as 'p99<5ms' or 'lost==0'. May be repeated. A number of mistakes is
    /// then judged by its assertion alone: with 'lost<10' a run that lost 3 messages can pass.
    #[arg(long = "assert", value_name = "ASSERTION")]
    pub assertions: Vec<Assertion>,
}

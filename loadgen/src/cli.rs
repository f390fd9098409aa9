//! The command line: a scenario with its flags, or another command.

use crate::manual::{Completions, Man};
use crate::options::Options;
use crate::output::Comparison;
use clap::{Parser, Subcommand};

/// Publishes to a WebSocket broadcast server and counts every delivery.
///
/// Without a command the flags are those of `fanout`. Ctrl-C ends the run early, and the report says so; a second
/// Ctrl-C ends the program.
///
/// Exit status: 0 every message arrived once and in order, and all assertions hold; 1 the run could not take place, or
/// its report could not be written; 2 a message was lost, repeated, reordered, corrupted or foreign, or a connection
/// ended; 3 the run is void; 4 an assertion does not hold.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringhub-loadgen", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of `fanout`, if there is no command.
    #[command(flatten)]
    pub options: Options,
}

/// A scenario, or what can be done with reports.
#[derive(Clone, Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one command line")]
pub enum Command {
    /// Publishers send messages to a topic, and each subscriber must receive every message.
    Fanout(Options),
    /// Compare the reports of two runs: print their figures side by side, and draw both on one page.
    Compare(Comparison),
    /// Print the completions of this command line for a shell.
    Completions(Completions),
    /// Print a manual page, for man(1).
    Man(Man),
}

//! The command line: a scenario with its flags, or another command.

use crate::options::Options;
use clap::{Parser, Subcommand};

/// Publishes to a WebSocket broadcast server and counts every delivery.
///
/// Without a command the flags are those of `fanout`.
///
/// Exit status: 0 every message arrived once and in order, 1 the run could not take place, 2 a message was lost,
/// repeated, reordered, corrupted or foreign, or a connection ended, 3 the run is void.
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
pub enum Command {
    /// Publishers send messages to a topic, and each subscriber must receive every message.
    Fanout(Options),
}

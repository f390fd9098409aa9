//! The command line: a scenario with its flags, or another command.

use crate::manual::{Completions, Man};
use crate::options::{
    ChurnOptions, EchoOptions, IdleOptions, Options, RampOptions, ReplayOptions, StallOptions, StormOptions,
};
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
pub enum Command {
    /// Publishers send messages to topics, and each subscriber must receive every message of its topics.
    Fanout(Options),
    /// Every connection sends messages, and the server sends each back.
    Echo(EchoOptions),
    /// Connections are opened and held; with --server-pid, the memory of each.
    Idle(IdleOptions),
    /// All connections are closed at once and come back at once.
    Storm(StormOptions),
    /// Subscribers leave, and others join, while messages are published.
    Churn(ChurnOptions),
    /// A share of the subscribers stops reading; what the others notice of it.
    Stall(StallOptions),
    /// The rate, or the number of subscribers, rises until the latency passes a bound.
    Ramp(RampOptions),
    /// The messages of a file are published at their times.
    Replay(ReplayOptions),
    /// Compare the reports of two runs: print their figures side by side, and draw both on one page.
    Compare(Comparison),
    /// Print the completions of this command line for a shell.
    Completions(Completions),
    /// Print a manual page, for man(1).
    Man(Man),
}

impl Cli {
    /// Returns the flags of a run; `None` if the command is no scenario.
    pub fn into_options(self) -> Option<Options> {
        match self.command {
            None => Some(self.options),
            Some(command) => command.into_options(),
        }
    }
}

impl Command {
    /// Returns the flags of a run; `None` if the command is no scenario.
    pub fn into_options(self) -> Option<Options> {
        Some(match self {
            Command::Compare(_) | Command::Completions(_) | Command::Man(_) => return None,
            Command::Fanout(options) => options,
            Command::Echo(options) => options.into(),
            Command::Idle(options) => options.into(),
            Command::Storm(options) => options.into(),
            Command::Churn(options) => options.into(),
            Command::Stall(options) => options.into(),
            Command::Ramp(options) => options.into(),
            Command::Replay(options) => options.into(),
        })
    }
}

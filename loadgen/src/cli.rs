//! The command line: a scenario with its flags, or another command.

use crate::manual::{Completions, Man};
use crate::options::{
    ChurnOptions, EchoOptions, IdleOptions, Options, RampOptions, ReplayOptions, StallOptions, StormOptions,
};
use crate::output::Comparison;
use clap::{Parser, Subcommand};

/// Puts load on a WebSocket server, checks every delivery, and reports.
///
/// Without a command the flags are those of `fanout`. Ctrl-C ends the run early, and the report says so; a second
/// Ctrl-C ends the program.
///
/// Exit status: 0 nothing went wrong, and all assertions hold; 1 the run could not take place, was interrupted before
/// anything was measured, or its report could not be written; 2 something went wrong whose number no assertion names: a
/// message was lost, outstanding, repeated, reordered, corrupted, misrouted, miscounted, foreign or never published,
/// arrived in other orders, or a connection ended; 3 the run is void; 4 an assertion does not hold. Of several statuses
/// the first of 1, 3, 2 and 4 counts. With --ignore-foreign a foreign message is no mistake.
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

/// A scenario or another command.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Publish messages to topics, and check that each subscriber gets every message of its topics.
    Fanout(Options),
    /// Send messages on every connection, and time the server's answers.
    ///
    /// --url is an address at which the server sends each message back; the preset ringhub asks for echo=true.
    Echo(EchoOptions),
    /// Open connections and hold them; with --server-pid, measure the server's memory for each.
    Idle(IdleOptions),
    /// Close all connections at once, and time how long all need to come back.
    Storm(StormOptions),
    /// Let subscribers leave and others join while messages are published.
    ///
    /// Needs --rate.
    Churn(ChurnOptions),
    /// Stop a share of the subscribers from reading, and measure the others.
    ///
    /// Needs --rate.
    Stall(StallOptions),
    /// Raise the rate or the number of subscribers until p99 exceeds a bound.
    ///
    /// --duration and --warmup are those of each step. With --by connections it needs --rate.
    Ramp(RampOptions),
    /// Publish messages of the sizes and at the times that a file gives.
    Replay(ReplayOptions),
    /// Compare the reports of two runs: print their figures side by side, and draw both on one page.
    Compare(Comparison),
    /// Print the completions of this command line for a shell.
    ///
    /// For bash, save them as ~/.local/share/bash-completion/completions/ringhub-loadgen.
    Completions(Completions),
    /// Print a manual page, for man(1).
    ///
    /// Save it as ~/.local/share/man/man1/ringhub-loadgen.1, or that of a command as ringhub-loadgen-COMMAND.1.
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

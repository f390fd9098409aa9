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
/// Exit status: 0 nothing went wrong but mistakes whose number is asserted, and all assertions hold; 1 the run could
/// not take place, was interrupted before it measured anything, or its report could not be written; 2 a message was
/// lost, repeated, reordered, corrupted, foreign, misrouted or not taken by the server, or a connection ended; 3 the
/// run is void; 4 an assertion does not hold. Status 3 comes before 2, and 2 before 4.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringhub-loadgen", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
#[command(after_long_help = TEXTS)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of `fanout`, if there is no command.
    #[command(flatten)]
    pub options: Options,
}

/// What a server is told and what it answers, for the long help.
const TEXTS: &str = "\
TEXT is sent, and PATTERN recognises what arrives. In both, these names stand for:
  {topic}       the name of the topic
  {payload}     the generator's payload
  {size}        the number of the payload's bytes
  {id}          a number of ten digits, another one for each message of a connection
  {connection}  the number of the connection, from 0
  {any}         in a PATTERN: any bytes, or none
Other braces stand for themselves, so JSON needs no escapes; \\r and \\n are CR and LF. A PATTERN fits a whole message.
The page docs/loadgen.md of the sources describes the presets, and an own server step by step.";

/// A scenario or another command.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Publish messages to topics, and check that each subscriber gets every message of its topics.
    #[command(after_long_help = TEXTS)]
    Fanout(Options),
    /// Send messages on every connection to a server that sends each back.
    ///
    /// On ringhub a topic with echo=true does this; elsewhere --url is the address of an echo.
    #[command(after_long_help = TEXTS)]
    Echo(EchoOptions),
    /// Open connections and hold them; with --server-pid, measure the memory of each.
    #[command(after_long_help = TEXTS)]
    Idle(IdleOptions),
    /// Close all connections at once, and measure how long all need to come back.
    #[command(after_long_help = TEXTS)]
    Storm(StormOptions),
    /// Let subscribers leave and others join while messages are published.
    ///
    /// It needs --rate.
    #[command(after_long_help = TEXTS)]
    Churn(ChurnOptions),
    /// Let a share of the subscribers stop reading, and measure the others.
    ///
    /// It needs --rate. The stall begins in the middle of the window. It reaches the server only when the sockets'
    /// buffers are full, so the messages must be many or large.
    #[command(after_long_help = TEXTS)]
    Stall(StallOptions),
    /// Raise the rate, or the number of subscribers, until the latency passes a bound.
    ///
    /// The duration and the warm-up are those of each step. With --by connections it needs --rate.
    #[command(after_long_help = TEXTS)]
    Ramp(RampOptions),
    /// Publish messages at the times that a file gives.
    #[command(after_long_help = TEXTS)]
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

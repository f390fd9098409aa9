//! Compares the hub with its peers on one machine, the server on one CPU and the load on another.
//!
//! `compare` runs every scenario against every server in interleaved rounds and holds the ratios of the medians against
//! the project's bars, with `--baseline` beside the hub of another commit; `idle` does the same for the memory of idle
//! connections; `post` measures publishing by HTTP; `instructions` counts those of a delivery and a publish; `hostile`
//! and `empty` what a crowd can do to others and to the server's memory; `k2` is the peer that shows what the hub's own
//! system calls cost with nothing around them. Run it from the repository root; `bench/run` builds what is needed.

mod baseline;
mod client;
mod compare;
mod distance;
mod drawn;
mod empty;
mod flood;
mod handler;
mod honest;
mod hostile;
mod idle;
mod instructions;
mod k2;
mod peers;
mod post;
mod record;
mod scenario;
mod statistics;
mod tools;
mod two_topics;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "ringhub-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// CPU per delivery, throughput and latency beside the peers; exit status 1 when a run fails or a bar is not met.
    Compare(compare::Options),
    /// User-space memory of idle subscribers; exit status 1 when a bar is missed.
    Idle(idle::Options),
    /// Instructions of one delivery and one publish; exit status 1 when one is not what the kept file says.
    Instructions(instructions::Options),
    /// Publishing by HTTP: requests per second, what each costs, how long it takes.
    Post(post::Options),
    /// Honest clients beside a crowd of flooders; exit status 1 when they wait longer or miss anything.
    Hostile(hostile::Options),
    /// What a flood of empty frames does to the server's memory; exit status 1 when it grows too much.
    Empty(empty::Options),
    /// A crowd that sends one kind of frame until standard input ends, at nice 19.
    Flood {
        /// Where the server is.
        #[arg(long)]
        address: SocketAddr,
        /// What to send.
        #[arg(long, value_enum)]
        kind: flood::Kind,
        /// How many of them.
        #[arg(long)]
        connections: usize,
    },
    /// A crowd that a seed draws, until standard input ends, at nice 19.
    Drawn {
        /// Where the server is.
        #[arg(long)]
        address: SocketAddr,
        /// What decides what they send.
        #[arg(long)]
        seed: u64,
        /// How many of them.
        #[arg(long)]
        connections: usize,
    },
    /// The bare batched-send loop, as a server.
    K2 {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// Pin it to this CPU.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// The hub with a handler that publishes, as a server.
    Handler {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// Pin its shard to this CPU.
        #[arg(long)]
        cpu: usize,
    },
    /// The hub with subscribers of two topics each, as a server.
    TwoTopics {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// Pin its shard to this CPU.
        #[arg(long)]
        cpu: usize,
    },
}

fn main() -> ExitCode {
    let done: Result<bool, Box<dyn Error>> = match Cli::parse().command {
        Command::Compare(options) => compare::compare(&options),
        Command::Idle(options) => idle::idle(&options),
        Command::Instructions(options) => instructions::instructions(&options),
        Command::Post(options) => post::post(&options),
        Command::Hostile(options) => hostile::hostile(&options),
        Command::Empty(options) => empty::empty(&options),
        Command::Flood { address, kind, connections } => flood::flood(address, kind, connections),
        Command::Drawn { address, seed, connections } => drawn::drawn(address, seed, connections),
        Command::Handler { listen, cpu } => handler::serve(listen, cpu),
        Command::TwoTopics { listen, cpu } => two_topics::serve(listen, cpu),
        Command::K2 { listen, cpu } => k2::serve(listen, cpu).map_err(Into::into),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringhub-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

//! Compares the hub with its peers on one machine, the server on one CPU and the load on another.
//!
//! `compare` runs every scenario against every server in interleaved rounds, and compares the ratios of the medians
//! with the project's bars. With `--baseline` the hub of another commit takes part. `idle` measures the memory of idle
//! connections, `post` publishing by HTTP, `handshakes` opening handshakes with tokens, and `instructions` the
//! instructions of a delivery, a publish, a POST and a handshake. `pairs` compares two commits in short slices in turn.
//! `hostile` measures how a crowd affects other clients, and `empty` how it affects the server's memory. `k1`, `k2` and
//! `k3` are peers that show the cost of system calls alone. `presets` checks the generator's presets against servers of
//! others, `micro` measures parts of the path in memory, and `results` measures all that `bench/RESULTS.md` shows, and
//! writes it. Run it from the repository root; `bench/run` builds the programs.

mod bare;
mod baseline;
mod client;
mod compare;
mod distance;
mod drawn;
mod empty;
mod flood;
mod handler;
mod handshakes;
mod hold;
mod honest;
mod hostile;
mod idle;
mod installed;
mod instructions;
mod judge;
mod k2;
mod load;
mod metric;
mod micro;
mod micro_rows;
mod others;
mod pairs;
mod peers;
mod plain;
mod post;
mod presets;
mod record;
mod results;
mod run;
mod running;
mod scenario;
mod statistics;
mod streams;
mod subscribers;
mod table;
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
    /// All rows of bench/RESULTS.md, in parts that can be stopped and continued; then writes it and results.html.
    Results(results::Options),
    /// User-space memory of idle subscribers; exit status 1 when a bar is missed.
    Idle(idle::Options),
    /// Instructions of a fan-out, publish, POST and handshake; exit status 1 when one differs from the recorded one.
    Instructions(instructions::Options),
    /// The parts of the hub's path in memory, beside a plain reference and the crates that people use.
    Micro(micro::Options),
    /// Publishing by HTTP: requests per second, cost and time of a request.
    Post(post::Options),
    /// The cost beside another commit, in short slices in turn; exit status 1 when it is higher.
    Pairs(pairs::Options),
    /// The server's CPU time for an opening handshake, with and without tokens; exit status 1 when a bar is missed.
    Handshakes(handshakes::Options),
    /// Honest clients beside a crowd of flooders; exit status 1 when their messages are late or missing.
    Hostile(hostile::Options),
    /// The server's memory in a flood of empty frames; exit status 1 when it grows too much.
    Empty(empty::Options),
    /// The generator's presets and flags against the servers that they are for; exit status 1 when a run is not exact.
    Presets(presets::Options),
    /// A crowd that sends one kind of frame until standard input ends, at nice 19.
    Flood {
        /// Address of the server.
        #[arg(long)]
        address: SocketAddr,
        /// Kind of frames to send.
        #[arg(long, value_enum)]
        kind: flood::Kind,
        /// Number of connections.
        #[arg(long)]
        connections: usize,
    },
    /// A crowd that is drawn from a seed, until standard input ends, at nice 19.
    Drawn {
        /// Address of the server.
        #[arg(long)]
        address: SocketAddr,
        /// Seed of the crowd.
        #[arg(long)]
        seed: u64,
        /// Number of connections.
        #[arg(long)]
        connections: usize,
    },
    /// The bare loop of plain sends, as a server.
    K1 {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Pin it to this CPU.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// The bare echo, as a server.
    K3 {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Pin it to this CPU.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// The bare loop of batched sends, as a server.
    K2 {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Pin it to this CPU.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// The bare server that only holds connections.
    Hold {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Pin it to this CPU.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// The hub with a handler that publishes, as a server.
    Handler {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Pin its shard to this CPU.
        #[arg(long)]
        cpu: usize,
    },
    /// The hub with subscribers of two topics each, as a server.
    TwoTopics {
        /// Address to listen on.
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
        Command::Results(options) => results::results(&options),
        Command::Idle(options) => idle::idle(&options),
        Command::Instructions(options) => instructions::instructions(&options),
        Command::Micro(options) => micro::micro(&options),
        Command::Post(options) => post::post(&options),
        Command::Pairs(options) => pairs::pairs(&options),
        Command::Handshakes(options) => handshakes::handshakes(&options),
        Command::Hostile(options) => hostile::hostile(&options),
        Command::Empty(options) => empty::empty(&options),
        Command::Presets(options) => presets::presets(&options),
        Command::Flood { address, kind, connections } => flood::flood(address, kind, connections),
        Command::Drawn { address, seed, connections } => drawn::drawn(address, seed, connections),
        Command::Hold { listen, cpu } => hold::serve(listen, cpu).map_err(Into::into),
        Command::Handler { listen, cpu } => handler::serve(listen, cpu),
        Command::TwoTopics { listen, cpu } => two_topics::serve(listen, cpu),
        Command::K1 { listen, cpu } => plain::serve(listen, cpu, plain::Receivers::All).map_err(Into::into),
        Command::K3 { listen, cpu } => plain::serve(listen, cpu, plain::Receivers::Sender).map_err(Into::into),
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

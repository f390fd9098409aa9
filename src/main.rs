//! The server's command line: flags become a `Config`, a `Config` becomes a `Server`.

mod health;

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser;
use ringhub::{
    config::{Config, Settings},
    metrics,
    server::{Running, Server},
    sys,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A WebSocket broadcast hub: whatever a client sends to a topic reaches all of the topic's subscribers.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Serve, which is also what happens without a command.
    Serve(Box<Serve>),
    /// Ask a server whether it is alive: status 0 if it is, 1 and a message if not.
    Health(health::Health),
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    settings: Settings,

    /// What to log, such as info, or ringhub=debug.
    #[arg(long, env = "RINGHUB_LOG", value_name = "FILTER", default_value = "info", help_heading = "Logs")]
    log: String,

    /// How to log.
    #[arg(long, env = "RINGHUB_LOG_FORMAT", value_name = "FORMAT", default_value = "text", help_heading = "Logs")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(Command::Health(health)) => health::check(&health).map_err(Into::into),
        Some(Command::Serve(serve)) => run(&serve),
        None => run(&arguments.serve),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The last word goes to the terminal as well as it can; there is nobody to tell if it cannot.
            drop(writeln!(io::stderr(), "ringhub: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(serve: &Serve) -> Result<(), Box<dyn std::error::Error>> {
    start_logging(serve)?;
    let descriptors = sys::net::raise_descriptor_limit();
    let config = Config::new(&serve.settings, descriptors)?;
    let report = start_report(&config, descriptors);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything is announced: whoever reads it may send a signal at once.
    let signals = {
        let _context = runtime.enter();
        Signals::new()?
    };
    let running = Server::bind(config)?.start()?;
    tracing::info!("{report}");
    let addresses = running.local_addrs();
    let address = addresses[0];
    let others: String = addresses[1..].iter().map(|address| format!(" and {address}")).collect();
    say(format_args!("ringhub {} serves on {address}{others}", env!("CARGO_PKG_VERSION")));
    say(format_args!("  WebSocket clients: ws://{address}/t/TOPIC"));
    say(format_args!("  a browser:         http://{address}/"));
    runtime.block_on(until_told(running, signals))
}

/// What the operator can tell the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    report: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            report: signal(SignalKind::user_defined1())?,
        })
    }
}

/// What an operator wants to know of a start, in one line.
fn start_report(config: &Config, descriptors: u64) -> String {
    let kernel = rustix::system::uname();
    let memlock = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let memlock = memlock.map_or("unlimited".into(), |bytes| format!("{bytes} bytes"));
    let pinned = if config.pinned { "pinned to" } else { "floating over" };
    format!(
        "serving on {} {} {pinned} CPUs {:?}; {config}; Linux {}, io_uring with multishot polls, synchronous batches \
         and skipped completions; {descriptors} descriptors, {memlock} of locked memory",
        config.shards,
        if config.shards == 1 { "shard" } else { "shards" },
        config.cpus,
        kernel.release().to_string_lossy(),
    )
}

/// Serves until a signal: the first begins an orderly end, the second ends at once.
async fn until_told(mut running: Running, signals: Signals) -> Result<(), Box<dyn std::error::Error>> {
    let Signals { mut terminate, mut interrupt, mut report } = signals;
    let mut is_leaving = false;
    loop {
        let name = tokio::select! {
            outcome = running.wait() => return Ok(outcome?),
            _ = report.recv() => {
                say(format_args!("{}", metrics::table(running.counters(), running.control_counters())));
                continue;
            }
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if is_leaving {
            return Err(format!("a second {name}: ended at once").into());
        }
        tracing::info!("{name}: leaving; the same signal again ends at once");
        is_leaving = true;
        running.stop();
    }
}

/// Writes a line for whoever listens; that nobody does any more is no reason to stop serving.
fn say(line: fmt::Arguments<'_>) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        tracing::debug!(%error, "standard output");
    }
}

fn start_logging(serve: &Serve) -> Result<(), Box<dyn std::error::Error>> {
    let filter = EnvFilter::try_new(&serve.log).map_err(|error| format!("log: {error}"))?;
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match serve.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}

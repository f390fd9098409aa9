//! The server's command line: flags become a `Config`, a `Config` becomes a `Server`.

mod health;
mod listening;
mod manual;
mod operate;
mod outcome;
mod owner;
mod reload;
mod seccomp;
mod service_manager;

use std::{
    env, fmt,
    io::{self, Write as _},
    mem,
    path::PathBuf,
    process::{self, ExitCode},
};

use clap::{
    CommandFactory as _, Parser,
    error::{ContextKind, ContextValue},
};
use operate::CommandLine;
use reload::SettingsSources;
use ringhub::{
    config::{self, Config, Flags, Given, LogFormat, SETTINGS, SandboxChoice, Settings, Size, Time},
    logs::Logs,
    metrics::{self, Counter},
    server::{self, ChosenBackend, DrainReport, Running, Server},
    sys,
};
use service_manager::ServiceManager;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A WebSocket broadcast hub: each message of a client to a topic reaches all other subscribers of the topic.
// Without `Debug`, since the arguments may be tokens.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, max_term_width = 100, after_help = SOURCES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommand>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Serve, which is also what happens without a command.
    #[command(after_help = SOURCES)]
    Serve(Flags),
    /// Check settings as the server does at its start, and print their values and sources.
    ///
    /// Takes the flags of the server. Status 0 if the server could start with them, else 1 and all errors.
    CheckConfig(CheckConfig),
    /// Print a file of settings, each with its default and its meaning.
    ExampleConfig,
    /// Print a page of the documentation, as Markdown.
    Reference(Reference),
    /// Check whether a server is alive: status 0 if it is, else 1 and a message.
    Health(health::Health),
    /// Let a server on this machine, or in this container, read its settings again, and wait for the outcome.
    ///
    /// The settings are checked first. Status 0 if the server has put them in force, else 1 and a message.
    Reload(operate::Reload),
    /// Let a server on this machine, or in this container, leave, and wait until it has ended.
    ///
    /// Clients get what they are owed, and a close frame that asks them to connect again. Status 0 if the server has
    /// ended, else 1 and a message.
    Drain(operate::Drain),
    /// Print a seccomp profile for containers, which allows the server's system calls and forbids all others.
    SeccompProfile(seccomp::SeccompProfile),
    /// Print a script that completes this command line in a shell.
    Completions(manual::Completions),
    /// Print a manual page, for man(1).
    Man(manual::Man),
}

#[derive(clap::Args)]
struct CheckConfig {
    /// The file to check, as if it was named by --config.
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Reference {
    #[arg(value_enum)]
    page: Page,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Page {
    /// Every setting: names, unit, range, default and meaning.
    Settings,
    /// Every key of a route, with examples.
    Routes,
}

const SOURCES: &str = "\
Every setting is also a variable and, in the file, a key: --max-message, RINGHUB_MAX_MESSAGE and \
max_message. Flags win over variables, variables over the file; --config is RINGHUB_CONFIG. \
`ringhub example-config` prints a file with all of them.";

fn main() -> ExitCode {
    let arguments = parse();
    let outcome = match arguments.command {
        None => return serve(&arguments.flags),
        Some(Subcommand::Serve(flags)) => return serve(&flags),
        Some(Subcommand::CheckConfig(arguments)) => check_config(arguments),
        Some(Subcommand::ExampleConfig) => print_line(config::example().trim_end()),
        Some(Subcommand::Reference(Reference { page: Page::Settings })) => {
            print_line(config::settings_page().trim_end())
        }
        Some(Subcommand::Reference(Reference { page: Page::Routes })) => print_line(config::routes_page().trim_end()),
        Some(Subcommand::Reload(arguments)) => {
            operate::reload(arguments, COMMAND_LINE).and_then(|line| print_line(&line))
        }
        Some(Subcommand::Drain(arguments)) => {
            operate::drain(arguments, COMMAND_LINE).and_then(|line| print_line(&line))
        }
        Some(Subcommand::SeccompProfile(arguments)) => {
            seccomp::profile(arguments).map_err(Into::into).and_then(|profile| print_line(&profile))
        }
        Some(Subcommand::Completions(arguments)) => {
            print_line(manual::completions(arguments, Arguments::command()).trim_end())
        }
        Some(Subcommand::Man(arguments)) => {
            manual::page(arguments, Arguments::command()).and_then(|page| print_line(page.trim_end()))
        }
        Some(Subcommand::Health(health)) => match health::check(health, env::vars_os()) {
            Err(failure) if failure.format == LogFormat::Json => return log_failure(&failure),
            outcome => outcome.map_err(Into::into),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&*error);
            ExitCode::FAILURE
        }
    }
}

/// The command line of this program, for the commands that look for a server.
const COMMAND_LINE: CommandLine = CommandLine {
    flags: |arguments| match Arguments::try_parse_from(arguments).ok()? {
        Arguments { command: None, flags } | Arguments { command: Some(Subcommand::Serve(flags)), .. } => Some(flags),
        Arguments { command: Some(_), .. } => None,
    },
    is_other_command: |word| {
        let commands = Arguments::command();
        word != "serve" && commands.get_subcommands().any(|command| command.get_name() == word)
    },
};

/// Parses the command line. clap's errors repeat stray arguments. After a flag for tokens a stray argument may be a
/// token, so it is hidden.
fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| {
        if !error.use_stderr() {
            // Help or the version, which is the requested output and no error.
            let outcome = check_written(error.print());
            process::exit(outcome.map_or_else(|error| report(&error, 1), |()| error.exit_code()));
        }
        if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
            && Arguments::command().get_subcommands().any(|command| command.get_name() == word)
        {
            process::exit(report(&format_args!("flags go after the subcommand: ringhub {word} --FLAG VALUE"), 2));
        }
        let is_word = |kind| matches!(error.get(kind), Some(ContextValue::String(word)) if !word.starts_with('-'));
        let is_stray_word = is_word(ContextKind::InvalidArg) || is_word(ContextKind::InvalidSubcommand);
        let secrets: Vec<String> = SETTINGS.iter().filter(|row| row.is_secret).map(|row| row.flag()).collect();
        let is_secret = |argument: &str| secrets.iter().any(|flag| argument.trim_start_matches('-').starts_with(flag));
        if is_stray_word && env::args_os().any(|argument| is_secret(&argument.to_string_lossy())) {
            let hidden = "hidden: it may be a token; separate tokens with commas, not spaces";
            process::exit(report(&format_args!("unexpected argument ({hidden})"), 2));
        }
        if let Some((number, unit)) = split_value().filter(|_| is_stray_word) {
            process::exit(report(&format_args!("a value has no space in it: write {number}{unit}"), 2));
        }
        error.exit()
    })
}

/// Prints an error, and returns the status to end with.
fn report(what: &dyn fmt::Display, status: i32) -> i32 {
    print_error(what);
    status
}

/// Returns the parts of a value that was written with a space before its unit.
fn split_value() -> Option<(String, String)> {
    let words: Vec<String> = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|octet| octet.is_ascii_digit());
    let has_unit =
        |unit: &str| format!("1{unit}").parse::<Size>().is_ok() || format!("1{unit}").parse::<Time>().is_ok();
    let pair = words.windows(2).find(|pair| is_number(&pair[0]) && !is_number(&pair[1]) && has_unit(&pair[1]))?;
    Some((pair[0].clone(), pair[1].clone()))
}

/// Prints an error on standard error, as far as that can be written.
fn print_error(what: &dyn fmt::Display) {
    drop(writeln!(io::stderr(), "{}", error_text(what)));
}

/// Returns an error with the name of the program before each line.
fn error_text(what: &dyn fmt::Display) -> String {
    what.to_string().lines().map(|line| format!("ringhub: {line}")).collect::<Vec<_>>().join("\n")
}

/// Writes a line of output.
fn print_line(line: &str) -> Result<(), Box<dyn std::error::Error>> {
    Ok(check_written(writeln!(io::stdout(), "{line}"))?)
}

/// Checks the outcome of a write to standard output. A reader that has closed the pipe is no error.
fn check_written(outcome: io::Result<()>) -> Result<(), Unwritten> {
    match outcome.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Unwritten(error)),
        _ => Ok(()),
    }
}

/// The error of standard output that cannot be written.
#[derive(Debug)]
struct Unwritten(io::Error);

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "standard output cannot be written: {}", self.0)
    }
}

impl std::error::Error for Unwritten {}

fn check_config(arguments: CheckConfig) -> Result<(), Box<dyn std::error::Error>> {
    let CheckConfig { file, mut flags } = arguments;
    if let Some(file) = file {
        flags.read_file(file, "check-config");
    }
    let given = Given::read(&flags, env::vars_os());
    let config = given.config(sys::net::raise_descriptor_limit());
    let of_config = config.as_ref().map(Config::warnings).unwrap_or_default();
    for warning in given.warnings().iter().chain(&of_config) {
        print_error(&format_args!("warning: {warning}"));
    }
    let config = config?;
    server::check_topics(&config)?;
    let backend = ChosenBackend::choose(config.io)?;
    if let Some(line) = backend.fallback() {
        print_error(&format_args!("warning: {line}"));
    }
    server::check_sandbox(&config, &backend)?;
    let effective = config::effective(&given, &config);
    let sandbox = sandbox_words(config.sandbox, &backend);
    print_line(&format!(
        "{}\n\n# ---- Sandbox ----\n# {sandbox}\n\n# ---- Backend ----\n# {backend}",
        effective.trim_end()
    ))
}

/// Logs the failure of a health check as the server would, in JSON.
fn log_failure(failure: &health::Failure) -> ExitCode {
    let taken_over = Logs::start().map_err(Into::into).and_then(|logs| {
        logs.take_over(&Settings::default().log, LogFormat::Json)?;
        Ok::<_, Box<dyn std::error::Error>>(logs)
    });
    match taken_over {
        Ok(logs) => {
            failure.log();
            logs.finish();
        }
        Err(_) => print_error(failure),
    }
    ExitCode::FAILURE
}

/// Serves to the end. From here on no thread waits for the readers of standard output and standard error.
fn serve(flags: &Flags) -> ExitCode {
    let logs = match Logs::start() {
        Ok(logs) => logs,
        Err(error) => {
            print_error(&format_args!("the threads that write logs cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = serve_with(&logs, flags);
    if let Err(error) = &outcome {
        logs.print_error(error);
    }
    logs.finish();
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve_with(logs: &Logs, flags: &Flags) -> Result<(), Box<dyn std::error::Error>> {
    let mut given = Given::read(flags, env::vars_os());
    logs.set_format(given.settings.log_format);
    // Before anything else opens a descriptor.
    let mut inherited = service_manager::take_over_listeners(&mut given)?;
    let descriptors = sys::net::raise_descriptor_limit();
    let config = given.config(descriptors)?;
    logs.take_over(&given.settings.log, given.settings.log_format)?;
    for warning in given.warnings().iter().chain(&inherited.warning).chain(&config.warnings()) {
        tracing::warn!("{warning}");
    }
    let mut report = StartReport::new(&config, descriptors);
    let sandbox = config.sandbox;
    let routes: Vec<String> =
        config.routes.iter().map(|route| format!("{} ({})", route.pattern, route.handler)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The signals are handled before the addresses are printed, since the reader of these may send a signal at once.
    let signals = {
        let _context = runtime.enter();
        Signals::new()?
    };
    let builder = if config.routes.is_empty() { Server::builder().topics().page() } else { Server::builder() };
    let server = {
        let logs = logs.clone();
        let builder = builder.access_log(move |line| logs.print(format_args!("{line}")));
        builder.config(config).listeners(mem::take(&mut inherited.listeners)).build()?
    };
    report.io = server.backend().to_string();
    report.sandbox = sandbox_words(sandbox, server.backend());
    let metrics = server.metrics_addr();
    let running = server.start()?;
    let addresses: Vec<String> = running.local_addrs().iter().map(ToString::to_string).collect();
    let addresses = addresses.join(" and ");
    let version = env!("CARGO_PKG_VERSION");
    report.log(version, &addresses);
    logs.print(format_args!("ringhub {version} serves on {addresses}"));
    let here = health::reachable(running.local_addr());
    if routes.is_empty() {
        logs.print(format_args!("  WebSocket clients: ws://{here}/t/TOPIC"));
        logs.print(format_args!("  a browser:         http://{here}/"));
    } else {
        logs.print(format_args!("  routes:            {}", routes.join(", ")));
    }
    logs.print(format_args!("  metrics:           http://{}/metrics", metrics.map_or(here, health::reachable)));
    let sources = SettingsSources { flags, inherited: &inherited };
    runtime.block_on(until_signal(running, signals, logs, &sources))
}

/// The signals that the operator can send to the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    report: Signal,
    hangup: Signal,
    /// A signal without a meaning, which would end the process if it was not handled.
    user: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            report: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined2())?,
        })
    }
}

/// The fields of the log line about the start.
struct StartReport {
    shards: usize,
    placement: String,
    /// The backend and the reason for it.
    io: String,
    sandbox: &'static str,
    max_connections: usize,
    max_message: u32,
    max_backlog: usize,
    kernel: String,
    descriptors: u64,
    /// Bytes; `None` if there is no limit.
    locked_memory: Option<u64>,
}

impl StartReport {
    fn new(config: &Config, descriptors: u64) -> StartReport {
        StartReport {
            shards: config.shards,
            placement: config.placement(),
            io: String::new(),
            sandbox: "",
            max_connections: config.limits.connections_max,
            max_message: config.limits.message.message_bytes_max,
            max_backlog: config.limits.backlog_bytes_max,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            descriptors,
            locked_memory: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        }
    }

    fn log(&self, version: &str, addresses: &str) {
        let StartReport { shards, placement, io, max_connections, max_message, max_backlog, .. } = self;
        let StartReport { kernel, descriptors, locked_memory, sandbox, .. } = self;
        tracing::info!(
            version,
            addresses,
            shards,
            placement,
            io,
            sandbox,
            max_connections,
            max_message,
            max_backlog,
            kernel,
            descriptors,
            locked_memory,
            "ringhub {version} serves on {addresses}"
        );
    }
}

/// Returns the sandbox of a server with this backend in words.
fn sandbox_words(choice: SandboxChoice, backend: &ChosenBackend) -> &'static str {
    match choice {
        SandboxChoice::Off => "off",
        SandboxChoice::On if backend.info().backend == "uring" => {
            "on (a seccomp filter, and rings that take the operations in use alone)"
        }
        SandboxChoice::On => "on (a seccomp filter)",
    }
}

/// Serves until the server has ended. The first SIGTERM, SIGINT or SIGQUIT begins a graceful shutdown, the second ends
/// the process at once; SIGHUP reloads the settings; SIGUSR1 prints the counters.
async fn until_signal(
    mut running: Running,
    signals: Signals,
    logs: &Logs,
    sources: &SettingsSources<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut manager = ServiceManager::begin(&running);
    let Signals { mut terminate, mut interrupt, mut quit, mut report, mut hangup, mut user } = signals;
    let mut is_leaving = false;
    loop {
        let name = tokio::select! {
            outcome = running.wait() => {
                outcome?;
                let DrainReport { told, left, dropped, is_barrier_whole, .. } = running.drain_report();
                tracing::info!(told, left, dropped, is_barrier_whole, "stopped");
                return Ok(());
            }
            () = manager.due() => {
                manager.look(&running, is_leaving);
                continue;
            }
            _ = report.recv() => {
                logs.print(format_args!("{}", metrics::table(running.counters(), running.control_counters())));
                continue;
            }
            _ = hangup.recv() => {
                manager.around_reload(|| sources.reload(&running, logs));
                continue;
            }
            _ = user.recv() => {
                tracing::info!(signal = "SIGUSR2", "SIGUSR2 is ignored");
                continue;
            }
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = quit.recv() => "SIGQUIT",
        };
        if is_leaving {
            return Err(format!("a second signal, {name}: ended at once").into());
        }
        let connections: u64 = running.counters().iter().map(|shard| shard.get(Counter::ConnectionsOpen)).sum();
        tracing::info!(signal = name, connections, "{name}: leaving; a second signal ends at once");
        is_leaving = true;
        running.stop();
        manager.leave(&running);
    }
}

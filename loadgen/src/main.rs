//! `ringhub-loadgen`: reads flags, prints one report, and returns the verdict as exit status.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser};
use ringhub_loadgen::{Cli, Command, Interrupt, Options, Output, manual, run, without_secrets};
use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// The exit status if there is no report: wrong flags, no server, a refused handshake, an interruption before the run
/// began, a failed write.
const EXIT_ERROR: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { EXIT_ERROR } else { 0 };
            let is_printed = error.print().is_ok();
            if let Some(ContextValue::String(command)) = error.get(ContextKind::InvalidSubcommand)
                && error.kind() == ErrorKind::ArgumentConflict
            {
                let why = format!("the command comes first: ringhub-loadgen {command} --url …");
                drop(writeln!(io::stderr(), "ringhub-loadgen: {why}"));
            }
            return if is_printed { ExitCode::from(status) } else { ExitCode::from(EXIT_ERROR) };
        }
    };
    let outcome = match cli.command {
        Some(Command::Compare(comparison)) => comparison.run().and_then(|text| print(&text)),
        Some(Command::Completions(shell)) => print(&manual::completions(&shell, Cli::command())),
        Some(Command::Man(page)) => {
            manual::page(&page, Cli::command()).map_err(Into::into).and_then(|page| print(&page))
        }
        _ => cli.into_options().map_or(Ok(EXIT_ERROR), |options| measure(&options)),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(why) => {
            // If standard error is closed too, the error is lost.
            drop(writeln!(io::stderr(), "ringhub-loadgen: {why}"));
            ExitCode::from(EXIT_ERROR)
        }
    }
}

/// Carries out a run, and returns the exit status.
fn measure(options: &Options) -> Result<u8, Box<dyn Error>> {
    let plan = options.plan()?;
    for warning in options.warnings() {
        drop(writeln!(io::stderr(), "ringhub-loadgen: warning: {warning}"));
    }
    let output = Output::open(options.output.clone())?;
    let mut watcher = output.watcher(Interrupt::watch()?, plan.window_ns())?;
    let outcome = run(&plan, &mut watcher);
    // The line of the progress goes before anything else is written.
    drop(watcher);
    let mut report = outcome?;
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    report.command_line = without_secrets(&words);
    Ok(output.finish(&mut report)?.exit_status())
}

/// Prints a text. A reader such as `head` may close the pipe.
fn print(text: &str) -> Result<u8, Box<dyn Error>> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(0),
    }
}

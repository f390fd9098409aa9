//! `ringhub-loadgen`: reads flags, prints one report, and returns the verdict as exit status.

use clap::Parser;
use ringhub_loadgen::{Cli, NoProgress, Outcome, run};
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// The exit status if there is no report: bad flags, no server, a refused handshake, a failed write.
const EXIT_ERROR: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { EXIT_ERROR } else { 0 };
            return if error.print().is_ok() { ExitCode::from(status) } else { ExitCode::from(EXIT_ERROR) };
        }
    };
    let Some(options) = cli.into_options() else { return ExitCode::from(EXIT_ERROR) };
    let json = options.output.json;
    match options.plan().and_then(|plan| run(&plan, &mut NoProgress)) {
        Ok(mut report) => {
            report.command_line = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            let text = if json { format!("{}\n", report.to_json()) } else { report.to_string() };
            match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
                // A reader such as `head` may have closed the pipe. The exit status has the verdict even then.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(format_args!("the report: {error}")),
                _ => ExitCode::from(match report.outcome {
                    Outcome::Exact => 0,
                    Outcome::Broken => 2,
                    Outcome::Void => 3,
                }),
            }
        }
        Err(error) => fail(format_args!("{error}")),
    }
}

fn fail(why: fmt::Arguments<'_>) -> ExitCode {
    // If standard error is closed too, the error is lost.
    drop(writeln!(io::stderr(), "ringhub-loadgen: {why}"));
    ExitCode::from(EXIT_ERROR)
}

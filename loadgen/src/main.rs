//! `ringhub-loadgen`: flags in, one report out, the verdict as exit status.

use clap::Parser;
use ringhub_loadgen::{Options, Outcome, run};
use std::process::ExitCode;

/// Exit status when the run could not take place: bad flags, no server, a refused handshake.
const EXIT_ERROR: u8 = 1;

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let status = if error.use_stderr() { EXIT_ERROR } else { 0 };
            return if error.print().is_ok() { ExitCode::from(status) } else { ExitCode::from(EXIT_ERROR) };
        }
    };
    let json = options.json;
    match options.plan().and_then(|plan| run(&plan)) {
        Ok(report) => {
            if json {
                println!("{}", report.to_json());
            } else {
                print!("{report}");
            }
            ExitCode::from(match report.outcome {
                Outcome::Exact => 0,
                Outcome::Broken => 2,
                Outcome::Void => 3,
            })
        }
        Err(error) => {
            eprintln!("ringhub-loadgen: {error}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}

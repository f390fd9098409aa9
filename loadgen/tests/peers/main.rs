//! Runs the whole generator against scripted peers: one for each preset, and one for each fault.

mod peer;
mod presets;
mod scenarios;
mod tls;
mod truth;

use ringhub_loadgen::Report;
use std::process::{Command, Stdio};

/// The end of a run.
struct Done {
    status: i32,
    report: Option<Report>,
    stderr: String,
}

impl Done {
    fn report(&self) -> &Report {
        self.report.as_ref().unwrap_or_else(|| panic!("no report, status {}: {}", self.status, self.stderr))
    }
}

/// Runs the generator with these words, and with further ones that may contain spaces. A machine that is busy with
/// other tests makes no run void.
fn generator(words: &str, further: &[&str]) -> Done {
    judged_generator(words, &[further, &["--allow-disturbance"]].concat())
}

/// Runs the generator so that a busy machine makes the run void.
fn judged_generator(words: &str, further: &[&str]) -> Done {
    let output = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"))
        .args(words.split_ascii_whitespace())
        .args(further)
        .arg("--json")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Done {
        status: output.status.code().unwrap(),
        report: serde_json::from_slice(&output.stdout).ok(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

//! The record of a measurement: with the record, the numbers of the measurement can be checked later.

use crate::tools::OUTPUT;
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine and the code.
#[derive(Serialize)]
pub(crate) struct Circumstances {
    /// Seconds since 1970.
    started: u64,
    commit: Option<String>,
    /// Whether the working tree differs from the commit.
    modified: Option<bool>,
    kernel: String,
    cpu_model: String,
    cpus: usize,
    /// The load average of the minute before the start.
    load_average: String,
}

impl Circumstances {
    pub(crate) fn now() -> Circumstances {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu_info = read("/proc/cpuinfo");
        let model = cpu_info.lines().find(|line| line.starts_with("model name"));
        Circumstances {
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            commit: git(&["rev-parse", "HEAD"]).ok(),
            modified: git(&["status", "--porcelain"]).ok().map(|changes| !changes.is_empty()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu_model: model.and_then(|line| line.split_once(':')).map_or("", |(_, name)| name).trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// Returns a line for people.
    pub(crate) fn line(&self) -> String {
        let commit = self.commit.as_deref().map_or("unknown", |commit| &commit[..commit.len().min(12)]);
        let modified = if self.modified == Some(true) { " modified" } else { "" };
        let Circumstances { kernel, cpu_model, cpus, load_average, .. } = self;
        format!("commit {commit}{modified}, Linux {kernel}, {cpus} × {cpu_model}, load average {load_average}")
    }
}

/// Writes `{circumstances, ...record}` to a file, and returns its path.
pub(crate) fn write(name: &str, circumstances: &Circumstances, record: &impl Serialize) -> io::Result<PathBuf> {
    #[derive(Serialize)]
    struct Record<'a, R> {
        circumstances: &'a Circumstances,
        #[serde(flatten)]
        record: &'a R,
    }
    let directory = Path::new(OUTPUT).join("records");
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{}-{name}.json", circumstances.started));
    fs::write(&path, serde_json::to_vec_pretty(&Record { circumstances, record })?)?;
    Ok(path)
}

/// Returns the output of git, or its error.
pub(crate) fn git(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git").args(arguments).output().map_err(|error| format!("git does not run: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

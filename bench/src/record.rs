//! The record of a measurement: with the record, the numbers of the measurement can be checked later.

use crate::tools::OUTPUT;
use ring::digest;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine and the code.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Circumstances {
    /// Seconds since 1970.
    pub(crate) started: u64,
    commit: Option<String>,
    /// Whether the working tree differs from the commit.
    modified: Option<bool>,
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    pub(crate) cpus: usize,
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

    /// Returns the circumstances of a machine that does not exist.
    #[cfg(test)]
    pub(crate) fn for_test(started: u64) -> Circumstances {
        Circumstances {
            started,
            commit: Some("abc".to_owned()),
            modified: Some(false),
            kernel: "6.1.0".to_owned(),
            cpu_model: "A CPU".to_owned(),
            cpus: 2,
            load_average: "0.00".to_owned(),
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
    let directory = directory();
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{}-{name}.json", circumstances.started));
    fs::write(&path, serde_json::to_vec_pretty(&Record { circumstances, record })?)?;
    Ok(path)
}

/// Returns the folder of all records.
pub(crate) fn directory() -> PathBuf {
    Path::new(OUTPUT).join("records")
}

/// Returns the state of the measured programs, by which a record is found to be of this state or of another one: the
/// last commit that changed them, and a digest of changes that are not committed. A `program` that this tree has not
/// just been built into is named by its digest too.
pub(crate) fn measured_state(program: Option<&Path>) -> String {
    let mut state = match state_of(MEASURED) {
        Ok(state) => state,
        Err(why) => format!("no commit ({why})"),
    };
    if let Some(program) = program {
        state += &match fs::read(program) {
            Ok(bytes) => format!(", hub {}", short_digest(&bytes)),
            Err(_) => ", no hub".to_owned(),
        };
    }
    state
}

/// Returns the last commit that changed one of the paths, and a digest of changes that are not committed.
fn state_of(paths: &[&str]) -> Result<String, String> {
    let with_paths = |words: &[&'static str]| git(&[words, &["--"], paths].concat());
    let commit = with_paths(&["log", "-1", "--format=%h", "--abbrev=12"])?;
    let mut changes = with_paths(&["diff", "HEAD"])?.into_bytes();
    for path in with_paths(&["ls-files", "--others", "--exclude-standard"])?.lines() {
        changes.extend_from_slice(path.as_bytes());
        changes.extend(fs::read(path).unwrap_or_default());
    }
    Ok(if changes.is_empty() { commit } else { format!("{commit} with changes {}", short_digest(&changes)) })
}

fn short_digest(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is measured and measures: the hub, the generator, the peers, and what puts loads on them. Pages and the judging
/// of bars are not among them.
const MEASURED: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "loadgen/Cargo.toml",
    "loadgen/src",
    "bench/benches",
    "bench/peers",
    "bench/Cargo.toml",
    "bench/src/bare.rs",
    "bench/src/client.rs",
    "bench/src/distance.rs",
    "bench/src/handler.rs",
    "bench/src/hold.rs",
    "bench/src/installed.rs",
    "bench/src/k2.rs",
    "bench/src/load.rs",
    "bench/src/metric.rs",
    "bench/src/micro.rs",
    "bench/src/micro_rows.rs",
    "bench/src/others.rs",
    "bench/src/peers.rs",
    "bench/src/plain.rs",
    "bench/src/post.rs",
    "bench/src/run.rs",
    "bench/src/running.rs",
    "bench/src/scenario.rs",
    "bench/src/tools.rs",
    "bench/src/two_topics.rs",
];

/// Returns the output of git, or its error.
pub(crate) fn git(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git").args(arguments).output().map_err(|error| format!("git does not run: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_names_the_commit_and_the_program() {
        // Unit tests run in the package's folder.
        let paths = ["src/k2.rs", "Cargo.toml"];
        match git(&["rev-parse", "--git-dir"]) {
            Ok(_) => assert!(state_of(&paths).is_ok_and(|state| state.len() >= 12), "{:?}", state_of(&paths)),
            Err(_) => assert!(measured_state(None).starts_with("no commit (")),
        }
        let [with, other, none] =
            [Some("src/k2.rs"), Some("src/main.rs"), None].map(|path| measured_state(path.map(Path::new)));
        assert!(with != other && with.starts_with(&none) && with.contains(", hub "), "{with}");
        assert!(measured_state(Some(Path::new("no such program"))).ends_with(", no hub"));
    }

    #[test]
    fn digests_are_short_and_differ() {
        assert_eq!(short_digest(b"abc"), "ba7816bf");
        assert_ne!(short_digest(b"abc"), short_digest(b"abd"));
    }
}

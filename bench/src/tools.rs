//! Builds or installs the programs that a comparison needs, and runs them.

use crate::baseline::Baseline;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The paths of the programs.
pub(crate) struct Tools {
    pub(crate) hub: PathBuf,
    /// The hub of another commit, if it takes part.
    pub(crate) baseline: Option<Baseline>,
    pub(crate) loadgen: PathBuf,
    /// This program, which also contains the bare loop.
    pub(crate) bench: PathBuf,
    /// Bun, if it takes part.
    pub(crate) bun: Option<PathBuf>,
}

/// The folder for the files of comparisons, below the repository root.
pub(crate) const OUTPUT: &str = "target/bench";

/// Flags for the origin of the programs.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Compare this `ringhub` instead of the one of this working tree.
    #[arg(long)]
    hub: Option<PathBuf>,
    /// Use the programs of the last build, beside this one.
    #[arg(long)]
    no_build: bool,
}

impl Tools {
    /// Builds the hub and the generator, installs Bun and builds a baseline, each only if it is needed.
    pub(crate) fn prepare(flags: &Flags, with_bun: bool, baseline: Option<&str>) -> Result<Tools, Box<dyn Error>> {
        if !Path::new(BUN_SERVER).exists() {
            return Err("run this from the repository root".into());
        }
        let bench = std::env::current_exe()?;
        let beside = |name: &str| bench.with_file_name(name);
        if cfg!(debug_assertions) {
            return Err(
                "a debug build measures nothing: use `cargo run --release -p ringhub-bench` or `bench/run`".into()
            );
        }
        if !flags.no_build {
            let mut packages = vec!["-p", "ringhub-loadgen"];
            if flags.hub.is_none() {
                packages.extend(["-p", "ringhub"]);
            }
            let mut build = cargo();
            build.args(["build", "--release", "--bins", "--quiet"]).args(packages);
            succeed(&mut build)?;
        }
        let hub = flags.hub.clone().unwrap_or_else(|| beside("ringhub"));
        let loadgen = beside("ringhub-loadgen");
        for program in [&hub, &loadgen] {
            if !program.exists() {
                return Err(format!("{} is not built", program.display()).into());
            }
        }
        fs::create_dir_all(OUTPUT)?;
        let bun = if with_bun { Some(install_bun()?) } else { None };
        let baseline = baseline.map(|asked| Baseline::prepare(asked, !flags.no_build)).transpose()?;
        Ok(Tools { hub, baseline, loadgen, bench, bun })
    }

    /// Builds what a baseline needs for scenarios with two topics.
    pub(crate) fn prepare_two_topics(&mut self, flags: &Flags) -> Result<(), Box<dyn Error>> {
        self.baseline.as_mut().map_or(Ok(()), |baseline| baseline.prepare_two_topics(!flags.no_build))
    }
}

/// Returns the cargo that runs this program, or that on the path.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Installs Bun from npm below [`OUTPUT`], and returns its path.
fn install_bun() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(bun) = find_bun() {
        return Ok(bun);
    }
    eprintln!("installing Bun with npm into {OUTPUT}");
    succeed(Command::new("npm").args(["install", "--no-fund", "--no-audit", "--prefix", OUTPUT, "bun"]))?;
    find_bun().ok_or_else(|| "npm installed a Bun that does not run here".into())
}

/// Returns a Bun that runs. The postinstall script of the package puts the program in place of `bun`; if npm does not
/// run scripts, the platform's package has the program.
fn find_bun() -> Option<PathBuf> {
    let modules = Path::new(OUTPUT).join("node_modules");
    let platform_packages = fs::read_dir(modules.join("@oven")).into_iter().flatten().flatten();
    let programs = platform_packages.map(|package| package.path().join("bin/bun"));
    let runs = |program: &PathBuf| {
        let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    std::iter::once(modules.join(".bin/bun")).chain(programs).find(runs)
}

/// Returns a command that is pinned to one CPU, and that the kernel kills at the end of this process.
pub(crate) fn pinned(cpu: usize, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &cpu.to_string()]).arg(program).stdin(Stdio::null());
    command
}

/// Returns the command as it would be typed.
pub(crate) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command, whose output goes to standard error.
pub(crate) fn succeed(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let line = command_line(command);
    let status = command.stdout(io::stderr()).status().map_err(|error| format!("{line}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}").into()) }
}

/// The file with the commit of the default baseline.
pub(crate) const ANCHOR: &str = "bench/ANCHOR";

/// The program of the peer Bun.
pub(crate) const BUN_SERVER: &str = "bench/peers/bun.js";

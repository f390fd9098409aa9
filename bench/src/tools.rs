//! Builds or installs the programs that a comparison needs, and runs them.

use crate::baseline::Baseline;
use crate::installed::{self, Installation};
use crate::peers::Peer;
use rustix::process::{Resource, getrlimit, setrlimit};
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
    /// What the servers of others that take part have, or why one of them cannot take part.
    others: Vec<(Peer, Installation)>,
}

/// The folder for the files of comparisons, below the repository root.
pub(crate) const OUTPUT: &str = "target/bench";

/// Flags for the origin of the programs.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Compare this `ringhub` instead of the one of this working tree.
    #[arg(long)]
    hub: Option<PathBuf>,
    /// Use this `ringhub-loadgen` instead of the one of this working tree.
    #[arg(long)]
    loadgen: Option<PathBuf>,
    /// Use the programs of the last build, beside this one.
    #[arg(long)]
    no_build: bool,
    /// Install no server of others: one that is missing is skipped.
    #[arg(long)]
    no_install: bool,
}

impl Flags {
    /// Returns the hub that is compared, if this tree has not just been built into it.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        let beside = || Some(std::env::current_exe().ok()?.with_file_name("ringhub"));
        self.hub.clone().or_else(|| self.no_build.then(beside).flatten())
    }
}

/// What may be done so that a program is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct May {
    pub(crate) build: bool,
    pub(crate) install: bool,
}

impl May {
    /// Returns an error if something that is missing may not be installed.
    pub(crate) fn install(self, what: &str) -> Result<(), Box<dyn Error>> {
        if self.install { Ok(()) } else { Err(format!("{what} is not installed, and --no-install forbids it").into()) }
    }
}

impl Tools {
    /// Builds the hub and the generator, installs the servers of others among `servers` and builds a baseline, each
    /// only if it is needed. A server that cannot be installed is no error, see [`Tools::startable`].
    pub(crate) fn prepare(flags: &Flags, servers: &[Peer], baseline: Option<&str>) -> Result<Tools, Box<dyn Error>> {
        if cfg!(debug_assertions) {
            return Err(
                "a debug build measures nothing: use `cargo run --release -p ringhub-bench` or `bench/run`".into()
            );
        }
        let own = [(&flags.hub, "ringhub"), (&flags.loadgen, "ringhub-loadgen")];
        let packages: Vec<&str> =
            own.iter().filter(|(other, _)| other.is_none()).flat_map(|(_, package)| ["-p", package]).collect();
        if !flags.no_build && !packages.is_empty() {
            let mut build = cargo();
            // With this program's package too, since without it cargo chooses other features and builds all anew.
            build.args(["build", "--release", "--bins", "--quiet", "-p", env!("CARGO_PKG_NAME")]).args(packages);
            succeed(&mut build)?;
        }
        let mut tools = Tools::find(flags, servers)?;
        tools.baseline = baseline.map(|asked| Baseline::prepare(asked, !flags.no_build)).transpose()?;
        Ok(tools)
    }

    /// Finds the hub and the generator beside this program, without a build of them, and installs the servers of others
    /// among `servers`.
    pub(crate) fn find(flags: &Flags, servers: &[Peer]) -> Result<Tools, Box<dyn Error>> {
        if !Path::new(PEERS).exists() {
            return Err("run this from the repository root".into());
        }
        let bench = std::env::current_exe()?;
        let [hub, loadgen] = [(&flags.hub, "ringhub"), (&flags.loadgen, "ringhub-loadgen")]
            .map(|(other, name)| other.clone().unwrap_or_else(|| bench.with_file_name(name)));
        for program in [&hub, &loadgen] {
            if !program.exists() {
                return Err(format!("{} is not built", program.display()).into());
            }
        }
        fs::create_dir_all(OUTPUT)?;
        allow_descriptors()?;
        let may = May { build: !flags.no_build, install: !flags.no_install };
        let mut others = Vec::new();
        for &peer in servers {
            others.extend(installed::install(peer, may)?.map(|installation| (peer, installation)));
        }
        Ok(Tools { hub, baseline: None, loadgen, bench, others })
    }

    /// Returns those of `servers` that can start on this machine. Prints why the others cannot.
    pub(crate) fn startable(&self, servers: &[Peer]) -> Vec<Peer> {
        let can_start = |peer: &&Peer| match self.obstacle(**peer) {
            None => true,
            Some(why) => {
                eprintln!("skipped: {}: {why}", peer.name());
                false
            }
        };
        servers.iter().filter(can_start).copied().collect()
    }

    /// Returns why this server cannot start on this machine, if so.
    pub(crate) fn obstacle(&self, peer: Peer) -> Option<&str> {
        self.installed(peer)?.as_ref().err().map(String::as_str)
    }

    /// Returns what is installed of a server of others; `None` if the server is of this project, or takes no part.
    pub(crate) fn installed(&self, peer: Peer) -> Option<&Installation> {
        self.others.iter().find(|(other, _)| *other == peer).map(|(_, installed)| installed)
    }

    /// Builds what a baseline needs for scenarios with two topics.
    pub(crate) fn prepare_two_topics(&mut self, flags: &Flags) -> Result<(), Box<dyn Error>> {
        self.baseline.as_mut().map_or(Ok(()), |baseline| baseline.prepare_two_topics(!flags.no_build))
    }
}

/// Allows this process and those that it starts as many descriptors as possible.
pub(crate) fn allow_descriptors() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Returns the cargo that runs this program, or that on the path.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
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

/// The folder with the programs of the peers.
pub(crate) const PEERS: &str = "bench/peers";

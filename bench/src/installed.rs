//! Installs the servers of others by the names of their packages, below the folder for the files of comparisons.

use crate::peers::Peer;
use crate::tools::{OUTPUT, succeed};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A server of others on this machine.
pub(crate) struct Installed {
    pub(crate) program: PathBuf,
    /// The version as the program or the package tells it.
    pub(crate) version: String,
}

/// Installs a server of others, if it is not installed yet, or tells why this cannot be done. Returns `None` if the
/// server is one of this project.
pub(crate) fn install(peer: Peer) -> Option<Result<Installed, String>> {
    let done = match peer {
        Peer::Bun => bun(),
        Peer::Kore
        | Peer::Nchan
        | Peer::Nats
        | Peer::Ws
        | Peer::TokioTungstenite
        | Peer::Fastwebsockets
        | Peer::SockudoWs => Err("this program does not know how to install it".into()),
        _ => return None,
    };
    Some(done.map_err(|error| error.to_string()))
}

fn bun() -> Result<Installed, Box<dyn Error>> {
    let program = install_bun()?;
    let version = Command::new(&program).arg("--version").output()?.stdout;
    Ok(Installed { program, version: String::from_utf8_lossy(&version).trim().to_owned() })
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

//! The commands that start the servers of others.

use crate::peers::{Peer, SERVER_CPU};
use crate::tools::{PEERS, Tools, pinned};
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Returns the command that starts a server of others at this address.
pub(crate) fn command(peer: Peer, tools: &Tools, address: SocketAddr) -> Result<Command, Box<dyn Error>> {
    let installed = tools.installed(peer).ok_or_else(|| format!("{} was not installed", peer.name()))?;
    let installed = installed.as_ref().map_err(String::clone)?;
    let mut command = pinned(SERVER_CPU, &installed.program);
    match peer {
        Peer::Bun => command.arg(Path::new(PEERS).join("bun.js")).arg(address.to_string()),
        _ => return Err(format!("this program does not know how to start {}", peer.name()).into()),
    };
    Ok(command)
}

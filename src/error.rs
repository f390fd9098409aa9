//! What an operator or a caller can be told. What a peer is told stands in `proto`.

use std::{fmt, io, net::SocketAddr};

use crate::sys::probe::ProbeError;

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    setting: &'static str,
    what: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, what: String) -> Self {
        ConfigError { setting, what }
    }

    /// The setting's name, as a flag without its dashes.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.what)
    }
}

impl std::error::Error for ConfigError {}

/// Why a server does not start, or has stopped.
#[derive(Debug)]
pub enum StartError {
    /// The kernel or the container does not allow what the hub is built on.
    Probe(ProbeError),
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// A shard could not be set up.
    Shard(io::Error),
    /// The control thread could not be set up.
    Control(io::Error),
    /// A shard has ended on its own, which is a bug; there is nothing left to serve with.
    ShardDied(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Probe(error) => error.fmt(f),
            StartError::Listen(address, error) => match error.kind() {
                io::ErrorKind::AddrInUse => write!(
                    f,
                    "{address} is in use: another ringhub or another server listens there. Stop it, or choose another \
                     address with --listen."
                ),
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "{address} may not be listened on ({error}). Ports below 1024 need a privilege; choose another \
                     with --listen."
                ),
                io::ErrorKind::AddrNotAvailable => {
                    write!(f, "{address} is not an address of this machine ({error}). Choose another with --listen.")
                }
                _ => write!(f, "{address} cannot be listened on: {error}"),
            },
            StartError::Shard(error) => write!(f, "a shard could not be set up: {error}"),
            StartError::Control(error) => write!(f, "the control thread could not be set up: {error}"),
            StartError::ShardDied(how) => write!(f, "a shard has ended, which it never should: {how}"),
        }
    }
}

impl std::error::Error for StartError {}

//! The sandbox of a server, and its check without a server.

use std::{env, io, panic, thread};

use super::ChosenBackend;
use crate::{
    config::{Config, SandboxChoice},
    error::StartError,
    outbound::Outbound,
    sys::{
        Backend, BackendKind, RingAccess, runtime,
        sandbox::{Need, RefusedCall, SandboxError, SandboxFilter},
    },
};

/// Checks whether the sandbox of these settings can be set up on this machine: the filter, and on io_uring both rings
/// of a shard. The calling process stays as it is.
///
/// # Errors
///
/// Those of [`Server::start`](super::Server::start): [`StartError::Shard`] if rings cannot be restricted, else
/// [`StartError::Sandbox`].
pub fn check_sandbox(config: &Config, backend: &ChosenBackend) -> Result<(), StartError> {
    let Some(filter) = filter_of(config, &[&config.outbound]).map_err(StartError::Sandbox)? else { return Ok(()) };
    let kind = backend.kind;
    if kind == BackendKind::Uring {
        // The kernel frees a closed ring some time later, and interrupts the thread that used it: see `probe`.
        let rings = thread::scope(|scope| scope.spawn(|| restrict_rings(kind)).join());
        rings.unwrap_or_else(|panicked| panic::resume_unwind(panicked)).map_err(StartError::Shard)?;
    }
    filter.try_out().map_err(StartError::Sandbox)
}

/// Makes the rings of a shard, restricted as in a sandbox.
fn restrict_rings(kind: BackendKind) -> io::Result<()> {
    drop(Backend::with(kind, RingAccess::InUse)?);
    runtime::block_on(kind, RingAccess::InUse, async {})
}

/// Returns the filter of the sandbox, if the settings ask for one. `outbound` has the ways of the server's own
/// requests.
pub(super) fn filter_of(config: &Config, outbound: &[&Outbound]) -> Result<Option<SandboxFilter>, SandboxError> {
    let mut needs = Vec::new();
    if outbound.iter().any(|outbound| outbound.has_targets()) {
        needs.push(Need::Outbound);
    }
    if config.folders > 0 {
        needs.push(Need::Files);
    }
    if env::var_os("NOTIFY_SOCKET").is_some() {
        needs.push(Need::ServiceManager);
    }
    match config.sandbox {
        SandboxChoice::On => SandboxFilter::new(&needs, RefusedCall::Eperm).map(Some),
        SandboxChoice::Off => Ok(None),
    }
}

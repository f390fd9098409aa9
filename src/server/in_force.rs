//! The parts of a running server that a reload replaces.

use std::sync::{Arc, Mutex, atomic::AtomicU64};

use tokio::sync::watch;

use super::blueprint::Blueprint;
use crate::{config::Config, current::Current, endpoints::Endpoints, handover::Sockets};

/// The parts of a server that a reload replaces, and the ways in which its threads learn of a reload.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) config: Current<Config>,
    pub(super) endpoints: Current<Endpoints>,
    pub(super) blueprint: Blueprint,
    pub(super) sockets: Sockets,
    /// For each shard, the number of the reload whose settings it has taken last.
    pub(super) taken: Vec<Arc<AtomicU64>>,
    /// Tells the control thread that there was a reload.
    pub(super) reloaded: watch::Sender<()>,
    /// Held by the one reload that is under way.
    pub(super) one_at_a_time: Mutex<()>,
}

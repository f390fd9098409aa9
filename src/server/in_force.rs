//! The parts of a running server that a reload needs.

use std::sync::{Arc, Mutex, atomic::AtomicU64};

use tokio::sync::watch;

use super::blueprint::Blueprint;
use crate::{config::Config, current::Current, endpoints::Endpoints, handover::Sockets};

/// What a reload needs: the values that it replaces, the parts from which it makes the new ones, and the ways in which
/// the threads learn of it.
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

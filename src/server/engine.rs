//! The engine of a server: it orders some of the server's topics.

use std::{fmt, sync::Arc};

use tokio::sync::Notify;

use crate::hub::{MeshEnd, TopicName};

/// An engine that orders some of a server's topics.
pub(super) struct Engine {
    /// Returns whether the engine orders the topic of that name.
    pub(super) has: fn(&TopicName) -> bool,
    /// Starts the engine's thread, which must work until the server has ended.
    pub(super) start: Box<dyn FnOnce(EngineEnds) + Send>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// The ends that an engine holds.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "no engine comes with the server"))]
pub(super) struct EngineEnds {
    pub(super) mesh: MeshEnd,
    pub(super) woken: Arc<Notify>,
}

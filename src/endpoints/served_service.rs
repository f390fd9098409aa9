//! The HTTP services of embedders, with what the server checks before it calls them.

use std::{fmt, sync::Arc};

use crate::{auth::Gate, handler::HttpService};

/// A service at the paths of a pattern.
#[derive(Clone)]
pub(crate) struct ServedService {
    pub(crate) gate: Gate,
    /// The largest body of a request.
    pub(crate) body_bytes_max: u32,
    pub(crate) service: Arc<dyn HttpService>,
}

impl fmt::Debug for ServedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedService").field("body_bytes_max", &self.body_bytes_max).finish_non_exhaustive()
    }
}

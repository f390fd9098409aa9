//! The HTTP services of embedders, with what the server checks before it calls them.

use std::{fmt, sync::Arc, time::Duration};

use crate::{auth::Gate, handler::HttpService};

/// A service at the paths of a pattern.
#[derive(Clone)]
pub(crate) struct ServedService {
    pub(crate) gate: Gate,
    /// The largest body of a request.
    pub(crate) body_bytes_max: u32,
    /// The longest time until the service begins its answer.
    pub(crate) answer_timeout: Duration,
    /// Whether a segment of the path may have an encoded slash.
    pub(crate) takes_encoded_slashes: bool,
    pub(crate) service: Arc<dyn HttpService>,
}

impl ServedService {
    /// The longest time until a service begins its answer, unless its options set another one.
    pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
}

impl fmt::Debug for ServedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedService").field("body_bytes_max", &self.body_bytes_max).finish_non_exhaustive()
    }
}

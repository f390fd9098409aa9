//! Fetches a set of keys by the server's own requests.

use std::time::Duration;

use super::remote::{Done, Fetch, Fetched, JWKS_BYTES_MAX};
use crate::outbound::{OutboundAnswer, OutboundError, OutboundRequest, Target};

impl Fetch for Target {
    fn start(&self, done: Done) {
        let request = OutboundRequest::get().for_keys().timeout(FETCH_TIME_MAX).answer_bytes_max(JWKS_BYTES_MAX);
        let request = request.header("accept", "application/json");
        Target::start(self, request, move |outcome| done(fetched(outcome)));
    }

    fn url(&self) -> String {
        self.whole_url()
    }
}

fn fetched(outcome: Result<OutboundAnswer, OutboundError>) -> Result<Fetched, String> {
    let answer = outcome.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("the answer has the status {}, not 200", answer.status));
    }
    let cache_control = answer.header("cache-control").map(String::from);
    Ok(Fetched { body: answer.body.into(), cache_control })
}

/// The longest time of a fetch. A token that waits for a fetch that does not end is judged by the earlier keys within
/// the time that it has, which is 10 s by default (`handshake_timeout`).
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

//! A hub whose subscribers have two topics each, as an embedder would write it.
//!
//! This file is also compiled with the library of a baseline, an earlier commit. So the file uses only names that the
//! library has had since the commit in `bench/ANCHOR`.

use ringhub::handler::{Accept, Handler, OpeningRequest, Response, RouteOptions};
use ringhub::hub::TopicName;
use ringhub::server::Server;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr, cpu: usize) -> Result<bool, Box<dyn Error>> {
    let options = RouteOptions::new().no_broadcast();
    let builder = Server::builder().listen([listen]).shards(1).cpus([cpu]);
    builder
        .route_with("/t/{topic}", TwoTopics::default(), options)
        .settings(|settings| settings.ping_interval.0 = std::time::Duration::ZERO)
        .build()?
        .start()?
        .wait_blocking()?;
    Ok(true)
}

/// Subscribes each client to both topics, except publishers (`mode=pub`). The first publisher publishes to the first
/// topic, the next to the second topic, and so on alternately.
#[derive(Default)]
struct TwoTopics {
    publishers: AtomicUsize,
}

impl Handler for TwoTopics {
    type State = ();

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        let topic = |name: &str| TopicName::new(name).map_err(|error| Response::error(400, &error.to_string()));
        let (first, second) = (topic("first")?, topic("second")?);
        let accept = Accept::with(());
        if request.query_value("mode").as_deref() != Some("pub") {
            return Ok(accept.subscribe(first, Default::default()).subscribe(second, Default::default()));
        }
        let is_first = self.publishers.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        Ok(accept.forward(if is_first { first } else { second }, Default::default()))
    }
}

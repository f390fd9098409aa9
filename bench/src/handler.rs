//! A hub as an embedder would write it: a handler serves the topics, and is called for every message.

use ringhub::handler::{Accept, Connection, Handler, OpeningRequest, Response};
use ringhub::hub::{Scope, SubscribeOptions, TopicName};
use ringhub::proto::Message;
use ringhub::server::Server;
use std::error::Error;
use std::net::SocketAddr;

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr, cpu: usize) -> Result<bool, Box<dyn Error>> {
    let builder = Server::builder().listen([listen]).shards(1).cpus([cpu]).route("/t/{topic}", Publishes);
    builder
        .settings(|settings| settings.ping_interval.0 = std::time::Duration::ZERO)
        .build()?
        .start()?
        .wait_blocking()?;
    Ok(true)
}

/// Publishes what a client sends to the topic in its path.
struct Publishes;

impl Handler for Publishes {
    type State = Option<TopicName>;

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<Self::State>, Response> {
        let topic = TopicName::new(request.parameter("topic").unwrap_or_default());
        let topic = topic.map_err(|error| Response::error(400, &error.to_string()))?;
        let accept = Accept::with(Some(topic.clone()));
        let mode = request.query_value("mode");
        let mut options = SubscribeOptions::default();
        options.has_echo = request.query_value("echo").as_deref() == Some("true");
        Ok(if mode.as_deref() == Some("pub") { accept } else { accept.subscribe(topic, options) })
    }

    fn on_message(&self, connection: &mut Connection<'_, Self::State>, message: Message<'_>) {
        if let Some(topic) = connection.state().clone() {
            connection.publish(&topic, message, Scope::Server);
        }
    }
}

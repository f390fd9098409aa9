//! Kore's WebSocket example, written for this library. The server sends each message of a client to all other clients.
//!
//! ```sh
//! cargo run --example broadcast -- --listen 127.0.0.1:8080 --workers 2
//! npx wscat -c ws://127.0.0.1:8080/connect          # to all connections: WEBSOCKET_BROADCAST_GLOBAL
//! npx wscat -c ws://127.0.0.1:8080/connect/local    # to those of the same worker: WEBSOCKET_BROADCAST_LOCAL
//! ```
//!
//! A worker of Kore is a thread here, and is called a shard. All shards together are one server. With either scope no
//! client gets a message twice, and a sender does not get its own message.

use std::{error::Error, net::SocketAddr, time::Duration};

use clap::Parser;
use ringhub::{Closed, Connection, Handler, Message, RouteOptions, Scope, Server, config::Time};
use tokio::signal::unix::{SignalKind, signal};

/// `kore_websocket_handshake(req, "onconnect", "onmessage", "ondisconnect")` names three functions. Here they are
/// methods.
struct Broadcast {
    scope: Scope,
}

impl Handler for Broadcast {
    /// The data of a connection, to which `c->hdlr_extra` points in Kore. This example has no such data.
    type State = ();

    /// `void onconnect(struct connection *c)`
    fn on_open(&self, connection: &mut Connection<'_, ()>) {
        println!("{} connected", connection.id());
        // `kore_websocket_send(c, WEBSOCKET_OP_TEXT, ...)`
        connection.send_text(format!("you are {}", connection.id()));
    }

    /// `void onmessage(struct connection *c, u_int8_t op, void *data, size_t len)`
    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        // `kore_websocket_broadcast(c, op, data, len, WEBSOCKET_BROADCAST_GLOBAL)`. With the source `None`, which is
        // NULL in Kore, the sender would get the message too.
        let source = Some(connection.id());
        connection.broadcast(source, message, self.scope);
    }

    /// `void ondisconnect(struct connection *c)`
    fn on_close(&self, connection: &mut Connection<'_, ()>, closed: &Closed) {
        println!("{} disconnected: {} {}", connection.id(), closed.code, closed.reason);
    }
}

#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Number of threads that serve connections, like Kore's `workers`.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { listen, workers } = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Kore's `websocket_maxframe` is an option of a route here. Kore's `websocket_timeout` is a setting of the server
    // here.
    let options = RouteOptions::new().max_frame(16_384).max_message(16_384);
    let mut running = Server::builder()
        .listen([listen])
        .shards(workers)
        .settings(|settings| settings.ping_interval = Time(Duration::from_secs(120)))
        .route_with("/connect", Broadcast { scope: Scope::Server }, options.clone())
        .route_with("/connect/local", Broadcast { scope: Scope::Shard }, options)
        .build()?
        .start()?;
    println!("ws://{}/connect", running.local_addr());
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(running.shutdown().await?)
}

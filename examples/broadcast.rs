//! Kore's WebSocket example, written for this library: all other clients get what a client sends.
//!
//! ```sh
//! cargo run --example broadcast -- --listen 127.0.0.1:8080 --workers 2
//! npx wscat -c ws://127.0.0.1:8080/connect          # to all connections: WEBSOCKET_BROADCAST_GLOBAL
//! npx wscat -c ws://127.0.0.1:8080/connect/local    # to those of the same worker: WEBSOCKET_BROADCAST_LOCAL
//! ```
//!
//! A worker is a thread here, called a shard. All shards together are one server: with either scope no client gets a
//! message twice, and the sender does not get it.

use std::{error::Error, net::SocketAddr, time::Duration};

use clap::Parser;
use ringhub::{Closed, Connection, Handler, Message, RouteOptions, Scope, Server, config::Time};
use tokio::signal::unix::{SignalKind, signal};

/// `kore_websocket_handshake(req, "onconnect", "onmessage", "ondisconnect")` names three functions; they are methods.
struct Broadcast {
    scope: Scope,
}

impl Handler for Broadcast {
    /// The data that `c->hdlr_extra` points to. This example keeps none.
    type State = ();

    /// `void onconnect(struct connection *c)`
    fn on_open(&self, connection: &mut Connection<'_, ()>) {
        println!("{} connected", connection.id());
        // `kore_websocket_send(c, WEBSOCKET_OP_TEXT, ...)`
        connection.send_text(format!("you are {}", connection.id()));
    }

    /// `void onmessage(struct connection *c, u_int8_t op, void *data, size_t len)`
    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        // `kore_websocket_broadcast(c, op, data, len, WEBSOCKET_BROADCAST_GLOBAL)`; A source of `None`, as NULL in
        // Kore, would include the sender.
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
    /// Threads that serve connections, as Kore's `workers`.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { listen, workers } = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // `websocket_maxframe` is here a limit of each route, `websocket_timeout` a limit of the server.
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

//! A site and its WebSocket on one port: everybody who has the page open sees what anybody writes.
//!
//! ```sh
//! cargo run --example files -- --listen 127.0.0.1:8080     # then open http://127.0.0.1:8080/ in two windows
//! ```
//!
//! Shards do not read files, so a slow disk delays no message.

use std::{error::Error, net::SocketAddr, path::PathBuf};

use clap::Parser;
use ringhub::{Connection, Handler, Message, RouteOptions, Scope, Server, documents::Documents};
use tokio::signal::unix::{SignalKind, signal};

struct Wall;

impl Handler for Wall {
    type State = ();

    /// Broadcasts a message to everybody, including its sender. So each page shows the messages that the server has
    /// accepted, in the same order.
    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        connection.broadcast(None, message, Scope::Server);
    }
}

#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The folder to serve.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/site"))]
    site: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { listen, site } = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // A real site needs `.origins(...)`; without it pages of other sites may write on the wall too.
    let mut running = Server::builder()
        .listen([listen])
        .documents("/", Documents::new(site)?)
        .route_with("/wall", Wall, RouteOptions::new().max_message(400))
        .build()?
        .start()?;
    println!("http://{}/", running.local_addr());
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(running.shutdown().await?)
}

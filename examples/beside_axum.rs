//! The hub beside an axum service, in one process: axum answers requests, the hub serves WebSockets, and a handler of
//! axum publishes by a `Hub`.
//!
//! ```sh
//! cargo run --example beside_axum -- --listen 127.0.0.1:8080 --http 127.0.0.1:8081
//! npx wscat -c 'ws://127.0.0.1:8080/t/orders/eu?mode=sub'
//! curl -d '{"order":17}' http://127.0.0.1:8081/orders/eu
//! ```
//!
//! Each server has its own address, since a shard accepts its connections itself. A proxy in front can put both under
//! one name: the paths below `/t/` belong to the hub.

use std::{error::Error, net::SocketAddr};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use clap::Parser;
use ringhub::{Hub, Publication, Server, TopicName, config::Secrets};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Takes an order, and publishes it to the subscribers of its region. Answers with the message's offset in the topic.
async fn order(
    State(hub): State<Hub>,
    Path(region): Path<String>,
    order: String,
) -> Result<String, (StatusCode, String)> {
    let topic = TopicName::new(&format!("orders/{region}"));
    let topic = topic.map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
    // A service checks and stores the order here.
    let published = hub.publish(&topic, Publication::text(&order)).await;
    let place = published.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")))?;
    Ok(format!("message {} of {topic}\n", place.offset))
}

#[derive(Parser)]
struct Arguments {
    /// Address and port of the hub; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address and port of axum; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// The token that WebSockets need to publish. Watching needs none.
    #[arg(long, default_value = "change-me")]
    token: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { listen, http, token } = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let builder = Server::builder().listen([listen]).topics();
    let builder = builder.settings(|settings| settings.publish_tokens = Some(Secrets(vec![token])));
    let mut running = builder.build()?.start()?;
    let service = Router::new().route("/orders/{region}", post(order)).with_state(running.hub());
    let listener = TcpListener::bind(http).await?;
    println!("ws://{}/t/orders/REGION?mode=sub", running.local_addr());
    println!("http://{}/orders/REGION", listener.local_addr()?);
    tokio::select! {
        ended = axum::serve(listener, service) => ended?,
        ended = running.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(running.shutdown().await?)
}

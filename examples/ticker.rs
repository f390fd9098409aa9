//! A ticker: a thousand prices a second for all subscribers, each encoded once.
//!
//! ```sh
//! cargo run --release --example ticker -- --listen 127.0.0.1:8080
//! npx wscat -c ws://127.0.0.1:8080/ticks
//! ```
//!
//! The prices come from an ordinary thread, which reaches the server by its [`Hub`] and needs no runtime. Work for one
//! connection, such as a timer for each client, belongs into `Connection::spawn` instead.

use std::{
    error::Error,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use ringhub::{
    Accept, Connection, Handler, Hub, Message, OpeningRequest, Publication, Response, Server, SubscribeOptions,
    TopicName, metrics::Counter, server::HubError,
};
use tokio::signal::unix::{SignalKind, signal};

/// Subscribes every connection to the prices, and answers messages with an error.
struct Ticks {
    topic: TopicName,
}

impl Handler for Ticks {
    type State = ();

    async fn opening(&self, _: &OpeningRequest) -> Result<Accept<()>, Response> {
        Ok(Accept::default().subscribe(self.topic.clone(), SubscribeOptions::default()))
    }

    fn on_message(&self, connection: &mut Connection<'_, ()>, _: Message<'_>) {
        connection.send_text(r#"{"error":"prices only go one way"}"#);
    }
}

/// Publishes until the server has ended. A late ticker publishes without pauses until it has caught up.
fn tick(hub: &Hub, topic: &TopicName, rate: u32) -> Result<(), HubError> {
    let (begin, period) = (Instant::now(), Duration::from_secs(1) / rate);
    let mut price = 100.0;
    for number in 1.. {
        price += f64::from(number * 7 % 11) - 5.0;
        let message = Publication::text(&format!(r#"{{"tick":{number},"price":{price}}}"#));
        // The answer is the message's place in its topic. The message is ordered, but not yet at every client.
        let published = Hub::wait(hub.publish(topic, &message))?;
        if number % rate == 0 {
            let open = hub.count(Counter::ConnectionsOpen);
            let took = begin.elapsed();
            println!("{} published in {took:.1?}, {open} connections now", published.offset);
        }
        thread::sleep((begin + period * number).saturating_duration_since(Instant::now()));
    }
    Ok(())
}

#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Messages per second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { listen, rate } = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let topic = TopicName::new("ticks")?;
    let ticks = Ticks { topic: topic.clone() };
    let mut running = Server::builder().listen([listen]).route("/ticks", ticks).build()?.start()?;
    println!("ws://{}/ticks", running.local_addr());
    let hub = running.hub();
    let ticker = thread::spawn(move || tick(&hub, &topic, rate));
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    running.shutdown().await?;
    match ticker.join() {
        Ok(Err(HubError::Ended)) => Ok(()),
        other => Err(format!("the ticker has ended otherwise than with the server: {other:?}").into()),
    }
}

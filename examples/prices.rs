//! Prices: 200 symbols with a thousand updates a second each, for pages that need only the newest price of each symbol.
//!
//! ```sh
//! cargo run --release --example prices -- --listen 127.0.0.1:8080     # then open http://127.0.0.1:8080/
//! ```
//!
//! No browser draws 200 000 updates a second, so the topic has the policy `latest`. A delivery begins at most once in
//! an interval, and has the newest price of each symbol alone. What a slow page has not taken yet is replaced by newer
//! prices of the same symbols. The page shows how many updates it has received, how many the server has told it are
//! missing, and how old the prices are. Throttle the page's CPU in the developer tools: it misses more updates, and its
//! prices stay young.

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, value_parser};
use ringhub::{
    Hub, Overflow, Permission, Publication, Server, TopicName, TopicRule, config::Time, documents::Documents,
    metrics::Counter, server::HubError,
};
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The number of symbols.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..=1_000))]
    symbols: u32,
    /// Updates of each symbol per second. If the machine is too slow for that, there are fewer.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Updates of each symbol until publishing ends; without it, publishing ends with the server.
    #[arg(long)]
    updates: Option<u64>,
    /// The shortest time between two deliveries, in milliseconds.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u64).range(1..=10_000))]
    interval: u64,
    /// The folder with the page.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/prices"))]
    site: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let topic = TopicName::new("prices")?;
    let rule = TopicRule::new([topic.as_str().parse()?])
        .publish(Permission::Nobody)
        .slow(Overflow::Latest)
        .delivery_interval_ms(arguments.interval)
        // A page that is behind is owed few prices of each symbol, and its socket keeps few.
        .backlog_messages(4 * u64::from(arguments.symbols))
        .unsent_low_water(16 << 10);
    let mut running = Server::builder()
        .listen([arguments.listen])
        // The pong of a page stands behind all that the page has yet to read.
        .settings(|settings| settings.pong_timeout = Time(Duration::from_secs(60)))
        .topics()
        .topic_rule(rule)
        .documents("/", Documents::new(&arguments.site)?)
        .build()?
        .start()?;
    println!("http://{}/", running.local_addr());
    tokio::spawn(show_figures(running.hub()));
    let publishing = tokio::spawn(publish_all(running.hub(), topic, arguments));
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    running.shutdown().await?;
    match publishing.await? {
        Ok(()) | Err(HubError::Ended) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Publishes the updates of all symbols. Prints the last prices when there are no more.
async fn publish_all(hub: Hub, topic: TopicName, arguments: Arguments) -> Result<(), HubError> {
    let mut symbols = JoinSet::new();
    for number in 0..arguments.symbols {
        let (hub, topic, every) = (hub.clone(), topic.clone(), Duration::from_secs(1) / arguments.rate);
        symbols.spawn(publish(hub, topic, number, every, arguments.updates));
    }
    let mut last = BTreeMap::new();
    while let Some(ended) = symbols.join_next().await {
        let (symbol, price) = ended.expect("a publisher does not panic")?;
        last.insert(symbol, price);
    }
    println!("the last prices: {}", Value::from_iter(last));
    Ok(())
}

/// Publishes the updates of a symbol. Returns its name and last price, in cents.
async fn publish(
    hub: Hub,
    topic: TopicName,
    number: u32,
    every: Duration,
    updates: Option<u64>,
) -> Result<(String, u32), HubError> {
    let symbol = format!("S{number:03}");
    let (mut price, mut random) = (10_000 + 37 * number, number + 1);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for _ in 0..updates.unwrap_or(u64::MAX) {
        ticks.tick().await;
        // Xorshift, by Marsaglia.
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        price = (price + random % 21).saturating_sub(10).max(100);
        hub.publish(&topic, update(&symbol, price)).await?;
        PUBLISHED.fetch_add(1, Ordering::Relaxed);
    }
    Ok((symbol, price))
}

/// Returns the message about a price, whose key is the symbol.
fn update(symbol: &str, price: u32) -> Publication {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let update = Publication::json(&format!(r#"{{"symbol":"{symbol}","price":{price},"at":{at}}}"#));
    update.expect("numbers and a symbol are JSON").key(symbol).expect("a symbol is a short key")
}

/// The updates that are published.
static PUBLISHED: AtomicU64 = AtomicU64::new(0);

/// Prints the figures of each second.
async fn show_figures(hub: Hub) {
    let figures = || {
        let counters = [Counter::Deliveries, Counter::DroppedByInterval, Counter::DroppedOutdated];
        let [delivered, in_interval, outdated] = counters.map(|counter| hub.count(counter));
        [PUBLISHED.load(Ordering::Relaxed), delivered, in_interval, outdated]
    };
    let mut last = figures();
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let now = figures();
        let [published, delivered, in_interval, outdated] = std::array::from_fn(|at| now[at] - last[at]);
        println!(
            "{published} published, {delivered} delivered; replaced: {in_interval} in intervals, {outdated} later"
        );
        last = now;
    }
}

//! Devices send readings in JSON, and dashboards get a report of each reading. The messages have types. The answer to
//! an invalid message is a precise error.
//!
//! ```sh
//! cargo run --example json_telemetry -- --listen 127.0.0.1:8080
//! npx wscat -c ws://127.0.0.1:8080/dashboard            # then: {"watch":"boiler"}
//! npx wscat -c ws://127.0.0.1:8080/devices/boiler       # then: {"celsius":71.5,"battery":93}
//! ```
//!
//! A client that sends anything else gets an error message, and its connection is closed with 1008.

use std::{
    error::Error,
    io::{IsTerminal as _, stderr},
    net::SocketAddr,
};

use clap::Parser;
use ringhub::{
    Accept, CloseCode, Connection, Handler, Message, OpeningRequest, Publication, Response, RouteOptions, Scope,
    Server, SubscribeOptions, TopicName, handler::truncate_reason,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::signal::unix::{SignalKind, signal};

/// The message that a device sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reading {
    celsius: f64,
    /// The charge of the battery, in per cent.
    battery: u8,
}

/// The message that dashboards get about a reading.
#[derive(Serialize)]
struct Report<'a> {
    device: &'a str,
    number: u64,
    celsius: f64,
    is_low: bool,
}

/// The message that a dashboard sends.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wish {
    Watch(String),
    Ignore(String),
}

/// The answer to a dashboard that watches a device.
#[derive(Serialize)]
struct Watching<'a> {
    watching: &'a str,
}

/// The answer to an invalid message.
#[derive(Serialize)]
struct Fault<'a> {
    error: &'a str,
}

struct Devices;

#[derive(Default)]
struct Device {
    name: String,
    readings: u64,
}

impl Handler for Devices {
    type State = Device;

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<Device>, Response> {
        let name = request.parameter("device").unwrap_or_default().to_string();
        topic_of(&name).map_err(|error| Response::error(400, &error))?;
        Ok(Accept::with(Device { name, readings: 0 }))
    }

    fn on_message(&self, connection: &mut Connection<'_, Device>, message: Message<'_>) {
        if let Err(error) = take_reading(connection, &message) {
            refuse(connection, &error);
        }
    }
}

fn take_reading(connection: &mut Connection<'_, Device>, message: &Message<'_>) -> Result<(), String> {
    let Reading { celsius, battery } = read(message)?;
    if battery > 100 {
        return Err(format!("battery is {battery}, not between 0 and 100 per cent"));
    }
    let device = connection.state_mut();
    device.readings += 1;
    let report = Report { device: &device.name, number: device.readings, celsius, is_low: battery < 20 };
    let report = serde_json::to_string(&report).map_err(|error| error.to_string())?;
    let topic = topic_of(&device.name)?;
    connection.publish(&topic, Publication::text(&report), Scope::Server);
    Ok(())
}

struct Dashboards;

impl Handler for Dashboards {
    type State = ();

    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        let outcome = read(&message).and_then(|wish| match wish {
            Wish::Watch(device) => {
                let topic = topic_of(&device)?;
                connection.subscribe(&topic, SubscribeOptions::default()).map_err(|error| format!("{device}: {error}"))
            }
            Wish::Ignore(device) => match connection.unsubscribe(&topic_of(&device)?) {
                true => Ok(()),
                false => Err(format!("{device}: it was not watched")),
            },
        });
        if let Err(error) = outcome {
            refuse(connection, &error);
        }
    }

    /// Tells the dashboard that it gets every reading from now on.
    fn on_subscribed(&self, connection: &mut Connection<'_, ()>, topic: &TopicName) {
        let watching = topic.as_str().strip_prefix(PREFIX).unwrap_or_default();
        connection.send_json(&Watching { watching }).expect("a struct of text is JSON");
    }
}

/// Returns the topic of a device.
fn topic_of(device: &str) -> Result<TopicName, String> {
    TopicName::new(&format!("{PREFIX}{device}")).map_err(|error| format!("{device:?} is no device: {error}"))
}

const PREFIX: &str = "devices/";

fn read<T: DeserializeOwned>(message: &Message<'_>) -> Result<T, String> {
    let text = message.as_text().ok_or("JSON is text, not binary")?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Sends the whole error as a message. Then sends a close frame with as much of the error as has room there.
fn refuse<S: 'static>(connection: &mut Connection<'_, S>, error: &str) {
    let told = connection.send_json(&Fault { error }).expect("a struct of text is JSON");
    let closed = connection.close(CloseCode::POLICY_VIOLATION, truncate_reason(error));
    tracing::warn!(connection = %connection.id(), error, ?told, ?closed, "refused");
}

#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    let Arguments { listen } = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let small = RouteOptions::new().max_message(1_024);
    let mut running = Server::builder()
        .listen([listen])
        .route_with("/devices/{device}", Devices, small.clone().forget_request())
        .route_with("/dashboard", Dashboards, small)
        .build()?
        .start()?;
    println!("ws://{}/devices/DEVICE", running.local_addr());
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(running.shutdown().await?)
}

//! A chat: rooms, names, notices of arrivals and departures, and private messages.
//!
//! ```sh
//! cargo run --example chat -- --listen 127.0.0.1:8080
//! npx wscat -c 'ws://127.0.0.1:8080/rooms/lobby?name=anna'
//! ```
//!
//! A client's messages go to everybody else in its rooms. `/join ROOM` and `/leave ROOM` change its rooms. `/to ID
//! TEXT` sends a message only to the client with this id, which is shown when that client comes.

use std::{error::Error, net::SocketAddr};

use clap::Parser;
use ringhub::{
    Accept, Closed, Connection, ConnectionId, Handler, Hub, Message, OpeningRequest, PreparedMessage, Publication,
    Response, RouteOptions, Scope, Server, SubscribeOptions, TopicName,
};
use tokio::signal::unix::{SignalKind, signal};

struct Chat {
    hub: Hub,
}

/// The state of a connection.
#[derive(Default)]
struct Member {
    name: String,
    /// The rooms are kept here too, since in `on_close` the connection has no subscriptions any more.
    rooms: Vec<TopicName>,
}

impl Handler for Chat {
    type State = Member;

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<Member>, Response> {
        let name = request.query_value("name").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Response::error(400, "say who you are: ?name=..."))?.into_owned();
        let room = TopicName::new(request.parameter("room").unwrap_or_default());
        let room = room.map_err(|error| Response::error(400, &error.to_string()))?;
        Ok(Accept::with(Member { name, rooms: vec![room.clone()] }).subscribe(room, SubscribeOptions::default()))
    }

    fn on_open(&self, connection: &mut Connection<'_, Member>) {
        let id = connection.id();
        connection.send_text(format!("* you are {} ({id})", connection.state().name));
        tell_rooms(connection, &format!("* {} ({id}) has come", connection.state().name));
    }

    fn on_message(&self, connection: &mut Connection<'_, Member>, message: Message<'_>) {
        let Some(text) = message.as_text() else {
            connection.send_text("* only text, please");
            return;
        };
        match text.split_once(' ') {
            Some(("/to", rest)) => self.whisper(connection, rest),
            Some(("/join", room)) => join(connection, room),
            Some(("/leave", room)) => leave(connection, room),
            _ => tell_rooms(connection, &format!("{}: {text}", connection.state().name)),
        }
    }

    fn on_close(&self, connection: &mut Connection<'_, Member>, _: &Closed) {
        tell_rooms(connection, &format!("* {} has gone", connection.state().name));
    }
}

impl Chat {
    /// Sends a private message. The receiver may be on another shard, so this asks the hub, and goes on when the hub
    /// has answered.
    fn whisper(&self, connection: &mut Connection<'_, Member>, rest: &str) {
        let (id, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let id: ConnectionId = match id.parse() {
            Ok(id) => id,
            Err(error) => {
                connection.send_text(format!("* {error}"));
                return;
            }
        };
        let (hub, name) = (self.hub.clone(), &connection.state().name);
        let message = PreparedMessage::text(&format!("{name}, to you alone: {text}"));
        connection.spawn(async move |sender| {
            if let Err(error) = hub.send_one(id, &message).await {
                sender.send_text(format!("* {error}")).await;
            }
        });
    }
}

fn join(connection: &mut Connection<'_, Member>, room: &str) {
    let joined = TopicName::new(room).map_err(|error| error.to_string()).and_then(|room| {
        connection.subscribe(&room, SubscribeOptions::default()).map_err(|error| error.to_string())?;
        Ok(room)
    });
    match joined {
        Ok(room) => {
            let news = format!("* {} ({}) has come to {room}", connection.state().name, connection.id());
            connection.publish(&room, Publication::text(&news), Scope::Server);
            connection.state_mut().rooms.push(room);
        }
        Err(error) => _ = connection.send_text(format!("* {error}")),
    }
}

fn leave(connection: &mut Connection<'_, Member>, room: &str) {
    let Some(at) = connection.state().rooms.iter().position(|joined| joined.as_str() == room) else {
        connection.send_text(format!("* you are not in {room}"));
        return;
    };
    let room = connection.state_mut().rooms.remove(at);
    connection.unsubscribe(&room);
    let news = format!("* {} has left {room}", connection.state().name);
    connection.publish(&room, Publication::text(&news), Scope::Server);
}

/// Publishes a text to all rooms of the connection. The text is encoded once, for any number of members.
fn tell_rooms(connection: &mut Connection<'_, Member>, text: &str) {
    let message = Publication::text(text);
    for room in connection.state().rooms.clone() {
        connection.publish(&room, &message, Scope::Server);
    }
}

#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { listen } = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let builder = Server::builder().listen([listen]);
    let chat = Chat { hub: builder.hub() };
    let options = RouteOptions::new().max_message(4_096);
    let mut running = builder.route_with("/rooms/{room}", chat, options).build()?.start()?;
    println!("ws://{}/rooms/ROOM?name=NAME", running.local_addr());
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(running.shutdown().await?)
}

//! Admission and roles: an authenticator, and a connection's state as a type.
//!
//! ```sh
//! cargo run --example auth -- --listen 127.0.0.1:8080
//! npx wscat -c ws://127.0.0.1:8080/news --auth alice:wonderland    # an editor: what she types is announced
//! npx wscat -c ws://127.0.0.1:8080/news --auth bob:builder         # a reader
//! npx wscat -c 'ws://127.0.0.1:8080/news?access_token=press-agency-token'
//! ```
//!
//! Passwords and tokens go over the network unencrypted, so put TLS in front. Keep them in a settings file or a
//! database instead of the source.

use std::{collections::HashMap, error::Error, net::SocketAddr};

use clap::Parser;
use ringhub::{
    Accept, CloseCode, Connection, Handler, Message, OpeningRequest, Publication, Response, RouteOptions, Scope,
    Server, SubscribeOptions, TopicName,
    auth::{Basic, Bearer, any_of},
};
use tokio::signal::unix::{SignalKind, signal};

struct News {
    topic: TopicName,
    roles: HashMap<&'static str, Role>,
}

/// The state of a connection. It stays on the connection's shard, so it needs neither a lock nor `Send`.
#[derive(Default)]
struct Member {
    name: String,
    role: Role,
    announced: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Role {
    #[default]
    Reader,
    Editor,
}

impl Handler for News {
    type State = Member;

    /// Admits users with a role. The route's authenticator has already identified the user, or has answered 401. This
    /// method is asynchronous, so it could ask a database.
    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<Member>, Response> {
        let name = request.identity().map(|identity| identity.name.clone()).unwrap_or_default();
        let Some(&role) = self.roles.get(&*name) else {
            return Err(Response::error(403, "you have no account here"));
        };
        Ok(Accept::with(Member { name, role, announced: 0 })
            .subscribe(self.topic.clone(), SubscribeOptions::default().echo()))
    }

    fn on_open(&self, connection: &mut Connection<'_, Member>) {
        let Member { name, role, .. } = connection.state();
        let welcome = format!("welcome, {name} ({role:?})");
        connection.send_text(welcome);
    }

    fn on_message(&self, connection: &mut Connection<'_, Member>, message: Message<'_>) {
        let member = connection.state_mut();
        if member.role != Role::Editor {
            // The call fails if the connection is already closing, since the client has sent several messages at once.
            _ = connection.close(CloseCode::POLICY_VIOLATION, "readers only read");
            return;
        }
        member.announced += 1;
        let (name, number) = (&member.name, member.announced);
        let text = message.as_text().unwrap_or("(something that is not text)");
        let announcement = Publication::text(&format!("{name}, {number}: {text}"));
        connection.publish(&self.topic, &announcement, Scope::Server);
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
    let people = Basic::new("news", [("alice", "wonderland"), ("bob", "builder"), ("mallory", "letmein")])?;
    let services = Bearer::new([("press agency", "press-agency-token")])?;
    let roles = [("alice", Role::Editor), ("bob", Role::Reader), ("press agency", Role::Editor)];
    let news = News { topic: TopicName::new("news")?, roles: roles.into() };
    let options = RouteOptions::new().authenticator(any_of(people).or(services));
    let mut running = Server::builder().listen([listen]).route_with("/news", news, options).build()?.start()?;
    println!("ws://{}/news", running.local_addr());
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(running.shutdown().await?)
}

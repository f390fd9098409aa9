//! A hub, a login page and a REST interface on one port, in one process: axum serves HTTP, the hub serves WebSockets,
//! and both know the same sessions.
//!
//! ```sh
//! cargo run --example http_beside -- --listen 127.0.0.1:8080
//! curl -c jar -d 'name=anna&password=hush' http://127.0.0.1:8080/login
//! curl -b jar http://127.0.0.1:8080/api/me
//! curl -b jar -d 'hello' http://127.0.0.1:8080/api/say/lobby
//! ```
//!
//! A browser at <http://127.0.0.1:8080/> shows the page, logs in, and gets what is said in a WebSocket at `/live`. In
//! front of anything but a loopback address belongs TLS, and then `Secure` belongs to the cookie.

use std::{
    collections::HashMap,
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect},
    routing::{get, post},
};
use clap::Parser;
use ringhub::{
    Accept, Connection, Handler, Hub, Message, OpeningRequest, Publication, Response, RouteOptions, Server,
    SubscribeOptions, TopicName,
    auth::{Authenticator, Credentials, Identity},
    handler::RequestSender,
    proto::Refusal,
};
use tokio::signal::unix::{SignalKind, signal};

/// The sessions: each cookie's value with the name of its user. A real service keeps them in its database.
#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<String, String>>>);

impl Sessions {
    fn begin(&self, name: &str) -> String {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .expect("the kernel has random bytes");
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), name.into());
        id
    }

    fn name_of(&self, id: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

/// The hub and axum ask the same authenticator, by the cookie of the session.
impl Authenticator for Sessions {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let cookies = credentials.head.headers().get_all("cookie").filter_map(|line| str::from_utf8(line).ok());
        let mut cookies = cookies.flat_map(|line| line.split(';')).map(str::trim);
        let name = cookies.find_map(|cookie| self.name_of(cookie.strip_prefix("session=")?));
        name.map(Identity::new).ok_or_else(|| Refusal::new(403, "log in first"))
    }
}

/// Everybody with a session gets what is said in a room.
struct Live;

impl Handler for Live {
    type State = ();
    const PUBLISHES: bool = false;

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        let room = request.query_value("room").unwrap_or_else(|| "lobby".into());
        let topic =
            TopicName::new(&format!("rooms/{room}")).map_err(|error| Response::error(400, &error.to_string()))?;
        Ok(Accept::with(()).subscribe(topic, SubscribeOptions::default()))
    }

    fn on_message(&self, connection: &mut Connection<'_, ()>, _: Message<'_>) {
        connection.send_text("say it by POST /api/say/ROOM");
    }
}

async fn log_in(State(sessions): State<Sessions>, form: String) -> Result<impl IntoResponse, StatusCode> {
    let form: HashMap<_, _> = form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let value = |key: &str| form.get(key).map(String::as_str).unwrap_or_default();
    // A real service compares with a hash.
    if value("password") != "hush" || value("name").is_empty() {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let cookie = format!("session={}; HttpOnly; SameSite=Strict; Path=/", sessions.begin(value("name")));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")))
}

async fn me(Extension(sender): Extension<RequestSender>) -> String {
    sender.identity.map(|identity| identity.name).unwrap_or_default()
}

/// Publishes what somebody says, and answers with its place in the order of the room.
async fn say(
    State(hub): State<Hub>,
    Extension(sender): Extension<RequestSender>,
    Path(room): Path<String>,
    words: String,
) -> Result<String, (StatusCode, String)> {
    let topic = TopicName::new(&format!("rooms/{room}"));
    let topic = topic.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let name = sender.identity.map(|identity| identity.name).unwrap_or_default();
    let said = hub.publish(&topic, Publication::text(&format!("{name}: {words}"))).await;
    let place = said.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(place.offset.to_string())
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
    let sessions = Sessions::default();
    let builder = Server::builder().listen([listen]);
    let hub = builder.hub();
    // The page and the login are for everybody; the interface and the WebSocket are for those with a session.
    let public = Router::new().route("/", get(async || Html(PAGE))).route("/login", post(log_in));
    let public = public.with_state(sessions.clone());
    let rest = Router::new().route("/api/me", get(me)).route("/api/say/{room}", post(say)).with_state(hub);
    let inside = || RouteOptions::new().authenticator(sessions.clone());
    let mut running = builder
        .http("/", public.clone())
        .http("/login", public)
        .http_with("/api/{rest...}", rest, inside())
        .route_with("/live", Live, inside())
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

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>Beside</title>
<form method="post" action="/login"><input name="name" placeholder="name"><input name="password" type="password"
placeholder="hush"><button>Log in</button></form><pre id="said"></pre>
<script>
const socket = new WebSocket(`ws://${location.host}/live?room=lobby`);
socket.onmessage = ({data}) => document.getElementById("said").append(data, "\n");
</script>
"#;

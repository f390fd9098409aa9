//! Tests the judge over real sockets: requests that wait for an authenticator, on shards and on the control thread, and
//! the topics that their senders may use.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Builder, Running, Server,
    testing::{Client, Manner, PATIENCE},
};
use crate::{
    auth::{Authenticator, Credentials, Identity, Later},
    config::{Config, Flags, Given},
    proto::Refusal,
};

/// An authenticator that waits for a moment, and then takes the token for a name. With the token `forever` it never
/// decides.
#[derive(Debug, Default)]
struct Slow {
    begun: AtomicUsize,
    dropped: Arc<AtomicUsize>,
}

impl Authenticator for Slow {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let name = credentials.answers().and_then(|answers| answers.get::<String>("name"));
        let name = name.ok_or_else(|| Refusal::new(503, "nobody has waited for the name"))?;
        if name.is_empty() { Err(Refusal::new(401, "a token is missing")) } else { Ok(Identity::new(&*name)) }
    }

    fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
        let answers = credentials.answers()?;
        if answers.get::<String>("name").is_some() {
            return None;
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        let token = credentials.token().map(|token| String::from_utf8_lossy(&token).into_owned()).unwrap_or_default();
        let (answers, counted) = (answers.clone(), CountDrop(Arc::clone(&self.dropped)));
        Some(Box::pin(async move {
            let _counted = counted;
            if token == "forever" {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            answers.put("name", token);
        }))
    }
}

/// Counts its drop.
struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Every caller of the judge waits: an opening on a shard, an opening that the control thread hands over, an endpoint,
/// a body, and a message.
#[test]
fn requests_wait_for_an_authenticator() {
    let slow = Arc::new(Slow::default());
    let server = serve("shards = 2\n", &[HUB, LINES, GATED], &slow);
    let address = server.local_addr();
    let ann = "Authorization: Bearer ann\r\n";
    let named = "{\"topic\":\"in/x\",\"payload\":\"by body\"}";
    let mut peer = open(address, "/g/open", "ann");
    peer.say("subscribe x");
    assert_eq!(peer.text(), ":subscribed in/x");
    assert_eq!(status(&ask(address, "POST /t/in/x", ann, "by path")), 202);
    assert_eq!(peer.text(), "by path");
    assert_eq!(status(&ask(address, "POST /l/publish", ann, named)), 200);
    assert_eq!(peer.text(), "by body");
    let facts = ask(address, "GET /g/facts/a/b", ann, "");
    assert!(facts.contains(" for ann, "), "{facts}");
    // The topic of a message is judged by the gate of another route.
    let mut other = open(address, "/l/open", "ben");
    other.say("subscribe in/x");
    assert_eq!(other.text(), ":subscribed in/x");
    other.say("publish in/x by message");
    assert_eq!((peer.text(), other.text()), ("by message".into(), "by message".into()));
    // An opening request after another request comes to the shard by way of the control thread.
    let mut stream = dial(address);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let first = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(format!("{first}GET /t/in/x HTTP/1.1\r\nHost: a\r\n{ann}{upgrade}\r\n").as_bytes()).unwrap();
    let mut answers = String::new();
    while !answers.contains("HTTP/1.1 101 ") || !answers.ends_with("\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{answers}");
        answers.push(char::from(byte[0]));
    }
    for (line, body) in
        [("POST /t/in/x", "x"), ("POST /l/publish", named), ("GET /g/facts/a/b", ""), ("GET /t/in/x", "")]
    {
        let answer = ask(address, line, "", body);
        assert_eq!(status(&answer), 401, "{line}: {answer}");
    }
    let mut nobody = open(address, "/l/open", "");
    nobody.say("publish in/x nothing");
    assert!(nobody.text().starts_with(":refused 401 "));
    drop((peer, other, nobody, stream));
    end(server);
    assert_eq!(slow.begun.load(Ordering::SeqCst), slow.dropped.load(Ordering::SeqCst));
}

/// A request that nobody decides about is answered 503 after the time for an opening request.
#[test]
fn a_request_waits_no_longer_than_an_opening_request() {
    let slow = Arc::new(Slow::default());
    let server = serve("handshake_timeout = \"1s\"\n", &[HUB, LINES, GATED], &slow);
    let address = server.local_addr();
    let forever = "Authorization: Bearer forever\r\n";
    let mut peer = open(address, "/l/open", "forever");
    let begun = Instant::now();
    peer.say("subscribe in/x");
    let answer = peer.text();
    assert!(answer.starts_with(":refused 503 the decision about this request took too long"), "{answer}");
    let refused = Client::try_open(address, "/g/open", &[("Authorization", "Bearer forever")], Manner::default());
    assert_eq!(refused.err(), Some(503));
    let named = "{\"topic\":\"in/x\",\"payload\":\"y\"}";
    for (line, body) in [("POST /t/in/x", "x"), ("POST /l/publish", named)] {
        let answer = ask(address, line, forever, body);
        assert!(status(&answer) == 503 && answer.contains("retry-after: 1\r\n"), "{line}: {answer}");
    }
    assert!(begun.elapsed() >= Duration::from_secs(4));
    let metrics = ask(address, "GET /metrics", "", "");
    let undecided =
        metrics.lines().filter(|line| line.contains("cause=\"undecided\"")).map(|line| line.rsplit(' ').next());
    let undecided: u64 = undecided.map(|count| count.unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(undecided, 3, "{metrics}");
    drop(peer);
    end(server);
    assert_eq!(slow.begun.load(Ordering::SeqCst), slow.dropped.load(Ordering::SeqCst));
}

/// The wait of an opening request, and of a command, ends with its client.
#[test]
fn a_client_that_leaves_waits_no_longer() {
    let slow = Arc::new(Slow::default());
    // The time for an opening request is too long to end the wait.
    let server = serve("handshake_timeout = \"10m\"\n", &[HUB, LINES, GATED], &slow);
    let address = server.local_addr();
    let mut stream = dial(address);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let head = format!("GET /t/in/x?access_token=forever HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let wait = |count: &AtomicUsize, number| {
        let begun = Instant::now();
        while count.load(Ordering::SeqCst) < number {
            assert!(begun.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(5));
        }
    };
    wait(&slow.begun, 1);
    assert_eq!(slow.dropped.load(Ordering::SeqCst), 0);
    drop(stream);
    wait(&slow.dropped, 1);
    let mut peer = open(address, "/l/open", "forever");
    peer.say("publish in/x never");
    wait(&slow.begun, 2);
    assert_eq!(slow.dropped.load(Ordering::SeqCst), 1);
    drop(peer);
    wait(&slow.dropped, 2);
    end(server);
}

pub(super) const HUB: &str = "match = \"/t/{topic...}\"\nhandler = \"hub\"\n";
pub(super) const LINES: &str = "match = \"/l\"\nhandler = \"lines\"\n";

/// The route whose authenticator a test gives. It leads to the topics below `in/`.
const GATED: &str = "match = \"/g\"\nhandler = \"lines\"\ntopic_prefix = \"in/\"\n";

/// Returns the configuration of these settings and routes, of which the last one has an authenticator.
pub(super) fn config(settings: &str, routes: &[&str], gate: &Arc<impl Authenticator>) -> Config {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("judging-{}-{number}.toml", std::process::id()));
    let routes: String = routes.iter().map(|route| format!("[[routes]]\n{route}\n")).collect();
    fs::write(&path, format!("listen = \"127.0.0.1:0\"\n{settings}\n{routes}")).unwrap();
    let mut flags = Flags::default();
    flags.read_file(path.clone(), "test");
    let config = Given::read(&flags, []).config(20_000);
    fs::remove_file(path).unwrap();
    let mut config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let gated = config.routes.last_mut().unwrap();
    gated.rules.gate.authenticator = Some(Arc::clone(gate) as Arc<dyn Authenticator>);
    config
}

/// Returns a builder of a server whose last route has an authenticator.
pub(super) fn builder(settings: &str, routes: &[&str], gate: &Arc<impl Authenticator>) -> Builder {
    Server::builder().config(config(settings, routes, gate))
}

fn serve(settings: &str, routes: &[&str], gate: &Arc<impl Authenticator>) -> Running {
    builder(settings, routes, gate).build().unwrap().start().unwrap()
}

pub(super) fn end(server: Running) {
    server.stop();
    server.wait_blocking().unwrap();
}

pub(super) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Opens a WebSocket with a token, or with none if the token is empty.
pub(super) fn open(address: SocketAddr, target: &str, token: &str) -> Client {
    let line = format!("Bearer {token}");
    let headers = [("Authorization", &*line)];
    let headers = if token.is_empty() { &[][..] } else { &headers };
    Client::try_open(address, target, headers, Manner::default()).unwrap_or_else(|status| panic!("{target}: {status}"))
}

/// Returns the whole answer to a request, with the names of its header lines in small letters.
pub(super) fn ask(address: SocketAddr, line: &str, headers: &str, body: &str) -> String {
    let mut stream = dial(address);
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line}: {answer:?}"));
    let lower = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\r\n", name.to_lowercase()),
        None => format!("{line}\r\n"),
    };
    format!("{}\r\n{body}", head.split("\r\n").map(lower).collect::<String>())
}

pub(super) fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no status in {answer:?}"))
}

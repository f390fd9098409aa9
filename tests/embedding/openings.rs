//! The opening request, with the cases of Qore's `handleRequest` and Ioto's `SelectProtocol`, and the rules of a route.

use std::{
    future::pending,
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ringhub::{
    auth::{Authenticator, Credentials, Identity, Origins},
    config::{Size, Time},
    handler::{Accept, Connection, Handler, OpeningRequest, Response, RouteOptions},
    metrics::Counter,
    proto::Refusal,
};
use tokio::sync::Notify;

use crate::{
    Live, Script, builder, serve,
    support::{KernelSocket, dial, dial_with, request, text, upgrade_request},
    until,
};

#[test]
fn qore_everything_of_a_request() {
    let (script, journal) = Script::<String>::new();
    let script = script.opening(|request| {
        let (peer, local) = (request.peer().unwrap(), request.local().unwrap());
        assert_ne!(peer, local);
        let facts = format!(
            "{} {} {:?} {:?} {:?} {:?} {} {:?}",
            request.method(),
            request.path(),
            request.parameter("room"),
            request.query().collect::<Vec<_>>(),
            request.query_value("b"),
            request.header("x-token"),
            request.listener(),
            request.origin(),
        );
        Ok(Accept::with(facts))
    });
    let script = script.on_open(|connection| {
        let facts = connection.state().clone();
        connection.send_text(facts);
        let request = connection.request().expect("the request is kept");
        assert_eq!((connection.peer(), connection.local()), (request.peer(), request.local()));
    });
    let addresses = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let server = Live::start(builder(1).listen(addresses).route("/chat/{room}", script));
    let target = "/chat/a%20b?a=1&b=%C3%A9+x&a";
    let headers = [("X-Token", "t"), ("Origin", "http://localhost")];
    for (listener, &address) in server.running().local_addrs().iter().enumerate() {
        let mut client = crate::Client::open_with(dial(address), target, &[], &headers).unwrap();
        let expected = format!(
            r#"GET /chat/a%20b Some("a b") [("a", "1"), ("b", "é x"), ("a", "")] Some("é x") Some("t") {listener} {}"#,
            r#"Some("http://localhost")"#
        );
        client.expect(text(&expected));
        client.leave();
    }
    drop(journal);
}

#[test]
fn qore_any_response_instead() {
    let (script, journal) = Script::<()>::new();
    let script = script.opening(|request| {
        Err(match request.raw_query() {
            Some("pay") => Response::new(402, "text/plain", "pay first").header("Retry-After", "60"),
            Some("away") => Response::new(302, "text/plain", "").header("Location", "ws://example.org/"),
            _ => Response::error(451, "not \"here\""),
        })
    });
    let server = serve(1, |builder| builder.route("/", script));
    let refused = |target: &str| server.open(target, &[], &[]).err().expect("a refusal");
    let response = refused("/?pay");
    assert_eq!((response.status(), response.header("retry-after"), &*response.body), (402, Some("60"), "pay first"));
    let response = refused("/?away");
    assert_eq!((response.status(), response.header("location")), (302, Some("ws://example.org/")));
    let response = refused("/");
    assert_eq!((response.status(), response.error()), (451, "not \"here\"".into()));
    // No connection has been opened, so none is closed.
    journal.expect_at_the_end(server, &[]);
}

/// A response that is larger than the send buffer of its socket arrives as a whole. A client that does not read the
/// response is reset instead.
#[test]
fn qore_a_large_response_instead() {
    let body = "0123456789abcdef".repeat(65_536);
    let (script, _) = Script::<()>::new();
    let sent = body.clone();
    let script = script.opening(move |_| Err(Response::new(402, "text/plain", sent.clone())));
    let builder = builder(1).settings(|settings| settings.send_buffer = Some(Size(4_096)));
    let server = Live::start(builder.route("/", script));
    let response = server.open("/", &[], &[]).err().expect("a refusal");
    assert_eq!(response.status(), 402);
    assert!(response.body == body, "{} bytes of other text", response.body.len());
    let mut deaf = dial_with(server.address, Some(4_096));
    deaf.write_all(upgrade_request("/").as_bytes()).unwrap();
    assert_eq!(deaf.peek(&mut [0]).unwrap(), 1);
    let port = server.address.port();
    KernelSocket::until_none("open sockets", || KernelSocket::open_ones(port));
    assert_eq!(deaf.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn qore_headers_of_the_answer() {
    let (script, _) = Script::<()>::new();
    let script = script.opening(|_| Ok(Accept::with(()).header("X-Served-By", "me\r\nX-Bad: 1").header("X-Two", "2")));
    let server = serve(1, |builder| builder.route("/", script));
    let client = server.open("/", &[], &[]).unwrap();
    assert_eq!((client.header("x-served-by"), client.header("x-two")), (Some("me  X-Bad: 1"), Some("2")));
    assert_eq!(client.header("x-bad"), None);
}

/// Header lines that would break the answer are the handler's mistake, so the answer is 500.
#[test]
fn qore_headers_that_cannot_be() {
    let (script, _) = Script::<()>::new();
    let script = script.opening(|request| match request.raw_query() {
        Some("accept") => Ok(Accept::with(()).header("Sec-WebSocket-Accept", "x")),
        Some("name") => Ok(Accept::with(()).header("a b", "x")),
        Some("refuse") => Err(Response::error(400, "").header("a b", "x")),
        Some("length") => Err(Response::error(400, "").header("content-length", "7")),
        _ => Err(Response::new(101, "text/plain", "")),
    });
    let server = serve(1, |builder| builder.route("/", script));
    for query in ["accept", "name", "refuse", "length", "status"] {
        let response = server.open(&format!("/?{query}"), &[], &[]).err().expect("a refusal");
        assert_eq!(response.status(), 500, "{query}");
    }
}

#[test]
fn ioto_sub_protocols_by_preference() {
    let (script, _) = Script::<()>::new();
    let script = script.on_open(|connection| _ = connection.send_text(format!("{:?}", connection.protocol())));
    let (needs, _) = Script::<()>::new();
    let options = RouteOptions::new().protocols(["v2", "v1"]);
    let server = serve(1, |builder| {
        builder.route_with("/", script, options.clone()).route_with("/needs", needs, options.require_protocol())
    });
    for (offered, chosen) in
        [(&["v1", "v2"][..], Some("v2")), (&["v0", "v1"], Some("v1")), (&["v0"], None), (&[], None)]
    {
        let mut client = server.open("/", offered, &[]).unwrap();
        assert_eq!(client.protocol(), chosen);
        client.expect(text(&format!("{chosen:?}")));
    }
    assert_eq!(server.open("/needs", &["v1"], &[]).unwrap().protocol(), Some("v1"));
    let response = server.open("/needs", &["v0"], &[]).err().expect("a refusal");
    assert_eq!((response.status(), response.error()), (400, "this route needs one of the subprotocols v2, v1".into()));
}

#[test]
fn ioto_a_handler_selects_the_sub_protocol() {
    let (script, _) = Script::<()>::new();
    let script = script.opening(|request| {
        assert_eq!(request.protocol(), Some("v2"));
        Ok(Accept::with(()).protocol(request.query_value("p").as_deref().filter(|p| !p.is_empty())))
    });
    let options = RouteOptions::new().protocols(["v2"]);
    let server = serve(1, |builder| builder.route_with("/", script, options));
    let chosen =
        |target: &str| server.open(target, &["v1", "v2"], &[]).map(|client| client.protocol().map(String::from));
    assert_eq!(chosen("/?p=v1").unwrap().as_deref(), Some("v1"));
    assert_eq!(chosen("/?p=").unwrap(), None);
    assert_eq!(chosen("/?p=v3").unwrap_err().status(), 500);
}

struct ByHeader;

impl Authenticator for ByHeader {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        assert!(credentials.peer.is_some());
        match credentials.head.headers().get("x-user") {
            Some(b"panic") => panic!("an authenticator"),
            Some(user) => Ok(Identity::new(String::from_utf8_lossy(user))),
            None => Err(Refusal::new(401, "who are you?").header("WWW-Authenticate", "X-User")),
        }
    }
}

#[test]
fn qore_an_identity_in_the_context() {
    let (script, _) = Script::<()>::new();
    let script = script.opening(|request| match request.identity().map(|identity| &*identity.name) {
        Some("alias") => Ok(Accept::with(()).identity(Identity::new("other"))),
        _ => Ok(Accept::default()),
    });
    let script = script.on_open(|connection| {
        let name = connection.identity().map(|identity| identity.name.clone());
        connection.send_text(format!("{name:?}"));
    });
    // The identity is kept, although this route forgets the request.
    let options = RouteOptions::new().authenticator(ByHeader).forget_request();
    let server = serve(1, |builder| builder.route_with("/", script, options));
    for (user, name) in [("ann", "ann"), ("alias", "other")] {
        let mut client = server.open("/", &[], &[("X-User", user)]).unwrap();
        client.expect(text(&format!("{:?}", Some(name))));
    }
    let response = server.open("/", &[], &[]).err().expect("a refusal");
    assert_eq!((response.status(), response.header("www-authenticate")), (401, Some("X-User")));
    let response = server.open("/", &[], &[("X-User", "panic")]).err().expect("a refusal");
    assert_eq!((response.status(), response.error()), (500, "an authenticator of this server has failed".into()));
}

#[test]
fn ioto_origins_of_a_route() {
    let origins = Origins::new(vec!["https://example.org".into()]).unwrap();
    let (script, _) = Script::<()>::new();
    let (open, _) = Script::<()>::new();
    let server =
        serve(1, |builder| builder.route_with("/", script, RouteOptions::new().origins(origins)).route("/open", open));
    let other = [("Origin", "https://example.com")];
    assert!(server.open("/", &[], &[("Origin", "https://example.org")]).is_ok());
    assert!(server.open("/", &[], &[]).is_ok());
    assert!(server.open("/open", &[], &other).is_ok());
    assert_eq!(server.open("/", &[], &other).err().expect("a refusal").status(), 403);
}

/// A handler whose `opening` waits until the test calls `decided`.
struct Waits {
    decided: Arc<Notify>,
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    told: Arc<Mutex<Vec<&'static str>>>,
}

struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Handler for Waits {
    type State = ();

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        let _count = Count(Arc::clone(&self.dropped));
        self.begun.fetch_add(1, Ordering::SeqCst);
        if request.raw_query() == Some("forever") {
            pending::<()>().await;
        }
        self.decided.notified().await;
        Ok(Accept::default())
    }

    fn on_open(&self, _: &mut Connection<'_, ()>) {
        self.told.lock().unwrap().push("open");
    }
}

fn waits() -> Waits {
    Waits { decided: Arc::default(), begun: Arc::default(), dropped: Arc::default(), told: Arc::default() }
}

/// The shard serves other connections while a decision waits.
#[test]
fn qore_a_decision_that_waits() {
    let handler = waits();
    let (decided, begun) = (Arc::clone(&handler.decided), Arc::clone(&handler.begun));
    let (echo, _) = Script::<()>::by_message(|connection, text| _ = connection.send_text(text));
    let server = serve(1, |builder| builder.route("/", handler).route("/echo", echo));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.connect("/"));
        until("the handler is asked", || begun.load(Ordering::SeqCst) == 1);
        let mut client = server.connect("/echo");
        client.send_text("meanwhile");
        client.expect(text("meanwhile"));
        decided.notify_one();
        waiting.join().unwrap().leave();
    });
}

#[test]
fn qore_a_decision_that_takes_too_long() {
    let handler = waits();
    let (dropped, told) = (Arc::clone(&handler.dropped), Arc::clone(&handler.told));
    let builder = builder(1).route("/", handler);
    let builder = builder.settings(|settings| settings.handshake_timeout = Time(Duration::from_millis(300)));
    let server = Live::start(builder);
    let response = server.open("/?forever", &[], &[]).err().expect("a refusal");
    assert_eq!((response.status(), response.header("retry-after")), (503, Some("1")));
    let count = |counter| server.hub().count(counter);
    assert_eq!((count(Counter::RefusedUndecided), count(Counter::RefusedLeaving)), (1, 0));
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    drop(server);
    assert!(told.lock().unwrap().is_empty());
}

/// The decision is dropped, and `on_open` is not called.
#[test]
fn qore_a_decision_whose_client_leaves() {
    use std::io::Write;

    let handler = waits();
    let (begun, dropped, told) = (Arc::clone(&handler.begun), Arc::clone(&handler.dropped), Arc::clone(&handler.told));
    // The handshake timeout is too long to end it.
    let builder = builder(1).route("/", handler);
    let server = Live::start(builder.settings(|settings| settings.handshake_timeout = Time(10 * crate::DEADLINE)));
    let leave = |target: &str, number: usize| {
        let mut stream = dial(server.address);
        stream.write_all(upgrade_request(target).as_bytes()).unwrap();
        until("the handler is asked", || begun.load(Ordering::SeqCst) == number);
        stream
    };
    drop(leave("/?forever", 1));
    until("the decision is dropped", || dropped.load(Ordering::SeqCst) == 1);
    crate::support::reset(leave("/", 2));
    until("the decision is dropped", || dropped.load(Ordering::SeqCst) == 2);
    drop(server);
    assert!(told.lock().unwrap().is_empty());
}

/// A client reads nothing of earlier answers on the connection of its opening request. The end of this request leaves
/// nothing large to the kernel, whether the client leaves before the decision or is refused.
#[test]
fn qore_a_decision_behind_unread_answers() {
    let builder = builder(1).route("/ws", waits()).settings(|settings| {
        settings.send_buffer = Some(Size(4 << 20));
        settings.handshake_timeout = Time(Duration::from_secs(2));
    });
    let server = Live::start(builder);
    for leaves in [true, false] {
        let mut stream = dial_with(server.address, Some(4_096));
        let answers = request("GET", "/metrics").repeat(32);
        stream.write_all((answers + &upgrade_request("/ws?forever")).as_bytes()).unwrap();
        if leaves {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
        let port = server.address.port();
        KernelSocket::until_none("open sockets", || KernelSocket::open_ones(port));
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(server.hub().count(Counter::RefusedUndecided), 1);
}

/// A client that has ended its side and reads gets the refusal after its unread answers.
#[test]
fn qore_a_refusal_after_answers_that_are_read() {
    let (script, _) = Script::<()>::new();
    let script = script.opening(|_| Err(Response::new(402, "text/plain", "pay first")));
    let builder = builder(1).settings(|settings| settings.send_buffer = Some(Size(4 << 20)));
    let server = Live::start(builder.route("/ws", script));
    let mut stream = dial_with(server.address, Some(4_096));
    let answers = request("GET", "/metrics").repeat(32);
    stream.write_all((answers + &upgrade_request("/ws")).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    until("the request is refused", || server.hub().count(Counter::refused(402)) == 1);
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200").count(), 32);
    assert!(all.ends_with("pay first"), "{all}");
}

/// The decision may come before the shard has noticed that the client has left.
#[test]
fn qore_a_decision_after_its_client_has_left() {
    use std::io::Write;

    let handler = waits();
    let (decided, begun) = (Arc::clone(&handler.decided), Arc::clone(&handler.begun));
    let (dropped, told) = (Arc::clone(&handler.dropped), Arc::clone(&handler.told));
    let server = serve(1, |builder| builder.route("/", handler));
    let mut stream = dial(server.address);
    stream.write_all(upgrade_request("/").as_bytes()).unwrap();
    until("the handler is asked", || begun.load(Ordering::SeqCst) == 1);
    drop(stream);
    decided.notify_one();
    until("the decision is made or dropped", || dropped.load(Ordering::SeqCst) == 1);
    drop(server);
    assert!(told.lock().unwrap().is_empty());
}

/// No two requests of a server have the same number, on all shards.
#[test]
fn qore_every_request_has_a_number() {
    let (script, journal) = Script::<String>::new();
    let script = script.opening(|request| Ok(Accept::with(request.id().to_string())));
    let script = script.on_open(|connection| {
        let id = connection.state().clone();
        assert_eq!(connection.request().map(|request| request.id().to_string()), Some(id.clone()));
        connection.send_text(id);
    });
    let server = serve(3, |builder| builder.route("/", script));
    let clients = server.connect_to_all("/", 3);
    let count = clients.len();
    let received = clients.into_iter().map(|mut client| format!("{:?}", client.receive()));
    assert_eq!(received.collect::<std::collections::HashSet<_>>().len(), count);
    drop(journal);
}

/// The most precise route gets a path. The answer for a path without a route names the routes.
#[test]
fn kore_routes_by_path_a_handler_each() {
    let named = |name: &'static str| {
        let (script, _) = Script::<()>::new();
        script.on_open(move |connection| {
            let room = connection.request().and_then(|request| request.parameter("room")).unwrap_or("-").to_string();
            connection.send_text(format!("{name} {room}"));
        })
    };
    let server = serve(1, |builder| {
        let builder = builder.route("/chat/{room}", named("room")).route("/chat/lobby", named("lobby"));
        builder.route("/files/{room...}", named("rest"))
    });
    for (target, greeting) in [
        ("/chat/lobby", "lobby -"),
        ("/chat/a%2Fb?x=/chat/lobby", "room a/b"),
        ("/files/a/b", "rest a/b"),
        ("/files/", "rest "),
    ] {
        server.connect(target).expect(text(greeting));
    }
    for target in ["/", "/chat", "/chat/", "/chat/a/b", "/chat/lobby/"] {
        let response = server.open(target, &[], &[]).err().expect("a refusal");
        assert_eq!(response.status(), 404, "{target}");
        assert!(response.error().contains("/chat/lobby, /chat/{room}, /files/{room...}"), "{}", response.error());
    }
}

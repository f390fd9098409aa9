//! The results and the errors of `connect`.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use ringhub::{
    client::{Cause, ClientBuilder, ConnectError, Stage},
    proto::{HttpError, ResponseError},
};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use super::{
    client, expect_closed, expect_text, on_tokio,
    peer::{Peer, Side},
    support::Server,
};

/// A short timeout, so that a test sees it pass.
const SOON: Duration = Duration::from_millis(200);

#[test]
fn the_opened_connection_is_described() {
    on_tokio(async {
        let server = Server::start(&[]);
        let (client, _events) = client(&format!("ws://{}/t/x?echo=true", server.address())).build().unwrap();
        let (first, second) = (client.connect().await.unwrap(), client.connect().await.unwrap());
        assert_eq!(first.head.status(), 101);
        assert_eq!(first.peer_address, server.address());
        assert_ne!(first.local_address, second.local_address);
        assert_ne!(first.connection_id, second.connection_id);
        assert_eq!(client.connection_id(), Some(second.connection_id));
        assert_eq!((first.tls, first.protocol, first.redirects), (None, None, 0));
        assert_eq!(first.url, format!("ws://{}/t/x?…", server.address()));
        let timings = second.timings;
        assert!(timings.total >= timings.resolve + timings.connect + timings.handshake, "{timings:?}");
        assert!(timings.handshake > Duration::ZERO && timings.proxy.is_none() && timings.tls.is_none());
        client.close().await.unwrap();
        assert_eq!(client.connection_id(), None);
    });
}

#[test]
fn the_request() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events) = client(&format!("ws://localhost:{}/a?b", peer.address().port()))
            .header("Origin", "http://page.example")
            .basic_auth("me", "secret é")
            .subprotocol("one")
            .subprotocol("two")
            .build()
            .unwrap();
        let request = async {
            let mut side = peer.accept().await;
            let head = side.upgrade_with(Some("two"), b"").await;
            (head, side)
        };
        let (opened, (head, _side)) = tokio::join!(client.connect(), request);
        let opened = opened.unwrap();
        assert_eq!(opened.protocol.as_deref(), Some("two"));
        assert_eq!(opened.head.headers().get("x-from"), Some(&b"peer"[..]));
        assert_eq!(head.target(), "/a?b");
        let header = |name| str::from_utf8(head.headers().get(name).unwrap()).unwrap();
        assert_eq!(header("host"), format!("localhost:{}", peer.address().port()));
        assert_eq!(header("origin"), "http://page.example");
        assert_eq!(header("authorization"), format!("Basic {}", STANDARD.encode("me:secret é")));
        assert_eq!(header("sec-websocket-protocol"), "one, two");
    });
}

#[test]
fn a_bearer_token() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events) = peer.client().bearer_auth("token").build().unwrap();
        let request = async { peer.accept().await.upgrade().await };
        let (_, head) = tokio::join!(client.connect(), request);
        assert_eq!(head.headers().get("authorization"), Some(&b"Bearer token"[..]));
    });
}

/// RFC 6455 4.1: a server may send messages at once after its answer.
#[test]
fn a_message_right_after_the_answer() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events) = peer.client().build().unwrap();
        let accept = async {
            let mut side = peer.accept().await;
            side.upgrade_with(None, b"\x81\x05Hel").await;
            side.raw(b"lo").await;
            side
        };
        let (_, _side) = tokio::join!(client.connect(), accept);
        expect_text(&mut events, "Hello").await;
    });
}

/// RFC 9110 15.2.
#[test]
fn interim_responses() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events) = peer.client().build().unwrap();
        let accept = async {
            let mut side = peer.accept().await;
            side.raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
            side.upgrade().await;
            side
        };
        let (opened, _side) = tokio::join!(client.connect(), accept);
        opened.unwrap();
    });
}

/// Connects to a peer that runs `serve`, and returns the error.
async fn failure<T>(
    settings: impl FnOnce(ClientBuilder) -> ClientBuilder,
    serve: impl AsyncFnOnce(Side<TcpStream>) -> T,
) -> ConnectError {
    let peer = Peer::listen().await;
    let (client, _events) = settings(peer.client()).build().unwrap();
    // The result of `serve`, which may be the socket, is kept until `connect` has returned.
    let accept = async { serve(peer.accept().await).await };
    let (opened, _kept) = tokio::join!(client.connect(), accept);
    assert!(!client.is_open());
    assert_eq!((client.stats().connections, client.stats().failures), (0, 1));
    let error = opened.expect_err("the client must not connect");
    assert!(!error.to_string().is_empty());
    error
}

/// Connects to a peer that sends this answer, and returns the error.
async fn failure_by(answer: &str) -> ConnectError {
    let answer = async |mut side: Side<TcpStream>| {
        side.request().await;
        side.raw(answer.as_bytes()).await;
        side
    };
    failure(|builder| builder, answer).await
}

macro_rules! assert_failure {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {
        match $error {
            $pattern $(if $guard)? => {}
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn a_refusal() {
    on_tokio(async {
        let server = Server::start(&[]);
        let (client, _events) = client(&format!("ws://{}/nothing", server.address())).build().unwrap();
        assert_failure!(client.connect().await.unwrap_err(), ConnectError::Refused(refused)
            if refused.head.status() == 404 && refused.body.starts_with(b"{\"error\""));
        let long = format!("HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n{}", "x".repeat(9999));
        assert_failure!(failure_by(&long).await, ConnectError::Refused(refused) if refused.body.len() == 4096);
        let endless = "HTTP/1.1 200 OK\r\n\r\n";
        assert_failure!(failure_by(endless).await, ConnectError::Refused(refused) if refused.body.is_empty());
    });
}

/// RFC 6455 4.1.
#[test]
fn answers_that_open_nothing() {
    on_tokio(async {
        let answer = |rest: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{rest}\r\n");
        for (rest, expected) in [
            ("", ResponseError::Upgrade),
            ("Upgrade: websocket\r\n", ResponseError::Connection),
            ("Upgrade: websocket\r\nConnection: upgrade\r\n", ResponseError::Accept),
        ] {
            assert_failure!(failure_by(&answer(rest)).await, ConnectError::Handshake(error) if error == expected);
        }
    });
}

#[test]
fn answers_that_are_not_http() {
    on_tokio(async {
        assert_failure!(
            failure_by("SSH-2.0\r\n\r\n").await,
            ConnectError::Http(Stage::Handshake, HttpError::Version | HttpError::StatusLine | HttpError::Header)
        );
        assert_failure!(
            failure_by(&"x".repeat(9 << 10)).await,
            ConnectError::Http(Stage::Handshake, HttpError::HeadTooLong)
        );
    });
}

#[test]
fn connections_that_end_too_early() {
    on_tokio(async {
        let end = failure(|builder| builder, async |mut side| drop(side.request().await)).await;
        assert_failure!(end, ConnectError::EndOfStream(Stage::Handshake));
        let reset = failure(
            |builder| builder,
            async |mut side| {
                side.request().await;
                side.raw(b"HTTP/1.1").await;
                side.stream.set_zero_linger().unwrap();
            },
        );
        assert_failure!(reset.await, ConnectError::Io(Stage::Handshake, _));
    });
}

#[test]
fn no_listener() {
    on_tokio(async {
        let free = Peer::listen().await.address();
        let (client, _events) = client(&format!("ws://{free}/")).build().unwrap();
        assert_failure!(client.connect().await.unwrap_err(), ConnectError::Connect(host, _)
            if host == free.to_string());
        let nowhere = format!("{}.example", "x".repeat(64));
        let (client, _events) = super::client(&format!("ws://{nowhere}/")).build().unwrap();
        assert_failure!(client.connect().await.unwrap_err(), ConnectError::Resolve(host, _) if host == nowhere);
    });
}

/// Each timeout passes because a step never completes.
#[test]
fn deadlines() {
    on_tokio(async {
        let soon = |builder: ClientBuilder| builder.handshake_timeout(SOON);
        let silence = failure(soon, async |side| side).await;
        assert_failure!(silence, ConnectError::Timeout(Stage::Handshake));
        let half = failure(soon, async |mut side| {
            side.raw(b"HTTP/1.1 101 Switching").await;
            side
        });
        assert_failure!(half.await, ConnectError::Timeout(Stage::Handshake));
        let full = FullListener::new();
        let (client, _events) = client(&format!("ws://{}/", full.address)).connect_timeout(SOON).build().unwrap();
        assert_failure!(client.connect().await.unwrap_err(), ConnectError::Timeout(Stage::Connect));
    });
}

/// Names are resolved on the runtime's blocking threads, of which this runtime has none free.
#[test]
fn a_name_that_takes_too_long() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    let (done, until_done) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        tokio::task::spawn_blocking(move || until_done.recv());
        let (client, _events) = client("ws://localhost:1/").connect_timeout(SOON).build().unwrap();
        assert_failure!(client.connect().await.unwrap_err(), ConnectError::Timeout(Stage::Resolve));
    });
    drop(done);
}

/// A listener with a full backlog, so that the kernel ignores further attempts.
struct FullListener {
    address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl FullListener {
    fn new() -> Self {
        let stream = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = stream();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let socket = stream();
            socket.set_nonblocking(true).unwrap();
            // The attempt goes on: the socket is non-blocking.
            drop(socket.connect(&address));
            sockets.push(socket);
        }
        Self { address: address.as_socket().unwrap(), _sockets: sockets }
    }
}

#[test]
fn through_a_proxy() {
    on_tokio(async {
        let proxy = Peer::listen().await;
        let (client, mut events) = client("ws://hub.example/t/x")
            .proxy(format!("http://{}", proxy.address()))
            .proxy_basic_auth("me", "secret")
            .build()
            .unwrap();
        let accept = async {
            let mut side = proxy.accept().await;
            let head = side.request().await;
            side.raw(b"HTTP/1.1 200 Connection Established\r\n\r\n").await;
            // From here on the proxy acts as the server.
            let inner = side.upgrade().await;
            (head, inner, side)
        };
        let (opened, (head, inner, mut side)) = tokio::join!(client.connect(), accept);
        let opened = opened.unwrap();
        assert_eq!((head.method(), head.target()), ("CONNECT", "hub.example:80"));
        assert_eq!(head.headers().get("host"), Some(&b"hub.example:80"[..]));
        let expected = format!("Basic {}", STANDARD.encode("me:secret"));
        assert_eq!(head.headers().get("proxy-authorization"), Some(expected.as_bytes()));
        assert_eq!(inner.headers().get("host"), Some(&b"hub.example"[..]));
        assert_eq!(inner.headers().get("proxy-authorization"), None);
        assert_eq!(opened.peer_address, proxy.address());
        assert!(opened.timings.proxy.is_some());
        side.send_text("through").await;
        expect_text(&mut events, "through").await;
    });
}

#[test]
fn a_proxy_that_does_not() {
    on_tokio(async {
        let check = async |answer: &str, settings: fn(ClientBuilder) -> ClientBuilder| {
            let proxy = Peer::listen().await;
            let builder = client("ws://hub.example/").proxy(format!("http://{}", proxy.address()));
            let (client, _events) = settings(builder).build().unwrap();
            let accept = async {
                let mut side = proxy.accept().await;
                side.request().await;
                side.raw(answer.as_bytes()).await;
                side
            };
            tokio::join!(client.connect(), accept).0.unwrap_err()
        };
        assert_failure!(check("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", |builder| builder).await,
            ConnectError::ProxyRefused(head) if head.status() == 407);
        assert_failure!(
            check("HTTP/1.1 200 OK\r\n\r\nmore", |builder| builder).await,
            ConnectError::Http(Stage::Proxy, _)
        );
        assert_failure!(check("garbage\r\n\r\n", |builder| builder).await, ConnectError::Http(Stage::Proxy, _));
        assert_failure!(
            check("HTTP/1.1 200", |builder| builder.handshake_timeout(SOON)).await,
            ConnectError::Timeout(Stage::Proxy)
        );
    });
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

/// Credentials go to the configured server, not to a redirect's target.
#[test]
fn redirects() {
    on_tokio(async {
        let (first, second) = (Peer::listen().await, Peer::listen().await);
        let builder = first.client().bearer_auth("token").header("Cookie", "secret").header("X-Api-Key", "secret");
        let builder = builder.header("origin", "https://a.example").header("User-Agent", "test");
        let (client, _events) = builder.build().unwrap();
        let accept = async {
            let mut side = first.accept().await;
            side.request().await;
            side.raw(redirect("/elsewhere").as_bytes()).await;
            let mut side = first.accept().await;
            let within = side.request().await;
            side.raw(redirect(&format!("http://{}/there", second.address())).as_bytes()).await;
            let mut side = second.accept().await;
            (within, side.upgrade().await, side)
        };
        let (opened, (within, beyond, _side)) = tokio::join!(client.connect(), accept);
        let opened = opened.unwrap();
        assert_eq!((opened.redirects, opened.url), (2, format!("ws://{}/there", second.address())));
        assert_eq!(
            (within.target(), within.headers().get("authorization"), within.headers().get("x-api-key")),
            ("/elsewhere", Some(&b"Bearer token"[..]), Some(&b"secret"[..]))
        );
        assert_eq!(beyond.target(), "/there");
        for secret in ["cookie", "authorization", "x-api-key"] {
            assert_eq!(beyond.headers().get(secret), None, "{secret}");
        }
        let who = (beyond.headers().get("origin"), beyond.headers().get("user-agent"));
        assert_eq!(who, (Some(&b"https://a.example"[..]), Some(&b"test"[..])));
    });
}

#[test]
fn redirects_that_are_not_followed() {
    on_tokio(async {
        let no_location = failure_by("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await;
        assert_failure!(no_location, ConnectError::RedirectLocation(None));
        assert_failure!(failure_by(&redirect("ftp://x/")).await, ConnectError::RedirectLocation(Some(_)));
        let not_wanted = failure(
            |builder| builder.redirects_max(0),
            async |mut side| {
                side.request().await;
                side.raw(redirect("/x").as_bytes()).await;
                side
            },
        );
        assert_failure!(not_wanted.await, ConnectError::Refused(refused) if refused.head.status() == 307);
        let peer = Peer::listen().await;
        let (client, _events) = peer.client().redirects_max(2).build().unwrap();
        let accept = async {
            for _ in 0..3 {
                let mut side = peer.accept().await;
                side.request().await;
                side.raw(redirect("again").as_bytes()).await;
            }
        };
        let (opened, ()) = tokio::join!(client.connect(), accept);
        assert_failure!(opened.unwrap_err(), ConnectError::TooManyRedirects(2));
    });
}

#[test]
fn a_close_ends_the_attempt() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events) = peer.client().build().unwrap();
        let close = async {
            let mut side = peer.accept().await;
            side.request().await;
            client.close().await.unwrap();
            side.expect_end().await;
        };
        let (opened, ()) = tokio::join!(client.connect(), close);
        assert_failure!(opened.unwrap_err(), ConnectError::Cancelled);
    });
}

/// The second call of `connect` opens the connection, and the first fails.
#[test]
fn another_connect_ends_the_attempt() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events) = peer.client().build().unwrap();
        let again = async {
            let mut side = peer.accept().await;
            side.request().await;
            peer.connect(&client).await
        };
        let (opened, mut side) = tokio::join!(client.connect(), again);
        assert_failure!(opened.unwrap_err(), ConnectError::Cancelled);
        client.send_text("there").await.unwrap();
        side.expect_text("there").await;
    });
}

#[test]
fn a_second_connect_closes_the_first() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, mut first) = peer.connected(peer.client()).await;
        let again = async {
            first.expect_close(1001, "").await;
            first.send_close(1001, "").await;
            first.end().await;
            peer.open().await
        };
        let (opened, mut second) = tokio::join!(client.connect(), again);
        opened.unwrap();
        let closed = expect_closed(&mut events).await;
        assert!(closed.is_clean && matches!(closed.cause, Cause::Replaced), "{closed:?}");
        second.send_text("second").await;
        expect_text(&mut events, "second").await;
        assert_eq!(client.stats().connections, 2);
    });
}

#[test]
fn a_cancelled_connect_leaves_nothing() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events) = peer.client().build().unwrap();
        let mut side = tokio::select! {
            _ = client.connect() => panic!("the peer has not answered"),
            side = async { let mut side = peer.accept().await; side.request().await; side } => side,
        };
        side.expect_end().await;
        client.closed().await;
        assert!(!client.is_open());
        peer.connect(&client).await;
    });
}

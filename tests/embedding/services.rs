//! HTTP services of embedders on the port of the server.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::Path,
    http::{HeaderMap, Method, StatusCode},
    response::IntoResponse,
    routing::{any, get, post},
};
use ringhub::{
    Who,
    auth::{Bearer, Origins},
    config::{Size, Time},
    handler::{RequestSender, RouteOptions},
    metrics::Counter,
    server::{BuildError, Builder},
};

use crate::{
    Live, Script, builder,
    support::{Client, Response, ask, dial, dial_from, exchange, request, upgrade_request},
    until,
};

/// Starts a server with a service at `/api/…`.
fn with(options: RouteOptions, service: Router) -> Live {
    Live::start(builder(1).topics().http_with("/api/{rest...}", service, options))
}

fn everything() -> Router {
    let all = async |method: Method, Path(rest): Path<String>, headers: HeaderMap, body: Bytes| {
        let kind = headers.get("x-kind").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
        format!("{method} {rest} {kind} {}", String::from_utf8_lossy(&body))
    };
    Router::new().route("/api/echo/{*rest}", any(all))
}

fn send(server: &Live, method: &str, target: &str, lines: &str, body: &str) -> Response {
    let length = body.len();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: {length}\r\n\r\n{body}");
    ask(&mut dial(server.address), &request)
}

/// A service gets the method, the path, the header lines and the body as the client has sent them.
#[test]
fn a_service_gets_the_whole_request() {
    let server = with(RouteOptions::new(), everything());
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let response = send(&server, method, "/api/echo/a/b?c=d", "X-Kind: odd\r\n", "body");
        assert_eq!((response.status(), &*response.body), (200, &*format!("{method} a/b odd body")), "{response:?}");
        assert!(response.header("date").is_some());
    }
    let head = exchange(server.address, &request("HEAD", "/api/echo/a"));
    assert_eq!((head.status(), head.header("content-length")), (200, Some("8")), "{head:?}");
    assert_eq!(send(&server, "GET", "/api/nothing", "", "").status(), 404);
    // Paths beside it are the server's.
    assert_eq!(send(&server, "POST", "/t/x", "", "m").status(), 202);
    assert_eq!(exchange(server.address, &request("GET", "/api")).status(), 404);
    assert_eq!(exchange(server.address, &upgrade_request("/api/echo/x")).status(), 404);
}

/// A sender that is revoked while its body arrives does not reach the service.
#[test]
fn a_body_that_comes_too_late_reaches_no_service() {
    let bearer = Bearer::new([("anna", "hush"), ("ben", "word")]).unwrap();
    let server = with(RouteOptions::new().authenticator(bearer), everything());
    let begin = |token: &str| {
        let mut stream = dial(server.address);
        let head = format!("PUT /api/echo/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n");
        stream.write_all(format!("{head}Content-Length: 2\r\n\r\na").as_bytes()).unwrap();
        stream
    };
    let (mut revoked, mut admitted) = (begin("hush"), begin("word"));
    // The heads of both requests have been judged.
    thread::sleep(Duration::from_millis(500));
    let until = SystemTime::now() + Duration::from_secs(60);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server.hub().revoke(&Who::identity("anna"), until)).unwrap();
    let refused = ask(&mut revoked, "b");
    assert_eq!((refused.status(), &*refused.error()), (403, "the access of this identity has been revoked"));
    assert_eq!(ask(&mut admitted, "b").body, "PUT a  ab");
}

/// Several requests on one connection, and a topic between them.
#[test]
fn a_connection_serves_both() {
    let server = with(RouteOptions::new(), everything());
    let mut stream = dial(server.address);
    for number in 0..3 {
        let path = format!("/api/echo/{number}");
        assert_eq!(ask(&mut stream, &request("GET", &path)).body, format!("GET {number}  "));
        assert_eq!(ask(&mut stream, &crate::support::post("/t/x", "text/plain", "m")).status(), 202);
    }
    let client = Client::open(stream, "/t/x", &[]);
    assert!(client.is_ok(), "the connection becomes a WebSocket");
}

/// The gate of the route stands before the service, and the service learns who sends.
#[test]
fn a_gate_stands_before_the_service() {
    let whoami = async |Extension(sender): Extension<RequestSender>| {
        assert!(sender.peer.is_some());
        sender.identity.map_or_else(|| "nobody".into(), |identity| identity.name)
    };
    let service = Router::new().route("/api/me", any(whoami));
    let bearer = Bearer::new([("anna", "hush")]).unwrap();
    let options =
        RouteOptions::new().authenticator(bearer).origins(Origins::new(vec!["https://a.example".into()]).unwrap());
    let server = with(options, service.clone());
    assert_eq!(send(&server, "GET", "/api/me", "", "").status(), 401);
    let token = "Authorization: Bearer hush\r\n";
    assert_eq!(send(&server, "GET", "/api/me", token, "").body, "anna");
    let foreign = format!("{token}Origin: https://b.example\r\n");
    assert_eq!(send(&server, "GET", "/api/me", &foreign, "").status(), 403);
    let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n\
                     Access-Control-Request-Headers: x-kind\r\n";
    // An answer without content has no length.
    let request = format!("OPTIONS /api/me HTTP/1.1\r\nHost: a\r\n{preflight}Connection: close\r\n\r\n");
    let mut stream = dial(server.address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    for line in [
        "access-control-allow-methods: PUT\r\n",
        "access-control-allow-headers: authorization, content-type, x-kind\r\n",
        "access-control-allow-origin: https://a.example\r\n",
    ] {
        assert!(answer.contains(line), "{line} {answer}");
    }
    assert_eq!(send(&server, "OPTIONS", "/api/me", "", "").status(), 401);
    // Without a gate everybody is let in, and a preflight is the service's.
    let open = with(RouteOptions::new(), service);
    assert_eq!(send(&open, "GET", "/api/me", "", "").body, "nobody");
    assert_eq!(send(&open, "OPTIONS", "/api/me", preflight, "").body, "nobody");
}

/// A service that names the pages itself has the last word: no header line is there twice.
#[test]
fn a_service_may_answer_pages_itself() {
    let service = Router::new().route("/api/x", get(async || [("access-control-allow-origin", "*")].into_response()));
    let server = with(RouteOptions::new(), service);
    let answer = send(&server, "GET", "/api/x", "Origin: https://a.example\r\n", "");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

/// The limits of bodies hold: in bytes, in time, and in memory of all bodies.
#[test]
fn bodies_have_limits() {
    let settings = |builder: Builder| {
        builder.settings(|settings| {
            settings.max_message = Size(16 << 10);
            settings.max_bodies = Some(Size(64 << 10));
            settings.body_timeout = Time(Duration::from_millis(300));
        })
    };
    let options = || RouteOptions::new().max_message(1_000);
    let server = Live::start(settings(builder(1)).http_with("/api/{rest...}", everything(), options()));
    assert_eq!(send(&server, "POST", "/api/echo/x", "", &"b".repeat(1_000)).status(), 200);
    let refused = send(&server, "POST", "/api/echo/x", "", &"b".repeat(1_001));
    assert_eq!((refused.status(), refused.header("connection")), (413, Some("close")), "{refused:?}");
    assert!(refused.error().contains("the largest body that this path takes, 1000 bytes"), "{refused:?}");
    let mut stream = dial(server.address);
    stream.write_all(b"POST /api/echo/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nbegin").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // A limit of bodies above the limit of all bodies is an error.
    let too_large = settings(builder(1)).http_with("/x", everything(), RouteOptions::new().max_message(1 << 20));
    assert!(matches!(too_large.build(), Err(BuildError::Options(..))));
}

/// A panic, an error and a status that ends nothing are answered 500; the connection and the server go on.
#[test]
fn a_service_that_fails_is_answered_500() {
    let service = Router::new()
        .route("/api/panic", get(async || -> &'static str { panic!("as it was told") }))
        .route(
            "/api/later",
            get(async || -> &'static str {
                tokio::task::yield_now().await;
                panic!("as it was told, later")
            }),
        )
        .route("/api/continue", get(async || StatusCode::SWITCHING_PROTOCOLS))
        .route("/api/fine", get(async || "fine"));
    let server = with(RouteOptions::new(), service);
    let mut stream = dial(server.address);
    for path in ["/api/panic", "/api/later", "/api/continue"] {
        let refused = ask(&mut stream, &request("GET", path));
        assert_eq!((refused.status(), &*refused.error()), (500, "the service at this path has failed"));
        assert_eq!(ask(&mut stream, &request("GET", "/api/fine")).body, "fine");
    }
    assert_eq!(server.running().control_counters().get(Counter::HandlerPanics), 2);
}

/// Counts its drop.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns a service that takes the body at `/api/wait`, and never answers. The counter counts the calls that have
/// ended.
fn never() -> (Router, Arc<AtomicUsize>) {
    let ended: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&ended);
    let wait = move |_: Bytes| {
        let dropped = Dropped(Arc::clone(&count));
        async move {
            let _dropped = dropped;
            std::future::pending::<&'static str>().await
        }
    };
    (Router::new().route("/api/wait", any(wait)), ended)
}

/// A service has a time for its answer. Beyond it the call is dropped.
#[test]
fn a_service_that_does_not_answer_is_answered_504() {
    let (service, ended) = never();
    let server = with(RouteOptions::new().answer_timeout(Duration::from_millis(200)), service);
    let refused = send(&server, "POST", "/api/wait", "", "body");
    assert_eq!((refused.status(), &*refused.error()), (504, "the service at this path has not answered in time"));
    assert_eq!(ended.load(Ordering::Relaxed), 1);
    assert_eq!(send(&server, "POST", "/t/x", "", "m").status(), 202);
}

/// A client that resets its connection ends the call, so that it holds no connection of the server any longer. A client
/// that only ends its side still waits for its answer.
#[test]
fn a_client_that_is_gone_ends_its_call() {
    let (service, ended) = never();
    let server = with(RouteOptions::new().answer_timeout(Duration::from_secs(3_600)), service);
    let begin = || {
        let mut stream = dial(server.address);
        stream.write_all(b"POST /api/wait HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        stream
    };
    let open = || server.running().control_counters().get(Counter::HttpConnectionsOpen);
    let (patient, gone) = (begin(), begin());
    patient.shutdown(std::net::Shutdown::Write).unwrap();
    until("both are served", || open() == 2);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!((open(), ended.load(Ordering::Relaxed)), (2, 0));
    socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
    drop(gone);
    until("the call has ended", || ended.load(Ordering::Relaxed) == 1);
    until("the connection has ended", || open() == 1);
}

/// Clients that leave without a reset keep their calls for as long as the service may take: these calls hold half of
/// the connections, and calls from one network leave places to others.
#[test]
fn calls_that_wait_leave_connections_to_others() {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let wait = move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<&'static str>()
    };
    let service = Router::new().route("/api/wait", get(wait)).route("/api/fine", get(async || "fine"));
    let settings = builder(1).settings(|settings| settings.max_http_connections = 8);
    let server = Live::start(settings.topics().http("/api/{rest...}", service));
    let dial = |last: u8| dial_from(server.address, Some([127, 0, 0, last].into()), None);
    let leave = |last: u8| {
        let before = begun.load(Ordering::Relaxed);
        dial(last).write_all(request("GET", "/api/wait").as_bytes()).unwrap();
        until("the call has begun", || begun.load(Ordering::Relaxed) > before);
    };
    let fine = |last: u8| ask(&mut dial(last), &request("GET", "/api/fine"));
    (0..2).for_each(|_| leave(1));
    let refused = fine(1);
    let of_network = "services answer as many requests from one network as this server allows now";
    assert_eq!((refused.status(), &*refused.error(), refused.header("retry-after")), (503, of_network, Some("1")));
    assert_eq!(fine(2).body, "fine");
    leave(2);
    leave(3);
    let refused = fine(4);
    assert_eq!((refused.status(), &*refused.error()), (503, "services answer as many requests as this server allows"));
    assert_eq!(send(&server, "POST", "/t/x", "", "m").status(), 202);
}

/// A body has its room until the service has taken it: a call that goes on holds up no other body.
#[test]
fn a_body_that_a_service_has_taken_has_no_room_any_more() {
    let settings = |builder: Builder| {
        builder.settings(|settings| {
            settings.max_message = Size(50 << 10);
            settings.max_bodies = Some(Size(64 << 10));
        })
    };
    let (service, _) = never();
    let server = Live::start(settings(builder(1)).http("/api/{rest...}", service).topics());
    let body = "b".repeat(50 << 10);
    let mut stream = dial(server.address);
    let head = format!("POST /api/wait HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    until("the body is taken", || send(&server, "POST", "/t/x", "", &body).status() == 202);
}

/// Two patterns lead to one service, and the narrower one has an authenticator. No path of the wider one is a path of
/// the narrower one to the service.
#[test]
fn a_narrower_pattern_guards_its_path_itself() {
    let service = Router::new().fallback(async |uri: axum::http::Uri| uri.path().to_owned());
    let guarded = RouteOptions::new().authenticator(Bearer::new([("anna", "hush")]).unwrap());
    let server = builder(1).http("/api/{rest...}", service.clone());
    let server = Live::start(server.http_with("/api/admin/{rest...}", service.clone(), guarded));
    let get = |server: &Live, path: &str| exchange(server.address, &request("GET", path));
    for path in ["/api/admin", "/api/admin/", "/api/admin/users", "/api/%61dmin"] {
        assert_eq!(get(&server, path).status(), 401, "{path}");
    }
    let refused = get(&server, "/api/admin%2Fusers");
    assert_eq!((refused.status(), refused.error().contains("encoded slash")), (400, true), "{refused:?}");
    assert_eq!((&*get(&server, "/api").body, &*get(&server, "/api/x").body), ("/api", "/api/x"));
    let takes = with(RouteOptions::new().encoded_slashes(), service);
    assert_eq!(get(&takes, "/api/a%2Fb").body, "/api/a%2Fb");
}

/// Patterns clash as those of routes do.
#[test]
fn patterns_of_services_are_checked() {
    let service = || Router::new().route("/", post(async || ""));
    let fails = |builder: Builder| builder.build().unwrap_err();
    assert!(matches!(fails(builder(1).http("api", service())), BuildError::Pattern(_)));
    let clash = builder(1).http("/api/{a}", service()).http("/api/{b}", service());
    assert!(matches!(fails(clash), BuildError::Clash(..)));
    let (script, _journal) = Script::<()>::new();
    let clash = builder(1).route("/live/{a}", script).http("/live/{b}", service());
    assert!(matches!(fails(clash), BuildError::Clash(..)));
    assert!(matches!(fails(builder(1).http("/metrics", service())), BuildError::Own(_)));
    assert!(matches!(fails(builder(1).page().http("/", service())), BuildError::Own(_)));
}

/// While the server leaves, a service is not called any more; a request that it has is still answered.
#[test]
fn a_service_is_not_called_by_a_server_that_leaves() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let waiting = Arc::clone(&gate);
    let service = Router::new().route(
        "/api/wait",
        get(async move || {
            waiting.notified().await;
            "waited"
        }),
    );
    let server = with(RouteOptions::new(), service);
    let client = Client::connect(server.address, "/t/x?mode=sub");
    let mut stream = dial(server.address);
    stream.write_all(request("GET", "/api/wait").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.running().stop();
    std::thread::sleep(Duration::from_millis(200));
    gate.notify_one();
    let (response, _) = crate::support::take_response(&mut stream, Vec::new(), true);
    assert_eq!((response.status(), &*response.body), (200, "waited"));
    drop(client);
}

/// A listener that the embedder has opened is the server's from then on.
#[test]
fn a_listener_from_outside() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Live::start(builder(2).listener(listener).http("/api/{rest...}", everything()));
    assert_eq!(server.address, address);
    assert_eq!(exchange(address, &request("GET", "/api/echo/x")).status(), 200);
    drop(server);
    assert!(std::net::TcpStream::connect(address).is_err(), "the port is closed when the server has left");
}

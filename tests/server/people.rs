//! The administration of a server: pages of connections, closes by id and by identity, revocations.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    Client, CrowdPermit, Response, Server, clean, dial, dial_with, exchange, post, program, published, request, text,
    upgrade_request,
};

/// Topics for people with tokens, and an echo for everybody.
const ROUTES: &str = r#"
    admin_tokens = ["the-boss"]
    metrics_tokens = ["the-watch"]

    [[routes]]
    match = "/t/{topic...}"
    handler = "hub"
    bearer.tokens = { ann = "word-ann", bob = "word-bob" }

    [[routes]]
    match = "/echo/{rest...}"
    handler = "echo"
    protocols = ["v1.echo"]
"#;

/// Starts a server with these settings in front of [`ROUTES`].
fn serve(name: &str, shards: usize, settings: &str) -> Server {
    let file = std::env::temp_dir().join(format!("ringhub-people-{name}-{shards}-{}.toml", std::process::id()));
    fs::write(&file, format!("{settings}\n{ROUTES}")).unwrap();
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file).env("RINGHUB_SHARDS", shards.to_string());
    let server = Server::start_command(command);
    fs::remove_file(file).unwrap();
    server
}

/// Sends a request with the token of the administration.
fn admin(address: SocketAddr, method: &str, target: &str) -> Response {
    exchange(address, &with_token(&request(method, target), "the-boss"))
}

fn with_token(request: &str, token: &str) -> String {
    request.replacen("\r\n", &format!("\r\nAuthorization: Bearer {token}\r\n"), 1)
}

fn body(response: &Response) -> Value {
    assert_eq!((response.status(), response.header("content-type")), (200, Some("application/json")), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    serde_json::from_str(&response.body).unwrap()
}

/// Returns the connections of one page that has all.
fn listed(server: &Server, query: &str) -> Vec<Value> {
    let page = body(&admin(server.address(), "GET", &format!("/connections{query}")));
    assert_eq!(page["next"], Value::Null, "{page}");
    page["connections"].as_array().unwrap().clone()
}

/// Posts a revocation.
fn revoke(address: SocketAddr, revocation: &Value) -> Response {
    exchange(address, &with_token(&post("/revocations", "application/json", &revocation.to_string()), "the-boss"))
}

fn connect_as(server: &Server, name: &str, target: &str) -> Client {
    server.connect(&format!("{target}?access_token=word-{name}"))
}

#[test]
fn connections_are_listed_with_what_is_known_of_them() {
    for shards in [1, 4] {
        let server = serve("listed", shards, "");
        assert_eq!(listed(&server, ""), Vec::<Value>::new());
        let ann = connect_as(&server, "ann", "/t/news/today");
        let stranger = Client::open_with(dial(server.address()), "/echo/a%20b", &["v1.echo"], &[]).unwrap();
        let address = |client: &Client| client.stream().local_addr().unwrap().to_string();
        let all = listed(&server, "");
        assert_eq!(all.len(), 2, "{all:?}");
        let row = |client: &Client| {
            let row = all.iter().find(|row| row["address"] == address(client).as_str());
            let mut row = row.unwrap_or_else(|| panic!("{all:?}")).clone();
            let id: ringhub::ConnectionId = row["id"].as_str().unwrap().parse().unwrap();
            assert!(usize::from(id.shard()) < shards);
            assert!(row["since"].as_u64().unwrap() < 60, "{row}");
            row.as_object_mut().unwrap().retain(|key, _| !["id", "since", "address"].contains(&&**key));
            row
        };
        let of_ann = json!({
            "identity": "ann", "route": "/t/{topic...}", "path": null, "protocol": null, "topics": ["news/today"],
            "topic_count": 1, "owed_bytes": 0,
        });
        assert_eq!(row(&ann), of_ann);
        let of_stranger = json!({
            "identity": null, "route": "/echo/{rest...}", "path": "/echo/a%20b", "protocol": "v1.echo", "topics": [],
            "topic_count": 0, "owed_bytes": 0,
        });
        assert_eq!(row(&stranger), of_stranger);
        let ids = |query: &str| -> Vec<Value> { listed(&server, query).iter().map(|row| row["id"].clone()).collect() };
        let id_of =
            |client: &Client| all.iter().find(|row| row["address"] == address(client).as_str()).unwrap()["id"].clone();
        assert_eq!(ids("?identity=ann"), [id_of(&ann)]);
        assert_eq!(ids("?topic=news/today"), [id_of(&ann)]);
        assert_eq!(ids("?topic=news%2ftoday&identity=ann"), [id_of(&ann)]);
        for nobody in ["?identity=bob", "?topic=news", "?topic=news/today&identity=bob"] {
            assert_eq!(ids(nobody), Vec::<Value>::new(), "{nobody}");
        }
        let head = exchange(server.address(), &with_token(&request("HEAD", "/connections"), "the-boss"));
        assert_eq!(head.status(), 200);
        ann.leave();
        stranger.leave();
        server.counts_until("both have left", |counts| counts.get("connections_open") == 0);
        assert_eq!(listed(&server, ""), Vec::<Value>::new());
    }
}

/// Each connection that stays is listed exactly once, while others come and go.
#[test]
fn a_crowd_is_listed_by_pages_while_others_come_and_go() {
    let crowd = CrowdPermit::take();
    // The clients that stay answer no ping.
    let server = serve("crowd", 4, "ping_interval = 0");
    let address = server.address();
    let staying: Vec<Client> = (0..crowd.afford(10_000, 200)).map(|_| server.connect("/echo/x")).collect();
    let mut expected: Vec<String> =
        staying.iter().map(|client| client.stream().local_addr().unwrap().to_string()).collect();
    expected.sort_unstable();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let some: Vec<Client> = (0..20).map(|_| Client::connect(address, "/echo/y")).collect();
                    drop(some);
                }
            });
        }
        let pages = || {
            for limit in [1_000, 333] {
                let (mut found, mut after) = (BTreeMap::<String, u32>::new(), String::new());
                loop {
                    let page = body(&admin(address, "GET", &format!("/connections?limit={limit}{after}")));
                    let rows = page["connections"].as_array().unwrap();
                    assert!(rows.len() <= limit, "{}", rows.len());
                    for row in rows.iter().filter(|row| row["path"] == "/echo/x") {
                        *found.entry(row["address"].as_str().unwrap().into()).or_default() += 1;
                    }
                    let Some(next) = page["next"].as_str() else { break };
                    after = format!("&after={next}");
                }
                assert!(found.values().all(|&count| count == 1), "one is listed twice");
                assert!(found.into_keys().eq(expected.iter().cloned()), "one is not listed");
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(pages));
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// What a connection is owed goes before the close frame.
#[test]
fn connections_are_closed_by_id() {
    for shards in [1, 4] {
        let server = serve("by-id", shards, "");
        let address = server.address();
        let mut ann = connect_as(&server, "ann", "/t/news");
        let mut other = connect_as(&server, "ann", "/t/news");
        let id = |client: &Client| {
            let own = client.stream().local_addr().unwrap().to_string();
            let rows = listed(&server, "");
            rows.iter().find(|row| row["address"] == own.as_str()).unwrap()["id"].as_str().unwrap().to_string()
        };
        let of_ann = id(&ann);
        published(&exchange(address, &with_token(&post("/t/news", "text/plain", "the last"), "word-bob")));
        server.expect_counts(&[("deliveries_total", 2)]);
        let closed = admin(address, "DELETE", &format!("/connections/{of_ann}?code=4403&reason=no%20more"));
        assert_eq!(body(&closed), json!({ "closed": 1 }));
        ann.expect(text("the last"));
        ann.expect_close(4403, "no more");
        let gone = admin(address, "DELETE", &format!("/connections/{of_ann}"));
        assert_eq!((gone.status(), gone.error()), (404, format!("there is no open connection {of_ann}")));
        let of_other = id(&other);
        assert_eq!(body(&admin(address, "DELETE", &format!("/connections/{of_other}"))), json!({ "closed": 1 }));
        other.expect(text("the last"));
        other.expect_close(1008, "disconnected");
        for (id, error) in [
            ("0.99999.0", "there is no open connection 0.99999.0"),
            ("77.0.0", "there is no open connection 77.0.0"),
            ("x", "\"x\" is no connection: a connection's id is three numbers with dots between them, such as 0.17.2"),
        ] {
            let absent = admin(address, "DELETE", &format!("/connections/{id}"));
            assert_eq!((absent.status(), absent.error()), (404, error.into()));
        }
        server.expect_counts(&[("disconnected_total", 2)]);
    }
}

/// A slow consumer gets all that it is owed, and then the close frame.
#[test]
fn a_backlog_goes_before_the_close_frame() {
    let server = serve("backlog", 1, "send_buffer = \"16KiB\"");
    let address = server.address();
    let stream = dial_with(address, Some(4_096));
    let mut ann = Client::open(stream, "/t/news?access_token=word-ann", &[]).unwrap();
    let message = "x".repeat(64 * 1_024);
    let publish = with_token(&post("/t/news", "text/plain", &message), "word-bob");
    (0..30).for_each(|_| _ = published(&exchange(address, &publish)));
    server.expect_counts(&[("slow_consumers", 1)]);
    let rows = listed(&server, "?identity=ann");
    assert!(rows[0]["owed_bytes"].as_u64().unwrap() > 1_000_000, "{rows:?}");
    assert_eq!(body(&admin(address, "DELETE", "/connections?identity=ann")), json!({ "closed": 1 }));
    (0..30).for_each(|_| ann.expect(text(&message)));
    ann.expect_close(1008, "disconnected");
}

#[test]
fn all_connections_of_an_identity_are_closed() {
    for shards in [1, 4] {
        let server = serve("by-identity", shards, "");
        let address = server.address();
        let mut of_ann: Vec<Client> =
            (0..150).map(|number| connect_as(&server, "ann", &format!("/t/{}", number % 7))).collect();
        let mut bob = connect_as(&server, "bob", "/t/1");
        let closed = admin(address, "DELETE", "/connections?identity=ann&code=1001&reason=night");
        assert_eq!(body(&closed), json!({ "closed": 150 }));
        for client in &mut of_ann {
            client.expect_close(1001, "night");
        }
        assert_eq!(body(&admin(address, "DELETE", "/connections?identity=nobody")), json!({ "closed": 0 }));
        bob.expect_nothing();
        // She may come back.
        connect_as(&server, "ann", "/t/1").leave();
    }
}

#[test]
fn a_revoked_identity_is_refused_until_it_is_lifted() {
    for shards in [1, 4] {
        let server = serve("revoked", shards, "");
        let address = server.address();
        let mut ann: Vec<Client> = (0..9).map(|_| connect_as(&server, "ann", "/t/news")).collect();
        let mut bob = connect_as(&server, "bob", "/t/news");
        let mut kept = dial(address);
        let publish = with_token(&post("/t/news", "text/plain", "hello"), "word-ann");
        published(&crate::support::ask(&mut kept, &publish));
        ann.iter_mut().chain([&mut bob]).for_each(|client| client.expect(text("hello")));
        let answer = body(&revoke(address, &json!({ "identity": "ann", "for": 3_600 })));
        assert_eq!((&answer["closed"], &answer["identity"]), (&json!(9), &json!("ann")), "{answer}");
        ann.iter_mut().for_each(|client| client.expect_close(1008, "revoked"));
        let opening = with_token(&upgrade_request("/t/news"), "word-ann");
        let refused = |response: Response| {
            assert_eq!((response.status(), &*response.error()), (403, "the access of this identity has been revoked"));
        };
        refused(exchange(address, &opening));
        refused(exchange(address, &publish));
        refused(crate::support::ask(&mut kept, &opening));
        refused(crate::support::ask(&mut kept, &publish));
        published(&exchange(address, &with_token(&post("/t/news", "text/plain", "on"), "word-bob")));
        bob.expect(text("on"));
        let list = body(&admin(address, "GET", "/revocations"));
        let expected = json!([{ "identity": "ann", "until": answer["until"] }]);
        assert_eq!((&list["revocations"], &list["next"]), (&expected, &Value::Null));
        assert_eq!(body(&admin(address, "DELETE", "/revocations?identity=ann")), json!({ "lifted": 1 }));
        let again = admin(address, "DELETE", "/revocations?identity=ann");
        assert_eq!((again.status(), &*again.error()), (404, "there is no revocation of the identity \"ann\""));
        connect_as(&server, "ann", "/t/news").leave();
        published(&exchange(address, &publish));
    }
}

/// A revocation ends by itself, and may name its own code.
#[test]
fn a_revocation_ends_at_its_time() {
    let server = serve("ends", 1, "");
    let address = server.address();
    let mut ann = connect_as(&server, "ann", "/t/news");
    let answer = body(&revoke(address, &json!({ "identity": "ann", "for": 1, "code": 4001, "reason": "a break" })));
    assert_eq!(answer["closed"], json!(1));
    ann.expect_close(4001, "a break");
    let publish = with_token(&post("/t/news", "text/plain", "hello"), "word-ann");
    while exchange(address, &publish).status() == 403 {
        thread::sleep(Duration::from_millis(50));
    }
    published(&exchange(address, &publish));
    assert_eq!(body(&admin(address, "GET", "/revocations"))["revocations"], json!([]));
}

#[test]
fn a_full_table_of_revocations_forgets_none() {
    let server = serve("full", 1, "max_revocations = 2");
    let address = server.address();
    for name in ["ann", "x"] {
        body(&revoke(address, &json!({ "identity": name, "for": 3_600 })));
    }
    let full = revoke(address, &json!({ "token_id": "t", "for": 3_600 }));
    assert_eq!((full.status(), full.header("retry-after")), (503, Some("1")));
    assert_eq!(full.error(), "as many revocations are in force as max_revocations allows");
    let ann = exchange(address, &with_token(&upgrade_request("/t/a"), "word-ann"));
    assert_eq!(ann.status(), 403, "hers is still there");
    // The same ones again take no further place.
    body(&revoke(address, &json!({ "identity": "ann", "for": 7_200 })));
    let page = body(&admin(address, "GET", "/revocations?limit=1"));
    assert_eq!((&page["revocations"][0]["identity"], &page["next"]), (&json!("ann"), &json!("identity:ann")));
    let page = body(&admin(address, "GET", "/revocations?limit=1&after=identity:ann"));
    assert_eq!((&page["revocations"][0]["identity"], &page["next"]), (&json!("x"), &Value::Null));
    assert_eq!(body(&admin(address, "DELETE", "/revocations?identity=x")), json!({ "lifted": 1 }));
    body(&revoke(address, &json!({ "token_id": "t", "for": 3_600 })));
}

/// Every path and method needs the token of the administration, in the header.
#[test]
fn the_administration_is_guarded() {
    let server = serve("guarded", 1, "");
    let address = server.address();
    for (method, target) in [
        ("GET", "/connections"),
        ("DELETE", "/connections?identity=ann"),
        ("DELETE", "/connections/0.0.0"),
        ("GET", "/revocations"),
        ("POST", "/revocations"),
        ("DELETE", "/revocations?identity=ann"),
    ] {
        let plain = request(method, target);
        let ask = |request: &str| {
            let response = exchange(address, request);
            (response.status(), response.header("www-authenticate").map(ToString::to_string))
        };
        let challenge = |error: &str| Some(format!("Bearer{error}"));
        assert_eq!(ask(&plain), (401, challenge("")), "{method} {target}");
        let invalid = challenge(" error=\"invalid_token\"");
        assert_eq!(ask(&with_token(&plain, "guess")), (401, invalid.clone()), "{method} {target}");
        assert_eq!(ask(&with_token(&plain, "word-ann")), (401, invalid), "{method} {target}");
        let scope = challenge(" error=\"insufficient_scope\"");
        assert_eq!(ask(&with_token(&plain, "the-watch")), (403, scope), "{method} {target}");
        let mark = if target.contains('?') { '&' } else { '?' };
        let in_query = request(method, &format!("{target}{mark}access_token=the-boss"));
        assert_eq!(ask(&in_query), (401, challenge("")), "{method} {target}");
    }
    // The token is for nothing else.
    assert_eq!(exchange(address, &with_token(&request("GET", "/metrics"), "the-boss")).status(), 403);
    for (method, target, allowed) in [
        ("POST", "/connections", "GET, HEAD, DELETE, OPTIONS"),
        ("GET", "/connections/0.0.0", "DELETE, OPTIONS"),
        ("PUT", "/revocations", "GET, HEAD, POST, DELETE, OPTIONS"),
    ] {
        let response = admin(address, method, target);
        assert_eq!((response.status(), response.header("allow")), (405, Some(allowed)), "{method} {target}");
    }
    let mut preflight = dial(address);
    preflight.write_all(request("OPTIONS", "/connections").as_bytes()).unwrap();
    let mut status = [0; 12];
    preflight.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 204");
    for (method, target, error) in [
        ("GET", "/connections?limit=0", "limit is \"0\", not a number from 1 to 1000"),
        ("GET", "/connections?idenity=a", "\"idenity\" is not known here; identity, topic, limit, after are"),
        ("GET", "/connections?topic=", "the topic's name is empty"),
        ("DELETE", "/connections", "exactly one of identity and token_id is needed"),
        ("DELETE", "/connections?identity=a&code=1005", "close code 1005 must not be sent"),
        ("DELETE", "/connections/0.0.0?code=x", "code is \"x\", not a close code such as 1008 or 4000"),
        ("POST", "/revocations?x=1", "\"x\" is not known here; none is"),
        ("DELETE", "/revocations", "exactly one of identity and token_id is needed"),
    ] {
        let response = admin(address, method, target);
        assert_eq!((response.status(), response.error()), (400, error.into()), "{method} {target}");
    }
    let large = revoke(address, &json!({ "identity": "x".repeat(5_000), "for": 60 }));
    assert_eq!(large.status(), 413);
    let long = revoke(address, &json!({ "identity": "x".repeat(513), "for": 60 }));
    assert_eq!(long.status(), 400);
    assert!(long.error().ends_with("is empty or has more than 512 bytes"), "{}", long.error());
}

/// Without tokens there is no administration. A refusal names the remedy.
#[test]
fn the_administration_is_off_without_tokens() {
    let server = Server::start(&[]);
    for (method, target) in [("GET", "/connections"), ("DELETE", "/connections/0.0.0"), ("POST", "/revocations")] {
        let response = exchange(server.address(), &with_token(&request(method, target), "x"));
        let path = target.split('?').next().unwrap();
        let error = format!("nothing is at {path:?}: the setting admin_tokens switches it on");
        assert_eq!((response.status(), response.error()), (404, error));
    }
}

/// The address of the metrics has the administration too.
#[test]
fn the_administration_has_an_address_inside() {
    let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = serve("inside", 1, &format!("metrics_listen = \"{metrics}\""));
    let mut ann = connect_as(&server, "ann", "/t/news");
    let page = body(&admin(metrics, "GET", "/connections"));
    assert_eq!(page["connections"][0]["identity"], json!("ann"));
    assert_eq!(exchange(metrics, &request("GET", "/connections")).status(), 401);
    assert_eq!(body(&revoke(metrics, &json!({ "identity": "ann", "for": 60 })))["closed"], json!(1));
    ann.expect_close(1008, "revoked");
    assert_eq!(exchange(metrics, &request("GET", "/t/news")).status(), 404);
}

#[test]
fn topics_are_listed_with_their_subscribers() {
    for shards in [1, 3] {
        let server = serve("topics", shards, "");
        let topics = |query: &str| body(&admin(server.address(), "GET", &format!("/topics{query}")));
        assert_eq!(topics(""), json!({ "topics": [], "next": null }));
        let clients: Vec<Client> = (0..12)
            .flat_map(|number| (0..=number % 3).map(move |_| number))
            .map(|number| connect_as(&server, "ann", &format!("/t/room/{number}")))
            .collect();
        let _other = connect_as(&server, "bob", "/t/other");
        let _publisher = server.connect("/t/quiet?mode=pub&access_token=word-bob");
        let expected: BTreeMap<String, u64> =
            (0..12).map(|number| (format!("room/{number}"), number % 3 + 1)).collect();
        for limit in [1, 5, 1_000] {
            let (mut found, mut after) = (BTreeMap::new(), String::new());
            loop {
                let page = topics(&format!("?prefix=room/&limit={limit}{after}"));
                let rows = page["topics"].as_array().unwrap();
                assert!(rows.len() <= limit, "{page}");
                for row in rows {
                    let name = row["topic"].as_str().unwrap().to_owned();
                    assert_eq!(found.insert(name, row["subscribers"].as_u64().unwrap()), None, "on one page: {row}");
                }
                let Some(next) = page["next"].as_str() else { break };
                after = format!("&after={next}");
            }
            assert_eq!(found, expected);
        }
        let all = topics("?limit=1000");
        assert_eq!(all["topics"].as_array().unwrap().len(), 14);
        let quiet = json!({ "topic": "quiet", "subscribers": 0 });
        assert!(all["topics"].as_array().unwrap().contains(&quiet), "{all}");
        for (query, error) in [
            ("?limit=0", "limit is \"0\", not a number from 1 to 1000"),
            ("?after=3", "after is \"3\", not the next of an earlier page"),
            ("?after=-1.2", "after is \"-1.2\", not the next of an earlier page"),
            ("?topic=a", "\"topic\" is not known here; prefix, limit, after are"),
        ] {
            let refused = admin(server.address(), "GET", &format!("/topics{query}"));
            assert_eq!((refused.status(), &*refused.error()), (400, error));
        }
        assert_eq!(exchange(server.address(), &request("GET", "/topics")).status(), 401);
        let deleted = admin(server.address(), "DELETE", "/topics");
        assert_eq!((deleted.status(), deleted.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
        clients.into_iter().for_each(Client::leave);
    }
}

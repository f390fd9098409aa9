//! Authenticators, documents on the same port, and routes of a file.

use std::{fs, path::PathBuf};

use ringhub::{
    auth::{Authenticator, Basic, Bearer, Credentials, Identity, Network, all_of, any_of},
    documents::Documents,
    handler::RouteOptions,
    proto::Refusal,
};

use crate::{
    Live, Script, serve,
    support::{Response, Server, clean, exchange, program, text},
};

/// Starts a server with an authenticator, whose handler sends each client the name of its identity.
fn greets(authenticator: impl Authenticator) -> Live {
    let (script, _) = Script::<()>::new();
    let script = script.on_open(|connection| {
        let name = connection.identity().map_or("nobody", |identity| &identity.name).to_string();
        _ = connection.send_text(name);
    });
    serve(1, |builder| builder.route_with("/", script, RouteOptions::new().authenticator(authenticator)))
}

/// Connects, and returns the name that the handler sends, or the status and the challenge of the refusal.
fn enter(server: &Live, header: Option<(&str, &str)>) -> Result<String, (u16, Option<String>)> {
    let challenge = |refused: Response| (refused.status(), refused.header("www-authenticate").map(ToString::to_string));
    let mut client = server.open("/", &[], header.as_slice()).map_err(challenge)?;
    match client.receive() {
        crate::support::Received::Text(name) => Ok(name),
        other => panic!("{other:?}"),
    }
}

const ALICE: (&str, &str) = ("Authorization", "Basic YWxpY2U6c2VjcmV0");
const ALICE_WRONG: (&str, &str) = ("Authorization", "Basic YWxpY2U6c2VjcmVU");
const BILLING: (&str, &str) = ("Authorization", "Bearer a-word");

fn people() -> Basic {
    Basic::new("the hub", [("alice", "secret")]).unwrap()
}

#[test]
fn qore_basic_authentication_with_a_realm() {
    let server = greets(people());
    assert_eq!(enter(&server, Some(ALICE)), Ok("alice".into()));
    let challenge = Some("Basic realm=\"the hub\", charset=\"UTF-8\"".to_string());
    assert_eq!(enter(&server, None), Err((401, challenge.clone())));
    assert_eq!(enter(&server, Some(ALICE_WRONG)), Err((401, challenge)));
}

#[test]
fn qore_bearer_tokens() {
    let server = greets(Bearer::new([("billing", "a-word")]).unwrap());
    assert_eq!(enter(&server, Some(BILLING)), Ok("billing".into()));
    assert_eq!(enter(&server, None), Err((401, Some("Bearer".into()))));
    let wrong = enter(&server, Some(("Authorization", "Bearer another")));
    assert_eq!(wrong, Err((401, Some("Bearer error=\"invalid_token\"".into()))));
}

#[test]
fn qore_networks() {
    let inside = greets(Network::new(&["127.0.0.0/8"], &[]).unwrap());
    assert!(enter(&inside, None).is_ok());
    let outside = greets(Network::new(&["10.0.0.0/8"], &[]).unwrap());
    assert_eq!(enter(&outside, None), Err((403, None)));
    let denied = greets(Network::new(&["127.0.0.0/8"], &["127.0.0.1/32"]).unwrap());
    assert_eq!(enter(&denied, None), Err((403, None)));
}

#[test]
fn qore_chains_of_authenticators() {
    let services = || Bearer::new([("billing", "a-word")]).unwrap();
    let any = greets(any_of(people()).or(services()));
    assert_eq!(enter(&any, Some(ALICE)), Ok("alice".into()));
    assert_eq!(enter(&any, Some(BILLING)), Ok("billing".into()));
    // The refusal has a challenge of each authenticator (RFC 9110 11.6.1).
    let refused = any.open("/", &[], &[]).err().expect("a client without credentials is refused");
    let challenges: Vec<&[u8]> = refused.head.headers().get_all("www-authenticate").collect();
    assert_eq!(challenges, [&b"Basic realm=\"the hub\", charset=\"UTF-8\""[..], b"Bearer"]);
    let all = greets(all_of(Network::new(&["10.0.0.0/8"], &[]).unwrap()).and(people()));
    assert_eq!(enter(&all, Some(ALICE)).unwrap_err().0, 403);
}

/// A folder for one test, which a drop removes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ringhub-parity-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("site")).unwrap();
        fs::write(path.join("site/index.html"), "<!doctype html>home").unwrap();
        fs::write(path.join("site/data.json"), "0123456789").unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn ioto_documents_and_websockets_on_one_port() {
    let folder = Folder::new("documents");
    let documents = Documents::new(folder.0.join("site")).unwrap();
    let (echo, _) = Script::<()>::by_message(|connection, text| _ = connection.send_text(text));
    let server = serve(1, |builder| builder.route("/ws", echo).documents("/", documents));
    let get = |target: &str, headers: &str| {
        exchange(server.address, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"))
    };
    let home = get("/", "");
    assert_eq!((home.status(), &*home.body), (200, "<!doctype html>home"));
    assert_eq!(home.header("content-type"), Some("text/html; charset=utf-8"));
    let data = get("/data.json", "");
    assert_eq!((data.status(), data.header("content-type")), (200, Some("application/json")));
    let etag = data.header("etag").expect("a validator").to_string();
    let part = get("/data.json", "Range: bytes=2-4\r\n");
    assert_eq!((part.status(), &*part.body, part.header("content-range")), (206, "234", Some("bytes 2-4/10")));
    assert_eq!(get("/data.json", "Range: bytes=99-\r\n").status(), 416);
    for (escape, status) in [("/../secret", 400), ("/..%2fsecret", 404), ("/%2e%2e/secret", 400), ("/nothing", 404)] {
        assert_eq!(get(escape, "").status(), status, "{escape}");
    }
    // A 304 has no body and no length.
    let mut stream = crate::support::dial(server.address);
    let request = format!("GET /data.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIf-None-Match: {etag}\r\n\r\n");
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 304 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let mut client = server.connect("/ws");
    client.send_text("beside the files");
    client.expect(text("beside the files"));
}

/// An authenticator that panics admits no client, and ends no connection.
#[test]
fn qore_an_authenticator_that_panics_over_a_document() {
    struct Panics;
    impl Authenticator for Panics {
        fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
            panic!("whatever it does")
        }
    }
    let folder = Folder::new("panics");
    let documents = Documents::new(folder.0.join("site")).unwrap();
    let options = RouteOptions::new().authenticator(Panics);
    let server = serve(1, |builder| builder.documents_with("/", documents, options));
    for _ in 0..2 {
        assert_eq!(exchange(server.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 500);
    }
    let metrics = exchange(server.address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").body;
    assert!(metrics.contains("\nringhub_handler_panics_total{shard=\"control\"} 2\n"), "{metrics}");
}

/// Refusals that cannot be sent as the authenticator made them are corrected, or become a 500, on shards and on the
/// control thread.
#[test]
fn refusals_that_cannot_be_sent() {
    struct Refuses;
    impl Authenticator for Refuses {
        fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
            let status = credentials.head.headers().get("x-status").expect("a status");
            let refusal = Refusal::new(str::from_utf8(status).unwrap().parse().unwrap(), "no");
            let odd =
                [("Connection", "keep-alive"), ("content-length", "1"), ("Transfer-Encoding", "chunked"), ("a b", "c")];
            let mut refusal = odd.iter().fold(refusal, |refusal, (name, value)| refusal.header(name, value));
            if refusal.status == 410 {
                refusal = refusal.header("Cache-Control", "max-age=9");
            }
            Err(refusal.header("", "x").header("X-Kept", "a\r\nb é"))
        }
    }
    let folder = Folder::new("refuses");
    let documents = Documents::new(folder.0.join("site")).unwrap();
    let (script, _) = Script::<()>::new();
    let options = || RouteOptions::new().authenticator(Refuses);
    let server = serve(1, |builder| {
        builder.documents_with("/site", documents, options()).route_with("/socket", script, options())
    });
    let check = |status: &str, expected: u16, error: &str| {
        let line = ("X-Status", status);
        let of_shard = server.open("/socket", &[], &[line]).err().expect("a refusal");
        let get = format!("GET /site/ HTTP/1.1\r\nHost: a\r\nX-Status: {status}\r\nConnection: close\r\n\r\n");
        for response in [of_shard, exchange(server.address, &get)] {
            assert_eq!((response.status(), response.error()), (expected, error.into()));
            assert_eq!(response.header("content-length"), Some(&*response.body.len().to_string()));
            assert_eq!((response.header("connection"), response.header("transfer-encoding")), (Some("close"), None));
            assert_eq!(response.header("x-kept"), (expected != 500).then_some("a  b é"), "{response:?}");
            let kept = if expected == 410 { "max-age=9" } else { "no-store" };
            assert_eq!(response.header("cache-control"), Some(kept), "{response:?}");
        }
    };
    check("403", 403, "no");
    check("410", 410, "no");
    for status in ["0", "101", "199", "600", "65535"] {
        check(status, 500, "this server has refused the request with a status that cannot be sent");
    }
    let metrics = exchange(server.address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").body;
    for place in ["0", "control"] {
        assert!(metrics.contains(&format!("\nringhub_handler_panics_total{{shard=\"{place}\"}} 0\n")), "{metrics}");
    }
}

/// A server has such routes from a file too. `tests/server/routes.rs` has more.
#[test]
fn ioto_routes_of_a_file() {
    let folder = Folder::new("routes");
    let file = folder.0.join("ringhub.toml");
    let routes = "[[routes]]\nmatch = \"/news/{topic}\"\nhandler = \"hub\"\n\
                  [[routes]]\nmatch = \"/echo\"\nhandler = \"echo\"\nprotocols = [\"v1.echo\"]\n\
                  [[routes]]\nmatch = \"/\"\ndocuments = \"./site\"\n";
    fs::write(&file, routes).unwrap();
    let mut command = clean(program());
    command.arg("--config").arg(&file);
    let server = Server::start_command(command);
    let mut hub = server.connect("/news/today?echo=true");
    hub.send_text("published");
    hub.expect(text("published"));
    let offer = crate::support::Client::open_with(crate::support::dial(server.address()), "/echo", &["v1.echo"], &[]);
    let mut echo = offer.unwrap();
    assert_eq!(echo.protocol(), Some("v1.echo"));
    echo.send_text("echoed");
    echo.expect(text("echoed"));
    let home = exchange(server.address(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((home.status(), &*home.body), (200, "<!doctype html>home"));
}

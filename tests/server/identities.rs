//! Senders with several identities, which several authenticators or the gates of several routes have found: each
//! identity limits what its sender may do.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    callbacks::Application,
    support::{
        Client, Response, Server, dial, exchange, post, program, published, read_response, request, text,
        upgrade_request,
    },
    tokens::{issuer, sign, sign_with},
};

/// Starts a server with this file and these flags.
fn start(name: &str, file: &str, flags: &[String]) -> Server {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("identities-{name}.toml"));
    fs::write(&path, format!("admin_tokens = [\"the-boss\"]\n{file}")).unwrap();
    let mut command = program();
    command.arg("--config").arg(path).args(flags);
    Server::start_command(command)
}

/// The header lines of ann's cookie, by which the application knows her as 42, and of a token.
fn both(token: &str) -> [(&'static str, String); 2] {
    [("Cookie", "ann".into()), ("Authorization", format!("Bearer {token}"))]
}

fn open(address: SocketAddr, target: &str, lines: &[(&str, String)]) -> Result<Client, Response> {
    let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, &**value)).collect();
    Client::open_with(dial(address), target, &[], &lines)
}

fn with(request: &str, lines: &[(&str, String)]) -> String {
    let lines: String = lines.iter().map(|(name, value)| format!("\r\n{name}: {value}")).collect();
    request.replacen("\r\n", &format!("{lines}\r\n"), 1)
}

fn as_boss(address: SocketAddr, request: &str) -> Value {
    let response = exchange(address, &with(request, &[("Authorization", "Bearer the-boss".into())]));
    assert_eq!(response.status(), 200, "{response:?}");
    serde_json::from_str(&response.body).unwrap()
}

/// Revokes, and returns how many connections this has closed.
fn revoke(address: SocketAddr, who: &Value) -> u64 {
    let mut revocation = who.clone();
    revocation["for"] = json!(3_600);
    as_boss(address, &post("/revocations", "application/json", &revocation.to_string()))["closed"].as_u64().unwrap()
}

/// A token and the application must both admit. The application names the sender, and the token still says which topics
/// the sender may use; the id of the token and its name revoke it; and the connection ends with it.
#[test]
fn a_token_limits_a_sender_whom_the_application_names() {
    let application = Application::start();
    let flags = application.flags();
    let server = start("both", &format!("shards = 2\n{}leeway = \"0s\"\n", issuer()), &flags);
    let address = server.address();
    let topics = r#""subscribe":["orders/42"],"publish":["orders/42"]"#;
    let token = both(&sign(&format!(r#""sub":"ann","jti":"j",{topics}"#)));
    let mut client = open(address, "/t/orders/42", &token).unwrap();
    for mode in ["", "?mode=sub", "?mode=pub"] {
        let refused = open(address, &format!("/t/orders/43{mode}"), &token).err().expect("a refusal");
        assert!(refused.status() == 403 && refused.error().contains("grants do not let it"), "{refused:?}");
    }
    let send = |topic: &str, lines: &[(&str, String)]| {
        exchange(address, &with(&post(topic, "text/plain", "by POST"), lines)).status()
    };
    assert_eq!((send("/t/orders/42", &token), send("/t/orders/43", &token)), (202, 403));
    client.expect(text("by POST"));
    // The application has named the sender.
    let listed = as_boss(address, &request("GET", "/connections?identity=ann"));
    assert_eq!(listed["connections"][0]["identity"], "42", "{listed}");
    assert_eq!(revoke(address, &json!({ "token_id": "j" })), 1);
    client.expect_close(1008, "revoked");
    assert_eq!(open(address, "/t/orders/42", &token).err().expect("a refusal").status(), 401);
    assert_eq!(send("/t/orders/42", &token), 401);

    let other = both(&sign(&format!(r#""sub":"ann","jti":"k",{topics}"#)));
    let mut client = open(address, "/t/orders/42", &other).unwrap();
    assert_eq!(as_boss(address, &request("DELETE", "/connections?token_id=k")), json!({ "closed": 1 }));
    client.expect_close(1008, "disconnected");
    let mut client = open(address, "/t/orders/42", &other).unwrap();
    assert_eq!(revoke(address, &json!({ "identity": "ann" })), 1);
    client.expect_close(1008, "revoked");
    assert_eq!(
        (open(address, "/t/orders/42", &other).err().unwrap().status(), send("/t/orders/42", &other)),
        (403, 403)
    );

    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3;
    let short = both(&sign_with(&format!(r#"{{"sub":"42","exp":{soon},{topics}}}"#)));
    let mut client = open(address, "/t/orders/42", &short).unwrap();
    client.expect_close(4401, "token expired");
}

/// A route without an authenticator leads to the same topics as one with tokens.
const TWO_ROUTES: &str = r#"
    shards = 2
    [[routes]]
    match = "/t/{topic...}"
    handler = "hub"

    [[routes]]
    match = "/staff/{topic...}"
    handler = "hub"
    topic_prefix = "staff/"
    bearer.tokens = { ann = "word-ann", bob = "word-bob" }
"#;

/// The gate of another route has found the identity. The connection is found by it, and so is a sender over HTTP.
#[test]
fn the_gate_of_another_route_finds_an_identity() {
    let file = format!("max_publish_rate_per_identity = \"1/h burst 2\"\n{TWO_ROUTES}");
    let server = start("routes", &file, &[]);
    let address = server.address();
    let [ann, bob] = ["ann", "bob"].map(|name| [("Authorization", format!("Bearer word-{name}"))]);
    let mut client = open(address, "/t/staff/plan", &ann).unwrap();
    let mut other = open(address, "/t/staff/plan", &bob).unwrap();
    let listed = as_boss(address, &request("GET", "/connections?identity=ann"));
    assert_eq!(
        (&listed["connections"][0]["identity"], listed["connections"].as_array().unwrap().len()),
        (&json!("ann"), 1)
    );
    let publish = with(&post("/t/staff/plan", "text/plain", "x"), &ann);
    assert_eq!([202, 202, 429], [(); 3].map(|()| exchange(address, &publish).status()));
    [&mut client, &mut other].into_iter().for_each(|client| (0..2).for_each(|_| client.expect(text("x"))));
    assert_eq!(as_boss(address, &request("DELETE", "/connections?identity=ann")), json!({ "closed": 1 }));
    client.expect_close(1008, "disconnected");
    let mut client = open(address, "/t/staff/plan", &ann).unwrap();
    assert_eq!(revoke(address, &json!({ "identity": "ann" })), 1);
    client.expect_close(1008, "revoked");
    assert_eq!(exchange(address, &with(&upgrade_request("/t/staff/plan"), &ann)).status(), 403);
    other.expect_nothing();
}

/// Each name of a sender has its rate, but not the network, which all senders share. A message that one name may not
/// publish counts against no other name.
#[test]
fn each_name_of_a_sender_publishes_at_its_rate() {
    let file = r#"
        max_publish_rate_per_identity = "1/h burst 2"
        [[routes]]
        match = "/t/{topic...}"
        handler = "hub"
        admit = "all"
        basic.users = { alice = "secret", bob = "hidden" }
        bearer.tokens = { red = "word-red", blue = "word-blue" }
        network.allow = ["127.0.0.0/8"]
    "#;
    let server = start("names", file, &[]);
    let (alice, bob) = ("Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOmhpZGRlbg==");
    let send = |user: &str, token: &str| {
        let request = post(&format!("/t/x?access_token=word-{token}"), "text/plain", "x");
        exchange(server.address(), &with(&request, &[("Authorization", user.into())])).status()
    };
    assert_eq!([202, 202, 429], [(); 3].map(|()| send(alice, "red")));
    assert_eq!((send(bob, "red"), send(alice, "blue")), (429, 429));
    assert_eq!([202, 202, 429], [(); 3].map(|()| send(bob, "blue")));
    server.expect_counts(&[("rate_refused_total{rate=\"publishes_of_identity\"}", 4)]);
}

/// Begins a request whose body is not whole.
fn begin(address: SocketAddr, lines: &[(&str, String)]) -> TcpStream {
    let mut stream = dial(address);
    let request = with(&post("/t/staff/plan", "text/plain", "late"), lines);
    stream.write_all(&request.as_bytes()[..request.len() - 1]).unwrap();
    stream
}

fn end(mut stream: TcpStream) -> Response {
    stream.write_all(b"e").unwrap();
    read_response(&mut stream, &[], true)
}

/// A sender that is revoked, or whose token expires, while its body arrives does not publish the message.
#[test]
fn a_body_that_comes_too_late_is_not_published() {
    let tokens = format!("{TWO_ROUTES}jwt = [\"app\"]\n{}leeway = \"0s\"\n", issuer());
    let server = start("late", &tokens, &[]);
    let address = server.address();
    let [ann, bob] = ["ann", "bob"].map(|name| [("Authorization", format!("Bearer word-{name}"))]);
    let mut reader = open(address, "/t/staff/plan?mode=sub", &bob).unwrap();
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 2;
    let token = sign_with(&format!(r#"{{"sub":"42","exp":{soon},"publish":["**"]}}"#));
    let expires = begin(address, &[("Authorization", format!("Bearer {token}"))]);
    let (revoked, whole) = (begin(address, &ann), begin(address, &bob));
    // The heads of all requests have been judged.
    server.counts_until("three requests have begun", |counts| counts.get("http_connections_open") >= 3);
    thread::sleep(Duration::from_millis(500));
    revoke(address, &json!({ "identity": "ann" }));
    let refused = end(revoked);
    assert_eq!((refused.status(), &*refused.error()), (403, "the access of this identity has been revoked"));
    published(&end(whole));
    thread::sleep(Duration::from_secs(3));
    let refused = end(expires);
    assert_eq!((refused.status(), &*refused.error()), (401, "the token has expired"));
    reader.expect(text("late"));
    reader.expect_nothing();
}

//! Tokens of issuers (JWT) at a whole server: the ways by which a request shows one, and what becomes of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustix::process::Signal;

use crate::support::{Client, Response, Server, dial, exchange, post, program, published, text};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

const OTHER_SECRET: &str = "fedcba9876543210fedcba9876543210";

/// Returns a token of these claims by HS256. It ends in the year 2100.
pub(crate) fn sign(claims: &str) -> String {
    sign_with(&format!(r#"{{"exp":4102444800,{claims}}}"#))
}

pub(crate) fn sign_with(claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes())))
}

/// Starts a server with this file, and the log of everything.
fn start(name: &str, file: &str) -> Server {
    let mut command = program();
    command.arg("--config").arg(write(name, file));
    Server::start_at(command)
}

fn write(name: &str, file: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tokens-{name}.toml"));
    fs::write(&path, format!("listen = \"127.0.0.1:0\"\nlog = \"debug\"\n{file}")).unwrap();
    path
}

/// The simplest issuer.
pub(crate) fn issuer() -> String {
    format!("[[issuers]]\nname = \"app\"\nsecrets = \"{SECRET}\"\n")
}

/// Opens a WebSocket with these subprotocols and header lines.
fn open(address: SocketAddr, target: &str, protocols: &[&str], headers: &[(&str, &str)]) -> Result<Client, Response> {
    Client::open_with(dial(address), target, protocols, headers)
}

#[test]
fn one_table_is_enough() {
    let server = start("one", &issuer());
    let (address, topic) = (server.address(), "/t/orders/42");
    let token = sign(r#""sub":"42","subscribe":["orders/42"],"publish":["orders/*"]"#);
    let bearer = format!("Bearer {token}");
    let mut publisher = open(address, topic, &[], &[("Authorization", &bearer)]).unwrap();
    let mut subscriber = open(address, topic, &["access_token", &token], &[]).unwrap();
    // A browser fails a connection whose answer has none of the names that it has offered.
    assert_eq!(subscriber.protocol(), Some("access_token"));
    let mut by_query = open(address, &format!("{topic}?mode=sub&access_token={token}"), &[], &[]).unwrap();
    assert_eq!(by_query.protocol(), None);
    publisher.send_text("hello");
    subscriber.expect(text("hello"));
    by_query.expect(text("hello"));
    let request = post(topic, "text/plain", "posted").replacen("\r\n", &format!("\r\nAuthorization: {bearer}\r\n"), 1);
    published(&exchange(address, &request));
    subscriber.expect(text("posted"));
    assert_eq!(exchange(address, &post(topic, "text/plain", "x")).status(), 401);
    let refusal = open(address, topic, &[], &[]).err().expect("a refusal");
    assert_eq!((refusal.status(), refusal.header("www-authenticate")), (401, Some("Bearer")));
}

/// While a secret is replaced, the old one and the new one are the lines of a file.
#[test]
fn each_line_of_a_file_is_a_secret() {
    let token = sign(r#""sub":"42","subscribe":["orders/42"]"#);
    for (name, lines) in [("first", [SECRET, OTHER_SECRET]), ("last", [OTHER_SECRET, SECRET])] {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tokens-{name}.txt"));
        fs::write(&path, format!("{}\n", lines.join("\n"))).unwrap();
        let server = start(name, &format!("[[issuers]]\nname = \"app\"\nsecrets = \"file:{}\"\n", path.display()));
        drop(open(server.address(), "/t/orders/42?mode=sub", &["access_token", &token], &[]).unwrap());
    }
}

/// Each refusal says what is wrong, and neither a refusal nor the log has a part of a token, whichever way it came.
#[test]
fn refusals_say_what_is_wrong_and_show_no_token() {
    let server = start("refused", &issuer());
    let (address, topic) = (server.address(), "/t/orders/42");
    let good = sign(r#""sub":"42","subscribe":["orders/42"]"#);
    let cases = [
        (sign_with(r#"{"sub":"42","exp":1000000000}"#), "it has expired (exp)"),
        (sign_with(r#"{"sub":"42"}"#), "its claim exp is missing"),
        (sign(r#""subscribe":["orders/42"]"#), "its claim sub is missing"),
        (sign(r#""sub":"42","aud":"shop""#), "this server has no name for it (audience)"),
        (sign(r#""sub":"42","subscribe":"orders/42""#), "its claim subscribe is no list of topics"),
        (good[..good.len() - 11].to_string(), "its signature is wrong"),
        ("x".repeat(6_145), "it has more than 6144 bytes"),
        ("a-word".into(), "with dots between them"),
    ];
    for (token, expected) in &cases {
        let (bearer, in_query) = (format!("Bearer {token}"), format!("{topic}?access_token={token}"));
        let refusals = [
            open(address, topic, &[], &[("Authorization", &bearer)]).err(),
            open(address, topic, &["access_token", token], &[]).err(),
            open(address, &in_query, &[], &[]).err(),
            // A browser hides the answer to a failed WebSocket, so a page may ask for it like this.
            Some(exchange(address, &format!("GET {in_query} HTTP/1.1\r\nHost: a\r\n\r\n"))),
        ];
        for refusal in refusals {
            let refusal = refusal.expect("a refusal");
            assert!(refusal.status() == 401 && refusal.error().contains(expected), "{expected}: {}", refusal.error());
            let challenge = refusal.header("www-authenticate").unwrap_or_default();
            let begin = "Bearer error=\"invalid_token\", error_description=\"the token is not accepted: ";
            assert!(challenge.starts_with(begin) && challenge.contains(expected), "{challenge}");
            let shown = format!("{challenge} {}", refusal.error());
            assert!(token.split('.').filter(|part| part.len() > 8).all(|part| !shown.contains(part)), "{shown}");
        }
    }
    drop(open(address, &format!("{topic}?mode=sub"), &["access_token", &good], &[]).unwrap());
    server.log_until("refused");
    let log = server.log();
    for secret in ["eyJ", "0123456789abcdef", "xxxxxxxx", "a-word", &good[good.len() - 20..]] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

/// Cross-site WebSocket hijacking: a cookie counts for pages of the server's own host, and of allowed origins.
#[test]
fn a_cookie_counts_for_own_pages() {
    let token = sign(r#""sub":"42","subscribe":["orders/42"],"publish":["orders/42"]"#);
    let cookie = format!("a=b; session={token}");
    let file = |origins: &str| format!("{origins}{}cookie = \"session\"\n", issuer());
    let status = |server: &Server, origin: Option<&str>| {
        let mut headers = vec![("Cookie", &*cookie)];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        let outcome = open(server.address(), "/t/orders/42", &[], &headers);
        outcome.map_or_else(|refusal| refusal.status(), |_| 101)
    };
    let server = start("cookie", &file(""));
    assert_eq!(status(&server, None), 401, "a browser may have kept quiet about a foreign page");
    let same = [("Cookie", &*cookie), ("Sec-Fetch-Site", "same-origin")];
    drop(open(server.address(), "/t/orders/42", &[], &same).expect("the browser vouches for the page"));
    assert_eq!(status(&server, Some(&format!("http://{}", server.address()))), 101);
    for foreign in ["https://app.example", "http://127.0.0.1", "null"] {
        assert_eq!(status(&server, Some(foreign)), 401, "{foreign}");
    }
    let server = start("cookie-origins", &file("allowed_origins = \"https://app.example\"\n"));
    assert_eq!(status(&server, Some("https://app.example")), 101);
    assert_eq!(status(&server, Some("https://evil.example")), 403);
}

/// Answers behind a cookie are kept out of foreign pages, also where all origins are allowed: a page may name a file in
/// an element or a frame, and an old browser does not say so.
#[test]
fn answers_behind_a_cookie_stay_out_of_foreign_pages() {
    let documents = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
    let route = |at: &str, keys: &str| {
        format!("[[routes]]\nmatch = \"/{at}\"\nhandler = \"files\"\ndocuments = {documents:?}\n{keys}")
    };
    let named = |cookie: &str| issuer().replacen("[[issuers]]", &format!("[[issuers]]\n{cookie}"), 1);
    let file = [named("cookie = \"session\""), route("by-cookie", "jwt = \"app\"\n"), route("open", "")].concat();
    let server = start("cookie-files", &file);
    let cookie = format!("Cookie: session={}\r\n", sign(r#""sub":"42""#));
    let get = |path: &str, lines: &str| {
        let request = format!("GET /{path}/limits.md HTTP/1.1\r\nHost: a\r\n{cookie}{lines}Connection: close\r\n\r\n");
        exchange(server.address(), &request)
    };
    let kept_out = ["cross-origin-resource-policy", "content-security-policy", "x-frame-options", "vary"];
    for (lines, status) in
        [("", 401), ("Sec-Fetch-Site: same-origin\r\n", 200), ("Sec-Fetch-Site: cross-site\r\n", 401)]
    {
        let answer = get("by-cookie", lines);
        assert_eq!(answer.status(), status, "{lines}");
        let has: Vec<bool> = kept_out.iter().map(|name| answer.header(name).is_some()).collect();
        assert_eq!(has, [true; 4], "{answer:?}");
    }
    let answer = get("open", "");
    assert!(answer.status() == 200 && kept_out.iter().all(|name| answer.header(name).is_none()), "{answer:?}");
}

#[test]
fn routes_name_their_issuers() {
    let route = |prefix: &str, keys: &str| {
        format!(
            "[[routes]]\nmatch = \"/{prefix}/{{topic...}}\"\nhandler = \"hub\"\ntopic_prefix = \"{prefix}/\"\n{keys}"
        )
    };
    let issuer = |name: &str| {
        let keys = format!("secrets = \"{SECRET}\"\niss = \"{name}\"\nbare_tokens = \"all\"\n");
        format!("[[issuers]]\nname = \"{name}\"\n{keys}")
    };
    let file = [
        // Routes may stand before the issuers.
        route("a", "jwt = \"app\"\n"),
        route("both", "jwt = [\"app\", \"other\"]\n"),
        route("c", "jwt = \"other\"\nprotocols = [\"v1.chat\"]\nbearer.tokens = { ci = \"word\" }\n"),
        issuer("app"),
        issuer("other"),
    ];
    let server = start("routes", &file.concat());
    for (route, iss, expected) in [
        ("a", "app", 101),
        ("a", "other", 401),
        ("both", "app", 101),
        ("both", "other", 101),
        ("both", "else", 401),
        ("c", "app", 401),
        ("c", "other", 101),
    ] {
        let bearer = format!("Bearer {}", sign(&format!(r#""sub":"42","iss":"{iss}""#)));
        let outcome = open(server.address(), &format!("/{route}/x"), &[], &[("Authorization", &bearer)]);
        assert_eq!(outcome.map_or_else(|refusal| refusal.status(), |_| 101), expected, "{route} {iss}");
    }
    // A static token, and a subprotocol of the route beside it.
    let client = open(server.address(), "/c/x", &["access_token", "word", "v1.chat"], &[]).unwrap();
    assert_eq!(client.protocol(), Some("v1.chat"));
}

/// An issuer that publishes keys. Each answer is the one that was set last; without one, connections are closed.
struct Publisher {
    address: SocketAddr,
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Publisher {
    fn start() -> Publisher {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let publisher = Publisher { address, answer: Arc::default(), asked: Arc::default() };
        let (answer, asked) = (Arc::clone(&publisher.answer), Arc::clone(&publisher.asked));
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                asked.fetch_add(1, Ordering::Relaxed);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).is_ok_and(|count| count == 1) {
                        head.push(byte[0]);
                    } else {
                        break;
                    }
                }
                if let Some(body) = &*answer.lock().unwrap() {
                    let length = body.len();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                    // The server may have had enough.
                    drop(stream.write_all(format!("{head}{body}").as_bytes()));
                }
            }
        });
        publisher
    }

    fn publish(&self, keys: &[&Signer]) {
        let keys: Vec<String> = keys.iter().map(|key| key.jwk()).collect();
        self.answer(Some(format!("{{\"keys\": [{}]}}", keys.join(","))));
    }

    fn answer(&self, answer: Option<String>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A key of the issuer.
struct Signer(&'static str, Ed25519KeyPair);

impl Signer {
    fn new(id: &'static str) -> Signer {
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        Signer(id, Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    fn jwk(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.1.public_key());
        format!(r#"{{"kid":"{}","kty":"OKP","crv":"Ed25519","x":"{x}"}}"#, self.0)
    }

    fn token(&self) -> String {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, self.0));
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"42","exp":4102444800,"subscribe":["orders/42"]}"#);
        let text = format!("{header}.{claims}");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.1.sign(text.as_bytes())))
    }
}

/// An issuer is down at first, answers too much, has keys, replaces them, and is down again.
#[test]
fn keys_come_from_their_address() {
    let publisher = Publisher::start();
    let url = format!("jwks_url = \"http://{}/keys\"\n", publisher.address);
    let server = start("published", &format!("[[issuers]]\nname = \"login\"\n{url}"));
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let address = server.address();
    let status = |key: &Signer| {
        let target = "/t/orders/42?mode=sub";
        let outcome = open(address, target, &["access_token", &key.token()], &[]);
        outcome.map_or_else(|refusal| refusal.status(), |_| 101)
    };
    assert_eq!((status(&old), status(&old)), (503, 503));
    assert_eq!(publisher.asked(), 1, "another fetch within the pause");
    server.expect_counts(&[("refused_total{cause=\"undecided\"}", 2), ("refused_total{cause=\"limit\"}", 0)]);
    // The log tells the first failure, and names the issuer.
    server.log_until("the keys of an issuer cannot be fetched");
    publisher.answer(Some(" ".repeat(300 << 10)));
    thread::sleep(PAUSE);
    assert_eq!(status(&old), 503);
    publisher.publish(&[&old]);
    thread::sleep(PAUSE);
    // Many clients come at once: on both sides of a handover, all wait for one fetch.
    let asked = publisher.asked();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..20).map(|_| scope.spawn(|| status(&old))).collect();
        assert!(waiting.into_iter().all(|status| status.join().unwrap() == 101));
    });
    assert_eq!(publisher.asked(), asked + 1);
    // Within the pause nobody knows whether a key that is not there is a new one.
    assert_eq!(status(&new), 503);
    publisher.publish(&[&new]);
    thread::sleep(PAUSE);
    assert_eq!((status(&new), status(&old)), (101, 503));
    thread::sleep(PAUSE);
    assert_eq!(status(&old), 401, "the issuer was asked, and does not have the key");
    publisher.answer(None);
    thread::sleep(PAUSE);
    assert_eq!((status(&Signer::new("newer")), status(&new)), (503, 101));
    server.counts_until("the fetches", |counts| {
        counts.get("jwks_fetched_total") == 3 && counts.get("jwks_failed_total") == 3
    });
}

/// A reload while the issuer is down: its tokens are admitted by the keys that were fetched, unless the URL is another.
#[test]
fn keys_outlast_a_reload_while_their_issuer_is_down() {
    let (publisher, key) = (Publisher::start(), Signer::new("a"));
    publisher.publish(&[&key]);
    let file = |path: &str, rest: &str| {
        let url = format!("http://{}/{path}", publisher.address);
        let route = "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\njwt = \"login\"\n";
        format!("{route}[[issuers]]\nname = \"login\"\njwks_url = \"{url}\"\n{rest}")
    };
    let server = start("outlast", &file("keys", ""));
    let status = || {
        let outcome = open(server.address(), "/t/orders/42?mode=sub", &["access_token", &key.token()], &[]);
        outcome.map_or_else(|refusal| refusal.status(), |_| 101)
    };
    assert_eq!(status(), 101);
    publisher.answer(None);
    let mut reloads = 0;
    let mut reload = |file: &str, change: &str| {
        write("outlast", file);
        server.signal(Signal::HUP);
        reloads += 1;
        server.counts_until("a reload", |counts| counts.get("config_reloads_total") == reloads);
        server.log_until(&format!("reloaded issuer login: {change}"));
    };
    reload(&file("keys", "leeway = \"1s\"\n"), "earlier settings -> new settings");
    assert_eq!((status(), status()), (101, 101));
    server.counts_until("a fetch by the new settings", |counts| counts.get("jwks_failed_total") == 1);
    reload(&file("others", "leeway = \"1s\"\n"), "earlier keys -> new keys");
    assert_eq!(status(), 503);
}

/// After a reload no token is admitted by a key that the issuer has withdrawn. An issuer that does not answer delays
/// tokens, and refuses none.
#[test]
fn a_reload_fetches_the_keys_again() {
    let (publisher, old, new) = (Publisher::start(), Signer::new("old"), Signer::new("new"));
    publisher.publish(&[&old]);
    let file = |leeway: &str| {
        let url = format!("http://{}/keys", publisher.address);
        format!("[[issuers]]\nname = \"login\"\njwks_url = \"{url}\"\nleeway = \"{leeway}\"\n")
    };
    let server = start("again", &file("1s"));
    let status = |key: &Signer| {
        let outcome = open(server.address(), "/t/orders/42?mode=sub", &["access_token", &key.token()], &[]);
        outcome.map_or_else(|refusal| refusal.status(), |_| 101)
    };
    let reload = |leeway: &str, number: u64| {
        write("again", &file(leeway));
        server.signal(Signal::HUP);
        server.counts_until("a reload", |counts| counts.get("config_reloads_total") == number);
    };
    assert_eq!(status(&old), 101);
    publisher.publish(&[&new]);
    reload("2s", 1);
    assert_ne!(status(&old), 101);
    assert_eq!(status(&new), 101);
    // The publisher reads the request, and waits for its answer.
    let held = publisher.answer.lock().unwrap();
    reload("3s", 2);
    let begun = Instant::now();
    assert_eq!(status(&new), 101);
    assert!((4..9).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    drop(held);
}

/// The time between two fetches of an issuer's keys, and a little more.
const PAUSE: Duration = Duration::from_millis(5_100);

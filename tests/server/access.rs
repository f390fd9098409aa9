//! Bearer tokens, origins, and the place of the metrics. Each check runs on a shard, and again on the control thread,
//! which judges requests on a kept connection.

use std::{io::Write as _, net::SocketAddr};

use crate::support::{
    Client, Response, Server, clean, dial, exchange, post, program, published, read_response, take_response, text,
    upgrade_request,
};

const TOKENS: [&str; 6] = [
    "--publish-tokens",
    "s3cret-pub,s3cret-all",
    "--subscribe-tokens",
    "s3cret-sub,s3cret-all",
    "--metrics-tokens",
    "s3cret-met",
];

/// The header lines for browsers in every answer where origins are restricted.
const RESTRICTED: [(&str, &str); 4] = [
    ("vary", "origin, sec-fetch-site, sec-fetch-mode, sec-fetch-dest"),
    ("cross-origin-resource-policy", "same-origin"),
    ("content-security-policy", "frame-ancestors 'self'"),
    ("x-frame-options", "SAMEORIGIN"),
];

fn with(request: &str, line: &str) -> String {
    if line.is_empty() { request.into() } else { request.replacen("\r\n", &format!("\r\n{line}\r\n"), 1) }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Sends a request on a new connection and on a kept one. Returns the response; both must be alike.
fn ask(address: SocketAddr, request: &str) -> Response {
    let mut kept = dial(address);
    kept.write_all(get("/nothing").as_bytes()).unwrap();
    let (_, rest) = take_response(&mut kept, Vec::new(), true);
    assert!(rest.is_empty());
    kept.write_all(request.as_bytes()).unwrap();
    let (behind, _) = take_response(&mut kept, rest, true);
    let own = exchange(address, request);
    assert_eq!((own.status(), &own.body), (behind.status(), &behind.body), "{request}");
    for header in ["www-authenticate", "allow", "upgrade"] {
        assert_eq!(own.header(header), behind.header(header), "{request}");
    }
    own
}

/// RFC 6750 3.
#[test]
fn tokens() {
    let server = Server::start(&TOKENS);
    let address = server.address();
    // Checks the status and the challenge of a request with a token.
    let check = |request: &str, token: &str, expected: (u16, Option<&str>)| {
        let by_header = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}") };
        let response = ask(address, &with(request, &by_header));
        assert_eq!((response.status(), response.header("www-authenticate")), expected, "{request} {token}");
        let mark = if request.split(' ').nth(1).unwrap().contains('?') { "&" } else { "?" };
        let by_query = request.replacen(" HTTP/", &format!("{mark}access_token={token} HTTP/"), 1);
        if !token.is_empty() {
            let response = ask(address, &by_query);
            assert_eq!((response.status(), response.header("www-authenticate")), expected, "{by_query}");
        }
    };
    let missing = (401, Some("Bearer"));
    let invalid = (401, Some("Bearer error=\"invalid_token\""));
    let scope = (403, Some("Bearer error=\"insufficient_scope\""));
    let publish = post("/t/x", "", "x");
    for (token, expected) in [
        ("", missing),
        ("s3cret-wrong", invalid),
        ("s3cret-pu", invalid),
        ("s3cret-sub", scope),
        ("s3cret-met", scope),
        ("s3cret-pub", (202, None)),
        ("s3cret-all", (202, None)),
    ] {
        if expected.0 == 202 {
            published(&exchange(address, &with(&publish, &format!("Authorization: bearer {token}"))));
            published(&exchange(address, &post(&format!("/t/x?access_token={token}"), "", "x")));
        } else {
            check(&publish, token, expected);
        }
    }
    for (target, token, expected) in [
        ("/t/x", "", missing),
        ("/t/x", "s3cret-pub", scope),
        ("/t/x", "s3cret-sub", scope),
        ("/t/x?mode=sub", "s3cret-pub", scope),
        ("/t/x?mode=pub", "s3cret-sub", scope),
        ("/t/x?mode=pub", "s3cret-wrong", invalid),
    ] {
        check(&upgrade_request(target), token, expected);
    }
    for (target, token) in [
        ("/t/x", "s3cret-all"),
        ("/t/x?mode=sub", "s3cret-sub"),
        ("/t/x?mode=sub", "s3cret-all"),
        ("/t/x?mode=pub", "s3cret-pub"),
    ] {
        let mark = if target.contains('?') { '&' } else { '?' };
        server.connect(&format!("{target}{mark}access_token={token}")).leave();
    }
    check(&get("/metrics"), "", missing);
    check(&get("/metrics"), "s3cret-pub", scope);
    check(&get("/metrics?"), "", missing);
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(exchange(address, &get(path)).status(), 200);
    }
}

/// Logs, counters and answers do not repeat the tokens of clients.
#[test]
fn tokens_stay_secret() {
    let mut flags = TOKENS.to_vec();
    flags.extend(["--log", "trace"]);
    let mut server = Server::start(&flags);
    let address = server.address();
    for token in ["s3cret-all", "s3cret-pub", "s3cret-met", "s3cret-wrong"] {
        let line = format!("Authorization: Bearer {token}");
        for request in [post("/t/x", "", "x"), get("/metrics"), upgrade_request("/t/x")] {
            let by_query = request.replacen(" HTTP/", &format!("?access_token={token} HTTP/"), 1);
            for request in [with(&request, &line), by_query] {
                for first in [String::new(), get("/nothing")] {
                    let mut stream = dial(address);
                    stream.write_all((first.clone() + &request).as_bytes()).unwrap();
                    drop(stream.shutdown(std::net::Shutdown::Write));
                    let mut answers = Vec::new();
                    drop(std::io::Read::read_to_end(&mut stream, &mut answers));
                    assert!(!String::from_utf8_lossy(&answers).contains("s3cret"));
                }
            }
        }
    }
    // Clients that leave in the middle of a request are logged.
    for request in [post("/t/x?access_token=s3cret-all", "", "x"), upgrade_request("/t/x?access_token=s3cret-all")] {
        let half = with(&request, "Authorization: Bearer s3cret-pub");
        dial(address).write_all(&half.as_bytes()[..half.len() - 1]).unwrap();
    }
    let all = "Authorization: Bearer s3cret-met";
    let metrics = exchange(address, &with(&get("/metrics"), all));
    assert!(metrics.status() == 200 && !metrics.body.contains("s3cret"));
    let log = server.end();
    for refused in ["handshake: refused peer=127.0.0.1:", "service: refused peer=127.0.0.1:"] {
        let words = ["DEBUG", refused, "status=401", "cause=\"token\"", "path=\"/t/x\""];
        let is_told = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(is_told, "{words:?}: {log}");
    }
    let line = log.lines().find(|line| line.contains("s3cret"));
    assert!(line.is_none(), "{line:?}");
}

/// Pages of other origins are refused. Pages of allowed origins may read the answers (WHATWG Fetch, CORS).
#[test]
fn origins() {
    let server = Server::start(&["--allowed-origins", "https://a.example,http://b.example:81"]);
    let address = server.address();
    let from = |request: &str, origin: &str| ask(address, &with(request, &format!("Origin: {origin}")));
    for origin in ["http://a.example", "https://a.example:8443", "https://a.example.evil", "null", "x"] {
        for request in [upgrade_request("/t/x"), post("/t/x", "", "x"), get("/metrics")] {
            let response = from(&request, origin);
            assert_eq!((response.status(), response.header("access-control-allow-origin")), (403, None), "{origin}");
            assert!(response.error().contains("allowed_origins"), "{}", response.error());
        }
    }
    for origin in ["https://a.example", "http://b.example:81"] {
        let response = exchange(address, &with(&post("/t/x", "", "x"), &format!("Origin: {origin}")));
        published(&response);
        assert_eq!(response.header("access-control-allow-origin"), Some(origin));
        assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(response.header("vary"), Some(RESTRICTED[0].1));
        let refused = exchange(address, &with(&post("/t/", "", "x"), &format!("Origin: {origin}")));
        assert_eq!((refused.status(), refused.header("access-control-allow-origin")), (400, Some(origin)));
        let opening = with(&upgrade_request("/t/x"), &format!("Origin: {origin}"));
        let mut stream = dial(address);
        stream.write_all(opening.as_bytes()).unwrap();
        let mut status = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 101");
    }
    // Requests without an `Origin` come from no page.
    published(&exchange(address, &post("/t/x", "", "x")));
    server.connect("/t/x").leave();
}

/// A page can embed an answer that it cannot read. Then its browser sends no `Origin`, but says that the request is
/// cross-site (W3C Fetch Metadata). The browser withholds the answer if the answer's resource policy says so (WHATWG
/// Fetch).
#[test]
fn elements_of_foreign_pages() {
    let folder = std::env::temp_dir().join(format!("ringhub-access-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("data.js"), "secret = 1").unwrap();
    let file = folder.join("hub.toml");
    let allowed = "allowed_origins = \"https://a.example\"\n";
    let files = |path: &str| format!("[[routes]]\nmatch = \"{path}\"\ndocuments = \".\"\n");
    let topics = "[[routes]]\nmatch = \"/t/{topic}\"\nhandler = \"hub\"\n";
    let serve = |settings: &str| {
        std::fs::write(&file, settings).unwrap();
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(&file);
        Server::start_command(command)
    };
    let server = serve(&format!("{allowed}{}{topics}", files("/")));
    let script = ["Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"];
    let navigation = ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"];
    let check = |server: &Server, request: &str, lines: &[&str], expected: u16| {
        let request = lines.iter().fold(request.to_string(), |request, line| with(&request, line));
        let response = ask(server.address(), &request);
        assert_eq!(response.status(), expected, "{request}");
        for (name, value) in RESTRICTED {
            let found = response.header(name).unwrap_or_default();
            // The metrics have two formats.
            assert_eq!(found.strip_prefix("accept, ").unwrap_or(found), value, "{name} {request}");
        }
        // A cache finds answers by their URL, which contains neither the page's origin nor the kind of request.
        let is_kept = response.header("cache-control") != Some("no-store");
        assert_eq!(is_kept, expected < 400, "{request}");
        response
    };
    let data = get("/data.js");
    assert_eq!(check(&server, &data, &[], 200).body, "secret = 1");
    for site in ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"] {
        for request in [&data, &get("/metrics"), &get("/t/x"), &post("/t/x", "", "x")] {
            let response = check(&server, request, &[site, script[0], script[1]], 403);
            assert!(response.error().contains("allowed_origins"), "{}", response.error());
        }
        assert_eq!(exchange(server.address(), &with(&upgrade_request("/t/x"), site)).status(), 403);
        check(&server, &data, &[site, navigation[0], navigation[1]], 200);
        check(&server, &data, &[site, navigation[0], "Sec-Fetch-Dest: iframe"], 403);
        // An element with `crossorigin` and `fetch` send these lines.
        let cors = [site, "Sec-Fetch-Mode: cors", "Origin: https://a.example"];
        let response = check(&server, &data, &cors, 200);
        assert_eq!(response.header("access-control-allow-origin"), Some("https://a.example"));
    }
    check(&server, &data, &["Sec-Fetch-Site: same-origin", script[0], script[1]], 200);
    check(&server, &data, &["Sec-Fetch-Site: none", navigation[0], navigation[1]], 200);
    for own in ["/metrics", "/healthz", "/readyz"] {
        check(&server, &get(own), &[], 200);
    }
    check(&server, &get("/nothing.js"), &[], 404);
    // Only pages of one origin may use the second of these two folders.
    let server = serve(&format!("{}{}{allowed}", files("/open"), files("/own")));
    check(&server, &get("/own/data.js"), &["Sec-Fetch-Site: cross-site", script[0]], 403);
    check(&server, &get("/own/data.js"), &[], 200);
    let open = ask(server.address(), &with(&get("/open/data.js"), "Sec-Fetch-Site: cross-site"));
    assert_eq!((open.status(), RESTRICTED.map(|(name, _)| open.header(name))), (200, [None; 4]));
    drop(server);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The page has its own policy and, in addition, that of restricted origins.
#[test]
fn the_page_keeps_its_policy() {
    let page = Server::start(&["--allowed-origins", "https://a.example"]);
    let page = exchange(page.address(), &get("/"));
    let policies: Vec<&[u8]> = page.head.headers().get_all("content-security-policy").collect();
    assert!(policies[0].starts_with(b"default-src 'none'"), "{page:?}");
    assert_eq!(policies[1..], [RESTRICTED[2].1.as_bytes()]);
}

#[test]
fn a_browser_asks_before_it_publishes_with_a_token() {
    let server = Server::start(&["--allowed-origins", "https://a.example", "--publish-tokens", "s"]);
    let head = preflight(server.address(), "/t/x", "POST", "https://a.example");
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    for line in [
        "access-control-allow-origin: https://a.example",
        "access-control-allow-methods: get, post, delete",
        "access-control-allow-headers: authorization, content-type, cache-control, idempotency-key, if-none-match, \
         last-event-id",
        "access-control-allow-credentials: true",
        "vary: origin, sec-fetch-site, sec-fetch-mode, sec-fetch-dest",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    let head = preflight(server.address(), "/t/x", "POST", "https://b.example");
    assert!(!head.contains("access-control-allow-origin") && !head.contains("access-control-allow-credentials"));
}

/// Sends the preflight of a request with a token or a password, and returns the answer's head in lower case.
fn preflight(address: SocketAddr, target: &str, method: &str, origin: &str) -> String {
    let request = format!(
        "OPTIONS {target} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: {method}\r\n\
         Access-Control-Request-Headers: authorization,content-type\r\n\r\n"
    );
    let mut stream = dial(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// A folder with a file, served at `/site` to some origins with a password, and at `/open` to the server's origins.
struct Passwords(std::path::PathBuf);

impl Passwords {
    fn new(name: &str) -> Passwords {
        let folder = std::env::temp_dir().join(format!("ringhub-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("x"), "plan").unwrap();
        Passwords(folder)
    }

    fn serve(&self, settings: &str) -> Server {
        let files = |path: &str, rules: &str| {
            let users = "basic.users = { alice = \"secret\" }";
            format!("[[routes]]\nmatch = \"{path}\"\ndocuments = \".\"\n{rules}\n{users}\n")
        };
        let own = files("/site", "allowed_origins = [\"https://a.example\", \"null\"]");
        let file = self.0.join("hub.toml");
        std::fs::write(&file, format!("metrics_tokens = \"m\"\n{settings}\n{own}{}", files("/open", ""))).unwrap();
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(&file);
        Server::start_command(command)
    }
}

impl Drop for Passwords {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A preflight shows no password and no token, so its origin alone is judged.
#[test]
fn a_browser_asks_before_it_reads_with_a_password() {
    let folder = Passwords::new("preflights");
    // Checks which origin an answer allows, and whether it allows a password.
    let check = |server: &Server, target: &str, origin: &str, is_allowed: bool, has_password: bool| {
        let head = preflight(server.address(), target, "GET", origin);
        assert!(head.starts_with("http/1.1 204 "), "{target} {origin} {head}");
        for line in
            ["access-control-allow-methods: get, head", "access-control-allow-headers: authorization, content-type"]
        {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        assert_eq!(head.contains("access-control-allow-origin"), is_allowed, "{target} {origin} {head}");
        let line = format!("\r\naccess-control-allow-origin: {origin}\r\n");
        assert_eq!(head.contains(&line), is_allowed, "{target} {origin} {head}");
        let has_line = head.contains("\r\naccess-control-allow-credentials: true\r\n");
        assert_eq!(has_line, has_password, "{target} {origin} {head}");
    };
    let restricted = |server: &Server, target: &str| {
        check(server, target, "https://a.example", true, true);
        check(server, target, "https://b.example", false, false);
        // Any page can have a sandboxed frame with the origin `null`.
        check(server, target, "null", true, false);
    };
    let server = folder.serve("");
    for target in ["/site/x", "/site/nothing", "/site"] {
        restricted(&server, target);
    }
    for target in ["/open/x", "/metrics"] {
        check(&server, target, "https://a.example", true, false);
    }
    let server = folder.serve("allowed_origins = [\"https://a.example\", \"null\"]");
    for target in ["/open/x", "/metrics"] {
        restricted(&server, target);
    }
}

#[test]
fn pages_of_allowed_origins_read_with_a_password() {
    let folder = Passwords::new("passwords");
    let server = folder.serve("");
    let password = "Authorization: Basic YWxpY2U6c2VjcmV0";
    let read =
        |request: &str, line: &str| ask(server.address(), &with(&with(request, line), "Origin: https://a.example"));
    for (target, credentials) in [("/site/x", Some("true")), ("/open/x", None)] {
        let response = read(&get(target), password);
        assert_eq!((response.status(), &*response.body), (200, "plan"), "{target}");
        assert_eq!(response.header("access-control-allow-credentials"), credentials, "{target}");
        let response = read(&get(target), "");
        assert_eq!(response.status(), 401, "{target}");
        assert_eq!(response.header("access-control-allow-credentials"), credentials, "{target}");
    }
    let put = get("/site/x").replacen("GET", "PUT", 1);
    let refused = read(&put, password);
    assert_eq!((refused.status(), refused.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
    let refused = read(&put, "");
    assert_eq!((refused.status(), refused.header("allow")), (401, None));
}

/// If the metrics have their own address, they are only there, and nothing else is there.
#[test]
fn metrics_on_their_own_address() {
    // This port was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start(&["--metrics-listen", &port.to_string(), "--metrics-tokens", "m"]);
    let response = exchange(server.address(), &get("/metrics"));
    assert_eq!(response.status(), 404);
    assert!(response.error().contains("metrics_listen"), "{}", response.error());
    let authorized = with(&get("/metrics"), "Authorization: Bearer m");
    assert_eq!(exchange(server.address(), &authorized).status(), 404);
    assert_eq!(exchange(port, &get("/metrics")).status(), 401);
    let mut stream = dial(port);
    for _ in 0..2 {
        stream.write_all(authorized.as_bytes()).unwrap();
        let (response, _) = take_response(&mut stream, Vec::new(), true);
        assert!(response.status() == 200 && response.body.contains("ringhub_build_info"));
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(exchange(port, &get(path)).status(), 200);
    }
    for request in [get("/"), post("/t/x", "", "x"), upgrade_request("/t/x")] {
        let response = exchange(port, &request);
        assert_eq!(response.status(), 404, "{request}");
        assert!(response.error().contains("/metrics is here"), "{}", response.error());
    }
    let mut stream = dial(port);
    stream.write_all(b"GET /metrics HTTP/1.1\nHost: a\n\n").unwrap();
    assert_eq!(read_response(&mut stream, &[], true).status(), 400);
    let mut watcher = Client::connect(server.address(), "/t/x");
    published(&exchange(server.address(), &post("/t/x", "text/plain", "x")));
    watcher.expect(text("x"));
}

//! The client behind a trusted proxy, as rules, limits and logs see it; the causes of refusals in the log. The test is
//! the proxy itself: it writes the header lines that a proxy writes.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::PathBuf,
};

use crate::support::{
    Client, Response, Server, ask, clean, dial, dial_from, exchange, post, program, published, request, take_response,
    text, upgrade_request,
};

/// The proxy, which the servers of these tests trust.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// An address that they do not trust.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// A server whose topics are for one network. A drop removes its settings.
struct Hub {
    server: Server,
    folder: PathBuf,
}

impl Hub {
    fn start(name: &str, flags: &[&str]) -> Hub {
        let folder = std::env::temp_dir().join(format!("ringhub-trusted-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("ringhub.toml");
        let settings = r#"
            [[routes]]
            match = "/t/{topic...}"
            handler = "hub"
            network = { allow = ["203.0.113.0/24", "2001:db8::/32"] }
        "#;
        fs::write(&file, settings).unwrap();
        let mut command = clean(program());
        command.args(["serve", "--shards", "2", "--config"]).arg(file);
        command.args(["--trusted-proxies", "127.0.0.3,10.0.0.0/8"]).args(flags);
        Hub { server: Server::start_command(command), folder }
    }

    fn from(&self, address: Ipv4Addr) -> TcpStream {
        dial_from(self.server.address(), Some(IpAddr::V4(address)), None)
    }

    /// Returns the status of an opening request and of a POST with this header line, which must be alike. Each is sent
    /// as the first request of its connection and as a later one.
    fn status(&self, from: Ipv4Addr, line: &str) -> u16 {
        let publish = with(&post("/t/x", "text/plain", "x"), line);
        let kept = || {
            let mut stream = self.from(from);
            assert_eq!(ask(&mut stream, &request("GET", "/nothing")).status(), 404);
            stream
        };
        let of_posts = [ask(&mut self.from(from), &publish).status(), ask(&mut kept(), &publish).status()];
        let of_openings = [opening(self.from(from), line), opening(kept(), line)];
        assert_eq!(of_posts[0], of_posts[1], "{line}");
        assert_eq!(of_openings[0], of_openings[1], "{line}");
        let expected = if of_openings[0] == 101 { 202 } else { of_openings[0] };
        assert_eq!(of_posts[0], expected, "{line}");
        of_openings[0]
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// Adds a header line, or several.
fn with(request: &str, lines: &str) -> String {
    if lines.is_empty() { request.into() } else { request.replacen("\r\n", &format!("\r\n{lines}\r\n"), 1) }
}

/// Returns the status of the answer to an opening request with these header lines.
fn opening(stream: TcpStream, lines: &str) -> u16 {
    let headers: Vec<(&str, &str)> = lines.lines().map(|line| line.split_once(": ").unwrap()).collect();
    match Client::open_with(stream, "/t/x", &[], &headers) {
        Ok(client) => {
            client.leave();
            101
        }
        Err(response) => response.status(),
    }
}

/// Opens a WebSocket through the proxy for a client.
fn open(hub: &Hub, client: &str) -> Result<Client, Response> {
    Client::open_with(hub.from(PROXY), "/t/x", &[], &[("X-Forwarded-For", client)])
}

#[test]
fn rules_see_the_client_behind_a_trusted_proxy() {
    let hub = Hub::start("rules", &[]);
    for (from, line, expected) in [
        (PROXY, "X-Forwarded-For: 203.0.113.9", 101),
        (PROXY, "X-Forwarded-For: 2001:db8::9", 101),
        (PROXY, "X-Forwarded-For: [2001:db8::9]:4711", 101),
        (PROXY, "X-Forwarded-For: ::ffff:203.0.113.9", 101),
        (PROXY, "X-Forwarded-For: 198.51.100.1", 403),
        // A client's own line, and what the proxy has appended.
        (PROXY, "X-Forwarded-For: 203.0.113.9, 198.51.100.1", 403),
        (PROXY, "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 198.51.100.1", 403),
        (PROXY, "X-Forwarded-For: 198.51.100.1, 203.0.113.9", 101),
        // Through a second proxy.
        (PROXY, "X-Forwarded-For: 203.0.113.9, 10.1.2.3", 101),
        (PROXY, "X-Forwarded-For: 198.51.100.1, 10.1.2.3", 403),
        // The proxy's own address is not in the network.
        (PROXY, "", 403),
        (PROXY, "X-Forwarded-For: 203.0.113.9, unknown", 403),
        (PROXY, "Forwarded: for=203.0.113.9", 403),
        // Anybody else is not believed.
        (STRANGER, "X-Forwarded-For: 203.0.113.9", 403),
        (STRANGER, "", 403),
    ] {
        assert_eq!(hub.status(from, line), expected, "{from} {line}");
    }
    let hub = Hub::start("rfc", &["--client-address", "forwarded"]);
    for (from, line, expected) in [
        (PROXY, "Forwarded: for=\"203.0.113.9:80\";proto=https", 101),
        (PROXY, "Forwarded: for=203.0.113.9, for=198.51.100.1", 403),
        (PROXY, "Forwarded: for=\", for=198.51.100.1\r\nX-Forwarded-For: 203.0.113.9", 403),
        (PROXY, "X-Forwarded-For: 203.0.113.9", 403),
        (STRANGER, "Forwarded: for=203.0.113.9", 403),
    ] {
        assert_eq!(hub.status(from, line), expected, "{from} {line}");
    }
    let hub = Hub::start("none", &["--client-address", "none"]);
    let lines = "Forwarded: for=203.0.113.9\r\nX-Forwarded-For: 203.0.113.9";
    assert_eq!(hub.status(PROXY, lines), 403);
}

/// Each request of a kept connection has a client of its own.
#[test]
fn a_kept_connection_carries_many_clients() {
    let hub = Hub::start("kept", &[]);
    let mut kept = hub.from(PROXY);
    // 426: the client may use the topic, and has asked for no upgrade.
    for (client, expected) in [("203.0.113.1", 426), ("198.51.100.1", 403), ("203.0.113.2", 426), ("unknown", 403)] {
        let request = with(&request("GET", "/t/x?mode=sub"), &format!("X-Forwarded-For: {client}"));
        assert_eq!(ask(&mut kept, &request).status(), expected, "{client}");
    }
    let client = Client::open_with(kept, "/t/x", &[], &[("X-Forwarded-For", "203.0.113.3")]);
    client.expect("this client is in the network").leave();
}

#[test]
fn logs_have_the_client_and_the_proxy() {
    let hub = Hub::start("logs", &["--log", "ringhub=debug"]);
    assert_eq!(hub.status(PROXY, "X-Forwarded-For: 198.51.100.7:77"), 403);
    assert_eq!(hub.status(STRANGER, "X-Forwarded-For: 198.51.100.8"), 403);
    open(&hub, "203.0.113.9").unwrap().leave();
    // Two openings and two posts.
    let refused = hub.server.log_lines("peer=198.51.100.7:77", 4);
    assert_eq!(refused.len(), 4, "{refused:?}");
    for line in refused {
        assert!(line.contains("proxy=127.0.0.3:") && line.contains("cause=\"forbidden\""), "{line}");
    }
    // The lines at the level of information say no address.
    let forbidden = hub.server.log_lines("cause=\"forbidden\"", 8);
    let direct: Vec<&String> = forbidden.iter().filter(|line| line.contains("peer=127.0.0.4:")).collect();
    assert!(direct.len() == 4 && direct.iter().all(|line| !line.contains("proxy=")), "{forbidden:?}");
    assert!(!hub.server.log().contains("198.51.100.8"), "{}", hub.server.log());
}

#[test]
fn connections_are_counted_by_their_client() {
    let hub = Hub::start("counts", &["--max-connections-per-address", "2", "--body-timeout", "1h"]);
    let line = |client: &str| format!("X-Forwarded-For: {client}");
    let publish = |client: &str| with(&post("/t/x", "text/plain", "x"), &line(client));
    // The proxy's own sockets are not counted.
    let idle: Vec<TcpStream> = (0..5).map(|_| hub.from(PROXY)).collect();
    let mut first = open(&hub, "203.0.113.1").unwrap();
    let second = open(&hub, "203.0.113.1, 10.0.0.1").unwrap();
    let refused = open(&hub, "203.0.113.1").err().unwrap();
    assert_eq!((refused.status(), refused.header("retry-after")), (429, Some("1")));
    // Requests count too, on the proxy's kept connection, which goes on for others.
    let mut kept = hub.from(PROXY);
    let get = |target: &str, client: &str| with(&request("GET", target), &line(client));
    assert_eq!(ask(&mut kept, &get("/t/x?mode=sub", "203.0.113.1")).status(), 429);
    published(&ask(&mut kept, &publish("203.0.113.2")));
    let refused = Client::open_with(kept, "/t/x", &[], &[("X-Forwarded-For", "203.0.113.1")]).err().unwrap();
    assert_eq!(refused.status(), 429);
    // Health is answered for everybody, and so are the metrics.
    for target in ["/healthz", "/metrics"] {
        assert_eq!(ask(&mut hub.from(PROXY), &get(target, "203.0.113.1")).status(), 200);
    }
    hub.server.expect_counts(&[("refused_total{cause=\"address\"}", 3)]);
    // The end of a connection makes room.
    second.leave();
    hub.server.expect_counts(&[("connections_open", 1)]);
    published(&ask(&mut hub.from(PROXY), &publish("203.0.113.1")));
    (0..2).for_each(|_| first.expect(text("x")));
    // A request counts while it is under way.
    let mut slow = hub.from(PROXY);
    let whole = publish("203.0.113.1");
    slow.write_all(&whole.as_bytes()[..whole.len() - 1]).unwrap();
    let is_full = |_: &_| ask(&mut hub.from(PROXY), &publish("203.0.113.1")).status() == 429;
    hub.server.counts_until("a request under way counts", is_full);
    slow.write_all(&whole.as_bytes()[whole.len() - 1..]).unwrap();
    published(&take_response(&mut slow, Vec::new(), true).0);
    published(&ask(&mut slow, &publish("203.0.113.1")));
    // An address without a proxy is counted by its sockets.
    let direct = [hub.from(STRANGER), hub.from(STRANGER)];
    let is_full = |_: &_| opening(hub.from(STRANGER), &line("203.0.113.3")) == 429;
    hub.server.counts_until("sockets count", is_full);
    drop((idle, direct));
}

/// Returns the lines at the level of information that say that a request was refused.
fn causes(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("a request was refused")).collect()
}

#[test]
fn refusals_have_their_cause_in_the_log() {
    let server =
        Server::start(&["--shards", "1", "--publish-tokens", "s3cret", "--allowed-origins", "https://a.example"]);
    let address = server.address();
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let foreign = |request: &str| with(request, "Origin: https://secret-page.example");
    // On the shard, and on the control thread.
    for (request, status, cause) in [
        (upgrade_request("/t/secret-topic?access_token=secret-guess"), 401, "token"),
        (foreign(&upgrade_request("/t/secret-topic")), 403, "forbidden"),
        (upgrade_request("/t/secret-topic?mode=secret-mode"), 400, "malformed"),
        (get("/secret-path"), 404, "not_found"),
        (get("/t/secret-topic?mode=sub"), 426, "upgrade"),
        (post("/healthz", "", "secret-body"), 405, "method"),
    ] {
        for _ in 0..3 {
            assert_eq!(exchange(address, &request).status(), status, "{request}");
        }
        server.log_until(&format!("cause=\"{cause}\""));
        let log = server.log();
        let lines: Vec<&str> = causes(&log).into_iter().filter(|line| line.contains(cause)).collect();
        let [line] = lines[..] else { panic!("{cause}: {log}") };
        assert!(line.contains(" INFO ") && line.contains(&format!("status={status}")), "{line}");
        assert!(line.contains("suppressed=0"), "{line}");
    }
    let log = server.log();
    assert!(!log.contains("secret"), "{log}");
    assert_eq!(causes(&log).len(), 6, "{log}");
}

/// RFC 6455 4.2.2: a client is served without a subprotocol that the server does not know. Browsers fail such a
/// connection, so the log says how to mend it.
#[test]
fn unknown_subprotocols() {
    let folder = std::env::temp_dir().join(format!("ringhub-subprotocols-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("ringhub.toml");
    let settings = r#"
        [[routes]]
        match = "/known"
        handler = "echo"
        protocols = ["v2.echo", "v1.echo"]

        [[routes]]
        match = "/any"
        handler = "echo"
        protocols = ["*"]

        [[routes]]
        match = "/others"
        handler = "echo"
        protocols = ["v2.echo", "*"]
    "#;
    fs::write(&file, settings).unwrap();
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file);
    let server = Server::start_command(command);
    let check = |target: &str, offered: &[&str], expected: Option<&str>| {
        let client = Client::open_with(dial(server.address()), target, offered, &[]).unwrap();
        assert_eq!(client.protocol(), expected, "{target} {offered:?}");
        client.leave();
    };
    check("/any", &["secret-name", "v2.echo"], Some("secret-name"));
    check("/any", &[], None);
    check("/others", &["secret-name", "v2.echo"], Some("v2.echo"));
    check("/others", &["secret-name", "x"], Some("secret-name"));
    check("/known", &["x", "v1.echo"], Some("v1.echo"));
    check("/known", &[], None);
    assert!(!server.log().contains("subprotocol"), "{}", server.log());
    check("/known", &["secret-name"], None);
    check("/known", &["secret-name"], None);
    server.log_until("browsers fail such a connection");
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("cause=\"subprotocol\"")).collect();
    let [line] = lines[..] else { panic!("{log}") };
    assert!(line.contains(" INFO ") && line.contains("route=/known") && line.contains("put \"*\" there"), "{line}");
    assert!(!log.contains("secret-name"), "{log}");
    // The catch-all comes last.
    fs::write(&file, settings.replace("[\"v2.echo\", \"*\"]", "[\"*\", \"v2.echo\"]")).unwrap();
    let mut check_config = clean(program());
    check_config.args(["check-config", "--config"]).arg(&file);
    let output = check_config.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("\"*\" stands for any subprotocol"), "{error}");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn settings_of_proxies() {
    let check = |flags: &[&str], expected: Result<&str, &str>| {
        let mut command = clean(program());
        command.arg("check-config").args(flags);
        let output = command.output().unwrap();
        let shown =
            String::from_utf8_lossy(if expected.is_ok() { &output.stdout } else { &output.stderr }).into_owned();
        let (Ok(part) | Err(part)) = expected;
        assert_eq!(output.status.success(), expected.is_ok(), "{flags:?} {output:?}");
        assert!(shown.contains(part), "{flags:?} {output:?}");
    };
    check(&["--trusted-proxies", "10.0.0.0/8,192.0.2.1"], Ok("trusted_proxies = [\"10.0.0.0/8\", \"192.0.2.1/32\"]"));
    check(&["--trusted-proxies", "10.0.0.1/8"], Err("\"10.0.0.1/8\" is no network; write it like 10.0.0.0/8"));
    check(&["--trusted-proxies", "proxy.example"], Err("is no network"));
    check(&["--client-address", "x-real-ip"], Err("is none of x-forwarded-for, forwarded, none"));
}

//! The hub behind common proxies, which reuse their connections, so that an opening request comes after other requests.
//! `tests/run` installs the proxies and runs these tests; `cargo test --test server -- --ignored behind_` runs them
//! alone.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::event_stream::stream_request;
use crate::support::{
    Client, DEADLINE, Response, Server, ask, binary, clean, dial, dial_from, pattern, post, program, published,
    request, text, upgrade_request,
};

#[test]
#[ignore = "needs nginx; tests/run"]
fn behind_nginx() {
    check(true, nginx);
    check_client(ClientIn::Request, nginx);
}

#[test]
#[ignore = "needs haproxy; tests/run"]
fn behind_haproxy() {
    check(true, haproxy);
    check_client(ClientIn::Request, haproxy);
}

/// HAProxy names the client of each connection, by both versions of the PROXY protocol.
#[test]
#[ignore = "needs haproxy; tests/run"]
fn behind_haproxy_by_the_proxy_protocol() {
    for version in ["send-proxy-v2", "send-proxy"] {
        check_client(ClientIn::Connection, |folder, hub, own| {
            let own = ("bind :80", format!("bind {own}"));
            let server = ("server hub 127.0.0.1:6456 send-proxy-v2", format!("server hub {hub} {version}"));
            start_haproxy(folder, &of_the_page("haproxy", 1, &[own, server]))
        });
    }
}

#[test]
#[ignore = "needs caddy; tests/run"]
fn behind_caddy() {
    check(false, caddy);
    check_client(ClientIn::Request, caddy);
}

fn nginx(folder: &str, hub: SocketAddr, own: SocketAddr) -> Command {
    let config = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr;
         events {{}}
         http {{
           access_log off;
           client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
           uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
           {}
         }}",
        of_the_page(
            "nginx",
            0,
            &[("server 127.0.0.1:6455;", format!("server {hub};")), ("listen 80;", format!("listen {own};"))]
        )
    );
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-c"]).arg(write(folder, &config));
    command
}

fn haproxy(folder: &str, hub: SocketAddr, own: SocketAddr) -> Command {
    let own = ("bind :80 ", format!("bind {own} "));
    let server = ("server hub 127.0.0.1:6455", format!("server hub {hub}"));
    start_haproxy(folder, &of_the_page("haproxy", 0, &[own, server]))
}

fn start_haproxy(folder: &str, config: &str) -> Command {
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(write(folder, &format!("global\n  maxconn 200\n{config}")));
    command
}

fn caddy(folder: &str, hub: SocketAddr, own: SocketAddr) -> Command {
    // The test uses no TLS, which would need a certificate.
    let own = ("hub.example {", format!("http://:{} {{\n  bind 127.0.0.1", own.port()));
    let config = of_the_page("caddyfile", 0, &[own, ("reverse_proxy 127.0.0.1:6455", format!("reverse_proxy {hub}"))]);
    let config = format!("{{\n  admin off\n  auto_https off\n}}\n{config}");
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(write(folder, &config));
    command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
    command
}

/// Reads an event stream through a proxy, which holds no event back.
fn check_stream(proxy: &Proxy) {
    let mut stream = dial(proxy.address);
    stream.write_all(stream_request("/t/stream", "").as_bytes()).unwrap();
    let mut text = String::new();
    let mut until = |what: &str| {
        while !text.contains(what) {
            let mut bytes = [0; 4_096];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "the stream ends without {what:?}: {text}");
            text += str::from_utf8(&bytes[..count]).unwrap();
        }
    };
    until("event: ready\n");
    for round in 0..3 {
        published(&ask(&mut dial(proxy.address), &post("/t/stream", "text/plain", &format!("event {round}"))));
        until(&format!("data: event {round}\n"));
    }
}

/// Alternates posts and WebSockets through a proxy that reuses its connections, for opening requests too if
/// `upgrades_kept`.
fn check(upgrades_kept: bool, command: impl Fn(&str, SocketAddr, SocketAddr) -> Command) {
    let server = Server::start(&["--shards", "2", "--ping-interval", "0"]);
    let proxy = Proxy::start(|folder, own| command(folder, server.address(), own));
    let mut poster = dial(proxy.address);
    let mut offset = 0;
    let mut publish = |body: &str, others: u64| {
        let response = ask(&mut poster, &post("/t/x", "text/plain", body));
        offset += 1 + others;
        assert_eq!(published(&response).2, offset);
    };
    (0..20).for_each(|_| publish("before", 0));
    let reused = server.counts();
    assert_eq!(reused.get("http_requests_total"), 20, "{reused:?}");
    assert!(reused.get("http_connections_total") <= 2, "the proxy reuses nothing: {reused:?}");
    // Each WebSocket may open on the connection of the post before it.
    let mut clients: Vec<Client> = Vec::new();
    for round in 0..10 {
        publish(&format!("post {round}"), if round == 0 { 0 } else { 2 });
        clients.iter_mut().for_each(|client| client.expect(text(&format!("post {round}"))));
        clients.push(Client::connect(proxy.address, "/t/x?echo=true"));
        clients[round].send_text(&format!("message {round}"));
        clients.iter_mut().for_each(|client| client.expect(text(&format!("message {round}"))));
        // This message is larger than the proxy's buffers.
        let large = pattern(round, 300_000);
        clients[round].send_binary(&large);
        clients.iter_mut().for_each(|client| client.expect(binary(&large)));
        // After a refusal the proxy goes on.
        let refused = ask(&mut dial(proxy.address), &upgrade_request("/t/x?echo=1"));
        assert_eq!(refused.status(), 400, "{refused:?}");
    }
    let counts = server.counts();
    assert_eq!((counts.get("opened_total"), counts.get("connections_open")), (10, 10), "{counts:?}");
    assert_eq!(counts.get("http_returned_total") > 0, upgrades_kept, "{counts:?}");
    clients.into_iter().for_each(Client::leave);
    server.expect_counts(&[("connections_open", 0), ("aborted_total", 0)]);
    check_stream(&proxy);
}

/// The place where a proxy names its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientIn {
    /// A header line of each request.
    Request,
    /// A header of the PROXY protocol, in front of the first request.
    Connection,
}

/// Checks that a hub behind a trusted proxy sees the addresses of its clients in rules, limits and logs, and that
/// nobody takes another address.
fn check_client(named: ClientIn, command: impl Fn(&str, SocketAddr, SocketAddr) -> Command) {
    let [friend, stranger] = [Ipv4Addr::new(127, 0, 0, 9), Ipv4Addr::new(127, 0, 0, 8)];
    // This port was free a moment ago, on an address that no client of these tests uses for its own end.
    let proxied = TcpListener::bind("127.77.0.3:0").unwrap().local_addr().unwrap();
    let protocol =
        if named == ClientIn::Connection { format!("proxy_protocol = [\"{proxied}\"]") } else { String::new() };
    let settings = format!(
        r#"
        listen = ["127.0.0.1:0", "{proxied}"]
        {protocol}
        trusted_proxies = ["127.0.0.1"]
        max_connections_per_address = 4
        log = "ringhub=debug"
        shards = 2
        [[routes]]
        match = "/t/{{topic...}}"
        handler = "hub"
        network = {{ allow = ["{friend}"] }}
        "#
    );
    let server = {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("behind-{}.toml", proxied.port()));
        fs::write(&file, settings).unwrap();
        let mut server = clean(program());
        server.args(["serve", "--config"]).arg(&file);
        let server = Server::start_at(server);
        fs::remove_file(file).unwrap();
        server
    };
    let proxy = Proxy::start(|folder, own| command(folder, proxied, own));
    let to_proxy = |own: Ipv4Addr| dial_from(proxy.address, Some(IpAddr::V4(own)), None);
    let open = |stream, lines: &[(&str, &str)]| Client::open_with(stream, "/t/x", &[], lines);
    let publish = |lines: &str| post("/t/x", "text/plain", "x").replacen("\r\n", &format!("\r\n{lines}"), 1);

    let forged = [("X-Forwarded-For", "127.0.0.9"), ("Forwarded", "for=127.0.0.9"), ("X-Real-IP", "127.0.0.9")];
    let forged_lines: String = forged.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    open(to_proxy(friend), &[]).expect("the friend is in the network").leave();
    published(&ask(&mut to_proxy(friend), &publish("")));
    for (lines, text) in [(&[][..], ""), (&forged, &forged_lines)] {
        assert_eq!(open(to_proxy(stranger), lines).err().unwrap().status(), 403, "{text}");
        assert_eq!(ask(&mut to_proxy(stranger), &publish(text)).status(), 403, "{text}");
    }
    // Past the proxy.
    let direct = |own: Ipv4Addr| dial_from(server.address(), Some(IpAddr::V4(own)), None);
    assert_eq!(open(direct(stranger), &forged).err().unwrap().status(), 403);
    assert_eq!(ask(&mut direct(stranger), &publish(&forged_lines)).status(), 403);
    // A header of the PROXY protocol by the client is a malformed request for the proxy, or for the hub.
    let header = "PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\n";
    let mut forging = to_proxy(stranger);
    forging.write_all(format!("{header}{}", publish("")).as_bytes()).unwrap();
    let mut begin = [0; 12];
    forging.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 400");

    let clients: Vec<Client> = (0..4).map(|_| until_open(|| open(to_proxy(friend), &[]))).collect();
    assert_eq!(open(to_proxy(friend), &[]).err().unwrap().status(), 429);
    assert_eq!(ask(&mut to_proxy(stranger), &request("GET", "/healthz")).status(), 200);
    clients.into_iter().for_each(Client::leave);

    server.log_until("peer=127.0.0.8:");
    let log = server.log();
    let refused: Vec<&str> =
        log.lines().filter(|line| line.contains("\"forbidden\"") && line.contains("peer=")).collect();
    assert!(refused.iter().all(|line| line.contains("peer=127.0.0.8:")), "{log}");
    let through = refused.iter().filter(|line| line.contains("proxy=127.0.0.1:")).count();
    assert_eq!((refused.len(), through), (6, 4), "{log}");
}

/// Opens a connection as soon as connections before it have ended.
fn until_open(open: impl Fn() -> Result<Client, Response>) -> Client {
    let begin = Instant::now();
    loop {
        if let Ok(client) = open() {
            return client;
        }
        assert!(begin.elapsed() < DEADLINE, "there is no room");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a proxy's configuration from docs/deploy.md, the nth in this language, with the test's addresses in place of
/// those on the page.
fn of_the_page(language: &str, nth: usize, addresses: &[(&str, String)]) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deploy.md")).unwrap();
    let config =
        page.split(&format!("```{language}\n")).nth(1 + nth).and_then(|rest| rest.split("```").next()).unwrap();
    let mut config = config.to_owned();
    for (address, actual) in addresses {
        assert_eq!(config.matches(address).count(), 1, "{config}");
        config = config.replace(address, actual);
    }
    config
}

/// A proxy and its folder. A drop ends both.
struct Proxy {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Proxy {
    fn start(command: impl Fn(&str, SocketAddr) -> Command) -> Proxy {
        // This port was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("proxy-{}", address.port()));
        fs::create_dir_all(&folder).unwrap();
        let mut command = command(folder.to_str().unwrap(), address);
        command.stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut proxy = Proxy { child, address, folder };
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < DEADLINE, "the proxy does not listen: {ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The proxy may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn write(folder: &str, config: &str) -> PathBuf {
    let path = Path::new(folder).join("config");
    fs::write(&path, config).unwrap();
    path
}

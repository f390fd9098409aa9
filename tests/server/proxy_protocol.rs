//! Addresses at which each connection begins with a header of the PROXY protocol. The test is the proxy itself.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use crate::support::{
    Client, Server, ask, clean, dial_from, post, program, published, request, take_response, text, upgrade_request,
};

/// The proxy, which the servers of these tests trust.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// An address that they do not trust.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// A server whose topics are for one network, with a plain address and one for the PROXY protocol. A drop removes its
/// settings.
struct Hub {
    server: Server,
    /// The address at which connections begin with a header.
    proxied: SocketAddr,
    folder: PathBuf,
}

impl Hub {
    fn start(name: &str, flags: &[&str]) -> Hub {
        let folder = std::env::temp_dir().join(format!("ringhub-proxy-protocol-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("ringhub.toml");
        // This port was free a moment ago, on an address that no client of these tests uses for its own end.
        let proxied = TcpListener::bind("127.77.0.2:0").unwrap().local_addr().unwrap();
        let settings = format!(
            r#"
            listen = ["127.0.0.1:0", "{proxied}"]
            proxy_protocol = ["{proxied}"]
            trusted_proxies = ["127.0.0.3", "10.0.0.0/8"]
            shards = 2
            [[routes]]
            match = "/t/{{topic...}}"
            handler = "hub"
            network = {{ allow = ["203.0.113.0/24", "2001:db8::/32"] }}
            "#
        );
        fs::write(&file, settings).unwrap();
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(file).args(flags);
        Hub { server: Server::start_at(command), proxied, folder }
    }

    /// Connects to the address of the PROXY protocol, and sends the header.
    fn proxied(&self, from: Ipv4Addr, header: &[u8]) -> TcpStream {
        let mut stream = dial_from(self.proxied, Some(IpAddr::V4(from)), None);
        stream.write_all(header).unwrap();
        stream
    }

    /// Opens a WebSocket behind a header, and returns the status.
    fn status(&self, header: &[u8]) -> u16 {
        match Client::open(self.proxied(PROXY, header), "/t/x", &[]) {
            Ok(client) => {
                client.leave();
                101
            }
            Err(response) => response.status(),
        }
    }

    /// Checks that a connection that begins with these bytes is closed without an answer, and logged and counted.
    fn check_closed(&self, from: Ipv4Addr, bytes: &[u8], fault: &str) {
        let before = self.server.counts().get("refused_total{cause=\"proxy_header\"}");
        let mut stream = dial_from(self.proxied, Some(IpAddr::V4(from)), None);
        // The server may have closed the connection already.
        drop(stream.write_all(bytes));
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{fault}"),
        }
        assert!(answer.is_empty(), "{fault}: {}", String::from_utf8_lossy(&answer));
        let name = "refused_total{cause=\"proxy_header\"}";
        self.server.counts_until("the refusal is counted", |counts| counts.get(name) == before + 1);
        self.server.log_until(&format!("cause=\"proxy_header\" fault=\"{fault}\""));
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn v1(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let own = if client.contains(':') { "::1" } else { "127.0.0.1" };
    format!("PROXY {family} {client} {own} 4711 443\r\n").into_bytes()
}

/// Returns a header of version 2: command, family and rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length[..], rest].concat()
}

fn v2_of(client: [u8; 4]) -> Vec<u8> {
    v2(0x21, 0x11, &[&client[..], &[127, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb]].concat())
}

#[test]
fn rules_see_the_client_of_a_header() {
    let hub = Hub::start("rules", &[]);
    let with_fields = v2(0x21, 0x11, &[&[203, 0, 113, 9, 127, 0, 0, 1, 0, 1, 0, 2][..], &[4, 0, 3, 0, 0, 0]].concat());
    for (header, expected) in [
        (v1("203.0.113.9"), 101),
        (v1("2001:db8::9"), 101),
        (v1("::ffff:203.0.113.9"), 101),
        (v1("198.51.100.1"), 403),
        (v2_of([203, 0, 113, 9]), 101),
        (with_fields, 101),
        (v2_of([198, 51, 100, 1]), 403),
        // The proxy's own address is not in the network.
        (b"PROXY UNKNOWN\r\n".to_vec(), 403),
        (v2(0x20, 0, &[]), 403),
        (v2(0x20, 0x11, &[203, 0, 113, 9, 127, 0, 0, 1, 0, 1, 0, 2]), 403),
        (v2(0x21, 0, b"anything"), 403),
    ] {
        assert_eq!(hub.status(&header), expected, "{:?}", String::from_utf8_lossy(&header));
    }
    // The client of a header is no proxy, so its own lines are not read.
    let forged = [("X-Forwarded-For", "203.0.113.9")];
    let client = Client::open_with(hub.proxied(PROXY, &v1("198.51.100.1")), "/t/x", &[], &forged);
    assert_eq!(client.err().unwrap().status(), 403);
    // A proxy for connections in front of a proxy for requests.
    let client = Client::open_with(hub.proxied(PROXY, &v1("10.0.0.9")), "/t/x", &[], &forged);
    client.expect("the second proxy is believed").leave();
    // A proxy that names no client has not read the lines behind its header: they are those of a stranger.
    for header in [&b"PROXY UNKNOWN\r\n"[..], &v2(0x20, 0, &[]), &v2(0x21, 0, b"anything")] {
        let client = Client::open_with(hub.proxied(PROXY, header), "/t/x", &[], &forged);
        assert_eq!(client.err().expect("nobody is believed").status(), 403);
        // On the control thread too, and back on a shard.
        let mut kept = hub.proxied(PROXY, header);
        let forged_line = "Host: a\r\nX-Forwarded-For: 203.0.113.9\r\n";
        let posted = post("/t/x", "text/plain", "x").replace("Host: a\r\n", forged_line);
        assert_eq!(
            ask(&mut kept, &posted.replace("Content-Length: 1\r\n\r\nx", "Content-Length: 0\r\n\r\n")).status(),
            403
        );
        assert_eq!(Client::open_with(kept, "/t/x", &[], &forged).err().expect("nobody is believed").status(), 403);
    }
    // A check of the balancer's own.
    assert_eq!(ask(&mut hub.proxied(PROXY, &v2(0x20, 0, &[])), &request("GET", "/healthz")).status(), 200);
    // The other address takes no header.
    let mut plain = dial_from(hub.server.address(), Some(IpAddr::V4(PROXY)), None);
    plain.write_all(&[&v1("203.0.113.9")[..], request("GET", "/healthz").as_bytes()].concat()).unwrap();
    assert_eq!(take_response(&mut plain, Vec::new(), true).0.status(), 400);
}

/// All requests of a connection have the client of its header, on the control thread and back on a shard.
#[test]
fn a_header_holds_for_the_whole_connection() {
    let hub = Hub::start("whole", &["--log", "ringhub=debug"]);
    let mut kept = hub.proxied(PROXY, &v2_of([203, 0, 113, 9]));
    published(&ask(&mut kept, &post("/t/x", "text/plain", "x")));
    published(&ask(&mut kept, &post("/t/x", "text/plain", "x")));
    Client::open(kept, "/t/x", &[]).expect("it becomes a WebSocket").leave();
    let mut kept = hub.proxied(PROXY, &v1("198.51.100.7"));
    for _ in 0..2 {
        assert_eq!(ask(&mut kept, &request("GET", "/t/x?mode=sub")).status(), 403);
    }
    assert_eq!(Client::open(kept, "/t/x", &[]).err().unwrap().status(), 403);
    let refused = hub.server.log_lines("peer=198.51.100.7:4711", 3);
    assert!(refused.len() == 3 && refused.iter().all(|line| line.contains("proxy=127.0.0.3:")), "{refused:?}");
}

#[test]
fn a_header_may_arrive_byte_by_byte() {
    let hub = Hub::start("bytes", &[]);
    for header in [v1("203.0.113.9"), v2_of([203, 0, 113, 9])] {
        let mut stream = hub.proxied(PROXY, b"");
        for byte in header.iter().chain(upgrade_request("/t/x?mode=sub").as_bytes()) {
            stream.write_all(&[*byte]).unwrap();
            thread::sleep(Duration::from_micros(200));
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
    }
    // The header, the request and the first message in one piece.
    let behind = [v2_of([203, 0, 113, 9]), upgrade_request("/t/y?echo=true").into_bytes()].concat();
    let mut whole = behind;
    // RFC 6455 5.7: a single-frame masked text message, "Hello".
    whole.extend_from_slice(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    let mut stream = hub.proxied(PROXY, &whole);
    let mut received = Vec::new();
    while !received.ends_with(b"\x81\x05Hello") {
        let mut chunk = [0; 1_024];
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&chunk[..count]);
    }
}

#[test]
fn whatever_does_not_begin_with_a_header_is_closed() {
    // Each fault has a server of its own, since its log has one line about the cause in some time.
    let good = v1("203.0.113.9");
    let cases: [(&str, Ipv4Addr, Vec<u8>, &str); 7] = [
        ("stranger", STRANGER, [&good[..], upgrade_request("/t/x").as_bytes()].concat(), "untrusted"),
        ("silent", STRANGER, Vec::new(), "untrusted"),
        ("request", PROXY, request("GET", "/healthz").into_bytes(), "missing"),
        ("opening", PROXY, upgrade_request("/t/x").into_bytes(), "missing"),
        ("malformed", PROXY, b"PROXY TCP4 203.0.113.9 127.0.0.1 4711\r\n".to_vec(), "malformed"),
        ("udp", PROXY, v2(0x21, 0x12, &[0; 12]), "malformed"),
        ("long", PROXY, v2(0x20, 0, &[0; 4_081])[..16].to_vec(), "too_long"),
    ];
    for (name, from, bytes, fault) in cases {
        let hub = Hub::start(name, &[]);
        hub.check_closed(from, &bytes, fault);
        // The server goes on.
        assert_eq!(hub.status(&good), 101);
        let log = hub.server.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("proxy_header")).collect();
        let [line] = lines[..] else { panic!("{log}") };
        assert!(line.contains(" INFO ") && !line.contains("203.0.113.9"), "{line}");
    }
    let hub = Hub::start("line", &[]);
    hub.check_closed(PROXY, &[&b"PROXY UNKNOWN "[..], &[b'x'; 94][..]].concat(), "too_long");
}

#[test]
fn a_header_has_the_time_of_an_opening_request() {
    let hub = Hub::start("slow", &["--handshake-timeout", "300ms"]);
    let mut rest = Vec::new();
    for begin in [&b""[..], b"PROXY TCP4 203.0", &v2_of([203, 0, 113, 9])[..20], &v1("203.0.113.9")] {
        let mut stream = hub.proxied(PROXY, begin);
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{begin:?}");
    }
    hub.server.expect_counts(&[("handshake_timeout_total", 4), ("refused_total{cause=\"proxy_header\"}", 0)]);
}

#[test]
fn connections_are_counted_by_the_client_of_their_header() {
    let hub = Hub::start("counts", &["--max-connections-per-address", "2", "--max-connections", "12"]);
    let one = v2_of([203, 0, 113, 1]);
    // Sockets whose header has not come, and those of the proxy itself, are not counted.
    let idle: Vec<TcpStream> = (0..3).map(|_| hub.proxied(PROXY, b"PROXY ")).collect();
    let own: Vec<TcpStream> = (0..3).map(|_| hub.proxied(PROXY, &v2(0x20, 0, &[]))).collect();
    let mut first = Client::open(hub.proxied(PROXY, &one), "/t/x", &[]).ok().unwrap();
    // Silent behind its header.
    let second = hub.proxied(PROXY, &one);
    hub.server.counts_until("the second one is counted", |_| hub.status(&one) == 429);
    let mut refused = hub.proxied(PROXY, &one);
    assert_eq!(ask(&mut refused, &post("/t/x", "text/plain", "x")).status(), 429);
    // Health is answered for everybody.
    assert_eq!(ask(&mut hub.proxied(PROXY, &one), &request("GET", "/healthz")).status(), 200);
    // Others have their own connections.
    assert_eq!(hub.status(&v2_of([203, 0, 113, 2])), 101);
    drop(second);
    let mut kept = hub.proxied(PROXY, &v2_of([203, 0, 113, 2]));
    published(&ask(&mut kept, &post("/t/x", "text/plain", "x")));
    first.expect(text("x"));
    // All requests of one connection count once.
    let other = Client::open(hub.proxied(PROXY, &v2_of([203, 0, 113, 2])), "/t/x", &[]).ok().unwrap();
    published(&ask(&mut kept, &post("/t/x", "text/plain", "y")));
    hub.server.counts_until("the first one has room again", |_| hub.status(&one) == 101);
    drop((idle, own, other));
}

/// A full server reads the header too, before it refuses.
#[test]
fn a_full_server_refuses_behind_the_header() {
    let hub = Hub::start("full", &["--max-connections", "2"]);
    let clients: Vec<Client> =
        (0..2).map(|_| Client::open(hub.proxied(PROXY, &v1("203.0.113.1")), "/t/x", &[]).ok().unwrap()).collect();
    assert_eq!(hub.status(&v1("203.0.113.2")), 503);
    assert_eq!(ask(&mut hub.proxied(PROXY, &v1("203.0.113.2")), &request("GET", "/readyz")).status(), 200);
    hub.check_closed(PROXY, request("GET", "/readyz").as_bytes(), "missing");
    clients.into_iter().for_each(Client::leave);
}

#[test]
fn settings_of_the_proxy_protocol() {
    let check = |flags: &[&str], expected: &str| {
        let mut command = clean(program());
        command.arg("check-config").args(flags);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{flags:?} {output:?}");
    };
    let listen = ["--listen", "127.0.0.1:6455,127.0.0.1:6456"];
    let trusted = ["--trusted-proxies", "127.0.0.1"];
    check(
        &[&listen[..], &trusted, &["--proxy-protocol", "127.0.0.1:6457"]].concat(),
        "127.0.0.1:6457 is none of the addresses that the server listens on",
    );
    check(&[&listen[..], &["--proxy-protocol", "127.0.0.1:6456"]].concat(), "without trusted_proxies");
    check(&[&trusted[..], &["--proxy-protocol", "on"]].concat(), "is no address and port");
}

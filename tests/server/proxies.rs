//! The hub behind common proxies, which reuse their connections, so that an opening request comes after other requests.
//! `tests/run` installs the proxies and runs these tests; `cargo test --test server -- --ignored behind_` runs them
//! alone.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Client, DEADLINE, Response, Server, binary, dial, pattern, post, published, take_response, text, upgrade_request,
};

#[test]
#[ignore = "needs nginx; tests/run"]
fn behind_nginx() {
    check(true, |folder, hub, own| {
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
                &[("server 127.0.0.1:6455;", format!("server {hub};")), ("listen 80;", format!("listen {own};"))]
            )
        );
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c"]).arg(write(folder, &config));
        command
    });
}

#[test]
#[ignore = "needs haproxy; tests/run"]
fn behind_haproxy() {
    check(true, |folder, hub, own| {
        let own = ("bind :80 ", format!("bind {own} "));
        let config = of_the_page("haproxy", &[own, ("server hub 127.0.0.1:6455", format!("server hub {hub}"))]);
        let config = format!("global\n  maxconn 200\n{config}");
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(write(folder, &config));
        command
    });
}

#[test]
#[ignore = "needs caddy; tests/run"]
fn behind_caddy() {
    check(false, |folder, hub, own| {
        // The test uses no TLS, which would need a certificate.
        let own = ("hub.example {", format!("http://:{} {{\n  bind 127.0.0.1", own.port()));
        let config = of_the_page("caddyfile", &[own, ("reverse_proxy 127.0.0.1:6455", format!("reverse_proxy {hub}"))]);
        let config = format!("{{\n  admin off\n  auto_https off\n}}\n{config}");
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(write(folder, &config));
        command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
        command
    });
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
}

/// Returns a proxy's configuration from docs/deploy.md, with the test's addresses in place of those on the page.
fn of_the_page(language: &str, addresses: &[(&str, String)]) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deploy.md")).unwrap();
    let config = page.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut config = config.to_owned();
    for (address, actual) in addresses {
        assert_eq!(config.matches(address).count(), 1, "{config}");
        config = config.replace(address, actual);
    }
    config
}

fn ask(stream: &mut TcpStream, request: &str) -> Response {
    stream.write_all(request.as_bytes()).unwrap();
    take_response(stream, Vec::new(), true).0
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

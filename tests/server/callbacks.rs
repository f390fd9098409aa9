//! Servers that ask a scripted application who their clients are.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Client, DEADLINE, Response, Server, dial, exchange, post, program, run_to_end, text, upgrade_request,
};

/// An application that lets a request in by its cookie: `ann` and every cookie that begins with `guest`.
pub(crate) struct Application {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    questions: Mutex<Vec<String>>,
    /// Whether the application waits before it answers.
    is_held: Mutex<bool>,
    is_let_go: Condvar,
}

impl Application {
    pub(crate) fn start() -> Application {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let application = Application { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&application.state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), Arc::clone(&state));
                thread::spawn(move || state.serve(stream));
            }
        });
        application
    }

    /// Returns the flags of a server that asks this application, by a name that has to be resolved.
    pub(crate) fn flags(&self) -> [String; 2] {
        let url = format!("--callback-url=http://localhost:{}/hook", self.address.port());
        [url, "--callback-secrets=a-s3cret-of-16-characters".into()]
    }

    fn questions(&self) -> Vec<String> {
        self.state.questions.lock().unwrap().clone()
    }

    pub(crate) fn hold(&self) {
        *self.state.is_held.lock().unwrap() = true;
    }

    pub(crate) fn let_go(&self) {
        *self.state.is_held.lock().unwrap() = false;
        self.state.is_let_go.notify_all();
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        let mut received = Vec::new();
        loop {
            let end = received.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
            let length = end.map(|end| {
                let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                end + length.parse::<usize>().unwrap()
            });
            match length {
                Some(length) if received.len() >= length => {
                    let question: Vec<u8> = received.drain(..length).collect();
                    let question = String::from_utf8(question).unwrap();
                    self.questions.lock().unwrap().push(question.clone());
                    let mut is_held = self.is_held.lock().unwrap();
                    while *is_held {
                        is_held = self.is_let_go.wait(is_held).unwrap();
                    }
                    drop(is_held);
                    if stream.write_all(answer(&question).as_bytes()).is_err() {
                        return;
                    }
                }
                _ => {
                    let mut buffer = [0; 4_096];
                    match stream.read(&mut buffer) {
                        Ok(count) if count > 0 => received.extend(&buffer[..count]),
                        _ => return,
                    }
                }
            }
        }
    }
}

fn answer(question: &str) -> String {
    let is_own = question.contains(r#""topic":"orders/42","identity":"42""#);
    let is_guest = question.contains("\"cookie\":\"ann\"") || question.contains("\"cookie\":\"guest");
    let is_about_request = question.contains(r#"{"kind":"connect""#);
    let body = match is_about_request {
        true if is_guest => r#"{"allow":true,"identity":"42","cache_for":60}"#,
        false if is_own => r#"{"allow":true}"#,
        _ => r#"{"allow":false,"status":402,"reason":"pay first"}"#,
    };
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn start(application: &Application, flags: &[&str]) -> Server {
    let of_callback = application.flags();
    let all: Vec<&str> = of_callback.iter().map(|flag| &**flag).chain(flags.iter().copied()).collect();
    Server::start(&all)
}

/// Returns a request with a cookie.
fn with_cookie(request: &str, cookie: &str) -> String {
    request.replacen("\r\n", &format!("\r\nCookie: {cookie}\r\n"), 1)
}

/// Opens a WebSocket with a cookie, or returns the refusal.
fn open(address: SocketAddr, target: &str, cookie: &str) -> Result<Client, Response> {
    Client::open_with(dial(address), target, &[], &[("Cookie", cookie)])
}

/// Opens a WebSocket with a cookie, which must be refused.
fn refused(address: SocketAddr, target: &str, cookie: &str) -> Response {
    open(address, target, cookie).map(drop).expect_err("a refusal")
}

/// Reads the head of an answer to an opening request, and returns its first line.
fn first_line(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).unwrap();
        head.extend(octet);
    }
    String::from_utf8(head).unwrap().lines().next().unwrap().into()
}

#[test]
fn the_application_decides_about_openings_and_posts() {
    let application = Application::start();
    let mut server = start(&application, &["--shards=2"]);
    let address = server.address();
    let mut client = open(address, "/t/x?echo=true", "ann").unwrap();
    client.send_text("hello");
    client.expect(text("hello"));
    let ben = refused(address, "/t/x", "ben-s3cret");
    assert_eq!((ben.status(), ben.error()), (402, "pay first".into()));
    open(address, "/t/x?echo=true", "ann").unwrap().leave();
    let to_post = post("/t/x", "text/plain", "by POST");
    assert_eq!(exchange(address, &with_cookie(&to_post, "ann")).status(), 202);
    client.expect(text("by POST"));
    assert_eq!(exchange(address, &with_cookie(&to_post, "ben-s3cret")).status(), 402);
    // The second opening of ann was not asked about.
    let asked = application.questions();
    let of = |cookie: &str| asked.iter().filter(|asked| asked.contains(cookie)).count();
    assert_eq!((of("\"cookie\":\"ann\""), of("\"cookie\":\"ben-s3cret\"")), (2, 2), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.contains(r#""address":"127.0.0.1""#)), "{asked:?}");
    server.expect_counts(&[
        ("callback_asked_total", 4),
        ("callback_cached_total", 1),
        ("callback_denied_total", 2),
        ("outbound_requests_total{outcome=\"answered\"}", 4),
    ]);
    // Health needs no answer of the application.
    assert_eq!(exchange(address, "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status(), 200);
    drop(client);
    let log = server.end();
    assert!(!log.contains("s3cret"), "{log}");
}

/// Where the rule of a topic says so, the application decides about the topic too.
#[test]
fn the_application_decides_about_topics() {
    let folder = Folder::new("callback-topics");
    let rules = "[[topics]]\nmatch = \"orders/*\"\nsubscribe = \"callback\"\npublish = \"callback\"\n";
    let file = folder.write("ringhub.toml", rules);
    let application = Application::start();
    let server = start(&application, &["--shards=2", &format!("--config={}", file.display())]);
    let address = server.address();
    let mut client = open(address, "/t/orders/42?echo=true", "ann").unwrap();
    client.send_text("hello");
    client.expect(text("hello"));
    assert_eq!(refused(address, "/t/orders/43", "ann").status(), 402);
    let send = |topic: &str| exchange(address, &with_cookie(&post(topic, "text/plain", "by POST"), "ann")).status();
    assert_eq!((send("/t/orders/42"), send("/t/orders/43"), send("/t/plain")), (202, 402, 202));
    client.expect(text("by POST"));
    let asked = application.questions();
    for kind in ["subscribe", "publish"] {
        let question = format!("{{\"kind\":\"{kind}\",\"topic\":\"orders/43\",\"identity\":\"42\",");
        assert!(asked.iter().any(|asked| asked.contains(&question)), "{question} in {asked:?}");
    }
    let of_topic = |asked: &String| asked.contains("\"topic\":\"plain\"") && !asked.contains("\"kind\":\"connect\"");
    assert!(!asked.iter().any(of_topic), "{asked:?}");
}

/// Where a route takes any of several authenticators, the application is not asked about a request that another one
/// admits.
#[test]
fn the_application_is_asked_only_where_its_answer_decides() {
    let folder = Folder::new("callback-any");
    let route = "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\ncallback = true\nadmit = \"any\"\n\
                 bearer.tokens = { ci = \"word\" }\n";
    let file = folder.write("ringhub.toml", route);
    let application = Application::start();
    let server = start(&application, &["--shards=1", &format!("--config={}", file.display())]);
    let address = server.address();
    let by_token = [("Authorization", "Bearer word")];
    Client::open_with(dial(address), "/t/x", &[], &by_token).unwrap().leave();
    let to_post = post("/t/x", "text/plain", "by POST");
    let with_token = to_post.replacen("\r\n", "\r\nAuthorization: Bearer word\r\n", 1);
    assert_eq!(exchange(address, &with_token).status(), 202);
    open(address, "/t/x", "ann").unwrap().leave();
    let asked = application.questions();
    assert!(asked.len() == 1 && asked[0].contains("\"cookie\":\"ann\""), "{asked:?}");
    assert_eq!(server.counts().get("callback_asked_total"), 1);
}

/// A hundred openings that wait for the application do not keep others waiting, on the same shard.
#[test]
fn openings_that_wait_hold_nobody_up() {
    let folder = Folder::new("callbacks");
    let route = |name: &str| {
        format!("[[routes]]\nmatch = \"/{name}/{{topic...}}\"\nhandler = \"hub\"\ntopic_prefix = \"{name}/\"\n")
    };
    let routes = format!("{}callback = true\n{}", route("app"), route("free"));
    let file = folder.write("ringhub.toml", &routes);
    let application = Application::start();
    let config = format!("--config={}", file.display());
    let server = start(&application, &["--shards=1", "--callback-timeout=10s", &config]);
    application.hold();
    let mut waiting: Vec<TcpStream> = (0..100).map(|_| dial(server.address())).collect();
    for (number, stream) in waiting.iter_mut().enumerate() {
        let request = with_cookie(&upgrade_request("/app/x"), &format!("guest{number}"));
        stream.write_all(request.as_bytes()).unwrap();
    }
    server.counts_until("all questions", |counts| counts.get("callback_asked_total") == 100);
    let begin = Instant::now();
    let mut client = server.connect("/free/x?echo=true");
    for number in 0..100 {
        client.send_text(&number.to_string());
        client.expect(text(&number.to_string()));
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(server.counts().get("callback_denied_total"), 0);
    // The topic is told as the hub has read it: with the prefix of the route.
    let topic = r#""path":"/app/x","query":"","topic":"app/x","#;
    assert!(application.questions().iter().all(|asked| asked.contains(topic)), "{:?}", application.questions());
    application.let_go();
    for stream in &mut waiting {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(first_line(stream).starts_with("HTTP/1.1 101 "));
    }
}

/// The access log has no line for an opening that ends because memory is short, whether it is answered or not.
#[test]
fn an_opening_that_memory_ends_has_no_line() {
    let application = Application::start();
    let of_memory = ["--shards=1", "--max-memory=16MiB", "--max-connections=2000", "--log=ringhub=debug"];
    let of_time = ["--handshake-timeout=10m", "--callback-timeout=10m", "--access-log=json"];
    let server = start(&application, &[&of_memory[..], &of_time].concat());
    application.hold();
    let padding = format!("\r\nX: {}\r\n", "x".repeat(7_000));
    let to_open = with_cookie(&upgrade_request("/t/x"), "ann").replacen("\r\n", &padding, 1);
    let mut waiting: Vec<TcpStream> = Vec::new();
    while !server.log().contains("opening handshakes are given up") {
        for _ in 0..10 {
            let mut stream = dial(server.address());
            // Sockets that come while memory is short are refused.
            _ = stream.write_all(to_open.as_bytes());
            waiting.push(stream);
        }
        thread::sleep(Duration::from_millis(20));
        assert!(waiting.len() < 1_500, "there is no limit");
    }
    application.let_go();
    // The others become connections, with a line each.
    assert!(server.line().contains(r#""status":101"#), "the first line");
}

#[test]
fn an_application_that_is_not_there() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("--callback-url=http://{gone}/hook");
    let flags = [&*url, "--callback-secrets=a-s3cret-of-16-characters"];
    let mut server = Server::start(&flags);
    let ann = refused(server.address(), "/t/x", "ann");
    assert_eq!((ann.status(), ann.header("retry-after")), (503, Some("1")));
    assert_eq!(ann.error(), "the application has not answered");
    let to_post = exchange(server.address(), &with_cookie(&post("/t/x", "text/plain", "by POST"), "ann"));
    assert_eq!((to_post.status(), to_post.error()), (503, "the application has not answered".into()));
    // On a shard and on the control thread: no limit of the server is reached.
    server.expect_counts(&[("refused_total{cause=\"undecided\"}", 2), ("refused_total{cause=\"limit\"}", 0)]);
    let log = server.end();
    let is_logged = log.contains("the application has not decided about a question");
    assert!(is_logged && log.contains(&gone.to_string()), "{log}");
    assert!(log.contains("a request was refused cause=\"undecided\" status=503"), "{log}");
    assert!(!log.contains("hook") && !log.contains("s3cret"), "{log}");
    let server = Server::start(&[&flags[..], &["--callback-on-error=allow"]].concat());
    open(server.address(), "/t/x", "ann").unwrap().leave();
    let server = Server::start(&[&flags[..], &["--callback-connect=off"]].concat());
    open(server.address(), "/t/x", "ann").unwrap().leave();
    assert_eq!(server.counts().get("callback_asked_total"), 0);
}

/// A server in the sandbox resolves the name of the application, and asks it.
#[test]
fn a_server_in_the_sandbox_asks() {
    let application = Application::start();
    let server = start(&application, &["--sandbox=on"]);
    open(server.address(), "/t/x", "ann").unwrap().leave();
    assert_eq!(refused(server.address(), "/t/x", "ben").status(), 402);
}

#[test]
fn routes_and_settings_fit_together() {
    let folder = Folder::new("callback-routes");
    let check = |text: &str, flags: &[&str]| {
        let file = folder.write("ringhub.toml", text);
        let mut command = program();
        command.arg("check-config").arg(file).args(flags);
        let output = run_to_end(command);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let hub = "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n";
    let asked = ["--callback-url=https://app.example/", "--callback-secrets=a-s3cret-of-16-characters"];
    let fails = |text: &str, flags: &[&str], expected: &str| {
        let (succeeds, log) = check(text, flags);
        assert!(!succeeds && log.contains(expected) && !log.contains("s3cret"), "{log}");
    };
    fails(&format!("{hub}callback = true\n"), &[], "4: routes.callback: the application cannot be asked");
    fails(&format!("{hub}callback = \"yes\"\n"), &asked, "4: routes.callback");
    fails(&format!("{hub}callback = true\nadmit = \"any\"\n"), &asked, "there is nothing to choose");
    fails("", &asked[..1], "callback_secrets: a secret is needed");
    fails("", &["--callback-url=app.example"], "--callback-url: ");
    fails("", &["--callback-headers=a b"], "--callback-headers: ");
    fails("callback_on_error = \"ignore\"\n", &asked, "callback_on_error");
    let (succeeds, log) = check(&format!("{hub}callback = true\nadmit = \"any\"\nnetwork.allow = \"::1\"\n"), &asked);
    assert!(succeeds, "{log}");
    // Any page could use the cookies of its visitor.
    let warns = |text: &str, flags: &[&str]| {
        let (succeeds, log) = check(text, &[&asked[..], flags].concat());
        assert!(succeeds, "{log}");
        log.contains("any web page")
    };
    let origins = "allowed_origins = [\"https://app.example\"]\n";
    assert!(warns("", &[]) && !warns(origins, &[]) && !warns("", &["--callback-headers=authorization"]));
    let route = format!("{hub}callback = true\n");
    assert!(warns(&route, &[]) && !warns(&format!("{route}{origins}"), &[]));
    assert!(!warns(&route, &["--callback-headers=authorization"]) && !warns(hub, &[]));
}

/// A folder on the disk, which is removed when this value is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = env::temp_dir().join(format!("ringhub-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

//! Tests of `sandbox = "on"`, on both backends: a server gives up the system calls that only its start needs.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{net::UnixDatagram, process::ExitStatusExt as _},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    thread,
};

use ringhub::{
    config::{IoChoice, SandboxChoice, Time},
    documents::Documents,
    handler::{Connection, Handler},
    outbound::{OutboundRequest, Target},
    proto::Message,
    server::{ChosenBackend, Server as Embedded},
    sys::sandbox::{Need, RefusedCall, SandboxFilter},
};
use rustix::process::Signal;
use seccompiler::apply_filter;
use serde_json::json;

use crate::{
    container::{compile, confined},
    support::{
        Client, DEADLINE, RESTART, Server, ask, binary_path, clean, close, dial, exchange, post,
        program::{Program, program, run_to_end},
        request, text,
    },
};

/// Returns the backends of this machine.
fn backends() -> Vec<&'static str> {
    match ChosenBackend::choose(IoChoice::Uring) {
        Ok(_) => vec!["uring", "epoll"],
        Err(error) => {
            println!("io_uring is skipped, since this machine does not have it: {error}");
            vec!["epoll"]
        }
    }
}

/// A folder on the disk, which is removed when this value is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = env::temp_dir().join(format!("ringhub-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("site")).unwrap();
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

/// Returns the contents of `/proc/PID/task/TID/status` of those threads of a server that have no filter.
fn threads_without_a_filter(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).unwrap();
    let status = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    status.filter(|status| !status.contains("\nSeccomp:\t2\n")).collect()
}

/// A server in the sandbox can do everything that a serving server has to do.
#[test]
fn a_server_in_the_sandbox_serves_publishes_and_drains() {
    for io in backends() {
        let folder = Folder::new(&format!("sandbox-{io}"));
        folder.write("site/file", "a file\n");
        let routes = "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n[[routes]]\nmatch = \"/site\"\n";
        let settings = format!("sandbox = \"on\"\nio = \"{io}\"\nmetrics_listen = \"127.0.0.1:0\"\n");
        let file = folder.write("ringhub.toml", &format!("{settings}{routes}documents = \"./site\"\n"));
        let mut command = clean(Command::new(binary_path()));
        command.env_remove("RINGHUB_IO").env_remove("RINGHUB_SANDBOX");
        command.args(["--shards=3", "--send-buffer=16KiB", "--config"]).arg(file);
        let mut server = Server::start_command(command);
        let open = threads_without_a_filter(&server);
        assert!(open.is_empty(), "{io}: {open:?}");
        let rings = if io == "uring" { ", and rings that take the operations in use alone" } else { "" };
        server.log_until(&format!("on (a seccomp filter{rings})"));
        let (mut subscribers, mut stream) = serve_thirty(&server);
        // To read files, the server starts new threads in the sandbox. It can also read a file that came later.
        assert_eq!(ask(&mut stream, &request("GET", "/site/file")).body, "a file\n");
        folder.write("site/later", "a later file\n");
        assert_eq!(ask(&mut stream, &request("GET", "/site/later")).body, "a later file\n");
        assert!(threads_without_a_filter(&server).is_empty(), "{io}: threads that were started later");
        let metrics = server.notes().split("http://").last().unwrap().trim_end_matches("/metrics").to_string();
        let metrics = exchange(metrics.parse().unwrap(), &request("GET", "/metrics")).body;
        for gauge in ["process_open_fds ", "process_resident_memory_bytes "] {
            assert!(metrics.lines().any(|line| line.starts_with(gauge)), "{io}: {gauge} in {metrics}");
        }
        assert_eq!(server.counts().get("connections_open"), 30);
        server.signal(Signal::HUP);
        server.log_until("the settings are reloaded");
        // A slow consumer has a backlog. When the server closes this connection, it sends a reset.
        let slow = server.connect("/t/slow?mode=sub");
        let mut fast = server.connect("/t/slow?mode=pub");
        (0..300).for_each(|_| fast.send_text(&"x".repeat(60_000)));
        server.expect_counts(&[("slow_closed_total", 1)]);
        drop((slow, fast, stream));
        server.signal(Signal::TERM);
        for client in &mut subscribers {
            client.expect(close(1012, RESTART));
        }
        drop(subscribers);
        let status = server.wait();
        let log = server.log();
        assert!(status.success() && log.contains("stopped") && !log.contains("not permitted"), "{status}: {log}");
    }
}

#[test]
fn a_service_manager_hears_of_a_server_in_the_sandbox() {
    let folder = Folder::new("sandbox-manager");
    let path = folder.0.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = clean(Command::new(binary_path()));
    command.env("NOTIFY_SOCKET", &path).arg("--sandbox=on");
    let mut server = Server::start_command(command);
    let hear = |word: &str| {
        let mut buffer = [0; 4_096];
        let length = loop {
            match manager.recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                heard => break heard.expect("the server says something"),
            }
        };
        let told = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(told.lines().any(|line| line == word), "{told}");
    };
    hear("READY=1");
    let log = server.end();
    hear("STOPPING=1");
    assert!(!log.contains("cannot be told"), "{log}");
}

/// A handler that tries the action that a message names, and answers with the outcome. For "ask" it sends a request to
/// the target.
struct Tries(Option<Target>);

impl Handler for Tries {
    type State = ();

    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        if let (Some("ask"), Some(target)) = (message.as_text(), self.0.clone()) {
            connection.spawn(async move |handle| {
                let answer = target.send(OutboundRequest::post("a question")).await;
                let told = answer.map_or_else(|error| error.to_string(), |answer| answer.status.to_string());
                _ = handle.send_text(told).await;
            });
            return;
        }
        let outcome = match message.as_text() {
            Some("execve") => Command::new("/bin/true").spawn().map(drop),
            Some("listen") => TcpListener::bind("127.0.0.1:0").map(drop),
            Some("notify") => UnixDatagram::unbound().map(drop),
            Some("write") => fs::File::create(env::temp_dir().join("ringhub-sandbox-written")).map(drop),
            Some("read") => fs::read("/proc/self/status").map(drop),
            Some("thread") => thread::Builder::new().spawn(|| {}).map(|thread| thread.join().unwrap()),
            Some("panic") => panic!("as intended"),
            other => Err(io::Error::other(format!("{other:?}"))),
        };
        _ = connection.send_text(outcome.map_or_else(|error| error.kind().to_string(), |()| "done".into()));
    }
}

/// A server with [`Tries`] at `/try`, and topics, in a process of its own.
struct Sandboxed {
    program: Program,
    address: SocketAddr,
}

impl Sandboxed {
    fn start(io: &str, way: &str) -> Sandboxed {
        Self::serving(io, way, Self::program(io, way))
    }

    fn serving(io: &str, way: &str, program: Program) -> Sandboxed {
        let address = loop {
            let line = program.line().unwrap_or_else(|| panic!("{io}, {way}: {}", program.log()));
            if let Some((_, address)) = line.split_once("serves on ") {
                break address.parse().unwrap();
            }
        };
        Sandboxed { program, address }
    }

    fn program(io: &str, way: &str) -> Program {
        Program::start_with(Self::command(io, way), Stdio::piped())
    }

    fn command(io: &str, way: &str) -> Command {
        let mut command = clean(Command::new(env::current_exe().unwrap()));
        command.args(["--exact", "sandbox::a_program_in_the_sandbox", "--ignored", "--nocapture"]);
        command.envs([("SANDBOXED_IO", io), ("SANDBOXED_WAY", way)]);
        command
    }

    fn client(&self) -> Client {
        Client::open(dial(self.address), "/try", &[]).unwrap()
    }

    /// Ends the program, and returns its status.
    fn end(mut self) -> ExitStatus {
        self.program.close_stdin();
        self.program.wait()
    }
}

#[test]
#[ignore = "it is run by the tests of the sandbox"]
fn a_program_in_the_sandbox() {
    let (io, way) = (env::var("SANDBOXED_IO").unwrap(), env::var("SANDBOXED_WAY").unwrap());
    let server = Embedded::builder();
    let target = env::var("SANDBOXED_URL").ok().map(|url| server.outbound().target(&url).unwrap());
    let server = server.listen(["127.0.0.1:0".parse().unwrap()]).shards(2).route("/try", Tries(target)).topics();
    let server = server.documents("/site", Documents::new(env!("CARGO_MANIFEST_DIR")).unwrap());
    let server = server.settings(|settings| {
        settings.io = if io == "uring" { IoChoice::Uring } else { IoChoice::Epoll };
        settings.sandbox = if way == "trap" { SandboxChoice::Off } else { SandboxChoice::On };
        settings.drain_timeout = Time(std::time::Duration::from_secs(2));
    });
    if way == "another filter" {
        // This thread has a filter that the other threads do not have.
        let own = compile(json!("allow"), json!({ "errno": 1 }), &[json!({ "syscall": "swapon" })]).unwrap();
        let (is_installed, installed) = std::sync::mpsc::channel();
        thread::spawn(move || {
            apply_filter(&own).unwrap();
            is_installed.send(()).unwrap();
            loop {
                thread::park();
            }
        });
        installed.recv().unwrap();
        println!("fails: {}", server.build().unwrap().start().unwrap_err());
        return;
    }
    let running = server.build().unwrap().start().unwrap();
    if way == "trap" {
        SandboxFilter::new(&[Need::Files], RefusedCall::Trap).unwrap().install().unwrap();
    }
    println!("serves on {}", running.local_addr());
    // The server serves until the test closes the standard input.
    io::stdin().read_line(&mut String::new()).unwrap();
    running.stop();
    running.wait_blocking().unwrap();
}

/// Code that has taken a handler over can do little: each action that is forbidden fails, and the server goes on.
#[test]
fn what_a_handler_must_not_do_fails_and_the_server_goes_on() {
    for io in backends() {
        let server = Sandboxed::start(io, "on");
        let mut client = server.client();
        for (attempt, outcome) in [
            ("execve", "permission denied"),
            ("listen", "permission denied"),
            ("notify", "permission denied"),
            ("write", "permission denied"),
            ("read", "done"),
            ("thread", "done"),
        ] {
            client.send_text(attempt);
            client.expect(text(outcome));
        }
        let status = server.end();
        assert!(status.success(), "{io}: {status}");
    }
}

/// A server with URLs resolves their names, and opens connections. It still listens nowhere, and a server without URLs
/// opens none.
#[test]
fn a_server_in_the_sandbox_sends_requests() {
    for io in backends() {
        let application = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = application.local_addr().unwrap().port();
        let mut command = Sandboxed::command(io, "on");
        command.env("SANDBOXED_URL", format!("http://localhost:{port}/"));
        let server = Sandboxed::serving(io, "on", Program::start_with(command, Stdio::piped()));
        let mut client = server.client();
        client.send_text("ask");
        let mut stream = application.accept().unwrap().0;
        let mut request = [0; 4_096];
        while !String::from_utf8_lossy(&request).contains("a question") {
            let end = request.iter().position(|byte| *byte == 0).unwrap();
            assert!(stream.read(&mut request[end..]).unwrap() > 0, "{io}");
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        client.expect(text("204"));
        client.send_text("listen");
        client.expect(text("permission denied"));
        assert!(server.end().success(), "{io}");
    }
}

/// Here each call that the filter does not allow ends the process. The server makes no such call, so it goes on.
#[test]
fn a_serving_server_makes_no_call_that_the_sandbox_refuses() {
    for io in backends() {
        let server = Sandboxed::start(io, "trap");
        let mut client = server.client();
        let mut subscribers: Vec<Client> =
            (0..20).map(|_| Client::open(dial(server.address), "/t/x", &[]).unwrap()).collect();
        let mut stream = dial(server.address);
        assert_eq!(ask(&mut stream, &post("/t/x", "text/plain", &"x".repeat(100_000))).status(), 202);
        for subscriber in &mut subscribers {
            subscriber.expect(text(&"x".repeat(100_000)));
        }
        for target in ["/healthz", "/readyz", "/metrics", "/site/README.md"] {
            assert_eq!(ask(&mut stream, &request("GET", target)).status(), 200, "{io}: {target}");
        }
        // A panic reads the program and its maps for the backtrace.
        client.send_text("panic");
        client.expect(close(1011, "a handler has failed"));
        let status = server.end();
        assert!(status.success(), "{io}: {status}");
        // A call that the filter does not allow does end the process, so this test would notice it.
        let mut server = Sandboxed::start(io, "trap");
        server.client().send_text("listen");
        let status = server.program.wait();
        assert_eq!(status.signal(), Some(Signal::SYS.as_raw()), "{io}: {status}");
    }
}

/// Runs a server that must not start, and returns the one line of its log.
fn fails(flags: &[&str]) -> String {
    let mut command = program();
    command.args(["--listen", "127.0.0.1:0", "--sandbox", "on"]).args(flags);
    let output = run_to_end(command);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{}: {log}", output.status);
    assert_eq!(log.lines().count(), 1, "{log}");
    // `check-config` finds the same.
    let mut check = program();
    check.args(["check-config", "--sandbox", "on"]).args(flags);
    let checked = run_to_end(check);
    assert_eq!((checked.status.code(), String::from_utf8(checked.stderr).unwrap()), (Some(1), log.clone()));
    assert!(checked.stdout.is_empty());
    log
}

/// Settings with a sandbox are checked where it can be set up, and the check says which sandbox that is.
#[test]
fn check_config_tries_the_sandbox() {
    for io in backends() {
        for (choice, told) in [("on", "# on (a seccomp filter"), ("off", "# off")] {
            let mut command = program();
            command.args(["check-config", "--sandbox", choice, "--io", io]);
            let output = run_to_end(command);
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{text}");
            let line = text.lines().skip_while(|line| *line != "# ---- Sandbox ----").nth(1);
            assert!(line.is_some_and(|line| line.starts_with(told)), "{io}: {line:?}");
            assert_eq!(
                text.contains("rings that take the operations in use"),
                (io, choice) == ("uring", "on"),
                "{text}"
            );
        }
    }
}

/// If the sandbox cannot be set up, the server does not start. It never serves without the sandbox.
#[test]
fn without_its_sandbox_a_server_does_not_start() {
    let refuse = |rule| [compile(json!("allow"), json!({ "errno": libc::EPERM }), &[rule]).unwrap()];
    for io in backends() {
        let log = confined(&refuse(json!({ "syscall": "seccomp" })), || fails(&["--io", io]));
        let expected = "the sandbox cannot be set up: seccomp(SECCOMP_SET_MODE_FILTER) fails (Operation not permitted";
        assert!(log.contains(expected) && log.contains("profile does not allow"), "{log}");
    }
    if backends().contains(&"uring") {
        // The hot ring has seven restrictions, and the ring of the runtime has four.
        for (number, arguments, name) in [
            (11, 7, "IORING_REGISTER_RESTRICTIONS"),
            (11, 4, "IORING_REGISTER_RESTRICTIONS"),
            (12, 0, "IORING_REGISTER_ENABLE_RINGS"),
        ] {
            let is = |index, value| json!({ "index": index, "type": "dword", "op": "eq", "val": value });
            let registration = json!([is(1, number), is(3, arguments)]);
            let rule = json!({ "syscall": "io_uring_register", "args": registration });
            let log = confined(&refuse(rule), || fails(&["--io", "auto"]));
            let expected =
                format!("the rings cannot be restricted to the operations in use, as `sandbox` asks: {name}");
            assert!(log.contains(&expected) && log.contains("not permitted"), "{log}");
        }
    }
    for io in backends() {
        let mut program = Sandboxed::program(io, "another filter");
        let told = std::iter::from_fn(|| program.line()).find(|line| line.contains("fails: ")).unwrap();
        assert!(told.contains("has a seccomp filter that the other threads do not have"), "{told}");
        assert!(program.wait().success());
    }
}

/// Connects 30 subscribers that get a message of a client and one by POST. Returns the subscribers, and the connection
/// that has posted.
pub(crate) fn serve_thirty(server: &Server) -> (Vec<Client>, TcpStream) {
    let mut subscribers: Vec<Client> = (0..30).map(|_| server.connect("/t/x?echo=true")).collect();
    subscribers[0].send_text("an echo");
    let mut stream = dial(server.address());
    for client in &mut subscribers {
        client.expect(text("an echo"));
    }
    assert_eq!(ask(&mut stream, &post("/t/x", "text/plain", "by POST")).status(), 202);
    for client in &mut subscribers {
        client.expect(text("by POST"));
    }
    (subscribers, stream)
}

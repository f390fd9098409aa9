//! A server under a service manager. The test acts as the manager: it opens the listener, hears how the server is, and
//! starts the next server on the same listener.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use rustix::{
    process::Signal,
    time::{ClockId, clock_gettime},
};

use crate::support::{
    Client, DEADLINE, RESTART, Received, Server, ask, clean, close, dial,
    program::{Program, binary_path},
    request, text,
};

/// Returns a command that runs the binary with `count` announced listeners, of which the first is the command's
/// standard input.
fn activated(count: usize, flags: &[&str]) -> Command {
    let mut command = clean(Command::new("sh"));
    let script = format!("LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\" \"$@\" 3<&0 0</dev/null");
    command.args(["-c", &script, binary_path()]).args(flags);
    command
}

/// Starts a server on an inherited listener.
fn start_on(listener: &TcpListener, flags: &[&str]) -> Server {
    let listener = OwnedFd::from(listener.try_clone().unwrap());
    Server::of(Program::start_with(activated(1, flags), listener.into()))
}

/// Starts a server that must fail, and returns its error.
fn failure(command: Command, stdin: Stdio) -> String {
    let mut program = Program::start_with(command, stdin);
    let status = program.wait();
    assert_eq!(status.code(), Some(1), "{}", program.log());
    program.log()
}
/// Connects one client after the other until `is_over`, and counts them. Each client gets its echo, or is closed with
/// 1012.
fn connect_all_the_while(address: SocketAddr, is_over: &AtomicBool, served: &AtomicUsize) {
    while !is_over.load(Ordering::Relaxed) {
        let client = Client::open(dial(address), "/t/x?echo=true", &[]);
        let mut client = client.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
        client.send_text("an echo");
        let mut is_closed = false;
        while !is_closed {
            match client.receive() {
                Received::Text(_) => client.send_close(1000, ""),
                Received::Close(Some(1000), _) => is_closed = true,
                Received::Close(Some(1012), _) => {
                    client.send_close(1012, "");
                    is_closed = true;
                }
                other => panic!("{other:?}"),
            }
        }
        served.fetch_add(1, Ordering::Relaxed);
    }
}

/// A server leaves and the next starts on the same listener, and no client is refused.
#[test]
fn a_restart_refuses_no_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (is_over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..4).map(|_| scope.spawn(|| connect_all_the_while(address, &is_over, &served))).collect();
        for _ in 0..4 {
            let mut server = start_on(&listener, &["--shards", "3"]);
            assert_eq!(server.address(), address);
            let before = served.load(Ordering::Relaxed);
            server.counts_until("clients are served", |_| served.load(Ordering::Relaxed) >= before + 50);
            let counts = server.counts();
            assert_eq!((counts.refused(), counts.get("accept_paused_total")), (0, 0), "{counts:?}");
            server.end();
        }
        // The clients whose connections wait at the listener are served to the end.
        let server = start_on(&listener, &[]);
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
        drop(server);
    });
}

/// A socket that was accepted before the drain is served if its request comes within a second. The listener is not shut
/// down.
#[test]
fn an_accepted_socket_is_served_to_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = start_on(&listener, &["--drain-timeout", "30s"]);
    let early = dial(server.address());
    server.expect_counts(&[("accepted_total", 1)]);
    server.signal(Signal::TERM);
    server.log_until("SIGTERM: leaving");
    let late = dial(server.address());
    let mut client = Client::open(early, "/t/x", &[]).expect("the early client is served");
    client.expect(close(1012, RESTART));
    client.send_close(1012, "");
    let status = server.wait();
    assert!(status.success(), "{}", server.log());
    let server = start_on(&listener, &[]);
    let mut client = Client::open(late, "/t/x?echo=true", &[]).expect("the next server accepts the late client");
    client.send_text("an echo");
    client.expect(text("an echo"));
    drop(client);
    drop(server);
}

/// A socket without a request delays the end by a second, and not by the whole `drain_timeout`.
#[test]
fn a_silent_socket_does_not_hold_up_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // These times are longer than any wait in this test.
    let mut server = start_on(&listener, &["--drain-timeout", "1h", "--handshake-timeout", "1h"]);
    let silent = dial(server.address());
    server.expect_counts(&[("accepted_total", 1)]);
    server.end();
    drop(silent);
}

#[test]
fn listeners_replace_the_addresses_of_the_settings() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = start_on(&listener, &["--listen", "127.0.0.1:1"]);
    assert_eq!(server.address(), listener.local_addr().unwrap());
    assert_eq!(ask(&mut dial(server.address()), &request("GET", "/healthz")).status(), 200);
    let log = server.end();
    let warning = format!("listen is ignored: the service manager has opened the listeners, on {}", server.address());
    assert!(log.contains(&warning), "{log}");
}

/// Variables for another process (`LISTEN_PID`) announce no listeners.
#[test]
fn listeners_of_another_process_are_not_taken() {
    let mut command = clean(Command::new(binary_path()));
    command.envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "1")]);
    let server = Server::start_command(command);
    assert_eq!(ask(&mut dial(server.address()), &request("GET", "/healthz")).status(), 200);
}

#[test]
fn descriptors_that_are_no_listeners_are_refused() {
    let no_listener = "the service manager has passed descriptor 3, which is no TCP socket that listens: ";
    let file = File::open("/dev/null").unwrap();
    assert!(failure(activated(1, &[]), file.into()).contains(no_listener));
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(failure(activated(1, &[]), OwnedFd::from(socket).into()).contains(no_listener));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert!(failure(activated(1, &[]), OwnedFd::from(connected).into()).contains(no_listener));
    // More listeners are announced than are open.
    let log = failure(activated(200, &[]), OwnedFd::from(listener).into());
    assert!(log.contains("LISTEN_FDS announces listeners that cannot be taken over: Bad file descriptor"), "{log}");
}

/// The manager's socket, at which it hears a server.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &str) -> Manager {
        let path = std::env::temp_dir().join(format!("ringhub-{name}-{}.socket", std::process::id()));
        drop(std::fs::remove_file(&path));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Manager { socket, path }
    }

    /// Starts a server under this manager.
    fn start(&self, watchdog_ms: u64) -> Server {
        let mut command = clean(Command::new(binary_path()));
        command.env("NOTIFY_SOCKET", &self.path).arg("--shards=3");
        if watchdog_ms > 0 {
            command.env("WATCHDOG_USEC", (watchdog_ms * 1_000).to_string());
        }
        Server::start_command(command)
    }

    /// Returns the lines of the next message.
    fn hear(&self) -> Vec<String> {
        let mut buffer = [0; 4_096];
        let length = self.socket.recv(&mut buffer).expect("the server says something");
        String::from_utf8_lossy(&buffer[..length]).lines().map(Into::into).collect()
    }

    /// Reads messages until one has this line.
    fn hear_until(&self, line: &str) {
        while !self.hear().iter().any(|heard| heard == line) {}
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

/// A server without work feeds the watchdog too, since each check wakes its shards.
#[test]
fn the_manager_hears_that_the_server_is_ready_alive_and_leaving() {
    let manager = Manager::new("ready");
    let mut server = manager.start(400);
    assert_eq!(manager.hear(), ["READY=1", "STATUS=serving: 0 connections"]);
    for _ in 0..5 {
        manager.hear_until("WATCHDOG=1");
    }
    let client = server.connect("/t/x");
    manager.hear_until("STATUS=serving: 1 connection");
    server.signal(Signal::TERM);
    manager.hear_until("STOPPING=1");
    drop(client);
    assert!(server.wait().success());
}

/// A manager with a unit of `Type=notify-reload` waits for both messages, and compares the time with that of its
/// signal.
#[test]
fn the_manager_hears_of_each_reload() {
    let manager = Manager::new("reload");
    let mut server = manager.start(0);
    manager.hear_until("READY=1");
    for _ in 0..2 {
        let before = clock_gettime(ClockId::Monotonic);
        server.signal(Signal::HUP);
        let told = manager.hear();
        let [reloading, time] = &told[..] else { panic!("{told:?}") };
        assert_eq!(reloading, "RELOADING=1");
        let time: i64 = time.strip_prefix("MONOTONIC_USEC=").expect(time).parse().unwrap();
        assert!(time >= before.tv_sec * 1_000_000 + before.tv_nsec / 1_000, "{time}");
        assert_eq!(manager.hear(), ["READY=1"]);
    }
    server.end();
}

/// Without a watchdog the manager hears only changes of the state.
#[test]
fn a_manager_without_a_watchdog_hears_the_state() {
    let manager = Manager::new("state");
    let mut server = manager.start(0);
    assert_eq!(manager.hear(), ["READY=1", "STATUS=serving: 0 connections"]);
    server.signal(Signal::TERM);
    assert_eq!(manager.hear(), ["STOPPING=1", "STATUS=leaving: 0 connections"]);
    assert!(server.wait().success());
}

/// If the manager is gone, the log says so and the server goes on.
#[test]
fn the_server_goes_on_without_its_manager() {
    let mut command = clean(Command::new(binary_path()));
    command.env("NOTIFY_SOCKET", "/nowhere/notify");
    let mut server = Server::start_command(command);
    server.log_until("the service manager (NOTIFY_SOCKET) cannot be told that the server is ready");
    assert_eq!(ask(&mut dial(server.address()), &request("GET", "/healthz")).status(), 200);
    server.end();
}

//! Faults of the machine: descriptors are used up, and the kernel refuses a shard's ring.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use crate::support::{
    Client, Received, Server, ask, clean, dial, is_on_epoll, post, program, program::Program, request, text,
    upgrade_request,
};

/// No descriptor is left: open connections still publish, receive and read the metrics. A file, which needs a
/// descriptor, is refused, and is served again when descriptors are free.
#[test]
fn no_descriptor_is_left() {
    let folder = std::env::temp_dir().join(format!("ringhub-descriptors-{}", std::process::id()));
    fs::create_dir_all(folder.join("site")).unwrap();
    fs::write(folder.join("site/file"), "a file\n").unwrap();
    let file = folder.join("ringhub.toml");
    let routes = "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n[[routes]]\nmatch = \"/\"\n";
    fs::write(&file, format!("{routes}documents = \"./site\"\n")).unwrap();
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file);
    let server = Server::start_command(command);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut kept: Vec<TcpStream> = (0..3).map(|_| dial(server.address())).collect();
    for stream in &mut kept {
        assert_eq!(ask(stream, &request("GET", "/file")).body, "a file\n");
    }
    let before = getrlimit(Resource::Nofile);
    prlimit(Some(server.pid()), Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    // The kernel takes connections that the server cannot accept.
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| dial(server.address())).collect();
    waiting[0].write_all(upgrade_request("/t/x").as_bytes()).unwrap();
    server.counts_until("accepting pauses", |counts| counts.get("accept_paused_total") >= 3);
    for round in 0..3 {
        assert_eq!(ask(&mut kept[0], &post("/t/x", "text/plain", &round.to_string())).status(), 202);
        subscriber.expect(text(&round.to_string()));
        let metrics = ask(&mut kept[1], &request("GET", "/metrics"));
        assert_eq!(metrics.status(), 200, "{metrics:?}");
        assert!(metrics.body.contains("\nringhub_accept_paused_total{shard=\"0\"} "), "{}", metrics.body);
        assert_eq!(ask(&mut kept[1], &request("GET", "/healthz")).status(), 200);
    }
    let refused = ask(&mut kept[2], &request("GET", "/file"));
    assert_eq!((refused.status(), refused.error()), (500, "the document cannot be read".into()));
    prlimit(Some(server.pid()), Resource::Nofile, before).unwrap();
    assert_eq!(ask(&mut kept[2], &request("GET", "/file")).body, "a file\n");
    let mut first = waiting.swap_remove(0);
    let mut begin = [0; 12];
    first.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 101");
    drop((waiting, kept, first));
    let mut stream = dial(server.address());
    assert_eq!(ask(&mut stream, &request("GET", "/file")).body, "a file\n");
    drop(stream);
    server.expect_counts(&[("http_connections_open", 0), ("connections_open", 1)]);
    fs::remove_dir_all(folder).unwrap();
}

/// The kernel refuses the batches of one shard. The panic of this shard ends the whole process at once, with one line
/// for the operator, and every client sees the end.
///
/// A seccomp filter refuses: a call of io_uring_enter with at least 64 entries fails. The first such call is that of a
/// message for hundreds of subscribers.
#[test]
fn a_shard_that_panics_ends_the_process() {
    const LEAST: u64 = 64;
    if is_on_epoll() {
        println!("skipped: the filter refuses only rings");
        return;
    }
    let mut process = thread::spawn(|| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ge, LEAST).unwrap();
        let rule = SeccompRule::new(vec![condition]).unwrap();
        let filter = SeccompFilter::new(
            BTreeMap::from([(libc::SYS_io_uring_enter, vec![rule])]),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let filter: BpfProgram = filter.unwrap().try_into().unwrap();
        // The filter stays with this thread and the process that it starts.
        apply_filter(&filter).unwrap();
        let mut command = program();
        command.args(["--shards=2", "--listen=127.0.0.1:0"]);
        Program::start(command)
    })
    .join()
    .unwrap();
    let first = process.line().expect("the server starts");
    let address: SocketAddr = first.split(" serves on ").nth(1).expect("an address").parse().unwrap();
    let mut subscribers: Vec<Client> = (0..6 * LEAST).map(|_| Client::connect(address, "/t/x?mode=sub")).collect();
    let mut publisher = Client::connect(address, "/t/x?mode=pub");
    publisher.send_text("the last");
    let status = process.wait();
    let log = process.log();
    assert_eq!(status.code(), Some(1), "{status}\n{log}");
    let told: Vec<&str> = log.lines().filter(|line| line.starts_with("ringhub: ")).collect();
    let expected =
        "ringhub: a shard has ended, which it never should: the entries of the hot ring are refused: Some(1)";
    assert_eq!(told, [expected], "{log}");
    assert!(log.contains("thread 'ringhub-shard-") && log.contains("panicked at"), "{log}");
    subscribers.push(publisher);
    for client in &mut subscribers {
        // A subscriber on the other shard may still receive the message.
        let mut received = client.receive();
        if received == text("the last") {
            received = client.receive();
        }
        assert!(matches!(received, Received::End | Received::Reset), "{received:?}");
    }
}

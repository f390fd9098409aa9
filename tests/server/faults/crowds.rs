//! Thousands of clients that fail at the same moment: they stall, they are killed, they come back.

use std::{
    env, fs,
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Client, CrowdPermit, DEADLINE, Fate, KernelSocket, Listeners, Numbered, Server, binary_path, clean,
    program::Program,
};

/// How many readers stop at once, and how many readers of the same topic go on.
const STALLED: usize = 5_000;
const READING: usize = 200;

/// Thousands stop reading at once. When they read again, each receives the beginning of the broadcast, in order, then
/// the reason of its close.
#[test]
fn thousands_that_stall_at_once_are_told() {
    let permit = CrowdPermit::take();
    let stall = Stall::begin(&permit, "1h");
    let Stall { server, topic, mut listeners, stalled } = stall;
    for number in 0..stalled {
        listeners.resume(number);
    }
    listeners.serve_until("all are told", |all| all.open() == READING);
    for number in 0..stalled {
        assert_eq!(*listeners.fate(number), Fate::Closed(1008, "slow consumer".into()), "listener {number}");
        assert!(listeners.next(number) <= topic.begun(), "listener {number} has more than was published");
    }
    server.expect_counts(&[("close_timeout_total", 0), ("reset_total", 0)]);
    expect_survivors(&server, READING as u64);
}

/// Thousands stop reading at once and never read again. After `close_timeout` the kernel keeps nothing of them.
#[test]
fn thousands_that_stall_at_once_are_given_up() {
    let permit = CrowdPermit::take();
    let Stall { server, mut listeners, stalled, .. } = Stall::begin(&permit, "1s");
    server.expect_counts(&[("close_timeout_total", stalled as u64), ("reset_total", stalled as u64)]);
    expect_survivors(&server, READING as u64);
    listeners.serve_until("all have seen the reset", |all| all.open() == READING);
    assert_eq!(listeners.count(|fate| *fate == Fate::Cut), stalled);
}

/// A crowd of listeners that has just been closed as slow.
struct Stall {
    server: Server,
    topic: Numbered,
    /// The stalled listeners come first.
    listeners: Listeners,
    stalled: usize,
}

impl Stall {
    /// Lets thousands stop reading in the middle of a broadcast, until all of them are closed. Then the others have
    /// every message, in order, and the server's memory has stayed within its limits.
    fn begin(permit: &CrowdPermit, close_timeout: &str) -> Stall {
        let stalled = permit.afford(STALLED, READING);
        let times = ["--close-timeout", close_timeout, "--ping-interval=0"];
        let flags = [STALL_LIMITS, &times].concat();
        let server = Server::start(&flags);
        let topic = Numbered::new("/t/stall");
        let mut listeners = Listeners::new(server.address());
        listeners.join(stalled, &topic, Some(4_096));
        listeners.join(READING, &topic, None);
        let mut publisher = server.connect("/t/stall?mode=pub");
        let everybody = 0..listeners.len();
        publish(&mut publisher, &topic, 3);
        listeners.serve_until("all have the first messages", |all| all.have_all(everybody.clone()));
        (0..stalled).for_each(|number| listeners.stall(number));
        while server.counts().get("slow_closed_total") < stalled as u64 {
            publish(&mut publisher, &topic, 4);
            listeners.serve_until("the others have all", |all| all.have_all(stalled..everybody.end));
            assert!(topic.begun() < 1_000, "backlogs have no limit");
        }
        server.expect_counts(&[("slow_closed_total", stalled as u64), ("aborted_total", 0)]);
        let (peak, worst) = (peak_mib(&server), worst_case_mib(&flags));
        println!("{stalled} stalled after {} messages: {peak:.1} MiB at the most, of {worst:.1} MiB", topic.begun());
        assert!(peak <= worst, "{peak} MiB at the most, where check-config says {worst}");
        publisher.leave();
        Stall { server, topic, listeners, stalled }
    }
}

/// Limits that make backlogs the largest part of the worst case, so that the test sees whether the limits of backlogs
/// hold.
const STALL_LIMITS: &[&str] = &[
    "--shards=2",
    "--max-connections=5300",
    "--send-buffer=4096",
    "--max-message=4KiB",
    "--max-backlog=16KiB",
    "--max-backlog-messages=64",
    "--max-gathered=64KiB",
    "--max-unfinished=64KiB",
    "--max-bodies=64KiB",
    "--max-http-connections=20",
    "--max-idle-topics=10",
];

/// Half of thousands of clients are killed with their processes, in the middle of a broadcast.
#[test]
fn half_of_the_clients_are_killed() {
    const PROCESSES: usize = 8;
    let permit = CrowdPermit::take();
    // Only the server's descriptors count here, since each process of listeners has its own.
    let each = permit.afford(4_000, 0) / PROCESSES;
    let server = Server::start(&["--shards=4", "--max-backlog=64MiB", "--ping-interval=0"]);
    let mut processes: Vec<Program> =
        (0..PROCESSES).map(|_| listen_elsewhere(server.address(), OTHER_PROCESSES, each)).collect();
    processes.iter().for_each(|process| line_with(process, "subscribed"));
    let topic = Numbered::new(OTHER_PROCESSES);
    let mut publisher = server.connect(&format!("{OTHER_PROCESSES}?mode=pub"));
    for round in 0..50 {
        publish(&mut publisher, &topic, 4);
        // Each process is killed while messages are on their way to it.
        if round % 10 == 9 && processes.len() > PROCESSES / 2 {
            drop(processes.pop());
        }
    }
    publisher.send_text(&topic.last());
    let survivors = processes.len() * each;
    processes.iter().for_each(|process| line_with(process, "have everything"));
    // The publisher's connection counts too.
    expect_survivors(&server, survivors as u64 + 1);
    publisher.send_text(&topic.next(0));
    publisher.leave();
    for mut process in processes {
        let status = process.wait();
        assert!(status.success(), "{status}: {}", process.log());
    }
    server.expect_counts(&[("ended_total", (PROCESSES * each + 1) as u64), ("slow_closed_total", 0)]);
    expect_survivors(&server, 0);
}

/// Starts a process with `count` listeners of a topic that has no messages yet. They leave when one message has
/// followed the last.
pub(crate) fn listen_elsewhere(server: SocketAddr, target: &str, count: usize) -> Program {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "faults::crowds::a_process_of_listeners", "--ignored", "--nocapture"]);
    let (address, count) = (server.to_string(), count.to_string());
    command.envs([("FAULTS_ADDRESS", &*address), ("FAULTS_COUNT", &count), ("FAULTS_TARGET", target)]);
    Program::start(command)
}

/// Waits until a process writes a line that ends with these words.
#[track_caller]
pub(crate) fn line_with(process: &Program, words: &str) {
    loop {
        let line = process.line().unwrap_or_else(|| panic!("the process ended before {words:?}: {}", process.log()));
        if line.ends_with(words) {
            return;
        }
    }
}

#[test]
#[ignore = "another test runs and kills this process"]
fn a_process_of_listeners() {
    let variable = |name| env::var(name).expect("the test that runs this sets it");
    let count = variable("FAULTS_COUNT").parse().unwrap();
    let mut listeners = Listeners::new(variable("FAULTS_ADDRESS").parse().unwrap());
    // This `Numbered` counts no messages, so each listener must begin with message 0.
    listeners.join(count, &Numbered::new(&variable("FAULTS_TARGET")), None);
    println!("\n{count} are subscribed");
    listeners.serve_until("all have the last message", |all| all.finished() == count);
    println!("{count} have everything");
    // One more message tells the listeners to leave.
    let next = listeners.next(0) + 1;
    listeners.serve_until("all have one message more", |all| (0..count).all(|number| all.next(number) == next));
    (0..count).for_each(|number| listeners.close(number));
    listeners.serve_until("all have left", |all| all.open() == 0);
    assert_eq!(listeners.count(|fate| *fate == Fate::Closed(1000, String::new())), count);
}

const OTHER_PROCESSES: &str = "/t/processes";

/// Thousands of connections are lost and come back at the same moment: every one is served.
#[test]
fn thousands_come_back_at_once() {
    let permit = CrowdPermit::take();
    let count = storm(&permit);
    let server = Server::start(&["--shards=2", "--handshake-timeout=1h"]);
    let topic = Numbered::new("/t/storm");
    let mut listeners = Listeners::new(server.address());
    listeners.join(count, &topic, None);
    for round in 1..=2 {
        // All listeners are reset in the first round and closed in the second. If there are more than 10 000, they are
        // always reset: a closed socket keeps its port for a minute, and there are 28 000 ports.
        let is_reset = round == 1 || count > 10_000;
        (0..listeners.len()).for_each(|number| listeners.leave(number, is_reset));
        (0..count).for_each(|_| _ = listeners.dial(&topic, None));
        listeners.serve_until("all are answered", |all| all.opening() == 0);
        assert_eq!(listeners.open(), count);
        let open = count as u64;
        server.expect_counts(&[
            ("connections_open", open),
            ("opened_total", open * (round + 1)),
            ("ended_total", open * round),
        ]);
    }
    let counts = server.counts();
    assert_eq!((counts.refused(), counts.get("handshake_timeout_total")), (0, 0));
    let mut publisher = server.connect("/t/storm?mode=pub");
    publisher.send_text(&topic.last());
    listeners.serve_until("all have the message", |all| all.finished() == count);
    publisher.leave();
    expect_survivors(&server, count as u64);
}

/// Twice as many clients come back as there is room for. Half of them are served; each of the others is refused with a
/// delay or closed without an answer. No client waits for ever.
#[test]
fn more_come_back_than_there_is_room_for() {
    let permit = CrowdPermit::take();
    let room = storm(&permit) / 2;
    let server = Server::start(&["--shards=2", "--max-connections", &room.to_string(), "--handshake-timeout=1h"]);
    let topic = Numbered::new("/t/storm");
    let mut listeners = Listeners::new(server.address());
    listeners.join(room, &topic, None);
    (0..room).for_each(|number| listeners.leave(number, true));
    server.expect_counts(&[("connections_open", 0)]);
    let newcomers = room..3 * room;
    newcomers.clone().for_each(|_| _ = listeners.dial(&topic, None));
    listeners.serve_until("all are answered", |all| all.opening() == 0);
    let told = listeners.count(|fate| *fate == Fate::Refused(503, Some("1".into())));
    let unanswered = listeners.count(|fate| *fate == Fate::Unanswered);
    println!("{} are served, {told} are refused with a delay, {unanswered} without an answer", listeners.open());
    assert_eq!((listeners.open(), told + unanswered), (room, room));
    assert!(told > 0, "no client was told when to come back");
    let (room_now, refused) = (room as u64, ("refused_total{cause=\"limit\"}", room as u64));
    server.expect_counts(&[("connections_open", room_now), ("opened_total", 2 * room_now), refused]);
    // As many new clients find room as have left.
    let leaving: Vec<usize> =
        newcomers.filter(|&number| *listeners.fate(number) == Fate::Open).take(room / 2).collect();
    leaving.iter().for_each(|&number| listeners.leave(number, true));
    server.expect_counts(&[("connections_open", room_now - leaving.len() as u64)]);
    listeners.join(leaving.len(), &topic, None);
    server.expect_counts(&[refused]);
    expect_survivors(&server, room_now);
}

/// Returns the number of clients that come back at once: 4 000, or as many as `RINGHUB_STORM` says.
fn storm(permit: &CrowdPermit) -> usize {
    permit.afford(env::var("RINGHUB_STORM").map_or(4_000, |count| count.parse().expect("a number")), 0)
}

/// Publishes `count` messages, and waits until the server has taken them.
fn publish(publisher: &mut Client, topic: &Numbered, count: usize) {
    (0..count).for_each(|_| publisher.send_text(&topic.next(1_000)));
    publisher.expect_nothing();
}

/// Waits until `count` connections are left, in the server's gauges and in the kernel.
#[track_caller]
fn expect_survivors(server: &Server, count: u64) {
    // No connection is owed anything, so each has one poll, and there are no other polls.
    server.expect_counts(&[("connections_open", count), ("slow_consumers", 0), ("polls_armed", count)]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(server));
    let begin = Instant::now();
    // The server keeps sockets with unread refusals for a moment.
    loop {
        let sockets = KernelSocket::open_ones(server.address().port()).len() as u64;
        if sockets == count {
            return;
        }
        assert!(begin.elapsed() < DEADLINE, "{sockets} sockets of {count} connections");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the sum at the end of the output of `check-config`.
fn worst_case_mib(flags: &[&str]) -> f64 {
    let output = clean(Command::new(binary_path())).arg("check-config").args(flags).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("MiB  in all")).unwrap_or_else(|| panic!("no sum in {text}"));
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Returns the largest resident memory that a server has had.
fn peak_mib(server: &Server) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}

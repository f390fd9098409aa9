//! The state of a server whose crowds have gone.

use std::fs;

use crate::support::{Counts, KernelSocket, Server, exchange, post, published, request, text};

/// The state of a server before the crowds come.
pub(crate) struct Before {
    descriptors: usize,
}

impl Before {
    pub(crate) fn of(server: &Server) -> Before {
        settled(server);
        Before { descriptors: descriptors(server).len() }
    }
}

/// Checks that the crowds have left no socket, descriptor, connection or topic, that the server still serves, and that
/// its end is orderly.
pub(crate) fn check(mut server: Server, before: &Before, idle_topics_max: usize) {
    let port = server.address().port();
    let counts = settled(&server);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    KernelSocket::until_none("sockets of connections that have ended", || KernelSocket::open_ones(port));
    KernelSocket::until_none("more descriptors than before", || {
        let now = descriptors(&server);
        if now.len() > before.descriptors { now } else { Vec::new() }
    });
    assert_eq!(counts.get("opened_total"), counts.get("ended_total"), "{counts:?}");
    assert_eq!((counts.get("handler_panics_total"), counts.get("log_lines_dropped_total")), (0, 0), "{counts:?}");
    let topics = counts.get("topics");
    assert!(topics <= idle_topics_max as u64, "{topics} topics are left, but only {idle_topics_max} may be idle");
    serves(&server);
    let log = server.end();
    let lines = log.lines().count();
    assert!(!log.contains("panicked"), "{log}");
    assert!(lines <= LINES_MAX && log.len() <= LOG_BYTES_MAX, "{lines} lines, {} bytes:\n{log}", log.len());
    let left = KernelSocket::open_ones(port);
    assert!(left.is_empty(), "sockets outlive the server: {left:?}");
}

/// Waits until no gauge counts a connection.
fn settled(server: &Server) -> Counts {
    let gauges = ["connections_open", "http_connections_open", "slow_consumers", "polls_armed"];
    server.counts_until("nothing is left", |counts| gauges.iter().all(|gauge| counts.get(gauge) == 0))
}

/// Checks that a message from a publisher and one by POST reach a subscriber, and that files and endpoints answer.
pub(crate) fn serves(server: &Server) {
    let mut subscriber = server.connect("/t/honest-0?mode=sub");
    let mut publisher = server.connect("/t/honest-0?mode=pub");
    publisher.send_text("served");
    subscriber.expect(text("served"));
    publisher.leave();
    published(&exchange(server.address(), &post("/t/honest-0", "text/plain", "posted")));
    subscriber.expect(text("posted"));
    subscriber.leave();
    for target in ["/healthz", "/readyz", "/site/index.html", "/"] {
        let response = exchange(server.address(), &request("GET", target));
        assert_eq!(response.status(), 200, "{target}: {response:?}");
    }
}

/// Returns the target of each descriptor of the server.
fn descriptors(server: &Server) -> Vec<String> {
    let folder = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    let entries = fs::read_dir(folder).expect("the server runs");
    let target = |path| fs::read_link(path).map(|target| target.display().to_string());
    entries.filter_map(|entry| target(entry.ok()?.path()).ok()).collect()
}

/// Returns the largest resident memory that the server has had, in MiB.
pub(crate) fn peak_mib(server: &Server) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}

/// The most lines and bytes that a server logs during a mix.
const LINES_MAX: usize = 100;
const LOG_BYTES_MAX: usize = 64 * 1_024;

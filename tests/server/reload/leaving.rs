//! The end of a server: the delay before the drain, and the hint in the goodbye.

use std::collections::BTreeSet;

use rustix::process::Signal;

use super::{Pair, Reloadable};
use crate::support::{Client, RESTART, Server, close, exchange, post, request, text};

/// For the delay of the drain the server says that it is not ready, and does everything else as before.
#[test]
fn a_server_goes_on_for_the_delay_of_the_drain() {
    let mut server = Server::start(&["--drain-delay", "1500ms", "--drain-timeout", "60s", "--shards", "2"]);
    let mut pair = Pair::connect(&server, "x");
    let address = server.address();
    assert_eq!(exchange(address, &request("GET", "/readyz")).status(), 200);
    server.signal(Signal::TERM);
    server.log_until("readiness has ended; the drain begins after the delay");
    let ready = |target| exchange(address, &request("GET", target)).status();
    assert_eq!((ready("/readyz"), ready("/healthz")), (503, 200));
    pair.talk();
    let mut late = server.connect("/t/x?mode=sub");
    assert_eq!(exchange(address, &post("/t/x", "text/plain", "by post")).status(), 202);
    late.expect(text("by post"));
    pair.subscriber.expect(text("by post"));
    for client in [&mut late, &mut pair.subscriber, &mut pair.publisher] {
        client.expect_close(1012, RESTART);
    }
    drop((late, pair));
    assert!(server.wait().success(), "{}", server.log());
    let log = server.log();
    assert!(log.contains("told=3 left=3 dropped=0"), "{log}");
}

/// A second signal ends the server at once, also within the delay.
#[test]
fn a_second_signal_ends_the_delay() {
    let mut server = Server::start(&["--drain-delay", "1h"]);
    server.may_fail();
    server.signal(Signal::TERM);
    server.log_until("readiness has ended");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(1));
}

/// The delay of a server in the sandbox is waited for by a thread that starts within the sandbox.
#[test]
fn the_delay_and_its_length_can_be_reloaded() {
    let mut hub = Reloadable::start("sandbox = \"on\"\ndrain_delay = \"1h\"\n");
    let mut client = hub.server().connect("/t/x");
    hub.reload("sandbox = \"on\"\ndrain_delay = \"200ms\"\n");
    hub.server().signal(Signal::TERM);
    client.expect_close(1012, RESTART);
    drop(client);
    hub.end();
}

/// Each client gets a time of its own, within that of the drain.
#[test]
fn the_goodbye_has_a_hint_that_differs() {
    let mut server = Server::start(&["--drain-timeout", "5s"]);
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect("/t/x")).collect();
    server.signal(Signal::TERM);
    let hints: Vec<u32> = clients
        .iter_mut()
        .map(|client| {
            client.expect(close(1012, RESTART));
            client.retry_after_ms.expect("a hint")
        })
        .collect();
    drop(clients);
    assert!(server.wait().success(), "{}", server.log());
    assert!(hints.iter().all(|hint| *hint <= 5_000), "{hints:?}");
    assert!(hints.iter().collect::<BTreeSet<_>>().len() > 40, "{hints:?}");
    assert!(hints.iter().any(|hint| *hint > 2_500) && hints.iter().any(|hint| *hint < 2_500), "{hints:?}");
}

/// A reload while the server leaves changes nothing about the drain.
#[test]
fn a_reload_does_not_end_a_drain() {
    let mut hub = Reloadable::start("drain_timeout = \"60s\"\nclose_timeout = \"60s\"\n");
    let mut client = hub.server().connect("/t/x");
    hub.server().signal(Signal::TERM);
    hub.server().counts_until("the client is told", |counts| counts.get("drain_closed_total") == 1);
    hub.reload("drain_timeout = \"60s\"\nclose_timeout = \"60s\"\nmax_connections = 7\n");
    client.expect_close(1012, RESTART);
    drop(client);
    hub.end();
}

/// The hint is for the next server: this one refuses.
#[test]
fn a_leaving_server_opens_nothing() {
    let mut server = Server::start(&["--drain-timeout", "60s", "--close-timeout", "60s"]);
    let mut client = server.connect("/t/x");
    let early = crate::support::dial(server.address());
    server.counts_until("both are accepted", |counts| counts.get("accepted_total") == 2);
    server.signal(Signal::TERM);
    server.counts_until("the client is told", |counts| counts.get("drain_closed_total") == 1);
    let refused = Client::open(early, "/t/x", &[]).map(drop).expect_err("the server leaves");
    assert_eq!(refused.status(), 503);
    client.expect_close(1012, RESTART);
    drop(client);
    assert!(server.wait().success(), "{}", server.log());
}

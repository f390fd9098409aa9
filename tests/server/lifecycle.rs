//! The life of a server's process: command line, signals, counters, end, and causes for which it does not start.

use std::{
    io::{Read, Write as _},
    net::TcpListener,
    process::Output,
};

use ringhub::{config::SETTINGS, proto::OpCode};
use rustix::process::Signal;

use crate::support::{
    Client, RESTART, Received, Server, ask, close, dial, dial_with, exchange, pattern, post, program, published,
    read_response, request, reset, run_to_end, text,
};

#[test]
fn a_signal_lets_everybody_leave() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut server = Server::start(&["--drain-timeout", "60s"]);
        let address = server.address();
        let mut clients: Vec<Client> = (0..20).map(|_| server.connect("/t/x")).collect();
        clients[0].send_text("before");
        for client in &mut clients[1..] {
            client.expect(text("before"));
        }
        server.signal(signal);
        for client in &mut clients {
            client.expect(close(1012, RESTART));
        }
        // The server stops listening before it closes its connections.
        let refused = std::net::TcpStream::connect(address).expect_err("the server still accepts");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        for client in &mut clients {
            client.expect(Received::End);
        }
        drop(clients);
        assert!(server.wait().success(), "{}", server.log());
        let log = server.log();
        let leaving = log.lines().find(|line| line.contains("leaving")).unwrap();
        assert!(leaving.contains("connections=20"), "{log}");
        assert!(log.trim_end().ends_with(" stopped told=20 left=20 dropped=0 is_barrier_whole=true"), "{log}");
    }
}

/// A client's backlog reaches it before the close frame.
#[test]
fn backlogs_drain_before_the_end() {
    const COUNT: usize = 10;
    let mut server = Server::start(&["--send-buffer", "4096", "--max-backlog", "64MiB", "--drain-timeout", "60s"]);
    let mut slow = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut publisher = server.connect("/t/x?mode=pub");
    let message = pattern(1, 500_000);
    for _ in 0..COUNT {
        publisher.send_binary(&message);
    }
    server.expect_counts(&[("slow_consumers", 1), ("deliveries_total", COUNT as u64)]);
    server.signal(Signal::TERM);
    publisher.expect_close(1012, RESTART);
    drop(publisher);
    for _ in 0..COUNT {
        slow.expect(crate::support::binary(&message));
    }
    slow.expect_close(1012, RESTART);
    drop(slow);
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn clients_that_do_not_answer_do_not_keep_it() {
    let mut server = Server::start(&["--drain-timeout", "300ms", "--close-timeout", "1h"]);
    let mut deaf = server.connect("/t/x");
    deaf.never_answer();
    let mut silent = dial(server.address());
    server.expect_counts(&[("accepted_total", 2)]);
    server.signal(Signal::TERM);
    deaf.expect(close(1012, RESTART));
    assert!(server.wait().success(), "{}", server.log());
    assert!(server.log().contains("drain timeout"), "{}", server.log());
    assert!(server.log().contains("told=1 left=0 dropped=1 is_barrier_whole="), "{}", server.log());
    assert!(matches!(deaf.receive(), Received::End | Received::Reset));
    let mut rest = Vec::new();
    // The end of a silent client may be orderly or a reset.
    drop(silent.read_to_end(&mut rest));
    assert!(rest.is_empty(), "{rest:?}");
}

/// In a drain, HTTP connections end when their answers have been sent, and do not wait for the last WebSocket.
#[test]
fn idle_connections_end_when_the_drain_begins() {
    let settings = ["--drain-timeout", "1h", "--close-timeout", "1h", "--metrics-listen", "127.0.0.1:0"];
    let mut server = Server::start(&settings);
    let notes = server.notes();
    let end = notes.rfind("/metrics").unwrap();
    let metrics = notes[..end].rsplit("http://").next().unwrap().parse().unwrap();
    let mut deaf = server.connect("/t/x");
    deaf.never_answer();
    let mut kept: Vec<_> = [(server.address(), "/"), (server.address(), "/"), (metrics, "/metrics")]
        .into_iter()
        .map(|(address, target)| {
            let mut stream = dial(address);
            assert_eq!(ask(&mut stream, &request("GET", target)).status(), 200);
            stream
        })
        .collect();
    // A request that has begun is answered, then its connection ends.
    kept[1].write_all(b"GET /nothing HT").unwrap();
    server.signal(Signal::TERM);
    deaf.expect(close(1012, RESTART));
    for at in [0, 2] {
        assert_eq!(kept[at].read(&mut [0]).expect("an orderly end"), 0);
    }
    kept[1].write_all(b"TP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let last = read_response(&mut kept[1], &[], true);
    assert_eq!((last.status(), last.header("connection")), (404, Some("close")));
    // The port of the metrics stays open, so that a load balancer sees that this server is leaving.
    for (target, status) in [("/healthz", 200), ("/readyz", 503), ("/metrics", 200)] {
        let response = exchange(metrics, &request("GET", target));
        assert_eq!((response.status(), response.header("connection")), (status, Some("close")), "{target}");
    }
    drop(deaf);
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn without_clients_it_ends_at_once() {
    for (shards, has_served) in [("1", true), ("1", false), ("4", true), ("4", false)] {
        let mut server = Server::start(&["--drain-timeout", "1h", "--shards", shards]);
        if has_served {
            server.connect("/t/x").leave();
            server.expect_counts(&[("connections_open", 0)]);
        }
        server.signal(Signal::TERM);
        assert!(server.wait().success(), "{}", server.log());
        assert!(server.log().contains("told=0 left=0 dropped=0 is_barrier_whole=true"), "{}", server.log());
    }
}

/// The drain may begin before the control thread runs for the first time.
#[test]
fn a_drain_right_after_the_start() {
    for shards in ["1", "4"] {
        for _ in 0..5 {
            let mut server = Server::start(&["--drain-timeout", "1h", "--shards", shards]);
            let mut client = server.connect("/t/x");
            server.signal(Signal::TERM);
            client.expect_close(1012, RESTART);
            drop(client);
            assert!(server.wait().success(), "{}", server.log());
            assert!(server.log().contains("told=1 left=1 dropped=0 is_barrier_whole=true"), "{}", server.log());
        }
    }
}

/// With a `drain_timeout` of 0 the server closes all its clients and waits for none.
#[test]
fn a_drain_without_time() {
    for shards in ["1", "4"] {
        let mut server = Server::start(&["--drain-timeout", "0", "--close-timeout", "1h", "--shards", shards]);
        let mut clients: Vec<Client> = (0..8).map(|_| server.connect("/t/x")).collect();
        clients.iter_mut().for_each(Client::never_answer);
        server.signal(Signal::TERM);
        assert!(server.wait().success(), "{}", server.log());
        for client in &mut clients {
            // The reset after the close frame may destroy it.
            let received = client.receive();
            let is_closed = received == close(1012, RESTART);
            assert!(is_closed || matches!(received, Received::End | Received::Reset), "{received:?}");
        }
        assert!(server.log().contains("told=8 left=0 dropped=8 is_barrier_whole="), "{}", server.log());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second, name) in [
        (Signal::TERM, Signal::INT, "a second signal, SIGINT"),
        (Signal::QUIT, Signal::QUIT, "a second signal, SIGQUIT"),
        (Signal::INT, Signal::TERM, "a second signal, SIGTERM"),
    ] {
        let mut server = Server::start(&["--drain-timeout", "1h", "--close-timeout", "1h"]);
        server.may_fail();
        let mut deaf = server.connect("/t/x");
        deaf.never_answer();
        server.signal(first);
        deaf.expect(close(1012, RESTART));
        server.signal(second);
        let status = server.wait();
        assert_eq!(status.code(), Some(1), "{status}\n{}", server.log());
        assert!(server.log().contains(name), "{}", server.log());
    }
}

/// SIGUSR2 has no meaning, and SIGHUP does not speed up a drain.
#[test]
fn signals_that_mean_nothing_are_ignored() {
    let mut server = Server::start(&[]);
    let mut client = server.connect("/t/x?echo=true");
    server.signal(Signal::USR2);
    server.log_until("SIGUSR2 is ignored");
    client.send_text("still here");
    client.expect(text("still here"));
    server.signal(Signal::TERM);
    client.expect(close(1012, RESTART));
    server.signal(Signal::HUP);
    client.expect(Received::End);
    drop(client);
    assert!(server.wait().success(), "{}", server.log());
}

/// A program that has read the server's address may send signals at once.
#[test]
fn signals_are_heard_as_soon_as_the_address_is_known() {
    for _ in 0..20 {
        let server = Server::start(&[]);
        assert_eq!(server.counts().get("accepted_total"), 0);
    }
}

#[test]
fn an_output_without_a_reader_does_not_end_the_server() {
    let mut server = Server::start(&[]);
    server.stop_reading();
    for _ in 0..20 {
        server.signal(Signal::USR1);
        server.connect("/t/x").leave();
    }
}

/// Every expected number follows from the actions of this test.
#[test]
fn the_counters_tell_what_happened() {
    let server = Server::start(&["--max-connections", "6", "--ping-interval", "0"]);
    let mut subscribers: Vec<Client> = (0..3).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut talker = server.connect("/t/x");
    for number in 0..10 {
        publisher.send_text(&number.to_string());
        talker.expect(text(&number.to_string()));
    }
    talker.send_binary(b"mine");
    for subscriber in &mut subscribers {
        for number in 0..10 {
            subscriber.expect(text(&number.to_string()));
        }
        subscriber.expect(crate::support::binary(b"mine"));
    }
    // One client more than there is room for is refused.
    let sixth = server.connect("/t/y");
    assert_eq!(Client::open(dial(server.address()), "/t/x", &[]).err().unwrap().status(), 503);
    // One client leaves, one is reset, one breaks the protocol, and one sends although it may not.
    talker.leave();
    reset(sixth.into_stream());
    publisher.send_raw(&[0xc1]);
    publisher.expect(close(1002, "a reserved bit is set"));
    let mut told = subscribers.pop().unwrap();
    told.send_text("I may not");
    told.expect(close(1008, "this connection only receives"));
    drop((publisher, told));
    server.expect_counts(&[("connections_open", 2)]);
    // Two requests are refused, the third gets the page.
    assert_eq!(exchange(server.address(), "GET /t/x HTTP/1.1\r\nHost: a\r\n\r\n").status(), 426);
    assert_eq!(exchange(server.address(), "GET /x HTTP/1.1\r\nHost: a\r\n\r\n").status(), 404);
    assert_eq!(exchange(server.address(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    server.expect_counts(&[
        ("accepted_total", 10),
        ("opened_total", 6),
        ("ended_total", 4),
        ("connections_open", 2),
        ("refused_total{cause=\"upgrade\"}", 1),
        ("refused_total{cause=\"not_found\"}", 1),
        ("http_requests_total", 3),
        ("refused_total{cause=\"limit\"}", 1),
        ("handshake_timeout_total", 0),
        ("accept_paused_total", 0),
        // The message of a receive-only client is counted too, although it is not published.
        ("messages_in_total", 12),
        ("deliveries_total", 10 * 4 + 3),
        ("slow_consumers", 0),
        ("slow_closed_total", 0),
        ("protocol_errors_total", 1),
        ("policy_closed_total", 1),
        ("pings_sent_total", 0),
        ("aborted_total", 1),
        ("close_timeout_total", 0),
    ]);
}

#[test]
fn bytes_are_counted() {
    let server = Server::start(&[]);
    let (mut publisher, mut subscriber) = (server.connect("/t/x"), server.connect("/t/x"));
    // These two sends are the opening answers.
    let opened = server.counts_until("two sends", |counts| counts.get("sends_total") == 2);
    publisher.send_text(&"x".repeat(1_000));
    subscriber.expect(text(&"x".repeat(1_000)));
    // A header has 2 bytes, the length 2 more, and a client's masking key 4.
    server.expect_counts(&[
        ("bytes_in_total", opened.get("bytes_in_total") + 1_008),
        ("bytes_out_total", opened.get("bytes_out_total") + 1_004),
        ("sends_total", opened.get("sends_total") + 1),
    ]);
}

#[test]
fn two_hubs_cannot_share_an_address() {
    let server = Server::start(&[]);
    let address = server.address().to_string();
    let output = run(&["--listen", &address]);
    check_failure(&output, &[&address, "in use", " --listen"]);
    let output = run(&["--listen", "127.0.0.1:0", "--metrics-listen", &address]);
    check_failure(&output, &[&address, "in use", " --metrics-listen"]);
    let mut client = server.connect("/t/x?echo=true");
    client.send_text("undisturbed");
    client.expect(text("undisturbed"));
}

/// Connections left in the kernel from a server that has just ended do not keep the address.
#[test]
fn the_next_hub_may_have_the_address_at_once() {
    let mut server = Server::start(&[]);
    let address = server.address();
    let mut client = server.connect("/t/x");
    server.signal(Signal::TERM);
    client.expect_close(1012, RESTART);
    drop(client);
    assert!(server.wait().success());
    let mut command = program();
    command.args(["--listen", &address.to_string()]);
    let next = Server::start_at(command);
    assert_eq!(next.address(), address);
    next.connect("/t/x").leave();
}

#[test]
fn an_address_of_another_machine() {
    // RFC 5737: an address for documentation, so no machine has it.
    check_failure(&run(&["--listen", "192.0.2.1:6455"]), &["192.0.2.1:6455", "not an address of this machine"]);
}

/// Runs only where a port below 1024 needs a privilege that this process lacks.
#[test]
fn a_port_that_needs_a_privilege() {
    match TcpListener::bind("127.0.0.1:1") {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            check_failure(&run(&["--listen", "127.0.0.1:1"]), &["127.0.0.1:1", "privilege", "--listen"]);
        }
        outcome => println!("nothing to see: this process may listen on port 1: {outcome:?}"),
    }
}

#[test]
fn every_setting_that_cannot_be_is_named() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--listen", "localhost"], &["--listen: ", "localhost:6455"]),
        (&["--listen", "no-such-host.invalid:0"], &["--listen: the name \"no-such-host.invalid\" cannot be resolved"]),
        (&["--listen-ipv6", "both"], &["--listen-ipv6: ", "only, dual"]),
        (&["--listen", "127.0.0.1:99999"], &["--listen: "]),
        (&["--cpus", "x"], &["--cpus: "]),
        (&["--cpus", "3-1"], &["--cpus: "]),
        (&["--cpus", "99999"], &["--cpus: ", "99999"]),
        (&["--pin", "maybe"], &["--pin: ", "auto"]),
        (&["--max-connections", "0"], &["--max-connections: "]),
        (&["--max-connections", "16777217"], &["--max-connections: "]),
        (&["--max-message", "0"], &["--max-message: "]),
        (&["--max-message", "1XB"], &["--max-message: ", "MiB"]),
        (&["--max-message", "2GiB"], &["--max-message: "]),
        (&["--max-frame", "0"], &["--max-frame: "]),
        (&["--max-frame", "2MiB"], &["--max-frame: ", "max_message"]),
        (&["--max-fragments", "0"], &["--max-fragments: "]),
        (&["--max-backlog", "1MiB"], &["--max-backlog: "]),
        (&["--max-backlog-messages", "many"], &["--max-backlog-messages: "]),
        (&["--max-gathered", "1"], &["--max-gathered: "]),
        (&["--max-idle-topics", "many"], &["--max-idle-topics: "]),
        (&["--send-buffer", "1.5KiB"], &["--send-buffer: "]),
        (&["--handshake-timeout", "10"], &["--handshake-timeout: ", "unit"]),
        (&["--handshake-timeout", "50ms"], &["--handshake-timeout: "]),
        (&["--handshake-timeout", "8785h"], &["--handshake-timeout: ", "a year"]),
        (&["--idle-timeout", "18446744073709551615s"], &["--idle-timeout: ", "a year"]),
        (&["--body-timeout", "8785h"], &["--body-timeout: ", "a year"]),
        (&["--message-timeout", "8785h"], &["--message-timeout: ", "a year"]),
        (&["--ping-interval", "9000h"], &["--ping-interval: "]),
        (&["--pong-timeout", "9000h"], &["--pong-timeout: "]),
        (&["--close-timeout", "0"], &["--close-timeout: "]),
        (&["--drain-timeout", "soon"], &["--drain-timeout: "]),
        (&["--log", "a=b=c"], &["--log: "]),
        (&["--log-format", "xml"], &["--log-format: ", "json"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
        (&["no-such-command"], &["no-such-command"]),
    ];
    for (flags, named) in cases {
        check_failure(&run(flags), named);
    }
}

/// The longest accepted times do not overflow any clock.
#[test]
fn the_longest_times_serve() {
    // The server of this test has to leave.
    let times = SETTINGS.iter().filter(|setting| setting.value_name == "TIME" && setting.key != "drain_delay");
    let flags: Vec<String> = times.flat_map(|setting| [format!("--{}", setting.flag()), "8784h".into()]).collect();
    let mut server = Server::start(&flags.iter().map(|flag| &**flag).collect::<Vec<_>>());
    let mut client = server.connect("/t/x?echo=true");
    client.send(OpCode::Text, false, b"a message ");
    client.send(OpCode::Continuation, true, b"in two frames");
    client.expect(text("a message in two frames"));
    // The head and the body come in two parts each, on a connection that is kept for the next request.
    let mut http = dial(server.address());
    let request = post("/t/x", "text/plain", "published");
    for _ in 0..2 {
        for part in [&request[..10], &request[10..request.len() - 3], &request[request.len() - 3..]] {
            http.write_all(part.as_bytes()).unwrap();
            // By now the server waits for the rest, with a timeout.
            server.counts();
        }
        published(&read_response(&mut http, &[], true));
        client.expect(text("published"));
    }
    client.leave();
    let mut deaf = server.connect("/t/x");
    server.signal(Signal::TERM);
    deaf.expect_close(1012, RESTART);
    drop(deaf);
    assert!(server.wait().success(), "{}", server.log());
}

/// `ringhub` and `ringhub serve` both serve, and take the same flags.
#[test]
fn serving_is_the_default() {
    let mut command = program();
    command.arg("serve");
    let server = Server::start_command(command);
    server.connect("/t/x").leave();
    let help = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for text in [help(&["--help"]), help(&["serve", "--help"])] {
        for flag in ["--listen", "--max-message", "--ping-interval", "--drain-timeout", "--log", "RINGHUB_MAX_MESSAGE"]
        {
            assert!(text.contains(flag), "{flag} is missing:\n{text}");
        }
    }
    assert_eq!(help(&["--version"]).trim_end(), format!("ringhub {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn variables_are_settings_and_flags_win() {
    let mut command = program();
    command.env("RINGHUB_MAX_MESSAGE", "10").env("RINGHUB_MAX_CONNECTIONS", "1");
    command.args(["--max-connections", "2"]);
    let server = Server::start_command(command);
    let (mut one, mut other) = (server.connect("/t/x"), server.connect("/t/x"));
    assert_eq!(Client::open(dial(server.address()), "/t/x", &[]).err().unwrap().status(), 503);
    one.send_text("0123456789");
    other.expect(text("0123456789"));
    one.send(OpCode::Text, true, b"0123456789a");
    one.expect(close(1009, "a message is larger than 10 bytes"));
    let mut command = program();
    command.env("RINGHUB_MAX_MESSAGE", "much");
    check_failure(&run_to_end(command), &["RINGHUB_MAX_MESSAGE: ", "much"]);
}

#[test]
fn logs_are_for_people_or_machines() {
    let log = |flags: &[&str]| {
        let mut server = Server::start(flags);
        server.connect("/t/x").leave();
        server.end()
    };
    let json = log(&["--log", "ringhub=debug", "--log-format", "json"]);
    assert!(!json.is_empty());
    for line in json.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(event["level"].is_string() && event["message"].is_string(), "{line}");
    }
    let text = log(&[]);
    assert!(text.contains("INFO") && !text.contains('\u{1b}'), "colours are for terminals: {text:?}");
    assert_eq!(log(&["--log", "off"]), "");
}

fn run(arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments);
    run_to_end(command)
}

/// Expects that the program has failed without serving, and has said why on standard error.
#[track_caller]
fn check_failure(output: &Output, named: &[&str]) {
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}: {log}", output.status);
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!log.contains("panicked"), "{log}");
    for word in named {
        assert!(log.contains(word), "{word:?} is not in: {log}");
    }
}

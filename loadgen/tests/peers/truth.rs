//! What a report says about faults, and about the generator itself.

use crate::peer::{AT, Fault, Peer, Speech};
use crate::{generator, judged_generator};
use ringhub_loadgen::{Counts, Outcome};
use std::net::SocketAddr;
use std::time::Duration;

const PUBLISHED: u64 = 20;

fn counts(fault: Fault, flags: &str) -> (i32, Counts) {
    let peer = Peer::start(Speech::Raw, fault);
    let words = format!("--url {}/x --subscribers 2 --in-flight 16 --messages {PUBLISHED}", peer.url());
    let done = generator(&format!("{words} --drain 300ms {flags}"), &[]);
    (done.status, done.report().counts)
}

#[test]
fn every_fault_is_named() {
    let check = |fault: Fault, change: fn(&mut Counts)| {
        let mut expected = Counts { published: PUBLISHED, expected: 2 * PUBLISHED, ..Counts::default() };
        change(&mut expected);
        assert_eq!(counts(fault, ""), (2, expected), "{fault:?}");
    };
    check(Fault::Lose, |counts| counts.lost = 1);
    check(Fault::Repeat, |counts| counts.duplicated = 1);
    check(Fault::Swap, |counts| counts.reordered = 1);
    check(Fault::Corrupt, |counts| (counts.lost, counts.corrupt) = (1, 1));
    check(Fault::Invent, |counts| counts.foreign = 1);
    check(Fault::Stall, |counts| counts.outstanding = PUBLISHED - AT as u64);
    check(Fault::CloseEarly, |counts| (counts.lost, counts.disconnected) = (PUBLISHED - AT as u64, 1));
}

/// A recorded message has its own size.
#[test]
fn a_message_that_is_cut_off_is_corrupt() {
    let file = std::env::temp_dir().join(format!("loadgen-cut-{}", std::process::id()));
    std::fs::write(&file, "{\"at_ms\":0,\"size\":100}\n".repeat(10)).unwrap();
    let peer = Peer::start(Speech::Raw, Fault::Truncate);
    let words = format!("replay --url {}/x --subscribers 2 --drain 300ms", peer.url());
    let done = generator(&words, &[file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    let Counts { lost, corrupt, .. } = done.report().counts;
    assert_eq!((done.status, lost, corrupt), (2, 1, 1), "{}", done.report());
    assert_eq!((counts(Fault::Truncate, "").1.corrupt, counts(Fault::Truncate, "").1.lost), (1, 1));
}

#[test]
fn a_flood_on_one_connection_does_not_hold_the_run() {
    let peer = Peer::start(Speech::Raw, Fault::Flood);
    let words = format!("--url {}/x --subscribers 2 --rate 100 --warmup 0 --duration 300ms", peer.url());
    let done = generator(&format!("{words} --drain 300ms"), &[]);
    let report = done.report();
    // The flooded subscriber gets one message and no more, and the other one all.
    let Counts { published, outstanding, lost, .. } = report.counts;
    assert_eq!((done.status, published, outstanding, lost), (2, 30, 29, 0), "{report}");
    assert_eq!(report.affected_subscribers.len(), 1, "{report}");
}

#[test]
fn the_end_of_the_servers_process_costs_no_report() {
    let mut server = std::process::Command::new("sleep").arg("0.3").spawn().unwrap();
    let pid = server.id();
    std::thread::spawn(move || server.wait().unwrap());
    let peer = Peer::start(Speech::Raw, Fault::None);
    let words = format!("--url {}/x --subscribers 2 --rate 100 --warmup 0 --duration 900ms", peer.url());
    let done = generator(&format!("{words} --server-pid {pid}"), &[]);
    assert_eq!((done.status, done.report().outcome), (0, Outcome::Exact), "{} {}", done.report(), done.stderr);
    let done = generator(&format!("{words} --server-pid {pid}"), &[]);
    assert_eq!((done.status, done.stderr.lines().count()), (1, 1), "{}", done.stderr);
    assert!(done.stderr.starts_with("ringhub-loadgen: --server-pid: there is no process "), "{}", done.stderr);
}

#[test]
fn a_server_that_cannot_be_used_is_told_in_one_line() {
    // A socket that keeps its port from the other tests, and does not listen.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let free = silent.local_addr().unwrap().as_socket().unwrap();
    let closes = Peer::start(Speech::Raw, Fault::HangUpSince(1));
    let refuses = Peer::start(Speech::Raw, Fault::Refuse);
    for (words, why) in [
        (format!("--url ws://{free}/x --rate 1"), "does a server listen there (--url)?"),
        (format!("--url {}/x --rate 1", closes.url()), "before the handshake was done"),
        (format!("--url {}/x --rate 1", refuses.url()), "403 Forbidden"),
        (format!("storm --url {}/x", refuses.url()), "403 Forbidden"),
        (format!("--url {}/x", refuses.url()), "say how to publish"),
        (format!("--url {}/x --rate 1 --threads 0", refuses.url()), "--threads"),
        ("--url ws://name.invalid/ --rate 1".to_owned(), "name.invalid"),
    ] {
        let done = generator(&words, &[]);
        assert_eq!((done.status, done.stderr.lines().count()), (1, 1), "{words}: {}", done.stderr);
        assert!(done.stderr.starts_with("ringhub-loadgen: ") && done.stderr.contains(why), "{words}: {}", done.stderr);
    }
}

/// The error shows what is awaited, and what has come instead.
#[test]
fn a_hello_that_does_not_come_is_told() {
    let peer = Peer::start(Speech::Nats, Fault::None);
    let words = format!("--url {}/x --subscribers 2 --rate 1 --hello await:hello{{any}}", peer.url());
    let done = generator(&words, &[]);
    let why = "; a message is awaited: hello{any} (--hello await); the server's message: INFO ";
    assert!(done.status == 1 && done.stderr.contains(why), "{}", done.stderr);
}

#[test]
fn the_series_shows_what_is_lost_so_far() {
    for (fault, lost) in [(Fault::None, 0), (Fault::Lose, 1), (Fault::Swap, 0)] {
        for threads in [1, 2] {
            let peer = Peer::start(Speech::Raw, fault);
            let words = format!("--url {}/x --subscribers 2 --in-flight 16 --messages 20", peer.url());
            let done = generator(&format!("{words} --drain 300ms --threads {threads}"), &[]);
            let series = &done.report().figures.as_ref().unwrap().series;
            assert_eq!(series.last().map(|moment| moment.lost), Some(Some(lost)), "{fault:?}, {threads} threads");
        }
    }
}

#[test]
fn foreign_messages_are_shown_and_may_be_ignored() {
    let peer = Peer::start(Speech::Raw, Fault::Invent);
    let words = format!("--url {}/x --subscribers 2 --in-flight 4 --messages 20", peer.url());
    let done = generator(&format!("{words} --ignore-foreign"), &[]);
    let report = done.report();
    assert_eq!((done.status, report.outcome, report.counts.foreign), (0, Outcome::Exact, 1), "{report}");
    assert_eq!(report.foreign_sample, ["hello"]);
}

#[test]
fn after_the_end_of_a_publisher_only_what_was_seen_counts() {
    let peer = Peer::start(Speech::Raw, Fault::ClosePublisher);
    let words = format!("--url {}/x --subscribers 2 --rate 1000 --warmup 0 --duration 30s --drain 300ms", peer.url());
    let done = generator(&words, &[]);
    let report = done.report();
    let published = AT as u64 + 1;
    let expected = Counts { published, expected: 2 * published, disconnected: 1, ..Counts::default() };
    assert_eq!((done.status, report.counts), (2, expected), "{report}");
    let why = report.early_end.as_deref().unwrap();
    assert!(why.starts_with("no publisher is connected any more, after ") && why.ends_with(" of 30 s"), "{why}");
}

/// The window ends with the publisher, whose reason comes first. The log of a script has a line about it.
#[test]
fn a_server_that_dies_ends_the_window_and_the_report_says_so() {
    let peer = Peer::start(Speech::Raw, Fault::Die);
    let words = format!("--url {}/x --subscribers 12 --rate 100 --warmup 0 --duration 30s --drain 300ms", peer.url());
    let done = generator(&words, &[]);
    let report = done.report();
    assert_eq!((done.status, report.counts.disconnected, report.disconnections.len()), (2, 13, 8), "{report}");
    assert!(report.disconnections[0].starts_with("publisher 0: "), "{report}");
    assert!(report.early_end.as_deref().is_some_and(|why| why.starts_with("no publisher is connected")), "{report}");
    assert!(report.to_string().lines().any(|line| line == "  and 5 more"), "{report}");
    assert!(done.stderr.starts_with("ringhub-loadgen: BROKEN: ") && done.stderr.contains("disconnected 13"));
    let peer = Peer::start(Speech::Raw, Fault::Die);
    let done = generator(&format!("--url {}/x --subscribers 2 --in-flight 1 --messages 30", peer.url()), &[]);
    let why = done.report().early_end.as_deref().unwrap();
    assert!(why.starts_with("no publisher is connected any more, after ") && why.ends_with(" of 30 messages"), "{why}");
}

#[test]
fn a_message_of_another_type_is_corrupt_and_has_a_hint() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let words = format!("--url {}/x --subscribers 2 --in-flight 1 --messages 5 --drain 300ms --binary", peer.url());
    let done = generator(&words, &[]);
    let report = done.report();
    assert_eq!((done.status, report.counts.corrupt, report.counts.outstanding), (2, 10, 10), "{report}");
    assert_eq!(report.hints, ["binary messages came back as text: leave out --binary"]);
    assert_eq!((report.corrupt_sample.len(), report.foreign_sample.len()), (3, 0), "{report}");
}

/// The server's time to answer is a part of the latency since the write, even where its thread takes the CPU of the
/// generator within the write.
#[test]
fn a_message_is_written_before_the_server_has_it() {
    let busy = Duration::from_millis(2);
    let peer = Peer::start(Speech::Raw, Fault::Busy(busy));
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    let words = format!("--url {}/x --subscribers 1 --rate 50 --warmup 0 --duration 1s --cpu {cpu}", peer.url());
    let done = generator(&words, &[]);
    let figures = done.report().figures.as_ref().unwrap();
    let written = figures.latency_uncorrected.unwrap();
    assert!(u128::from(written.p50_ns) >= busy.as_nanos(), "{written:?}");
}

#[test]
fn a_refused_publish_is_shown_and_not_counted() {
    let peer = Peer::start(Speech::Nchan, Fault::RefusePublish);
    let words = format!("--url {} --preset nchan --subscribers 2 --in-flight 1 --messages 20", peer.url());
    let done = generator(&format!("{words} --drain 300ms"), &[]);
    let report = done.report();
    let published = AT as u64;
    let expected = Counts { published, expected: 2 * published, disconnected: 1, ..Counts::default() };
    assert_eq!((done.status, report.counts), (2, expected), "{report}");
    assert!(report.disconnections[0].ends_with("HTTP/1.1 403 Forbidden: no rights"), "{report}");
}

#[test]
fn what_a_server_does_not_take_is_unpublished() {
    for flags in ["--rate 100 --warmup 0 --duration 300ms", "--in-flight 1 --messages 30"] {
        let peer = Peer::start(Speech::Nchan, Fault::AnswerNoMore);
        let words = format!("--url {} --preset nchan --subscribers 2 --drain 300ms {flags}", peer.url());
        let done = generator(&words, &[]);
        let counts = done.report().counts;
        assert_eq!((done.status, counts.published, counts.unpublished), (2, 5, 25), "{flags}: {}", done.report());
    }
}

#[test]
fn the_body_of_a_refusal_is_shown() {
    let peer = Peer::start(Speech::Raw, Fault::Refuse);
    let done = generator(&format!("--url {}/x --rate 1", peer.url()), &[]);
    let end = ": the server answered HTTP/1.1 403 Forbidden: no token, sorry\n";
    assert!(done.status == 1 && done.stderr.ends_with(end), "{}", done.stderr);
    assert_eq!(done.stderr.lines().count(), 1);
}

/// A server that does not answer for a while delays the messages that are due meanwhile. A generator that measures from
/// the write does not see that.
#[test]
fn coordinated_omission_is_shown() {
    let peer = Peer::start(Speech::Nchan, Fault::Pause(Duration::from_millis(600)));
    let words = format!("--url {} --preset nchan --subscribers 1 --rate 200 --warmup 0 --duration 800ms", peer.url());
    let done = generator(&words, &[]);
    let figures = done.report().figures.as_ref().unwrap();
    let (corrected, uncorrected) = (figures.latency.unwrap(), figures.latency_uncorrected.unwrap());
    assert_eq!(corrected.count, uncorrected.count);
    // Three quarters of the messages are due while the server does nothing, and only one is written meanwhile.
    assert!(corrected.p50_ns > uncorrected.p50_ns, "{corrected:?} {uncorrected:?}");
    assert!(corrected.p90_ns > 2 * uncorrected.p90_ns, "{corrected:?} {uncorrected:?}");
}

/// Four threads on one CPU keep each other from it.
#[test]
fn a_generator_that_is_kept_from_its_cpu_makes_the_run_void() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let url = peer.url();
    let words = format!("--url {url}/x --subscribers 8 --rate 100 --warmup 0 --duration 1200ms --threads 4 --cpu 0");
    let done = judged_generator(&words, &[]);
    let report = done.report();
    assert_eq!((done.status, report.outcome), (3, Outcome::Void), "{report}");
    assert!(report.figures.is_none(), "{report}");
    let reason = "other programs, or threads of the generator, kept a thread from its CPU for ";
    assert!(report.void_reasons.iter().any(|why| why.starts_with(reason)), "{report}");
    assert!(report.hints.iter().any(|hint| hint.contains("--sleep")), "{report}");
    assert!(done.stderr.starts_with("ringhub-loadgen: VOID: "), "{}", done.stderr);
    let done = generator(&words, &[]);
    assert_eq!((done.status, done.report().outcome), (0, Outcome::Exact), "{}", done.report());
}

//! The scenarios, and the ways to run them.

use crate::generator;
use crate::peer::{Fault, Peer, Speech};
use ringhub_loadgen::{Counts, Outcome, ScenarioFigures};
use std::collections::BTreeSet;

#[test]
fn echo_sends_as_much_as_comes_back() {
    for threads in [1, 2] {
        let peer = Peer::start(Speech::Echo, Fault::None);
        let words = format!("echo --url {}/x --connections 5 --depth 3 --threads {threads}", peer.url());
        let done = generator(&format!("{words} --warmup 50ms --duration 300ms"), &[]);
        let report = done.report();
        assert_eq!((done.status, &*report.scenario), (0, "echo"), "{report}");
        assert!(report.counts.published > 15 && report.counts.expected == report.counts.published, "{report}");
        assert!(matches!(report.scenario_figures, Some(ScenarioFigures::Echo { depth: 3, .. })));
        let latency = report.figures.as_ref().unwrap().latency.unwrap();
        assert!(latency.count > 5 && latency.p50_ns > 0, "{report}");
        assert_eq!(peer.heads().len(), 5);
        let peer = Peer::start(Speech::Echo, Fault::Lose);
        let words = format!("echo --url {}/x --connections 2 --depth 4 --threads {threads}", peer.url());
        let done = generator(&format!("{words} --warmup 0 --duration 200ms --drain 300ms"), &[]);
        assert_eq!((done.status, done.report().counts.lost), (2, 1), "{}", done.report());
    }
}

#[test]
fn idle_measures_the_memory_in_steps() {
    for threads in [1, 2] {
        let peer = Peer::start(Speech::Raw, Fault::None);
        let words = format!("idle --url {}/x --connections 9 --steps 3 --settle 20ms --hold 50ms", peer.url());
        let done = generator(&format!("{words} --threads {threads} --server-pid {}", std::process::id()), &[]);
        let Some(ScenarioFigures::Idle { steps, bytes_per_connection }) = &done.report().scenario_figures else {
            panic!("{}", done.report());
        };
        assert_eq!(steps.iter().map(|step| step.connections).collect::<Vec<_>>(), [3, 6, 9]);
        assert!(done.status == 0 && bytes_per_connection.is_some());
        assert_eq!((done.report().opening.unwrap().connections, peer.heads().len()), (9, 9));
    }
}

#[test]
fn a_storm_comes_back_in_spite_of_refusals() {
    for threads in [1, 2] {
        // The first ten connections are the opening, the next five are hung up on.
        let peer = Peer::start(Speech::Raw, Fault::HangUpFrom(11));
        let words = format!("storm --url {}/x --connections 10 --rounds 2 --hold 10ms", peer.url());
        let done = generator(&format!("{words} --threads {threads}"), &[]);
        let report = done.report();
        let Some(ScenarioFigures::Storm { connections: 10, rounds }) = &report.scenario_figures else {
            panic!("{report}");
        };
        assert_eq!((done.status, rounds.len(), rounds[0].refused, rounds[1].refused), (0, 2, 5, 0), "{report}");
        assert!(rounds.iter().all(|round| round.back.is_some_and(|back| back.count == 10)), "{report}");
        assert_eq!(peer.heads().len(), 30);
    }
}

#[test]
fn a_storm_that_does_not_come_back_is_reported() {
    for threads in [1, 2] {
        // The first ten connections are the opening, and four come back.
        let peer = Peer::start(Speech::Raw, Fault::HangUpSince(15));
        let words = format!("storm --url {}/x --connections 10 --rounds 2 --hold 10ms --drain 400ms", peer.url());
        let done = generator(&format!("{words} --threads {threads}"), &[]);
        let report = done.report();
        let Some(ScenarioFigures::Storm { rounds, .. }) = &report.scenario_figures else { panic!("{report}") };
        let [round] = &rounds[..] else { panic!("{report}") };
        assert_eq!((round.missing, round.back.map(|back| back.count)), (6, Some(4)), "{report}");
        assert!(round.refused >= 6 && report.to_string().contains("4 of 10 back after "), "{report}");
        assert_eq!((done.status, report.outcome, report.counts.disconnected), (2, Outcome::Broken, 6), "{report}");
        let reason = &report.disconnections[0];
        assert!(reason.contains("it did not come back: ") && reason.ends_with("before the handshake was done"));
    }
}

#[test]
fn churn_counts_what_each_subscriber_owes() {
    let run = |fault: Fault, flags: &str| {
        let peer = Peer::start(Speech::Raw, fault);
        let words = format!("churn --url {}/x --subscribers 6 --rate 500 --warmup 0 --drain 1s {flags}", peer.url());
        generator(&words, &[])
    };
    for threads in [1, 2] {
        let done = run(Fault::None, &format!("--churn 100 --duration 600ms --threads {threads}"));
        let report = done.report();
        assert_eq!((done.status, report.outcome), (0, Outcome::Exact), "{report}");
        let Some(ScenarioFigures::Churn { left, joined, refused, join }) = report.scenario_figures.clone() else {
            panic!("{report}");
        };
        assert!(left > 10 && joined == left && refused == 0, "{report}");
        assert!(join.is_some_and(|join| join.count == joined), "{report}");
        assert!(report.counts.expected <= report.counts.published * 6, "{report}");
        // The victim is the first subscriber. Message 5 is due half a second before the victim leaves.
        let done = run(Fault::Lose, &format!("--churn 2 --duration 800ms --threads {threads}"));
        assert_eq!((done.status, done.report().counts.lost), (2, 1), "{}", done.report());
    }
}

#[test]
fn a_subscriber_that_is_not_let_in_again_is_a_mistake() {
    for threads in [1, 2] {
        // Six subscribers and a publisher come in, and nobody later.
        let peer = Peer::start(Speech::Raw, Fault::HangUpSince(8));
        let words = format!("churn --url {}/x --subscribers 6 --rate 100 --churn 100", peer.url());
        let done = generator(&format!("{words} --warmup 0 --drain 300ms --duration 300ms --threads {threads}"), &[]);
        let report = done.report();
        assert_eq!((done.status, report.outcome, report.counts.disconnected), (2, Outcome::Broken, 6), "{report}");
        let reason = "the server did not let a new subscriber in: ";
        assert!(report.disconnections[0].contains(reason), "{report}");
        assert!(report.disconnections[0].ends_with("before the handshake was done"), "{report}");
    }
}

#[test]
fn a_stall_shows_the_others() {
    for threads in [1, 2] {
        let peer = Peer::start(Speech::Raw, Fault::None);
        let words = format!("stall --url {}/x --subscribers 10 --share 0.2 --rate 500", peer.url());
        let words = format!("{words} --warmup 0 --duration 400ms --threads {threads}");
        let done = generator(&format!("{words} --server-pid {}", std::process::id()), &[]);
        let report = done.report();
        let Some(ScenarioFigures::Stall { stalled, ended, missed, before, during, memory }) =
            report.scenario_figures.clone()
        else {
            panic!("{report}");
        };
        assert!(memory.is_some_and(|memory| memory.rss.is_some()), "{report}");
        assert!(report.to_string().contains("memory        of the server at the end of the stall: RSS "), "{report}");
        assert_eq!((done.status, stalled, ended, missed), (0, 2, 0, 0), "{report}");
        let (before, during) = (before.unwrap(), during.unwrap());
        assert!(before.count > 0 && during.count > 0, "{report}");
        assert_eq!(report.counts.expected, report.counts.published * 8, "{report}");
    }
}

/// The peer writes to one subscriber after the other, and waits for one that does not read. So the others have their
/// messages when the stalled ones read again, after the window. Each of these deliveries counts.
#[test]
fn a_stall_that_holds_the_others_up_is_in_their_latency() {
    for threads in [1, 2] {
        let peer = Peer::start(Speech::Raw, Fault::None);
        let words = format!("stall --url {}/x --subscribers 4 --share 0.25 --rate 100 --size 200000", peer.url());
        let words = format!("{words} --warmup 0 --duration 1s --drain 20s --threads {threads}");
        let done = generator(&words, &[]);
        let report = done.report();
        let Some(ScenarioFigures::Stall { before, during, .. }) = report.scenario_figures.clone() else {
            panic!("{report}");
        };
        let measured = before.map_or(0, |latency| latency.count) + during.map_or(0, |latency| latency.count);
        // Those of the fourth before its stall count, too, which alone are no more than a half.
        assert!(done.status == 0 && measured >= report.counts.published * 3, "{measured} {report}");
    }
}

#[test]
fn a_ramp_finds_the_knee() {
    let ramp = |flags: &str| {
        let peer = Peer::start(Speech::Raw, Fault::None);
        let words = format!("ramp --url {}/x --warmup 0 --duration 200ms --factor 2 --steps 3", peer.url());
        let done = generator(&format!("{words} {flags}"), &[]);
        let Some(ScenarioFigures::Ramp { steps, knee, end, .. }) = done.report().scenario_figures.clone() else {
            panic!("{}", done.report());
        };
        assert_eq!(done.status, 0, "{}", done.report());
        (steps.iter().map(|step| step.level).collect::<Vec<_>>(), knee, end.unwrap())
    };
    let (done, passed) = ("all steps were done".to_owned(), "p99 exceeded the bound".to_owned());
    for threads in [1, 2] {
        let ramp = |flags: &str| ramp(&format!("{flags} --threads {threads}"));
        let found = ramp("--from 100 --p99 1m --subscribers 2");
        assert_eq!(found, (vec![100, 200, 400], Some(400), done.clone()));
        assert_eq!(ramp("--from 100 --p99 0.001us --subscribers 2"), (vec![100], None, passed.clone()));
        let found = ramp("--by connections --rate 100 --from 2 --p99 1m");
        assert_eq!(found, (vec![2, 4, 8], Some(8), done.clone()));
    }
}

#[test]
fn a_server_that_dies_in_a_step_does_not_pass_it() {
    for threads in [1, 2] {
        let peer = Peer::start(Speech::Raw, Fault::Die);
        let words = format!("ramp --url {}/x --from 50 --p99 1m --subscribers 4 --threads {threads}", peer.url());
        let done = generator(&format!("{words} --warmup 0 --duration 2s --drain 300ms"), &[]);
        let report = done.report();
        let Some(ScenarioFigures::Ramp { steps, knee, end, p99_bound_ns, .. }) = report.scenario_figures.clone() else {
            panic!("{report}");
        };
        assert_eq!((done.status, steps.len(), steps[0].disconnected, knee), (2, 1, 5, None), "{report}");
        assert_eq!(
            (end.as_deref(), p99_bound_ns),
            (Some("5 connections ended in the last step"), Some(60_000_000_000))
        );
        assert!(report.to_string().contains(", 5 connections ended: incomplete"), "{report}");
    }
}

#[test]
fn a_server_that_lets_no_more_in_ends_a_ramp() {
    for threads in [1, 2] {
        // Two subscribers, a publisher, and two more subscribers.
        let peer = Peer::start(Speech::Raw, Fault::HangUpSince(6));
        let words = format!("ramp --url {}/x --by connections --rate 100 --from 2 --factor 2", peer.url());
        let done = generator(&format!("{words} --p99 1m --warmup 0 --duration 100ms --threads {threads}"), &[]);
        let report = done.report();
        let Some(ScenarioFigures::Ramp { steps, knee, end, .. }) = report.scenario_figures.clone() else {
            panic!("{report}");
        };
        assert_eq!((done.status, steps.len(), knee), (0, 2, Some(4)), "{report}");
        assert!(end.unwrap().starts_with("8 subscribers could not be opened: "), "{report}");
    }
}

#[test]
fn a_recorded_file_is_published_at_its_times() {
    let file = std::env::temp_dir().join(format!("loadgen-replay-{}", std::process::id()));
    std::fs::write(&file, "{\"at_ms\":5,\"size\":40}\n{\"at_ms\":105,\"size\":300}\n{\"at_ms\":205,\"size\":32}\n")
        .unwrap();
    for threads in [1, 2] {
        let peer = Peer::start(Speech::Raw, Fault::None);
        let words = format!("replay --url {}/x --subscribers 3 --speed 2 --threads {threads}", peer.url());
        let done = generator(&words, &[file.to_str().unwrap()]);
        let report = done.report();
        assert_eq!(report.counts, Counts { published: 3, expected: 9, ..Counts::default() }, "{report}");
        assert_eq!((done.status, peer.sizes()), (0, vec![40, 300, 32]));
        // The last message is due 200 ms after the first, at twice the speed 100 ms.
        assert!(report.figures.as_ref().unwrap().seconds >= 0.1, "{report}");
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn threads_share_the_subscribers() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let words = format!("--url {}/x --subscribers 10 --publishers 2 --threads 3", peer.url());
    for flags in ["--in-flight 4 --messages 100", "--in-flight 4 --messages 100 --sleep"] {
        let done = generator(&format!("{words} {flags}"), &[]);
        let report = done.report();
        let expected = Counts { published: 100, expected: 1_000, ..Counts::default() };
        assert_eq!((done.status, report.counts), (0, expected), "{flags}: {report}");
        let figures = report.figures.as_ref().unwrap();
        assert_eq!((figures.deliveries, figures.latency.unwrap().count), (1_000, 1_000), "{flags}: {report}");
    }
    let peer = Peer::start(Speech::Raw, Fault::Lose);
    let words = format!("--url {}/x --subscribers 10 --threads 3 --in-flight 4 --messages 100", peer.url());
    let done = generator(&format!("{words} --drain 300ms"), &[]);
    assert_eq!((done.status, done.report().counts.lost), (2, 1), "{}", done.report());
    let peer = Peer::start(Speech::Raw, Fault::Refuse);
    let done = generator(&format!("--url {}/x --subscribers 10 --threads 3 --rate 1", peer.url()), &[]);
    assert!(done.status == 1 && done.stderr.contains("no token"), "{}", done.stderr);
}

#[test]
fn connections_come_from_several_addresses_at_a_bounded_rate() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let words = format!("--url {}/x --subscribers 12 --source-addresses 3 --connect-rate 100", peer.url());
    let done = generator(&format!("{words} --hold 10ms"), &[]);
    let opening = done.report().opening.unwrap();
    // The last of twelve connections may not begin before 110 ms.
    assert!(done.status == 0 && opening.seconds >= 0.11 && opening.per_second <= 110.0, "{}", done.report());
    let hosts: BTreeSet<String> = peer.sources().iter().map(|source| source.ip().to_string()).collect();
    assert_eq!(hosts, ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(str::to_owned).into());
}

#[test]
fn too_few_descriptors_are_noticed_before_the_first_connection() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let program = env!("CARGO_BIN_EXE_ringhub-loadgen");
    let words = format!("ulimit -n 64; exec {program} --url {}/x --subscribers 100 --rate 1", peer.url());
    let output = std::process::Command::new("bash").args(["-c", &words]).output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && complaint.contains("the hard limit (ulimit -Hn) is 64"), "{complaint}");
    assert!(peer.heads().is_empty());
}

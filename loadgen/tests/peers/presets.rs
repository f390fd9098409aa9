//! Each preset against a peer that speaks its protocol.

use crate::generator;
use crate::peer::{Fault, Peer, Speech, header};
use ringhub_loadgen::{Counts, Outcome};

/// The presets with their peers, and the flags that they need.
const PRESETS: &[(&str, Speech, &str)] = &[
    ("ws", Speech::Raw, ""),
    ("bun", Speech::Raw, ""),
    ("kore", Speech::Raw, ""),
    ("ringhub", Speech::Raw, ""),
    ("nchan", Speech::Nchan, ""),
    ("nats", Speech::Nats, ""),
    ("socketio", Speech::Socketio, ""),
    ("pusher", Speech::Pusher, "--set key=abc --set app=7 --set secret=def"),
    ("centrifuge", Speech::Centrifuge, ""),
];

#[test]
fn every_preset_counts_every_delivery() {
    for (preset, speech, flags) in PRESETS {
        let peer = Peer::start(*speech, Fault::None);
        let words = format!(
            "--url {} --preset {preset} {flags} --subscribers 3 --publishers 2 --in-flight 4 --messages 40",
            peer.url()
        );
        let done = generator(&words, &[]);
        let report = done.report();
        assert_eq!((done.status, report.outcome), (0, Outcome::Exact), "{preset}: {report} {}", done.stderr);
        // The peer of a raw preset cannot tell publishers from subscribers.
        assert_eq!(report.counts, Counts { published: 40, expected: 120, ..Counts::default() }, "{preset}");
        assert!(report.figures.as_ref().unwrap().latency.is_some(), "{preset}");
        if !matches!(speech, Speech::Raw | Speech::Nchan) {
            assert_eq!(peer.pongs(), 3, "{preset}: each subscriber answers a ping");
        }
    }
}

#[test]
fn every_preset_finds_a_lost_and_a_changed_message() {
    for (preset, speech, flags) in PRESETS {
        for (fault, lost, corrupt) in [(Fault::Lose, 1, 0), (Fault::Corrupt, 1, 1)] {
            let peer = Peer::start(*speech, fault);
            let words = format!("--url {} --preset {preset} {flags} --subscribers 2", peer.url());
            let done = generator(&format!("{words} --in-flight 16 --messages 20 --drain 300ms"), &[]);
            let counts = done.report().counts;
            assert_eq!((done.status, counts.lost, counts.corrupt), (2, lost, corrupt), "{preset}, {fault:?}");
        }
    }
}

#[test]
fn several_topics_share_a_connection() {
    for (preset, speech, flags) in &PRESETS[5..] {
        let peer = Peer::start(*speech, Fault::None);
        let words = format!(
            "--url {} --preset {preset} {flags} --topics 4 --topics-per-connection 2 --spread zipf --publish-spread \
             zipf:0.5 --subscribers 6 --publishers 3 --in-flight 4 --messages 60",
            peer.url()
        );
        let done = generator(&words, &[]);
        let report = done.report();
        assert_eq!((done.status, report.outcome), (0, Outcome::Exact), "{preset}: {report}");
        assert_eq!(report.counts.published, 60, "{preset}");
        assert!(report.counts.expected > 60 && report.counts.expected < 60 * 6, "{preset}: {report}");
    }
}

#[test]
fn topics_may_stand_in_the_path() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let words = format!("--url {}/live/{{topic}} --topics 4 --publishers 4 --subscribers 8", peer.url());
    let done = generator(&format!("{words} --in-flight 4 --messages 40"), &[]);
    assert_eq!(done.report().counts, Counts { published: 40, expected: 80, ..Counts::default() }, "{}", done.stderr);
    assert!(peer.heads().iter().any(|head| head.starts_with("GET /live/bench-3 HTTP/1.1\r\n")));
}

#[test]
fn requests_are_those_of_the_flags() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let words = format!("--url {}/x?y=1 --subscribers 1 --in-flight 1 --messages 1", peer.url());
    let further = ["--header", "Authorization: Bearer abc", "--subprotocol", "one", "--subprotocol", "two"];
    assert_eq!(generator(&words, &further).status, 0);
    for head in peer.heads() {
        assert!(head.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "Authorization"), Some("Bearer abc"));
        assert_eq!(header(&head, "Sec-WebSocket-Protocol"), Some("one, two"));
        assert_eq!(header(&head, "Host"), Some(&*peer.address.to_string()));
    }
    assert_eq!(peer.heads().len(), 2);
}

#[test]
fn messages_are_published_by_http_with_headers_and_a_body() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let http = format!("POST http://{}/publish/bench", peer.address);
    let words = format!("--url {}/live/bench --subscribers 2 --publishers 2 --in-flight 4 --messages 20", peer.url());
    let done = generator(&words, &["--publish-http", &http, "--publish-header", "X-Key: k"]);
    assert_eq!(done.report().counts, Counts { published: 20, expected: 40, ..Counts::default() });
    let heads = peer.heads();
    let posts: Vec<&String> = heads.iter().filter(|head| head.starts_with("POST /publish/bench ")).collect();
    assert_eq!(posts.len(), 20);
    assert!(posts.iter().all(|head| header(head, "X-Key") == Some("k")));
}

/// nginx, for example, takes a thousand requests on a connection.
#[test]
fn a_connection_that_takes_no_more_requests_is_opened_anew() {
    let peer = Peer::start(Speech::Nchan, Fault::OneRequest);
    let words = format!("--url {} --preset nchan --subscribers 2 --publishers 2", peer.url());
    let done = generator(&format!("{words} --in-flight 4 --messages 40"), &[]);
    let expected = Counts { published: 40, expected: 80, ..Counts::default() };
    assert_eq!((done.status, done.report().counts), (0, expected), "{}", done.report());
    assert!(peer.sources().len() >= 42);
}

#[test]
fn own_texts_describe_a_server_without_a_preset() {
    let peer = Peer::start(Speech::Socketio, Fault::None);
    let words = format!("--url {}/socket.io/?EIO=4 --subscribers 2 --in-flight 2 --messages 10", peer.url());
    let done = generator(
        &words,
        &[
            "--hello=await:0{any}",
            "--hello=send:40",
            "--hello=await:40{any}",
            "--subscribe-message=420[\"subscribe\",\"{topic}\"]",
            "--acknowledgement=430{any}",
            "--delivery=42[\"message\",\"{payload}\"]",
            "--reply=2 => 3",
            "--publish-message=42[\"publish\",\"{topic}\",\"{payload}\"]",
        ],
    );
    assert_eq!(done.status, 0, "{} {}", done.report(), done.stderr);
    assert_eq!(peer.pongs(), 2);
}

#[test]
fn the_servers_address_may_be_a_name_or_of_ipv6() {
    let peer = Peer::start(Speech::Raw, Fault::None);
    let url = format!("ws://localhost:{}/x", peer.address.port());
    assert_eq!(generator(&format!("--url {url} --subscribers 1 --in-flight 1 --messages 1"), &[]).status, 0);
    // A machine may have no IPv6.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let peer = Peer::start_at("[::1]:0", Speech::Raw, Fault::None);
        let words = format!("--url {}/x --subscribers 1 --in-flight 1 --messages 1", peer.url());
        assert_eq!(generator(&words, &[]).status, 0);
        assert_eq!(header(&peer.heads()[0], "Host"), Some(&*peer.address.to_string()));
    }
}

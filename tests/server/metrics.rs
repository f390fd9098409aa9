//! The counters match what has happened, in `/metrics` and by SIGUSR1.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::{Client, Server, close, dial, dial_with, exchange, post, published, reset, take_response, text};

/// Samples by the text of their name and labels.
type Samples = BTreeMap<String, f64>;

/// Reads the text format of Prometheus 0.0.4 strictly. Every family has one HELP and one TYPE before its samples, which
/// are not mixed with others. No series comes twice, and buckets add up.
fn parse(text: &str) -> Samples {
    assert!(text.ends_with('\n'), "the last line ends");
    let (mut helped, mut types) = (HashSet::new(), HashMap::new());
    let (mut samples, mut family) = (Samples::new(), "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, sentence) = help.split_once(' ').expect(line);
            assert!(is_name(name) && sentence.ends_with('.') && helped.insert(name), "{line}");
            family = name;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert!(name == family && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name, kind).is_none(), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect(line);
            // Samples of the process have no labels, as is usual.
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            assert_eq!(labels == "}", name.starts_with("process_"), "{line}");
            let suffixes: &[&str] = if types[family] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name.strip_suffix(suffix) == Some(family)), "{line} in {family}");
            check_labels(labels.strip_suffix('}').expect(line));
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(value.is_finite() && value >= 0.0 && !value.is_sign_negative(), "{line}");
            assert!(samples.insert(series.into(), value).is_none(), "{line} is there twice");
        }
    }
    assert_eq!(helped.len(), types.len());
    check_histograms(text, &samples);
    samples
}

fn is_name(name: &str) -> bool {
    let is_ours = name.starts_with("ringhub_") || name.starts_with("process_");
    is_ours && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn check_labels(labels: &str) {
    let mut names = HashSet::new();
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        let (name, value) = label.split_once('=').expect(labels);
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect(labels);
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()) && !value.contains(['"', '\\']), "{labels}");
        assert!(names.insert(name), "{labels}");
    }
}

/// Checks that the bounds of buckets rise, that their counts never fall, and that the last is the whole count.
fn check_histograms(text: &str, samples: &Samples) {
    let mut last: HashMap<&str, (f64, f64)> = HashMap::new();
    for line in text.lines().filter(|line| line.contains("_bucket{")) {
        let (series, count) = line.rsplit_once(' ').unwrap();
        let (series, bound) = series.split_once(",le=\"").expect(line);
        let bound = bound.trim_end_matches("\"}");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        let count: f64 = count.parse().unwrap();
        let (below, less) = last.insert(series, (bound, count)).unwrap_or((-1.0, 0.0));
        assert!(bound > below && count >= less, "{line}");
    }
    assert!(!last.is_empty());
    for (series, (bound, count)) in last {
        assert_eq!(bound, f64::INFINITY, "{series}");
        assert_eq!(samples[&format!("{}}}", series.replace("_bucket", "_count"))], count, "{series}");
    }
}

/// Returns the sum of a name's samples over all threads.
fn sum(samples: &Samples, name: &str) -> f64 {
    let (family, label) = name.split_once('{').unwrap_or((name, ""));
    let begin = format!("ringhub_{family}{{shard=");
    let of_it = |series: &str| {
        series.starts_with(&begin) && series.trim_end_matches('}').ends_with(label.trim_end_matches('}'))
    };
    samples.iter().filter(|(series, _)| of_it(series)).map(|(_, value)| value).sum()
}

fn scrape(stream: &mut TcpStream) -> Samples {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (response, _) = take_response(stream, Vec::new(), true);
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    parse(&response.body)
}

/// Scrapes numbers that are newer than those of any scrape before.
fn scrape_anew(stream: &mut TcpStream) -> Samples {
    thread::sleep(AGE);
    scrape(stream)
}

/// The server makes the text at most once a second; all scrapes within a second get the same text. Each text differs
/// from the one before, since it counts requests.
#[test]
fn scrapes_share_one_text() {
    let server = Server::start(&[]);
    let mut stream = dial(server.address());
    let requests = |samples: &Samples| sum(samples, "http_requests_total");
    let texts: HashSet<u64> = (0..200).map(|_| requests(&scrape(&mut stream)) as u64).collect();
    assert!(texts.len() < 100, "{} of 200", texts.len());
    let mut other = dial(server.address());
    assert_eq!(requests(&scrape_anew(&mut other)), 201.0);
}

#[test]
fn a_whole_run_adds_up() {
    let flags = [
        "--shards",
        "3",
        "--ping-interval",
        "0",
        "--send-buffer",
        "4096",
        "--max-message",
        "64KiB",
        "--max-backlog",
        "128KiB",
    ];
    let server = Server::start(&flags);
    let address = server.address();
    let mut scraper = dial(address);
    let fresh = scrape(&mut scraper);
    assert_eq!((sum(&fresh, "accepted_total"), sum(&fresh, "http_requests_total")), (1.0, 1.0));
    // 12 subscribers of one topic, 20 messages by WebSocket and 30 by HTTP.
    let mut subscribers: Vec<Client> = (0..12).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut publisher = server.connect("/t/x?mode=pub");
    for number in 0..20 {
        publisher.send_text(&format!("w{number}"));
    }
    let mut poster = dial(address);
    for number in 0..30 {
        poster.write_all(post("/t/x", "text/plain", &format!("p{number:03}")).as_bytes()).unwrap();
        published(&take_response(&mut poster, Vec::new(), true).0);
    }
    for subscriber in &mut subscribers {
        let mut seen: Vec<String> = (0..50).map(|_| format!("{:?}", subscriber.receive())).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 50);
    }
    // One subscriber never reads, and is closed.
    let slow_consumer = Client::open(dial_with(address, Some(4_096)), "/t/slow?mode=sub", &[]).unwrap();
    let large = "x".repeat(60_000);
    let mut large_posts = 0;
    while server.counts().get("slow_closed_total") == 0 {
        poster.write_all(post("/t/slow", "text/plain", &large).as_bytes()).unwrap();
        published(&take_response(&mut poster, Vec::new(), true).0);
        large_posts += 1;
    }
    reset(slow_consumer.into_stream());
    // Shards refuse some requests, the control thread the others.
    for (request, status) in [
        ("GET /t/x HTTP/1.1\r\nHost: a\r\n\r\n".to_string(), 426),
        ("GET /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 404),
        (crate::support::upgrade_request("/x"), 404),
        (crate::support::upgrade_request("/t/x?a=b"), 400),
        (post("/t/x?a=b", "", ""), 400),
        ("nonsense\r\n\r\n".into(), 400),
        ("PUT /t/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405),
        (post("/t/x", "", &"x".repeat((64 << 10) + 1)), 413),
    ] {
        assert_eq!(exchange(address, &request).status(), status, "{request}");
    }
    // One client leaves, one is reset, and one is closed.
    subscribers.pop().unwrap().leave();
    reset(subscribers.pop().unwrap().into_stream());
    publisher.send_raw(&[0xc1]);
    publisher.expect(close(1002, "a reserved bit is set"));
    drop((publisher, poster));
    server.expect_counts(&[("connections_open", 10), ("http_connections_open", 1), ("slow_consumers", 0)]);
    let samples = scrape_anew(&mut scraper);
    let counts = server.counts();
    for (name, expected) in [
        // The connections: the scraper, the poster, eight refused ones, and the WebSockets.
        ("accepted_total", 1 + 1 + 8 + 14),
        ("opened_total", 14),
        ("ended_total", 4),
        ("connections_open", 10),
        ("topics", 2),
        ("http_connections_total", 1 + 1 + 5),
        ("http_connections_open", 1),
        ("http_requests_total", 2 + 30 + large_posts + 5),
        ("http_returned_total", 0),
        ("messages_in_total", 20 + 30 + large_posts),
        ("slow_closed_total", 1),
        ("protocol_errors_total", 1),
        ("refused_total{cause=\"upgrade\"}", 1),
        ("refused_total{cause=\"not_found\"}", 2),
        ("refused_total{cause=\"malformed\"}", 3),
        ("refused_total{cause=\"method\"}", 1),
        ("refused_total{cause=\"too_large\"}", 1),
        ("refused_total{cause=\"leaving\"}", 0),
        ("refused_total{cause=\"limit\"}", 0),
        ("handshake_timeout_total", 0),
        ("pings_sent_total", 0),
    ] {
        assert_eq!((name, sum(&samples, name)), (name, expected as f64));
        assert_eq!((name, counts.get(name)), (name, expected));
    }
    // Besides the 50 messages of 12 subscribers, the deliveries count those to the slow consumer, some of which were
    // dropped.
    let to_slow = sum(&samples, "deliveries_total") - 12.0 * 50.0;
    assert!(to_slow <= large_posts as f64 && sum(&samples, "slow_dropped_total") <= to_slow, "{to_slow}");
    // `/metrics` and SIGUSR1 agree in everything except turns, which go on.
    let names: HashSet<String> = samples.keys().filter_map(|series| table_name(series)).collect();
    assert!(names.len() > 35, "{names:?}");
    for name in names {
        assert_eq!((&*name, sum(&samples, &name)), (&*name, counts.get(&name) as f64));
    }
}

/// A topic counts once, at its home, whatever shards use it, while it is remembered.
#[test]
fn topics_are_counted_once() {
    let server = Server::start(&["--shards", "3", "--max-idle-topics", "0"]);
    let mut scraper = dial(server.address());
    assert_eq!(sum(&scrape(&mut scraper), "topics"), 0.0);
    let connect = |number: usize| server.connect(&format!("/t/{}?mode=sub", number % 20));
    let subscribers: Vec<Client> = (0..60).map(connect).collect();
    server.expect_counts(&[("topics", 20)]);
    let samples = scrape_anew(&mut scraper);
    assert_eq!(sum(&samples, "topics"), 20.0);
    let homes = samples.iter().filter(|(series, count)| series.starts_with("ringhub_topics{") && **count > 0.0);
    assert!(homes.count() > 1, "{samples:?}");
    subscribers.into_iter().for_each(Client::leave);
    server.expect_counts(&[("connections_open", 0), ("topics", 0)]);
    assert_eq!(sum(&scrape_anew(&mut scraper), "topics"), 0.0);
}

/// The limit of connections is the one that holds: at that number the next client is refused.
#[test]
fn the_limit_of_connections_is_told() {
    let server = Server::start(&["--max-connections", "7", "--shards", "2"]);
    let mut scraper = dial(server.address());
    assert_eq!(scrape(&mut scraper)["ringhub_connections_max{shard=\"control\"}"], 7.0);
    drop(scraper);
}

/// The process's memory and descriptors are those that the kernel reports.
#[test]
fn the_process_has_memory_and_descriptors() {
    let server = Server::start(&["--shards", "2"]);
    let mut scraper = dial(server.address());
    let before = scrape(&mut scraper);
    let clients: Vec<Client> = (0..50).map(|_| server.connect("/t/x?mode=sub")).collect();
    server.expect_counts(&[("connections_open", 50)]);
    let after = scrape_anew(&mut scraper);
    let folder = format!("/proc/{}/fd", server.pid());
    // Since Linux 6.2 the folder has a length.
    if fs::metadata(&folder).unwrap().len() > 0 {
        assert_eq!(after["process_open_fds"] - before["process_open_fds"], 50.0);
        assert_eq!(after["process_open_fds"], fs::read_dir(folder).unwrap().count() as f64);
    } else {
        assert!(!after.contains_key("process_open_fds"), "{after:?}");
    }
    let limit = rustix::process::prlimit(
        Some(server.pid()),
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(4_321), maximum: Some(4_321) },
    );
    assert_eq!(after["process_max_fds"], limit.unwrap().current.unwrap() as f64);
    assert_eq!(scrape_anew(&mut scraper)["process_max_fds"], 4_321.0);
    let resident = after["process_resident_memory_bytes"];
    assert!((1e6..1e9).contains(&resident) && resident % 1_024.0 == 0.0, "{resident}");
    drop(clients);
}

/// Returns the name that a series has in the table of counters, if the table has the series.
fn table_name(series: &str) -> Option<String> {
    let (family, labels) = series.strip_prefix("ringhub_")?.split_once('{')?;
    const OTHERS: [&str; 4] = ["deliveries_per_send", "taken_timestamp_seconds", "build_info", "io_backend_info"];
    if family.contains("_seconds_") || OTHERS.contains(&family) {
        return None;
    }
    let label = labels.split_once(',').map(|(_, label)| format!("{{{label}"));
    Some(family.to_string() + &label.unwrap_or_default())
}

/// While all shards count, scrapes get whole numbers that never fall.
#[test]
fn scrapes_under_load() {
    let server = Server::start(&["--shards", "3"]);
    let address = server.address();
    let goes_on = Arc::new(AtomicBool::new(true));
    let publishers: Vec<_> = (0..4)
        .map(|number| {
            let goes_on = Arc::clone(&goes_on);
            thread::spawn(move || {
                let mut client = Client::connect(address, &format!("/t/{number}?echo=true"));
                let mut count = 0;
                while goes_on.load(Ordering::Relaxed) {
                    client.send_text("x");
                    client.expect(text("x"));
                    count += 1;
                }
                f64::from(count)
            })
        })
        .collect();
    let mut scraper = dial(address);
    let mut before = Samples::new();
    for _ in 0..4 {
        let samples = scrape_anew(&mut scraper);
        for (series, value) in &before {
            let grows = series.contains("_total{") || series.contains("_bucket{");
            assert!(!grows || samples[series] >= *value, "{series}");
        }
        before = samples;
    }
    goes_on.store(false, Ordering::Relaxed);
    let sent: f64 = publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum();
    let samples = scrape_anew(&mut scraper);
    assert_eq!((sum(&samples, "messages_in_total"), sum(&samples, "deliveries_total")), (sent, sent));
}

/// Publishers by HTTP, topics with homes on every shard, and subscribers on every shard agree on one order.
#[test]
fn posts_from_everywhere_to_everywhere() {
    const TOPICS: usize = 9;
    const POSTS: usize = 60;
    let server = Server::start(&["--shards", "3"]);
    let address = server.address();
    let subscribers: Vec<(usize, Client)> = (0..TOPICS * 6)
        .map(|number| (number % TOPICS, server.connect(&format!("/t/{}?mode=sub", number % TOPICS))))
        .collect();
    let spread = server.counts();
    assert!(spread.by_shard("connections_open").iter().all(|&count| count > 0), "{spread:?}");
    let publishers: Vec<_> = (0..16)
        .map(|publisher| {
            thread::spawn(move || {
                let mut stream = dial(address);
                let ask = |number: usize| {
                    let topic = (publisher + number) % TOPICS;
                    let message = format!("{publisher} {number}");
                    stream.write_all(post(&format!("/t/{topic}"), "text/plain", &message).as_bytes()).unwrap();
                    let (name, epoch, offset) = published(&take_response(&mut stream, Vec::new(), true).0);
                    assert_eq!(name, topic.to_string());
                    (topic, epoch, offset, message)
                };
                (0..POSTS).map(ask).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut order: Vec<BTreeMap<u64, String>> = vec![BTreeMap::new(); TOPICS];
    let mut epochs = vec![HashSet::new(); TOPICS];
    for (topic, epoch, offset, message) in publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()) {
        assert!(order[topic].insert(offset, message).is_none(), "two messages have offset {offset}");
        epochs[topic].insert(epoch);
    }
    for (topic, messages) in order.iter().enumerate() {
        assert!(messages.keys().copied().eq(1..=messages.len() as u64), "{topic}: {messages:?}");
        assert_eq!(epochs[topic].len(), 1);
    }
    for (topic, mut subscriber) in subscribers {
        order[topic].values().for_each(|message| subscriber.expect(text(message)));
        subscriber.expect_nothing();
    }
}

/// A time longer than the text of a scrape is kept.
const AGE: Duration = Duration::from_millis(1_100);

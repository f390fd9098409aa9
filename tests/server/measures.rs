//! The measures of a running server: histograms, gauges of what is full, and the two formats of `/metrics`.

use std::{
    collections::{HashMap, HashSet},
    io::Read as _,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::support::{Client, Response, Server, ask, dial, dial_with, exchange, post, text};

/// Returns the answer to a request for the metrics in a format that these header lines ask for.
fn metrics(server: &Server, lines: &str) -> Response {
    let response =
        exchange(server.address(), &format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n"));
    assert_eq!(response.status(), 200, "{response:?}");
    response
}

/// Returns the sum of a family's samples over all threads in a new text.
fn sums(server: &Server) -> HashMap<String, f64> {
    // All scrapes within a second get the same text.
    thread::sleep(Duration::from_millis(1_100));
    let mut sums = HashMap::new();
    for line in metrics(server, "").body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let family = series.split('{').next().unwrap();
        *sums.entry(family.to_string()).or_default() += value.parse::<f64>().unwrap();
    }
    sums
}

/// Waits until the gauges have these sums.
fn expect(server: &Server, expected: &[(&str, u64)]) {
    server.expect_counts(expected);
    let sums = sums(server);
    for (name, value) in expected {
        assert_eq!((*name, sums[&format!("ringhub_{name}")]), (*name, *value as f64));
    }
}

/// Each opening handshake is counted once, also one that waits for another shard, and one that comes back from the
/// control thread.
#[test]
fn handshakes_are_measured() {
    let server = Server::start(&["--shards", "3"]);
    let begun = Instant::now();
    let clients: Vec<Client> = (0..20).map(|number| server.connect(&format!("/t/{number}?mode=sub"))).collect();
    let mut stream = dial(server.address());
    assert_eq!(ask(&mut stream, &post("/t/x", "text/plain", "x")).status(), 202);
    let returned = Client::open(stream, "/t/back", &[]).unwrap();
    let lasted = begun.elapsed().as_secs_f64();
    let sums = sums(&server);
    assert_eq!(sums["ringhub_handshake_seconds_count"], 21.0);
    let sum = sums["ringhub_handshake_seconds_sum"];
    assert!(sum > 0.0 && sum < 21.0 * lasted, "{sum} of {lasted}");
    drop((clients, returned));
}

/// Every walk over many members is measured; the times are within those that a client sees.
#[test]
fn fan_out_is_measured() {
    let server = Server::start(&["--shards", "1"]);
    let mut subscribers: Vec<Client> = (0..30).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut publisher = server.connect("/t/x?mode=pub");
    let begun = Instant::now();
    for number in 0..10 {
        publisher.send_text(&number.to_string());
        subscribers.iter_mut().for_each(|subscriber| subscriber.expect(text(&number.to_string())));
    }
    let lasted = begun.elapsed().as_secs_f64();
    let sums = sums(&server);
    assert_eq!(sums["ringhub_publish_to_flush_seconds_count"], 10.0);
    let sum = sums["ringhub_publish_to_flush_seconds_sum"];
    assert!(sum > 0.0 && sum < lasted, "{sum} of {lasted}");
}

/// While a subscriber does not read, its backlog is counted and ages; when it has read all, nothing is left.
#[test]
fn backlogs_are_measured() {
    let flags = ["--shards", "1", "--send-buffer", "4096", "--max-backlog", "8MiB", "--ping-interval", "0"];
    let server = Server::start(&flags);
    let mut laggard = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut poster = dial(server.address());
    let large = "x".repeat(50_000);
    for _ in 0..20 {
        assert_eq!(ask(&mut poster, &post("/t/x", "text/plain", &large)).status(), 202);
    }
    let counts = server.counts_until("a backlog", |counts| counts.get("backlog_messages") > 0);
    let (bytes, messages) = (counts.get("backlog_bytes"), counts.get("backlog_messages"));
    assert!(messages <= 20 && bytes >= (messages - 1) * 50_000 && bytes < (8 << 20), "{bytes} {messages}");
    thread::sleep(Duration::from_millis(300));
    for _ in 0..20 {
        laggard.expect(text(&large));
    }
    expect(&server, &[("backlog_bytes", 0), ("backlog_messages", 0), ("slow_consumers", 0)]);
    let sums = sums(&server);
    assert!(sums["ringhub_backlog_age_seconds_count"] >= 1.0, "{sums:?}");
    // The byte that was marked first has waited all the time.
    assert!(sums["ringhub_backlog_age_seconds_sum"] >= 0.25, "{sums:?}");
}

/// What waits when a connection is closed has aged too, and is not counted afterwards.
#[test]
fn the_backlog_of_a_closed_connection_is_gone() {
    let flags = ["--shards", "1", "--send-buffer", "4096", "--max-message", "64KiB", "--max-backlog", "128KiB"];
    let server = Server::start(&flags);
    let laggard = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut poster = dial(server.address());
    while server.counts().get("slow_closed_total") == 0 {
        assert_eq!(ask(&mut poster, &post("/t/x", "text/plain", &"x".repeat(60_000))).status(), 202);
    }
    let mut stream = laggard.into_stream();
    drop(stream.read_to_end(&mut Vec::new()));
    drop(stream);
    expect(&server, &[("connections_open", 0), ("backlog_bytes", 0), ("backlog_messages", 0), ("subscriptions", 0)]);
    assert!(sums(&server)["ringhub_backlog_age_seconds_count"] >= 1.0);
}

/// Subscriptions to topics count, and the topic of all connections does not.
#[test]
fn subscriptions_are_counted() {
    let server = Server::start(&["--shards", "2"]);
    let subscribers: Vec<Client> =
        (0..7).map(|number| server.connect(&format!("/t/{}?mode=sub", number % 3))).collect();
    let publisher = server.connect("/t/0?mode=pub");
    expect(&server, &[("subscriptions", 7), ("connections_open", 8)]);
    subscribers.into_iter().for_each(Client::leave);
    expect(&server, &[("subscriptions", 0), ("connections_open", 1)]);
    drop(publisher);
}

/// The limits that alarms compare with are those of the settings, and an idle server has gathered nothing.
#[test]
fn limits_of_what_fills_are_told() {
    let server = Server::start(&["--shards", "2", "--max-message", "64KiB", "--max-gathered", "3MiB"]);
    let gauges =
        [("gathered_bytes_max", 3 << 20), ("gathered_bytes", 0), ("lane_entries", 0), ("lane_waiting_bytes", 0)];
    expect(&server, &gauges);
    let places = sums(&server)["ringhub_lane_entries_max"];
    assert!((2.0..=1_024.0).contains(&places), "{places}");
}

/// The times of the process are those that the kernel reports.
#[test]
fn the_process_has_times() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let server = Server::start(&[]);
    let started = sums(&server);
    // Ticks of a hundredth of a second, and a clock that may be adjusted.
    let start = started["process_start_time_seconds"];
    assert!(start > before - 1.0 && start < now() + 1.0, "{start} of {before}");
    let mut stream = dial(server.address());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        ask(&mut stream, &post("/t/x", "text/plain", "x"));
    }
    let later = sums(&server);
    assert_eq!(later["process_start_time_seconds"], start);
    let used = later["process_cpu_seconds_total"] - started["process_cpu_seconds_total"];
    assert!(used > 0.0 && used < 60.0, "{used}");
    assert!(later["process_virtual_memory_bytes"] > later["process_resident_memory_bytes"]);
}

/// A collector that asks for OpenMetrics gets a text that keeps to its rules, with the same series.
#[test]
fn open_metrics_by_accept() {
    let server = Server::start(&["--shards", "2"]);
    let client = server.connect("/t/x?mode=sub");
    let plain = metrics(&server, "Accept: text/plain\r\n");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let open = metrics(&server, "Accept: application/openmetrics-text; version=1.0.0; q=0.8, text/plain; q=0.5\r\n");
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let vary = open.head.headers().get_all("vary").map(|value| str::from_utf8(value).unwrap().to_lowercase());
    assert!(vary.into_iter().any(|value| value.contains("accept")), "{open:?}");
    let series = read_open_metrics(&open.body);
    let of_plain: HashSet<&str> = plain.body.lines().filter(|line| !line.starts_with('#')).map(series_of).collect();
    let without_times: HashSet<&str> = series.iter().copied().filter(|series| !series.contains("_created")).collect();
    let unpointed = |series: &str| series.replace(".0\"", "\"");
    let sets = [of_plain, without_times].map(|set| set.into_iter().map(unpointed).collect::<HashSet<String>>());
    assert_eq!(sets[0], sets[1]);
    drop(client);
}

fn series_of(line: &str) -> &str {
    line.rsplit_once(' ').expect(line).0
}

/// Reads OpenMetrics 1.0.0 strictly: the families are whole and come once, the ending of each sample fits the type of
/// its family, and the last line is `# EOF`. Returns the series.
fn read_open_metrics(text: &str) -> HashSet<&str> {
    let text = text.strip_suffix("# EOF\n").expect("the last line");
    let (mut families, mut all) = (HashSet::new(), HashSet::new());
    let (mut helped, mut family, mut kind) = ("", "", "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect(line).0;
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            (family, kind) = of.split_once(' ').expect(line);
            assert!(family == helped && families.insert(family), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect(line);
            let name = series.split('{').next().unwrap();
            let endings: &[&str] = match kind {
                "counter" => &["_total", "_created"],
                "histogram" => &["_bucket", "_sum", "_count", "_created"],
                "info" => &["_info"],
                "gauge" => &[""],
                _ => panic!("{kind}: {line}"),
            };
            assert!(endings.iter().any(|ending| name.strip_suffix(ending) == Some(family)), "{line} in {family}");
            let value: f64 = value.parse().expect(line);
            assert!(value >= 0.0 && (kind != "info" || value == 1.0), "{line}");
            assert!(all.insert(series), "{line} is there twice");
            if let Some((_, bound)) = series.split_once("le=\"") {
                assert!(bound.contains('.') || bound.starts_with("+Inf"), "{line}");
            }
        }
    }
    assert!(families.len() > 60, "{families:?}");
    all
}

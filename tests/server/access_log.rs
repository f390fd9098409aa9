//! The access log: a line for each opening, each HTTP request and each end of a connection, and nothing secret in them.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Client, Server, ask, dial, exchange, post, request, reset, upgrade_request};

const ON: [&str; 4] = ["--shards", "1", "--access-log", "json"];

/// Returns the next line of the access log.
#[track_caller]
fn line(server: &Server) -> Value {
    let line = server.line();
    let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    assert!(line["duration_us"].as_u64().is_some(), "{line}");
    line
}

#[track_caller]
fn check(line: &Value, expected: &[(&str, Value)]) {
    for (key, value) in expected {
        assert_eq!(line[key], *value, "{key} of {line}");
    }
}

/// A connection has a line at its opening and at its end, with its id in both.
#[test]
fn openings_and_ends_have_lines() {
    let server = Server::start(&ON);
    let client = server.connect("/t/x%20y?mode=sub&access_token=secret");
    let opened = line(&server);
    let opening =
        [("event", "opening".into()), ("method", "GET".into()), ("path", "/t/x%20y".into()), ("status", 101.into())];
    check(&opened, &opening);
    assert!(opened["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{opened}");
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    client.leave();
    let ended = line(&server);
    check(&ended, &[("event", "end".into()), ("id", opened["id"].clone()), ("peer", opened["peer"].clone())]);
    check(&ended, &[("code", 1_000.into())]);
    let lasted = ended["duration_us"].as_u64().unwrap();
    assert!(lasted >= 250_000 && lasted <= begun.elapsed().as_micros() as u64 + 5_000_000, "{ended}");
    // A connection that is lost has sent no close frame.
    reset(server.connect("/t/x").into_stream());
    line(&server);
    check(&line(&server), &[("event", "end".into()), ("code", 1_006.into())]);
}

/// Refused openings and HTTP requests have a line with their status, and the name of their sender.
#[test]
fn requests_have_lines() {
    let flags = ["--publish-tokens", "hush", "--subscribe-tokens", "hush"];
    let server = Server::start(&[&ON[..], &flags].concat());
    let refused = exchange(server.address(), &upgrade_request("/t/x?access_token=guess-secret"));
    assert_eq!(refused.status(), 401);
    check(&line(&server), &[("event", "opening".into()), ("path", "/t/x".into()), ("status", 401.into())]);
    let mut stream = dial(server.address());
    let publish = post("/t/x?access_token=hush", "text/plain", "a secret message");
    assert_eq!(ask(&mut stream, &publish).status(), 202);
    let published = line(&server);
    check(&published, &[("event", "request".into()), ("method", "POST".into()), ("path", "/t/x".into())]);
    check(&published, &[("status", 202.into())]);
    assert_eq!(ask(&mut stream, &request("GET", "/nothing/here")).status(), 404);
    check(&line(&server), &[("path", "/nothing/here".into()), ("status", 404.into())]);
    for line in [refused.body, published.to_string()] {
        assert!(!line.contains("secret") && !line.contains("hush"), "{line}");
    }
}

/// A long path is cut, so a client cannot fill the log with one request.
#[test]
fn lines_are_cut() {
    let server = Server::start(&ON);
    let path = format!("/t/{}", "x".repeat(5_000));
    assert_eq!(exchange(server.address(), &request("GET", &path)).status(), 400);
    let line = line(&server);
    assert_eq!(line["path"].as_str().unwrap().len(), 1_024);
}

/// With a sample of 1 000, most connections and requests have no line; without the setting, none has.
#[test]
fn lines_can_be_sampled_or_off() {
    let sampled = Server::start(&[&ON[..], &["--access-log-sample", "1000"]].concat());
    let mut stream = dial(sampled.address());
    for _ in 0..1_001 {
        ask(&mut stream, &request("GET", "/nothing"));
    }
    // The first request has a line, and the one after a thousand.
    line(&sampled);
    line(&sampled);
    let off = Server::start(&["--shards", "1"]);
    ask(&mut dial(off.address()), &request("GET", "/nothing"));
    let client: Client = off.connect("/t/x");
    client.leave();
    // The next line is a counter, not an access.
    off.expect_counts(&[("ended_total", 1)]);
}

//! Reloads of the rules for slow subscribers, and what becomes of messages that wait meanwhile.

use std::net::TcpStream;

use serde_json::Value;

use super::Reloadable;
use crate::support::{Client, Counts, Received, Server, ask, dial, dial_with, exchange, post, published};

/// A client of `ringhub.v1` that does not read until it is asked to.
struct Stalled {
    client: Client,
}

/// What a client has received of a topic.
#[derive(Debug, Default)]
struct Heard {
    /// The offsets of the messages, in order.
    offsets: Vec<u64>,
    /// The first and the last offset of each notice, the count, and the policy.
    lags: Vec<(u64, u64, u64, String)>,
    /// How many messages and notices came before each answer `unsubscribed`.
    ends: Vec<usize>,
}

impl Heard {
    /// Checks that the messages and the notices together are the order of the topic, up to this offset.
    fn check(&self, last: u64) {
        assert!(self.offsets.is_sorted_by(|a, b| a < b), "{:?}", self.offsets);
        let lost = |offset: &u64| !self.offsets.contains(offset);
        let told: u64 = self.lags.iter().map(|lag| lag.2).sum();
        assert_eq!(told, (1..=last).filter(lost).count() as u64, "{self:?}");
        for (from, to, count, _) in &self.lags {
            assert!(lost(from) && lost(to) && (*from..=*to).filter(lost).count() as u64 >= *count, "{:?}", self.lags);
        }
    }
}

impl Stalled {
    /// Subscribes to a topic, with a small receive buffer.
    fn open(server: &Server, topic: &str) -> Stalled {
        let stream = dial_with(server.address(), Some(8_192));
        let mut client = Client::open_with(stream, "/ws", &["ringhub.v1"], &[]).expect("an opening");
        client.send_text(&format!(r#"{{"subscribe":{{"id":1,"topic":"{topic}"}}}}"#));
        let frame = text(&mut client).expect("text");
        assert!(frame["subscribed"].is_object(), "{frame}");
        Stalled { client }
    }

    /// Reads until the client has received, or was told that it has lost, all messages up to this offset, or until the
    /// close. Returns whether the server has closed the connection.
    fn read(&mut self, last: u64) -> (Heard, bool) {
        let (mut heard, mut known) = (Heard::default(), 0);
        while known < last || !heard.ends.is_empty() {
            let Some(frame) = text(&mut self.client) else { return (heard, true) };
            if let Value::Object(message) = &frame["message"] {
                heard.offsets.push(message["offset"].as_u64().expect("an offset"));
                known += 1;
            } else if let Value::Object(lag) = &frame["lagged"] {
                let [from, to, count] = ["from", "to", "count"].map(|member| lag[member].as_u64().expect("a number"));
                let before = heard.offsets.last().copied().unwrap_or_default();
                assert!(before < from, "the notice stands before what follows the gap: {frame} after {before}");
                heard.lags.push((from, to, count, lag["policy"].as_str().expect("a name").into()));
                known += count;
            } else if frame["unsubscribed"].is_object() {
                heard.ends.push(heard.offsets.len() + heard.lags.len());
            }
        }
        (heard, false)
    }
}

/// Returns the next frame of JSON; `None` for a close frame.
fn text(client: &mut Client) -> Option<Value> {
    match client.receive() {
        Received::Text(text) => Some(serde_json::from_str(&text).expect("JSON")),
        Received::Close(..) => None,
        other => panic!("{other:?} came"),
    }
}

/// Publishes so many messages of 20 KB to a topic. Returns the offset of the last.
fn publish(stream: &mut TcpStream, topic: &str, count: usize) -> u64 {
    let rest = "x".repeat(20_000);
    let mut offset = 0;
    for number in 0..count {
        let body = format!(r#"{{"key":"k{}","rest":"{rest}"}}"#, number % 3);
        offset = published(&ask(stream, &post(&format!("/t/{topic}"), "application/json", &body))).2;
    }
    offset
}

fn dropped(policy: &'static str) -> impl FnMut(&Counts) -> bool {
    move |counts| counts.get(&format!("lag_dropped_total{{policy={policy:?}}}")) > 0
}

/// The rules of a topic change while messages wait. The client, which reads again in the end, has received or was told
/// of each message once, whatever policy has dropped it.
#[test]
fn policies_change_while_messages_wait() {
    let rule = |columns: &str| format!("shards = 2\n[[topics]]\nmatch = \"feed\"\n{columns}\n");
    let oldest = rule("slow = \"drop_oldest\"\nbacklog_messages = 20");
    let reloadable = Reloadable::start(&oldest);
    let server = reloadable.server();
    let mut clients: Vec<Stalled> = (0..4).map(|_| Stalled::open(server, "feed")).collect();
    let mut publisher = dial(server.address());
    publish(&mut publisher, "feed", 400);
    server.counts_until("the oldest are dropped", dropped("drop_oldest"));
    reloadable.reload(&rule("slow = \"drop_newest\"\nbacklog_messages = 30"));
    publish(&mut publisher, "feed", 60);
    server.counts_until("the newest are dropped", dropped("drop_newest"));
    reloadable.reload(&rule("slow = \"latest\"\nkey = \"/key\""));
    publish(&mut publisher, "feed", 40);
    server.counts_until("the outdated are dropped", dropped("latest"));
    // Without a rule nothing more is dropped.
    reloadable.reload("shards = 2\n");
    let counts = server.counts();
    let last = publish(&mut publisher, "feed", 5);
    assert_eq!(last, 505);
    for client in &mut clients {
        let (heard, _) = client.read(last);
        heard.check(last);
        assert!(heard.offsets.ends_with(&[501, 502, 503, 504, 505]), "{heard:?}");
        assert!(!heard.lags.is_empty());
    }
    let all = |counts: &Counts| -> u64 {
        let of = |policy| counts.get(&format!("lag_dropped_total{{policy={policy:?}}}"));
        ["drop_oldest", "drop_newest", "latest"].into_iter().map(of).sum()
    };
    assert_eq!(all(&server.counts()), all(&counts));
    server.counts_until("nobody lags", |counts| {
        counts.get("lagging_connections") == 0 && counts.get("slow_consumers") == 0
    });
}

/// A client that stalls leaves a topic, subscribes again, and closes its connection. It still gets all that it is owed:
/// the messages, the notices, each of one subscription, the answers and the close frame, in this order.
#[test]
fn what_is_owed_comes_before_a_close() {
    // With several shards, messages may be on their way to the client's shard when it leaves the topic.
    let settings = "shards = 1\n[[topics]]\nmatch = \"feed\"\nslow = \"drop_oldest\"\nbacklog_messages = 10\n";
    let reloadable = Reloadable::start(settings);
    let server = reloadable.server();
    let mut stalled = Stalled::open(server, "feed");
    let mut publisher = dial(server.address());
    let first = publish(&mut publisher, "feed", 400);
    server.counts_until("messages are dropped", dropped("drop_oldest"));
    stalled.client.send_text(r#"{"unsubscribe":{"id":2,"topic":"feed"}}"#);
    stalled.client.send_text(r#"{"subscribe":{"id":3,"topic":"feed"}}"#);
    server.counts_until("the client is heard", |counts| counts.get("messages_in_total") == 403);
    let last = publish(&mut publisher, "feed", 400);
    // The test's client would not read on after a close of its own.
    stalled.client.send_raw(b"\x88\x82\0\0\0\0\x03\xe8");
    let (heard, is_closed) = stalled.read(last);
    assert!(is_closed);
    // The last messages may have been on their way to the client's shard when the close came.
    let end = *heard.offsets.last().expect("the newest messages are kept");
    heard.check(end);
    assert!(heard.ends.len() == 1 && end > first && end <= last, "{heard:?}");
    assert!(heard.lags.iter().all(|(from, to, ..)| (*from <= first) == (*to <= first)), "{:?} {first}", heard.lags);
    let of_first = |lag: &&(u64, u64, u64, String)| lag.0 <= first;
    assert!(heard.lags.iter().any(|lag| of_first(&lag)) && heard.lags.iter().any(|lag| !of_first(&lag)), "{heard:?}");
    let before = heard.offsets.iter().filter(|offset| **offset <= first).count();
    assert_eq!(heard.ends[0], before + heard.lags.iter().filter(of_first).count(), "{heard:?}");
}

/// A publisher is told that a message has no key where the rule of its topic says that the key is.
#[test]
fn messages_without_their_key_are_refused() {
    let settings = "[[topics]]\nmatch = \"prices\"\nslow = \"latest\"\nkey = \"/symbol\"\n";
    let reloadable = Reloadable::start(settings);
    let server = reloadable.server();
    let mut reader = server.connect("/t/prices?mode=sub&lag=silent");
    let long = format!(r#"{{"symbol":"{}"}}"#, "x".repeat(256));
    let there = "messages to the topic \"prices\" have their key at \"/symbol\", and";
    for (target, kind, body, expected) in [
        ("/t/prices", "application/json", r#"{"symbol":"A"}"#, None),
        ("/t/prices", "text/plain", r#"{"symbol":17}"#, None),
        ("/t/prices?key=A", "text/plain", "no JSON", None),
        ("/t/prices", "text/plain", "no JSON", Some("the message is not JSON")),
        ("/t/prices", "application/octet-stream", r#"{"symbol":"A"}"#, Some("the message is binary")),
        ("/t/prices", "application/json", r#"{"price":1}"#, Some("the message has no such part")),
        ("/t/prices", "application/json", r#"{"symbol":{"a":1}}"#, Some("this part is no string, number or boolean")),
        ("/t/prices", "application/json", r#"{"symbol":""}"#, Some("the key is empty")),
        ("/t/prices", "application/json", &long, Some("the key has 256 bytes, not 1 to 255")),
        ("/t/other", "text/plain", "no JSON", None),
    ] {
        let response = exchange(server.address(), &post(target, kind, body));
        match expected {
            None => assert_eq!(response.status(), 202, "{body}: {response:?}"),
            Some(error) => {
                assert_eq!(response.status(), 422, "{body}: {response:?}");
                assert!(response.error().starts_with(&format!("{there} {error}")), "{}", response.error());
            }
        }
    }
    let refused = exchange(server.address(), &post("/t/prices?key=", "text/plain", "x"));
    assert_eq!((refused.status(), refused.error()), (400, "the key is empty".into()));
    let mut client = Client::open_with(dial(server.address()), "/ws", &["ringhub.v1"], &[]).expect("an opening");
    let mut tell = |command: &str| {
        client.send_text(command);
        text(&mut client).expect("text")
    };
    let refused = tell(r#"{"publish":{"id":1,"topic":"prices","data":{"price":1}}}"#);
    assert_eq!((&refused["error"]["code"], &refused["error"]["name"]), (&116.into(), &"no_key".into()), "{refused}");
    // Without an id only the error comes.
    let refused = tell(r#"{"publish":{"topic":"prices","data":"x"}}"#);
    assert_eq!(refused["error"]["name"], "no_key", "{refused}");
    let published = tell(r#"{"publish":{"id":2,"topic":"prices","data":"last","key":"A"}}"#);
    assert!(published["published"].is_object(), "{published}");
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "last") {
        match reader.receive() {
            Received::Text(text) => seen.push(text),
            other => panic!("{other:?} came"),
        }
    }
    assert_eq!(seen, [r#"{"symbol":"A"}"#, r#"{"symbol":17}"#, "no JSON", "last"], "nothing refused was published");
}

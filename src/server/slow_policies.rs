//! Tests the policies for slow subscribers over real sockets: a client that stalls, and reads on later, knows exactly
//! what it has lost.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{
    Running, Server,
    testing::{Client, Manner, Publishers, topic_of},
};
use crate::{
    handler::{Accept, Connection, Handler, OpeningRequest, Response},
    hub::{Format, Lag, Overflow, SubscribeOptions, TopicRule, testing::REVERSED},
    proto::CloseCode,
};

/// The handler of subscribers, which notes the lags that it is told of.
struct Subscribers {
    format: Format,
    options: SubscribeOptions,
    lags: Arc<Mutex<Vec<Lag>>>,
}

impl Handler for Subscribers {
    type State = ();

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        Ok(Accept::default().subscribe(topic_of(request), self.options).format(self.format))
    }

    fn on_lag(&self, _: &mut Connection<'_, ()>, lag: &Lag) {
        self.lags.lock().unwrap().push(lag.clone());
    }
}

const MESSAGES: usize = 300;
const KEYS: usize = 7;

/// Starts a server whose topics have the names of their policies. Returns the lags of its handlers too.
fn start() -> (Running, SocketAddr, Arc<Mutex<Vec<Lag>>>) {
    let lags = Arc::default();
    let subscribers = |format, options| Subscribers { format, options, lags: Arc::clone(&lags) };
    let mut builder = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(2);
    for policy in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest] {
        let rule = TopicRule::new([policy.name().parse().unwrap()]).slow(policy).backlog_messages(10);
        let rule = if policy == Overflow::Latest { rule.key("/key".parse().unwrap()) } else { rule };
        builder = builder.topic_rule(rule);
    }
    let server = builder
        .route("/told/{topic}", subscribers(REVERSED, SubscribeOptions::default()))
        .route("/silent/{topic}", subscribers(Format::RAW, SubscribeOptions::default().silent_lags()))
        .route("/raw/{topic}", subscribers(Format::RAW, SubscribeOptions::default()))
        .route("/publish/{topic}", Publishers)
        .build()
        .unwrap();
    let running = server.start().unwrap();
    let address = running.local_addr();
    (running, address, lags)
}

fn open(address: SocketAddr, target: &str, format: Format) -> Client {
    Client::open(address, target, Manner { format, is_slow: true, ..Manner::default() })
}

/// Publishes all messages to a topic, as fast as the server takes them.
fn publish(address: SocketAddr, topic: &str) {
    let mut publisher = Client::web_socket(address, &format!("/publish/{topic}"));
    let rest = "x".repeat(50_000);
    for number in 0..MESSAGES {
        publisher.say(&format!(r#"{{"number":{number},"key":"k{}","rest":"{rest}"}}"#, number % KEYS));
    }
    publisher.leave();
}

/// Returns the number of a message; `None` for a notice.
fn number(text: &str) -> Option<usize> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(value["number"].as_u64().expect("a number") as usize)
}

/// Returns the numbers of the first and the last message that a notice tells of, and their count.
fn lag(text: &str, topic: &str) -> (usize, usize, usize) {
    let parts: Vec<&str> = text.split(' ').collect();
    assert_eq!((parts[0], parts[1], parts[6]), ("lag", topic, topic), "{text}");
    let [from, to, count] = [3, 4, 5].map(|at| parts[at].parse::<usize>().unwrap());
    // Offsets begin with 1.
    (from - 1, to - 1, count)
}

#[test]
fn a_client_that_stalls_is_told_what_it_has_lost() {
    let (running, address, lags) = start();
    for policy in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest] {
        let topic = policy.name();
        let mut client = open(address, &format!("/told/{topic}"), REVERSED);
        client.set_patience(Duration::from_secs(60));
        publish(address, topic);
        let (mut received, mut told, mut count) = (Vec::new(), Vec::new(), 0);
        while received.len() + count < MESSAGES {
            let text = client.text();
            match number(&text) {
                Some(number) => received.push(number),
                None => {
                    let lag = lag(&text, topic);
                    assert!(received.last().is_none_or(|&last| last < lag.0), "{text} after {received:?}");
                    told.push(lag);
                    count += lag.2;
                }
            }
        }
        assert!(count > 0 && received.is_sorted_by(|a, b| a < b), "{topic}: {count} {received:?}");
        let lost = |number: &usize| !received.contains(number);
        for (from, to, count) in &told {
            assert!(lost(from) && lost(to) && (*from..=*to).filter(lost).count() >= *count, "{topic}: {told:?}");
        }
        let is_told = |number: usize| told.iter().any(|(from, to, _)| (*from..=*to).contains(&number));
        assert!((0..MESSAGES).filter(lost).all(is_told), "{topic}: {told:?} {received:?}");
        if policy == Overflow::Latest {
            let last: BTreeMap<usize, usize> = received.iter().map(|number| (number % KEYS, *number)).collect();
            let expected = (MESSAGES - KEYS..MESSAGES).map(|number| (number % KEYS, number)).collect();
            assert_eq!(last, expected, "each key ends at its last value");
        }
        if policy != Overflow::DropNewest {
            assert_eq!(received.last(), Some(&(MESSAGES - 1)));
        }
        client.leave();
        let heard: Vec<Lag> = lags.lock().unwrap().drain(..).collect();
        let heard = heard.iter().map(|lag| (lag.from as usize - 1, lag.to as usize - 1, lag.count as usize));
        assert_eq!(heard.collect::<Vec<_>>(), told, "the handler is told of the same");
    }
    running.stop();
    running.wait_blocking().unwrap();
}

/// A raw client cannot be told. So it is closed, unless it has agreed.
#[test]
fn a_raw_client_is_closed_unless_it_agrees() {
    let (running, address, lags) = start();
    let closed = open(address, "/raw/drop_oldest", Format::RAW);
    let mut silent = open(address, "/silent/drop_oldest", Format::RAW);
    for client in [&closed, &silent] {
        client.set_patience(Duration::from_secs(60));
    }
    publish(address, "drop_oldest");
    let mut received = Vec::new();
    while received.last() != Some(&(MESSAGES - 1)) {
        received.push(number(&silent.text()).expect("a message"));
    }
    assert!(received.is_sorted_by(|a, b| a < b) && received.len() < MESSAGES);
    let told = || lags.lock().unwrap().iter().map(|lag| lag.count as usize).sum::<usize>();
    for _ in 0..600 {
        if received.len() + told() == MESSAGES {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(received.len() + told(), MESSAGES, "the handler knows what the client has lost");
    let mut closed = closed;
    let (texts, code) = closed.rest();
    assert_eq!(code, Some(CloseCode::POLICY_VIOLATION));
    let numbers: Vec<Option<usize>> = texts.iter().map(|text| number(text)).collect();
    assert_eq!(numbers, (0..texts.len()).map(Some).collect::<Vec<_>>(), "nothing is missing before the close");
    running.stop();
    running.wait_blocking().unwrap();
}

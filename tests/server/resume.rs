//! Subscribers that begin in the history of their topic, and clients that are cut and resume, over real sockets.

use std::{
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{Client, CrowdPermit, Received, Server, clean, dial, exchange, post, program, reset, text};

/// A server with rules of topics, whose settings' file a drop removes.
struct Kept {
    server: Server,
    file: PathBuf,
}

impl Kept {
    fn start(name: &str, flags: &[&str]) -> Kept {
        let file = env::temp_dir().join(format!("ringhub-resume-{name}-{}.toml", std::process::id()));
        let rules = "admin_tokens = [\"of-the-operator\"]\n\
                     [[topics]]\nmatch = \"kept/*\"\nhistory_messages = 5\n\
                     [[topics]]\nmatch = \"all/*\"\nhistory_messages = 10000000\n\
                     [[topics]]\nmatch = \"closed\"\nhistory_messages = 5\nhistory = \"nobody\"\n";
        fs::write(&file, rules).unwrap();
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(&file).args(flags);
        Kept { server: Server::start_command(command), file }
    }

    /// Publishes texts, and returns the epoch of the topic.
    fn publish(&self, topic: &str, numbers: impl IntoIterator<Item = u64>) -> u64 {
        let mut epoch = 0;
        for number in numbers {
            let response =
                exchange(self.server.address(), &post(&format!("/t/{topic}"), "text/plain", &number.to_string()));
            assert_eq!(response.status(), 202, "{response:?}");
            epoch = serde_json::from_str::<Value>(&response.body).unwrap()["epoch"].as_u64().unwrap();
        }
        epoch
    }

    fn raw(&self, target: &str) -> Client {
        self.server.connect(target)
    }

    fn status(&self, target: &str) -> u16 {
        let opened = Client::open(dial(self.server.address()), target, &[]);
        opened.err().expect("the opening is refused").status()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        fs::remove_file(&self.file).unwrap();
    }
}

/// With one shard and with several, on both backends: what is kept comes first, and then what is published.
#[test]
fn raw_subscribers_begin_in_the_history() {
    for flags in [&["--shards", "1"][..], &["--shards", "3"], &["--shards", "2", "--io", "epoll"]] {
        let kept = Kept::start(&format!("raw-{}", flags.join("")), flags);
        let epoch = kept.publish("kept/a", 1..=7);
        let since = |offset: u64| format!("/t/kept/a?since={epoch}.{offset}");
        for (target, first) in [
            (since(2), 3),
            (since(5), 6),
            (since(7), 8),
            (format!("/t/kept/a?mode=sub&since={epoch}:4"), 5),
            ("/t/kept/a?since=earliest".into(), 3),
            ("/t/kept/a?last=2".into(), 6),
            ("/t/kept/a?last=99".into(), 3),
            ("/t/kept/a?last=0".into(), 8),
            // Not recovered, and accepted: all that is kept comes.
            (format!("{}&unrecovered=accept", since(1)), 3),
            (format!("{}&unrecovered=accept", since(8)), 3),
            (format!("/t/kept/a?since={}.5&unrecovered=accept", epoch + 1), 3),
            ("/t/kept/a".into(), 8),
        ] {
            let mut client = kept.raw(&target);
            for number in first..=7 {
                assert_eq!(client.receive(), text(&number.to_string()), "{target}");
            }
            client.expect_nothing();
        }
        // A client goes on live.
        let mut clients = [kept.raw(&since(4)), kept.raw("/t/kept/a?last=1")];
        kept.publish("kept/a", 8..=9);
        for (client, first) in clients.iter_mut().zip([5, 7]) {
            (first..=9).for_each(|number| client.expect(text(&number.to_string())));
        }
    }
}

/// A position that cannot be recovered closes a raw connection, which no frame could tell.
#[test]
fn a_raw_subscriber_that_is_not_recovered_is_closed() {
    let kept = Kept::start("unrecovered", &["--shards", "2"]);
    let epoch = kept.publish("kept/a", 1..=7);
    let other = kept.publish("none", 1..=2);
    let targets = [
        format!("/t/kept/a?since={epoch}.1"),
        format!("/t/kept/a?since={epoch}.8"),
        format!("/t/kept/a?since={}.5", epoch + 1),
        format!("/t/kept/new?since={epoch}.5"),
        // A topic without a history is never recovered, even at its end.
        format!("/t/none?since={other}.2"),
        "/t/none?last=1".into(),
    ];
    for target in &targets {
        let topic = &target["/t/".len()..target.find('?').unwrap()];
        kept.raw(target).expect_close(4410, &format!("messages of {topic} after the position are not kept"));
    }
    let closed = "unrecovered_closed_total";
    kept.server.counts_until("all are counted", |counts| counts.get(closed) == targets.len() as u64);
    assert_eq!(kept.server.counts().get("resumed_total{recovered=\"false\"}"), 0);
}

#[test]
fn a_wrong_position_is_answered_400() {
    let kept = Kept::start("wrong", &["--shards", "1"]);
    for query in [
        "since=",
        "since=1",
        "since=1.2.3",
        "since=a.b",
        "since=-1.2",
        "since=1.18446744073709551616",
        "last=",
        "last=-1",
        "last=x",
        "since=1.2&last=3",
        "since=1.2&since=1.2",
        "unrecovered=maybe",
        "mode=pub&last=1",
    ] {
        assert_eq!(kept.status(&format!("/t/kept/a?{query}")), 400, "{query}");
    }
    // Whoever may subscribe and not read the history may not resume.
    assert_eq!(kept.status("/t/closed?last=1"), 403);
    kept.raw("/t/closed").leave();
}

/// Clients that are cut at random while messages are published: each gets every message once, in order, over all of
/// its connections. There are 100 clients, or as many as `RINGHUB_RESUMES` says.
#[test]
fn clients_that_are_cut_lose_nothing() {
    let permit = CrowdPermit::take();
    let clients = permit.afford(env::var("RINGHUB_RESUMES").map_or(100, |count| count.parse().expect("a number")), 0);
    // Clients are not read while others are opened, so they answer no pings.
    let one = ["--ping-interval", "0", "--shards", "1"];
    let four = ["--ping-interval", "0", "--shards", "4", "--io", "epoll"];
    for flags in [&one[..], &four] {
        let kept = Kept::start(&format!("cut-{}", flags.join("")), flags);
        let progress = Progress { clients: clients as u64, ..Progress::default() };
        thread::scope(|scope| {
            let (address, progress) = (kept.server.address(), &progress);
            let publisher = scope.spawn(move || publish_until(address, progress));
            let crowd: Vec<_> = (0..THREADS)
                .map(|number| {
                    let count = clients / THREADS + usize::from(number < clients % THREADS);
                    scope.spawn(move || cut_again_and_again(address, progress, number, count))
                })
                .collect();
            let mut survivors: Vec<(Cut, Client)> =
                crowd.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            progress.is_over.store(true, Ordering::SeqCst);
            let last = publisher.join().unwrap();
            // What is published up to the end reaches everybody.
            assert_eq!(survivors.len(), clients);
            for (cut, client) in &mut survivors {
                while cut.last < last {
                    cut.receive(client);
                }
                // Nothing comes twice: the answer is the next frame.
                client.send_text("{\"ping\":{\"id\":2}}");
                assert_eq!(frame(client)["pong"]["id"], 2);
            }
        });
        let counts = kept.server.counts();
        assert!(counts.get("resumed_total{recovered=\"true\"}") >= CUTS as u64 * clients as u64);
        assert_eq!(counts.get("resumed_total{recovered=\"false\"}"), 0);
    }
}

const THREADS: usize = 8;

/// How often each client is cut.
const CUTS: usize = 20;

/// How far the publisher and its subscribers have come.
#[derive(Default)]
struct Progress {
    clients: u64,
    /// How many messages all clients have received.
    received: AtomicU64,
    /// Whether the clients have been cut often enough.
    is_over: AtomicBool,
}

/// Publishes numbers until the clients have been cut often enough: fast, but not so fast that the clients fall behind
/// by more and more. Returns the last number.
fn publish_until(address: SocketAddr, progress: &Progress) -> u64 {
    let mut client = Client::connect(address, "/t/all/a?mode=pub");
    let mut published = 0;
    while !progress.is_over.load(Ordering::SeqCst) {
        let is_ahead = published > progress.received.load(Ordering::SeqCst) / progress.clients + AHEAD;
        for _ in 0..if is_ahead { 1 } else { 20 } {
            published += 1;
            client.send_text(&published.to_string());
        }
        thread::sleep(Duration::from_millis(10));
    }
    client.leave();
    published
}

/// The messages by which the clients are behind, on average, when the publisher becomes slow.
const AHEAD: u64 = 200;

/// Opens clients, lets each receive some messages, cuts it, and opens it again, again and again.
fn cut_again_and_again(address: SocketAddr, progress: &Progress, number: usize, count: usize) -> Vec<(Cut, Client)> {
    let open = |mut cut: Cut| {
        let client = cut.open(address);
        (cut, client)
    };
    let mut clients: Vec<(Cut, Client)> = (0..count).map(|_| open(Cut::default())).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ number as u64;
    for _ in 0..CUTS {
        clients = clients
            .into_iter()
            .map(|(mut cut, mut client)| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let count = random >> 60;
                (0..count).for_each(|_| cut.receive(&mut client));
                progress.received.fetch_add(count, Ordering::SeqCst);
                // What has been sent and not received is lost with the connection.
                if random >> 59 & 1 == 0 {
                    reset(client.into_stream())
                } else {
                    drop(client)
                }
                open(cut)
            })
            .collect();
    }
    clients
}

/// A client, over all of its connections.
#[derive(Default)]
struct Cut {
    /// The position of the last message.
    position: Option<String>,
    /// The number in the last message, or 0.
    last: u64,
}

impl Cut {
    /// Opens a connection that goes on where the last one was cut.
    fn open(&mut self, address: SocketAddr) -> Client {
        let mut client = Client::open_with(dial(address), "/ws", &["ringhub.v1"], &[]).unwrap();
        let since = self.position.as_ref().map_or(String::new(), |position| format!(",\"since\":\"{position}\""));
        client.send_text(&format!("{{\"subscribe\":{{\"id\":1,\"topic\":\"all/a\"{since}}}}}"));
        let Value::Object(answer) = frame(&mut client) else { panic!("an object") };
        let subscribed = &answer["subscribed"];
        let position = position(subscribed);
        match &self.position {
            Some(before) => {
                assert_eq!((&subscribed["recovered"], &position), (&Value::Bool(true), before), "{subscribed}");
            }
            // The messages are numbered like their offsets.
            None => self.last = subscribed["offset"].as_u64().unwrap(),
        }
        self.position = Some(position);
        client
    }

    /// Receives the next message.
    fn receive(&mut self, client: &mut Client) {
        let frame = frame(client);
        let message = &frame["message"];
        let number: u64 = message["data"].as_str().expect("a text").parse().unwrap();
        assert_eq!(number, self.last + 1, "after {:?}", self.position);
        (self.last, self.position) = (number, Some(position(message)));
    }
}

fn frame(client: &mut Client) -> Value {
    match client.receive() {
        Received::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn position(place: &Value) -> String {
    format!("{}.{}", place["epoch"].as_str().unwrap(), place["offset"])
}

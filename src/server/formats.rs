//! Tests of formats end to end: subscribers that want different formats of the same topics, on real sockets.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{
    Server,
    testing::{Client, Manner, check_publishers, topic_of},
};
use crate::{
    handler::{Accept, Connection, Handler, OpeningRequest, Response},
    hub::{Format, Scope, SubscribeOptions, testing::REVERSED},
    proto::Message,
};

/// The handler of a pattern with `{topic}`: the client subscribes to the topic in this format, and publishes to it.
pub(super) struct Topics(pub(super) Format);

impl Handler for Topics {
    type State = ();

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        let topic = topic_of(request);
        Ok(Accept::default()
            .subscribe(topic.clone(), SubscribeOptions::default().echo())
            .forward(topic, Scope::Server)
            .format(self.0))
    }

    fn on_message(&self, _: &mut Connection<'_, ()>, _: Message<'_>) {
        unreachable!("messages are forwarded");
    }
}

/// Opens a connection that wants a format.
fn open(address: SocketAddr, topic: &str, format: Format) -> Client {
    let prefix = if format == REVERSED { "reversed" } else { "raw" };
    Client::open(address, &format!("/{prefix}/{topic}"), Manner { format, ..Manner::default() })
}

/// Subscribers of both formats, on two shards, see every message of three publishers once and in one order. Meanwhile
/// other subscribers of both formats come and go.
#[test]
fn subscribers_of_all_formats_see_one_order() {
    let server = Server::builder()
        .listen(["127.0.0.1:0".parse().unwrap()])
        .shards(2)
        .route("/raw/{topic}", Topics(Format::RAW))
        .route("/reversed/{topic}", Topics(REVERSED))
        .build()
        .unwrap();
    let running = server.start().unwrap();
    let address = running.local_addr();
    for topic in ["one", "other", "third"] {
        let formats = [Format::RAW, REVERSED, REVERSED, Format::RAW, REVERSED, Format::RAW];
        let clients = formats.map(|format| open(address, topic, format));
        let published = AtomicUsize::new(0);
        let orders = thread::scope(|scope| {
            let read = |(number, mut client): (usize, Client)| {
                let published = &published;
                scope.spawn(move || {
                    if number < PUBLISHERS {
                        for count in 0..MESSAGES {
                            client.say(&format!("{number} {count} {}", "x".repeat(count * count % 5_000)));
                            published.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    client.texts(PUBLISHERS * MESSAGES)
                })
            };
            let reading: Vec<_> = clients.into_iter().enumerate().map(read).collect();
            while published.load(Ordering::Relaxed) < PUBLISHERS * MESSAGES {
                for format in [REVERSED, Format::RAW] {
                    let mut passing = open(address, topic, format);
                    if published.load(Ordering::Relaxed) < PUBLISHERS * MESSAGES / 2 {
                        passing.text();
                    }
                }
            }
            reading.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        check_publishers(&orders[0], PUBLISHERS, MESSAGES);
        assert!(orders.iter().all(|order| *order == orders[0]), "{topic} has one order");
    }
    running.stop();
    running.wait_blocking().unwrap();
}

const PUBLISHERS: usize = 3;
const MESSAGES: usize = 300;

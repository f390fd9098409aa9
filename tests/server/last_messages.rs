//! The last messages of clients that leave without a closing handshake: the server handles all that has arrived.

use std::net::{Shutdown, TcpStream};

use ringhub::proto::OpCode;

use crate::support::{Client, Server, dial_with, frame, reset, text};

/// How a client leaves.
type Leave = (&'static str, fn(TcpStream));

/// The ways to leave. The first two end in a reset, which destroys what the client has not read and the server has not
/// sent.
const LEAVES: [Leave; 3] = [
    ("reset", reset),
    // With unread bytes in the socket the kernel sends a reset.
    ("closed", drop),
    ("finished, then closed", |stream| {
        stream.shutdown(Shutdown::Write).expect("the connection is there");
        drop(stream);
    }),
];

/// The server does not read from a subscriber that reads nothing, so its messages wait in the socket. The server
/// notices the reset by a send.
#[test]
fn messages_in_front_of_a_reset_are_taken() {
    let flags = "--shards 1 --send-buffer 8KiB --max-message 64KiB --max-backlog 1MiB";
    let server = Server::start(&flags.split(' ').collect::<Vec<_>>());
    for (number, (how, leave)) in (0..).zip(LEAVES) {
        let target = format!("/t/{number}");
        let mut slow = Client::open(dial_with(server.address(), Some(4_096)), &target, &[]).expect("a subscriber");
        let mut publisher = server.connect(&format!("{target}?mode=pub"));
        for _ in 0..75 {
            publisher.send_binary(&[0; 10_000]);
        }
        server
            .counts_until("the subscriber is owed much", |counts| counts.get("deliveries_total") >= 75 * (number + 1));
        // The shard notices that the subscriber is owed too much when there is something to read.
        let mut observer = server.connect(&format!("{target}?mode=sub"));
        slow.send_text("the first");
        server.counts_until("the subscriber is parked", |counts| counts.get("parked_total") > number);
        let words: Vec<u8> =
            (0..3).flat_map(|word| frame(OpCode::Text, true, format!("word {word}").as_bytes())).collect();
        slow.send_raw(&words);
        leave(slow.into_stream());
        observer.expect(text("the first"));
        for word in 0..3 {
            observer.expect(text(&format!("word {word}")));
        }
        server.counts_until(how, |counts| counts.get("aborted_total") == number + 1);
        observer.leave();
        publisher.leave();
    }
    server.expect_counts(&[("slow_closed_total", 0), ("slow_consumers", 0)]);
}

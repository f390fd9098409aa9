//! Rates of what clients send on their connections.

use std::{
    fs,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use ringhub::proto::{OpCode, encode_masked};

use crate::support::{Client, DEADLINE, Received, Server, binary, clean, pattern, program, text};

/// A crowd of messages comes at once and is handed out at the rate, in order. Another client is served meanwhile.
#[test]
fn messages_beyond_the_rate_wait() {
    let server = Server::start(&["--max-message-rate", "20/s burst 5", "--ping-interval=0"]);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut flooder = server.connect("/t/x?mode=pub");
    let mut other = server.connect("/t/other?mode=pub");
    let begin = Instant::now();
    (0..45).for_each(|number| flooder.send_text(&number.to_string()));
    (0..5).for_each(|number| subscriber.expect(text(&number.to_string())));
    other.expect_nothing();
    (5..45).for_each(|number| subscriber.expect(text(&number.to_string())));
    assert!(begin.elapsed() >= Duration::from_millis(1_900), "forty messages came in {:?}", begin.elapsed());
    flooder.expect_nothing();
    let counts = server.counts_until("it is not throttled", |counts| counts.get("connections_throttled") == 0);
    assert!(counts.get("throttled_total{rate=\"messages\"}") > 0);
    assert_eq!(counts.get("rate_closed_total{rate=\"messages\"}"), 0);
    [subscriber, flooder, other].into_iter().for_each(Client::leave);
}

#[test]
fn bytes_beyond_the_rate_wait() {
    let server = Server::start(&["--max-byte-rate", "200kB/s", "--ping-interval=0"]);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut sender = server.connect("/t/x?mode=pub");
    let begin = Instant::now();
    (0..10).for_each(|number| sender.send_binary(&pattern(number, 50_000)));
    (0..10).for_each(|number| subscriber.expect(binary(&pattern(number, 50_000))));
    // 500 kB: 200 of them are free, and the last receive is not waited for.
    assert!(begin.elapsed() >= Duration::from_millis(1_000), "500 kB came in {:?}", begin.elapsed());
    assert!(server.counts().get("throttled_total{rate=\"bytes\"}") > 0);
    sender.leave();
}

/// A client that floods without end is closed, with a reason that names the limit.
#[test]
fn clients_that_do_not_keep_to_their_rates_are_closed() {
    for (flag, rate, counter, reason) in [
        ("--max-message-rate", "50/s", "rate_closed_total{rate=\"messages\"}", "more messages than max_message_rate"),
        ("--max-byte-rate", "100kB/s", "rate_closed_total{rate=\"bytes\"}", "more bytes than max_byte_rate"),
    ] {
        let server = Server::start(&[flag, rate, "--rate-timeout=1s"]);
        let mut flooder = server.connect("/t/x?mode=pub");
        flooder.never_answer();
        let mut stream = flooder.stream().try_clone().expect("a second handle of the socket");
        let mut frames = Vec::new();
        (0..1_000).for_each(|_| encode_masked(OpCode::Binary, true.into(), &[0; 100], [0; 4], &mut frames));
        let flood = thread::spawn(move || while stream.write_all(&frames).is_ok() {});
        // The clock of deadlines has ticks of 100 ms.
        let begin = Instant::now();
        assert_eq!(flooder.receive(), Received::Close(Some(1008), reason.into()));
        assert!((Duration::from_millis(850)..DEADLINE).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        server.expect_counts(&[(counter, 1)]);
        drop(flooder);
        flood.join().expect("the flood ends with its connection");
    }
}

/// A route has its own rates, or none where the server has some.
#[test]
fn routes_have_their_own_rates() {
    let file = std::env::temp_dir().join(format!("ringhub-rates-{}.toml", std::process::id()));
    let settings = r#"
        max_message_rate = "1/h"
        [[routes]]
        match = "/free"
        handler = "echo"
        max_message_rate = "off"
        [[routes]]
        match = "/slow"
        handler = "echo"
        max_message_rate = "1/s burst 2"
    "#;
    fs::write(&file, settings).expect("a file of settings");
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file);
    let server = Server::start_command(command);
    fs::remove_file(&file).expect("the file is there");
    let echoes = |target: &str, count: usize| {
        let mut client = server.connect(target);
        let begin = Instant::now();
        (0..count).for_each(|number| client.send_text(&number.to_string()));
        (0..count).for_each(|number| client.expect(text(&number.to_string())));
        begin.elapsed()
    };
    echoes("/free", 100);
    assert_eq!(server.counts().get("throttled_total{rate=\"messages\"}"), 0);
    let took = echoes("/slow", 3);
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(server.counts().get("throttled_total{rate=\"messages\"}") > 0);
}

//! Idempotency keys: a message with a key is published once, by whatever way it comes and however often.

use std::{collections::HashMap, io::Write as _, net::SocketAddr, thread, time::Duration};

use crate::support::{Client, Received, Response, Server, dial, dial_from, exchange, published, read_response, text};

/// Returns a request that publishes with a key.
fn keyed(target: &str, key: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Publishes text with a key.
fn publish(address: SocketAddr, topic: &str, key: &str, body: &str) -> Response {
    exchange(address, &keyed(&format!("/t/{topic}"), key, "text/plain", body))
}

#[test]
fn a_repetition_gets_the_first_answer() {
    let server = Server::start(&["--shards", "3"]);
    for number in 0..6 {
        let topic = format!("topic-{number}");
        let mut subscriber = server.connect(&format!("/t/{topic}"));
        let first = publish(server.address(), &topic, "one", "a");
        assert_eq!(published(&first).2, 1);
        assert_eq!(published(&publish(server.address(), &topic, "two", "a")).2, 2, "another key, another message");
        for key in ["one", "\"one\""] {
            let repeated = publish(server.address(), &topic, key, "a");
            assert_eq!((repeated.status(), &repeated.body), (202, &first.body));
        }
        let other = publish(server.address(), &topic, "one", "b");
        assert_eq!(other.status(), 422, "{other:?}");
        let sentence = "a message with the same id and other contents was published to this topic before";
        assert_eq!(other.body, format!("{{\"error\":\"{sentence}\"}}\n"));
        let target = format!("/t/{topic}");
        let others = [
            keyed(&target, "one", "application/octet-stream", "a"),
            keyed(&format!("{target}?key=k"), "one", "text/plain", "a"),
        ];
        assert!(others.iter().all(|other| exchange(server.address(), other).status() == 422));
        (0..2).for_each(|_| subscriber.expect(text("a")));
        subscriber.expect_nothing();
    }
    server.expect_counts(&[
        ("idempotency_total{outcome=\"repeated\"}", 12),
        ("idempotency_total{outcome=\"other_contents\"}", 18),
        ("messages_in_total", 24),
    ]);
}

#[test]
fn malformed_keys_are_refused_before_the_body() {
    let server = Server::start(&[]);
    let long = "x".repeat(256);
    for key in ["", "\"", "\"a", &long] {
        let head = format!("POST /t/a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\nContent-Length: 5\r\n\r\n");
        let response = exchange(server.address(), &head);
        assert_eq!(response.status(), 400, "{response:?}");
        assert!(response.body.contains("Idempotency-Key"), "{response:?}");
    }
}

/// A POST and a client of `ringhub.v1` share the keys of a topic.
#[test]
fn all_ways_share_the_keys_of_a_topic() {
    let server = Server::start(&["--shards", "3"]);
    let open = || Client::open_with(dial(server.address()), "/ws", &["ringhub.v1"], &[]).unwrap();
    let mut subscriber = server.connect("/t/shared?mode=sub");
    let mut clients: Vec<Client> = (0..6).map(|_| open()).collect();
    let (_, epoch, _) = published(&publish(server.address(), "shared", "one", "a"));
    for client in &mut clients {
        let publish = |id: &str, key: &str, data: &str| {
            format!(r#"{{"publish":{{{id}"topic":"shared","data":"{data}","idempotency_key":"{key}"}}}}"#)
        };
        client.send_text(&publish(r#""id":1,"#, "one", "a"));
        let first = format!(r#"{{"published":{{"id":1,"topic":"shared","epoch":"{epoch}","offset":1}}}}"#);
        client.expect(text(&first));
        // A command without a number has no answer but an error.
        client.send_text(&publish("", "one", "a"));
        client.send_text(&publish("", "one", "b"));
        let Received::Text(error) = client.receive() else { panic!("no error") };
        assert!(error.starts_with(r#"{"error":{"code":115,"name":"other_contents","#), "{error}");
        client.send_text(&publish(r#""id":2,"#, "two", "c"));
        client.expect(text(&first.replace("\"id\":1", "\"id\":2").replace("offset\":1", "offset\":2")));
    }
    assert_eq!(published(&publish(server.address(), "shared", "two", "c")).2, 2);
    subscriber.expect(text("a"));
    subscriber.expect(text("c"));
    subscriber.expect_nothing();
}

/// Many publishers send the same messages at the same time, on several shards.
#[test]
fn repetitions_at_the_same_time_have_one_place() {
    const KEYS: usize = 40;
    const PUBLISHERS: usize = 6;
    let server = Server::start(&["--shards", "3"]);
    let mut subscriber = server.connect("/t/crowd?mode=sub");
    let address = server.address();
    let publishing: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            thread::spawn(move || {
                let each = (0..KEYS).map(|number| {
                    let number = (number * 7 + publisher) % KEYS;
                    (number, published(&publish(address, "crowd", &format!("key {number}"), &number.to_string())))
                });
                each.collect::<HashMap<_, _>>()
            })
        })
        .collect();
    let places: Vec<_> = publishing.into_iter().map(|publishing| publishing.join().unwrap()).collect();
    assert!(places.iter().all(|of_one| *of_one == places[0]));
    let mut by_offset: Vec<(u64, usize)> = places[0].iter().map(|(number, place)| (place.2, *number)).collect();
    by_offset.sort_unstable();
    for (at, (offset, number)) in by_offset.into_iter().enumerate() {
        assert_eq!(offset, at as u64 + 1);
        subscriber.expect(text(&number.to_string()));
    }
    subscriber.expect_nothing();
}

#[test]
fn a_key_is_forgotten_after_its_window() {
    let server = Server::start(&["--idempotency-window", "300ms"]);
    let first = publish(server.address(), "x", "one", "a");
    assert_eq!(published(&first).2, 1);
    thread::sleep(Duration::from_millis(700));
    assert_eq!(published(&publish(server.address(), "x", "one", "b")).2, 2);
    server.expect_counts(&[("idempotency_total{outcome=\"repeated\"}", 0)]);
}

#[test]
fn full_keys_refuse_messages_with_further_keys() {
    let server = Server::start(&["--shards", "1", "--max-idempotency", "4KiB", "--idempotency-window", "60s"]);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let (mut taken, mut refused) = (0, 0);
    for number in 0..20 {
        let response = publish(server.address(), "x", &number.to_string(), "a");
        if response.status() == 202 {
            assert_eq!((published(&response).2, refused), (number + 1, 0), "none is forgotten for another");
            taken += 1;
            continue;
        }
        refused += 1;
        assert_eq!(response.status(), 503, "{response:?}");
        let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((30..=60).contains(&seconds), "{response:?}");
        assert!(response.body.contains("max_idempotency"), "{response:?}");
    }
    assert!(taken >= 2 && refused >= 10, "{taken} {refused}");
    // A key that is remembered, and a message without a key, need no room.
    assert_eq!(published(&publish(server.address(), "x", "0", "a")).2, 1);
    let mut client = Client::open_with(dial(server.address()), "/ws", &["ringhub.v1"], &[]).unwrap();
    client.send_text(r#"{"publish":{"id":7,"topic":"x","data":"a","idempotency_key":"further"}}"#);
    let Received::Text(error) = client.receive() else { panic!("no error") };
    assert!(error.starts_with(r#"{"error":{"id":7,"code":133,"name":"keys_full","#), "{error}");
    assert!(error.ends_with(r#""temporary":true}}"#), "{error}");
    client.send_text(r#"{"publish":{"id":8,"topic":"x","data":"a"}}"#);
    let Received::Text(answer) = client.receive() else { panic!("no answer") };
    assert!(answer.ends_with(&format!(r#""offset":{}}}}}"#, taken + 1)), "{answer}");
    // One address takes half of the memory alone.
    let mut other = dial_from(server.address(), Some([127, 0, 0, 2].into()), None);
    other.write_all(keyed("/t/x", "of another", "text/plain", "a").as_bytes()).unwrap();
    assert_eq!(published(&read_response(&mut other, &[], true)).2, taken + 2);
    (0..taken + 2).for_each(|_| subscriber.expect(text("a")));
    subscriber.expect_nothing();
    server.expect_counts(&[("idempotency_total{outcome=\"full\"}", refused + 1)]);
    assert!(server.counts().get("memory_bytes{kind=\"idempotency\"}") <= 4_096);
}

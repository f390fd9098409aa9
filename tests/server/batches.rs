//! Batches: several messages in one `POST`, each with its own answer.

use std::{fs, io::Write as _, net::TcpStream, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{Client, Response, Server, binary, clean, exchange, post, program, text};

/// Posts a batch, and returns the answers to its messages.
#[track_caller]
fn publish(server: &Server, messages: &Value) -> Vec<Value> {
    let response = send(server, &messages.to_string());
    assert_eq!((response.status(), response.header("content-type")), (200, Some("application/json")), "{response:?}");
    let answers: Vec<Value> = serde_json::from_str(&response.body).unwrap();
    assert_eq!(answers.len(), messages.as_array().unwrap().len());
    answers
}

fn send(server: &Server, body: &str) -> Response {
    exchange(server.address(), &post("/publish", "application/json", body))
}

#[test]
fn a_batch_has_messages_to_many_topics_in_their_order() {
    const TOPICS: usize = 7;
    const MESSAGES: usize = 1_000;
    let server = Server::start(&["--shards", "3"]);
    let mut subscribers: Vec<Client> =
        (0..TOPICS).map(|topic| server.connect(&format!("/t/topic-{topic}?mode=sub"))).collect();
    let message = |number: usize| json!({"topic": format!("topic-{}", number % TOPICS), "data": number.to_string()});
    let batch: Value = (0..MESSAGES).map(message).collect();
    for round in 0..2 {
        for (number, answer) in publish(&server, &batch).iter().enumerate() {
            assert_eq!((&answer["status"], &answer["topic"]), (&json!(202), &batch[number]["topic"]), "{answer}");
            let of_topic = (0..MESSAGES).filter(|other| other % TOPICS == number % TOPICS).count();
            assert_eq!(answer["offset"], number / TOPICS + 1 + round * of_topic, "{answer}");
        }
        for number in 0..MESSAGES {
            subscribers[number % TOPICS].expect(text(&number.to_string()));
        }
    }
    server.expect_counts(&[("messages_in_total", 2 * MESSAGES as u64)]);
}

/// More messages than may wait for one home at the same time.
#[test]
fn a_batch_to_one_topic_is_published_whole() {
    let server = Server::start(&["--shards", "2", "--max-http-connections", "4"]);
    let mut subscriber = server.connect("/t/one?mode=sub");
    let batch: Value = (0..1_000).map(|number| json!({"topic": "one", "data": format!("{number}")})).collect();
    for (number, answer) in publish(&server, &batch).iter().enumerate() {
        assert_eq!((&answer["status"], &answer["offset"]), (&json!(202), &json!(number + 1)));
        subscriber.expect(text(&number.to_string()));
    }
}

#[test]
fn messages_of_a_batch_have_all_members_of_a_publish() {
    let server = Server::start(&["--shards", "2"]);
    let mut subscriber = server.connect("/t/a?mode=sub");
    let batch = json!([
        {"topic": "a", "data": {"b": [1, null]}, "event": "e", "key": "k", "id": "one"},
        {"topic": "a", "base64": "/wA=", "receipt": true},
        {"topic": "a", "data": {"b": [1, null]}, "event": "e", "key": "k", "id": "one"},
        {"topic": "a", "data": "other", "id": "one"},
    ]);
    let answers = publish(&server, &batch);
    subscriber.expect(text(r#"{"b":[1,null]}"#));
    subscriber.expect(binary(&[255, 0]));
    subscriber.expect_nothing();
    assert_eq!((&answers[0]["offset"], &answers[1]["offset"]), (&json!(1), &json!(2)));
    assert_eq!(answers[1]["receipt"], json!({"matched": 1, "sent": 1, "queued": 0, "dropped": 0, "closed": 0}));
    assert_eq!(answers[2], answers[0], "it is published once");
    assert_eq!(answers[3]["status"], 422);
}

/// A settings' file, which a drop removes.
struct File(PathBuf);

impl File {
    fn start(name: &str, settings: &str) -> (File, Server) {
        let path = std::env::temp_dir().join(format!("ringhub-batches-{name}-{}.toml", std::process::id()));
        fs::write(&path, settings).unwrap();
        let mut command = clean(program());
        command.args(["--shards", "2", "--config"]).arg(&path);
        (File(path), Server::start_command(command))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// A message that is refused keeps no other one back.
#[test]
fn each_message_is_judged_by_itself() {
    let rules = "[[routes]]\nmatch = \"/publish\"\nhandler = \"publish\"\n\
                 [[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n\
                 [[routes]]\nmatch = \"/s/{topic...}\"\nhandler = \"hub\"\ntopic_prefix = \"small/\"\n\
                 max_message = \"10B\"\n[[topics]]\nmatch = \"read\"\npublish = \"nobody\"\n";
    let (_file, server) = File::start("judged", rules);
    let mut subscriber = server.connect("/t/free?mode=sub");
    let batch = json!([
        {"topic": "free", "data": "first"},
        {"topic": "read", "data": "x"},
        {"topic": "small/a", "data": "more than ten"},
        7,
        {"topic": "free"},
        {"topic": "", "data": 1},
        {"topic": "free", "data": 1, "wrong": 2},
        {"topic": "small/a", "data": "ten"},
        {"topic": "free", "data": "last"},
    ]);
    let answers = publish(&server, &batch);
    let statuses: Vec<u64> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [202, 403, 413, 400, 400, 400, 400, 202, 202], "{answers:?}");
    assert_eq!(answers[1]["error"], "nobody may publish to the topic \"read\"");
    subscriber.expect(text("first"));
    subscriber.expect(text("last"));
    subscriber.expect_nothing();
}

/// Batches that wait for receipts have half of the room for bodies, and their messages leave places for other bodies.
#[test]
fn batches_that_wait_leave_room_to_others() {
    let rules = "max_bodies = \"1MiB\"\nmax_http_connections = 8\nreceipt_timeout = \"1h\"\n\
                 [[topics]]\nmatch = \"slow\"\ndelivery_interval = \"1m\"\n";
    let (_file, server) = File::start("waiting", rules);
    let mut subscriber = server.connect("/t/slow?mode=sub");
    publish(&server, &json!([{"topic": "slow", "data": "first"}]));
    subscriber.expect(text("first"));
    let message = json!({"topic": "slow", "data": "x", "receipt": true});
    let batch = |count: usize| Value::from(vec![message.clone(); count]).to_string();
    let request = post("/publish", "application/json", &batch(600));
    let mut waiting = TcpStream::connect(server.address()).unwrap();
    waiting.write_all(request.as_bytes()).unwrap();
    let one = || exchange(server.address(), &post("/t/slow", "text/plain", "one"));
    let offset = |answer: &Response| serde_json::from_str::<Value>(&answer.body).unwrap()["offset"].as_u64();
    // The batch has its room once its messages have their places.
    while offset(&one()) <= Some(600) {}
    let refused = send(&server, &batch(600));
    assert_eq!(refused.status(), 503);
    assert!(refused.error().starts_with("as many batches of messages are under way"), "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(one().status(), 202, "the home has places for other bodies");
    let answers = publish(&server, &json!([{"topic": "other", "data": "x"}]));
    assert_eq!(answers[0]["status"], 202, "a small batch has room");
}

#[test]
fn a_batch_has_limits() {
    let server = Server::start(&["--max-message", "8KiB"]);
    let of = |count: usize| format!("[{}]", vec!["0"; count].join(","));
    let answers: Vec<Value> = serde_json::from_str(&send(&server, &of(1_000)).body).unwrap();
    assert!(answers.len() == 1_000 && answers.iter().all(|answer| answer["status"] == 400));
    let refused = send(&server, &of(1_001));
    assert_eq!((refused.status(), refused.error()), (413, "a batch has at most 1000 messages".into()));
    assert_eq!(send(&server, &format!("[{}]", " ".repeat(8 << 10))).status(), 413);
    assert_eq!(send(&server, "[]").body, "[]\n");
    for body in ["", "{}", "[1", "\u{1}"] {
        assert_eq!(send(&server, body).status(), 400, "{body}");
    }
    let with_query = |query: &str| exchange(server.address(), &post(&format!("/publish?{query}"), "", "[]")).status();
    assert_eq!([with_query("access_token=x"), with_query("key=a"), with_query("x")], [200, 400, 400]);
    let other = exchange(server.address(), "GET /publish HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((other.status(), other.header("allow")), (405, Some("POST, OPTIONS")));
}

/// Each message counts against the rates of its sender; those beyond a rate are refused, and told when to come back.
#[test]
fn each_message_of_a_batch_counts() {
    let server = Server::start(&["--max-publish-rate-per-address", "1/m burst 5"]);
    let batch: Value = (0..8).map(|number| json!({"topic": "a", "data": number})).collect();
    let answers = publish(&server, &batch);
    assert!(answers[..5].iter().all(|answer| answer["status"] == 202), "{answers:?}");
    for answer in &answers[5..] {
        assert_eq!(answer["status"], 429, "{answer}");
        assert!((1..=60).contains(&answer["retry_after"].as_u64().unwrap()), "{answer}");
    }
    assert_eq!(exchange(server.address(), &post("/t/a", "text/plain", "x")).status(), 429, "the rate is the same");
    server.expect_counts(&[("rate_refused_total{rate=\"publishes_of_address\"}", 4)]);
}

/// The path of batches is free for routes of the settings, which may have batches at another path.
#[test]
fn routes_decide_about_the_path_of_batches() {
    let routes = "[[routes]]\nmatch = \"/batch\"\nhandler = \"publish\"\ntopic_prefix = \"eu/\"\n\
                  [[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n\
                  [[routes]]\nmatch = \"/publish\"\nhandler = \"echo\"\n";
    let (_file, server) = File::start("routes", routes);
    let mut subscriber = server.connect("/t/eu%2Fnews?mode=sub");
    let body = r#"[{"topic":"news","data":"x"}]"#;
    let response = exchange(server.address(), &post("/batch", "application/json", body));
    assert_eq!(response.status(), 200);
    let answers: Vec<Value> = serde_json::from_str(&response.body).unwrap();
    assert_eq!((&answers[0]["status"], &answers[0]["topic"]), (&json!(202), &json!("eu/news")));
    subscriber.expect(text("x"));
    let mut echo = server.connect("/publish");
    echo.send_text("own");
    echo.expect(text("own"));
    assert_eq!(send(&server, body).status(), 405);
}

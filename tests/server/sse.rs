//! Event streams (Server-Sent Events) on raw sockets.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::Shutdown,
    path::PathBuf,
};

use rustix::process::Signal;

use crate::{
    event_stream::{EventStream, ServerEvent, stream_request},
    support::{Server, ask, clean, dial, dial_with, exchange, post, program, published, request},
};

/// Publishes a message, and returns its position.
#[track_caller]
fn publish(server: &Server, target: &str, content_type: &str, body: &str) -> String {
    let (_, epoch, offset) = published(&exchange(server.address(), &post(target, content_type, body)));
    format!("{epoch}.{offset}")
}

/// Returns a message as an event.
fn message(id: &str, data: &str) -> ServerEvent {
    ServerEvent { id: Some(id.into()), data: data.into(), ..ServerEvent::default() }
}

/// On each backend, and with several shards.
#[test]
fn a_topic_is_streamed() {
    for flags in [&["--shards", "1"][..], &["--shards", "3"], &["--shards", "2", "--io", "epoll"]] {
        let server = Server::start(flags);
        let (mut stream, ready) = EventStream::open(server.address(), "/t/a/b");
        let headers = ["content-type", "cache-control", "x-accel-buffering", "connection", "transfer-encoding", "vary"];
        let values = headers.map(|name| stream.header(name).unwrap());
        let expected = ["text/event-stream", "no-cache, no-store, no-transform", "no", "close", "chunked", "Accept"];
        assert_eq!(values, expected);
        assert_eq!((&*ready.event, ready.retry), ("ready", Some(1_000)));
        let begin = ready.id.clone().expect("a position");
        assert_eq!((&ready.json()["topic"], &ready.json()["position"]), (&"a/b".into(), &begin.clone().into()));
        let mut ids = vec![begin];
        for (content_type, body, data) in [
            ("text/plain", "hello", "hello"),
            ("application/json", "{\"x\":\n1}", "{\"x\":\n1}"),
            ("text/plain", "\r\n leading\r", "\n leading\n"),
            ("text/plain", "", ""),
            ("text/plain; charset=utf-8", "\u{e4}\u{26a1}", "\u{e4}\u{26a1}"),
        ] {
            let id = publish(&server, "/t/a/b", content_type, body);
            assert_eq!(stream.event(), message(&id, data));
            ids.push(id);
        }
        let offsets = ids.iter().map(|id| id.split_once('.').unwrap().1.parse::<u64>().unwrap());
        assert!(offsets.clone().zip(offsets.skip(1)).all(|(one, next)| one + 1 == next), "{ids:?}");
        let id = publish(&server, "/t/a/b", "application/octet-stream", "a\nb");
        let binary = ServerEvent { event: "binary".into(), ..message(&id, "YQpi") };
        assert_eq!(stream.event(), binary);
        let large = "x\n".repeat(500_000);
        let id = publish(&server, "/t/a/b", "text/plain", &large);
        assert_eq!(stream.event(), message(&id, &large));
        // Raw clients and streams share topics, and a stream never gets a frame.
        let mut raw = server.connect("/t/a/b");
        raw.send_text("from a WebSocket");
        assert_eq!(stream.event().data, "from a WebSocket");
    }
}

/// A request on a connection that was used before comes to a shard as the first of a connection does.
#[test]
fn a_kept_connection_becomes_a_stream() {
    for backend in ["auto", "epoll"] {
        let server = Server::start(&["--io", backend, "--shards", "2"]);
        let mut stream = dial(server.address());
        published(&ask(&mut stream, &post("/t/x", "", "one")));
        let mut stream = EventStream::ask(stream, &stream_request("/t/x", ""));
        assert_eq!(stream.event().event, "ready");
        let id = publish(&server, "/t/x", "text/plain", "two");
        assert_eq!(stream.event(), message(&id, "two"));
    }
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let mut server = Server::start(&["--shards", "1"]);
    let request = "GET /t/x HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n";
    let mut stream = EventStream::ask(dial(server.address()), request);
    assert_eq!((stream.head.status(), stream.header("transfer-encoding")), (200, None));
    assert_eq!(stream.event().event, "ready");
    let id = publish(&server, "/t/x", "text/plain", "a\nb");
    assert_eq!(stream.event(), message(&id, "a\nb"));
    server.signal(Signal::TERM);
    assert_eq!(stream.close_event().json()["code"], 1012);
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn a_drain_tells_streams_when_to_come_back() {
    let mut server = Server::start(&["--shards", "2", "--drain-timeout", "30s"]);
    let mut streams: Vec<EventStream> = (0..5).map(|_| EventStream::open(server.address(), "/t/x").0).collect();
    server.signal(Signal::TERM);
    let mut times = Vec::new();
    for stream in &mut streams {
        let close = stream.close_event();
        let data = close.json();
        assert_eq!((&data["code"], &data["reason"]), (&1012.into(), &"this server is going away".into()));
        times.push(close.retry.expect("a time"));
    }
    times.sort_unstable();
    times.dedup();
    assert!(times.len() > 1, "the times differ: {times:?}");
    drop(streams);
    assert!(server.wait().success(), "{}", server.log());
    assert!(server.log().trim_end().ends_with(" stopped told=5 left=5 dropped=0 is_barrier_whole=true"));
}

#[test]
fn a_client_that_leaves_is_noticed() {
    let server = Server::start(&["--shards", "1"]);
    let (mut half, _) = EventStream::open(server.address(), "/t/x");
    let (whole, _) = EventStream::open(server.address(), "/t/x");
    drop(whole);
    half.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.next_byte(), None, "the stream ends without its last chunk");
    server.expect_counts(&[("connections_open", 0), ("aborted_total", 0), ("protocol_errors_total", 0)]);
}

#[test]
fn input_on_a_stream_is_dropped_up_to_8_kib() {
    let server = Server::start(&["--shards", "1"]);
    let (mut stream, _) = EventStream::open(server.address(), "/t/x");
    stream.stream().write_all(&[b'x'; 8_192]).unwrap();
    let id = publish(&server, "/t/x", "text/plain", "still here");
    assert_eq!(stream.event(), message(&id, "still here"));
    stream.stream().write_all(b"x").unwrap();
    assert_eq!(stream.close_event().json()["code"], 1008);
    server.expect_counts(&[("protocol_errors_total", 1)]);
    // Input that has come with the request counts too.
    let behind = format!("{}{}", stream_request("/t/x", ""), "y".repeat(8_193));
    let mut stream = EventStream::ask(dial(server.address()), &behind);
    let events: Vec<ServerEvent> = std::iter::from_fn(|| stream.next()).collect();
    assert_eq!(events.last().unwrap().json()["code"], 1008);
}

#[test]
fn the_head_of_a_stream_and_its_preflight() {
    let server = Server::start(&["--allowed-origins", "https://a.example"]);
    let mut stream = dial(server.address());
    let head = stream_request("/t/x", "Connection: close\r\n").replacen("GET", "HEAD", 1);
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let answer = answer.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/event-stream\r\n"), "{answer}");
    assert!(answer.contains("x-accel-buffering: no\r\n") && !answer.contains("content-length"), "{answer}");
    let preflight = "OPTIONS /t/x HTTP/1.1\r\nHost: a\r\nOrigin: https://a.example\r\n\
                     Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: last-event-id\r\n\r\n";
    let answer = ask(&mut dial(server.address()), preflight);
    assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (204, Some("https://a.example")));
    let headers = answer.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("last-event-id") && headers.contains("cache-control"), "{headers}");
    let with = |origin: &str| {
        EventStream::ask(dial(server.address()), &stream_request("/t/x", &format!("Origin: {origin}\r\n")))
    };
    let stream = with("https://a.example");
    assert_eq!((stream.head.status(), stream.header("access-control-allow-credentials")), (200, Some("true")));
    assert_eq!(stream.header("access-control-allow-origin"), Some("https://a.example"));
    let refused = with("https://b.example");
    assert_eq!((refused.head.status(), refused.header("access-control-allow-origin")), (403, None));
}

#[test]
fn bad_requests_for_streams() {
    let server = Server::start(&["--shards", "1"]);
    for (target, lines, status, reason) in [
        ("/t/x?echo=true", "", 400, "\"echo\" is not known here"),
        ("/t/x?since=1.1&last=2", "", 400, "exclude each other"),
        ("/t/x?since=%", "", 400, "percent-encoded"),
        ("/t/x", "Content-Length: 1\r\n", 400, "has no body"),
        ("/t/", "", 400, "topic"),
        ("/nothing", "", 404, "nothing is at"),
    ] {
        let response = exchange(server.address(), &stream_request(target, &format!("Connection: close\r\n{lines}")));
        assert_eq!(response.status(), status, "{target}: {response:?}");
        assert!(response.error().contains(reason), "{target}: {response:?}");
    }
    // A client that takes anything is told of the WebSocket.
    let any = exchange(server.address(), "GET /t/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept: */*\r\n\r\n");
    assert_eq!(any.status(), 426);
}

#[test]
fn an_unknown_position_is_told_by_a_gap() {
    let server = Server::start(&["--shards", "1"]);
    let first = publish(&server, "/t/x", "", "one");
    let last = publish(&server, "/t/x", "", "two");
    let ask =
        |target: &str, lines: &str| EventStream::ask(dial(server.address()), &stream_request(target, lines)).event();
    let epoch = last.split_once('.').unwrap().0;
    for requested in [&first, &format!("{epoch}.9"), "1.1", "garbage", &"9".repeat(10_000)[..5_000]] {
        let gap = ask("/t/x", &format!("Last-Event-ID: {requested}\r\n"));
        let data = gap.json();
        assert_eq!((&*gap.event, gap.id.as_ref()), ("gap", Some(&last)), "{requested}");
        assert_eq!((&data["topic"], &data["resumed"], &data["missed"]), (&"x".into(), &(*last).into(), &().into()));
        assert!(requested.starts_with(data["requested"].as_str().unwrap()), "{gap:?}");
        assert_eq!(data["reset"], requested == "1.1", "{gap:?}");
    }
    assert_eq!(ask("/t/x?since=earliest", &format!("Last-Event-ID: {last}\r\n")).event, "ready", "the header wins");
    assert_eq!(ask(&format!("/t/x?since={last}"), "").event, "ready");
}

const HISTORIES: &str = "[[topics]]\nmatch = \"kept/*\"\nhistory_messages = 3\n\
                         [[topics]]\nmatch = \"all/*\"\nhistory_messages = 10000\n\
                         [[topics]]\nmatch = \"closed\"\nhistory_messages = 3\nhistory = \"nobody\"\n";

/// A stream that asks for a position gets what the history keeps after it, and is told if more is missing.
#[test]
fn a_stream_begins_in_the_history() {
    for (name, flags) in
        [("one", &["--shards", "1"][..]), ("three", &["--shards", "3"]), ("epoll", &["--shards", "2", "--io", "epoll"])]
    {
        let ruled = Ruled::start(&format!("histories-{name}"), HISTORIES, flags);
        let server = &ruled.server;
        for topic in ["kept/a", "kept/b", "kept/c"] {
            let path = format!("/t/{topic}");
            let ids: Vec<String> =
                (1..=5).map(|number| publish(server, &path, "text/plain", &number.to_string())).collect();
            let epoch = ids[0].split_once('.').unwrap().0;
            let at = |offset: u64| format!("{epoch}.{offset}");
            let (other_epoch, future, garbage) = ("1.1".to_owned(), at(9), "garbage".to_owned());
            let mut streams = Vec::new();
            for (query, header, first, begin) in [
                ("", Some(&at(5)), "ready", 5),
                ("", Some(&at(4)), "ready", 4),
                ("", Some(&at(2)), "ready", 2),
                ("", Some(&at(1)), "gap", 2),
                ("", Some(&other_epoch), "gap", 2),
                ("", Some(&future), "gap", 2),
                ("", Some(&garbage), "gap", 2),
                ("?since=earliest", Some(&at(4)), "ready", 4),
                ("?since=earliest", None, "ready", 2),
                ("?last_event_id=0", None, "ready", 2),
                ("?last=1", None, "ready", 4),
                ("?last=9", None, "ready", 2),
                ("?last=many", None, "gap", 2),
                ("", None, "ready", 5),
            ] {
                let lines = header.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
                let mut stream =
                    EventStream::ask(dial(server.address()), &stream_request(&format!("{path}{query}"), &lines));
                let event = stream.event();
                assert_eq!((&*event.event, event.id), (first, Some(at(begin))), "{query} {header:?}");
                for number in begin + 1..=5 {
                    assert_eq!(stream.event(), message(&at(number), &number.to_string()), "{query} {header:?}");
                }
                streams.push(stream);
            }
            let id = publish(server, &path, "text/plain", "live");
            for stream in &mut streams {
                assert_eq!(stream.event(), message(&id, "live"));
            }
        }
    }
}

/// Whoever may subscribe but not read the history has a live stream, and is told that messages may be missing.
#[test]
fn a_history_that_is_not_for_the_client() {
    let ruled = Ruled::start("closed", HISTORIES, &["--shards", "1"]);
    let server = &ruled.server;
    let first = publish(server, "/t/closed", "text/plain", "one");
    let last = publish(server, "/t/closed", "text/plain", "two");
    let with = |target: &str, id: &str| stream_request(target, &format!("Last-Event-ID: {id}\r\n"));
    let mut stream = EventStream::ask(dial(server.address()), &with("/t/closed", &first));
    let gap = stream.event();
    assert_eq!((&*gap.event, gap.id.as_ref()), ("gap", Some(&last)));
    let id = publish(server, "/t/closed", "text/plain", "three");
    assert_eq!(stream.event(), message(&id, "three"));
    assert_eq!(EventStream::ask(dial(server.address()), &with("/t/closed", &id)).event().event, "ready");
    // Of several topics, the others have their histories.
    publish(server, "/t/kept/a", "text/plain", "kept");
    let target = "/events?topic=closed&topic=kept/a&since=earliest";
    let mut stream = EventStream::ask(dial(server.address()), &stream_request(target, ""));
    let mut events: Vec<ServerEvent> = (0..3).map(|_| stream.event()).collect();
    events.sort_by(|one, other| one.event.cmp(&other.event));
    assert_eq!(told(&events[0]), ("kept/a".to_owned(), "kept".into()));
    assert_eq!((&*events[1].event, &events[1].json()["topic"]), ("gap", &"closed".into()));
    assert_eq!((&*events[2].event, &events[2].json()["topic"]), ("ready", &"kept/a".into()));
}

/// A client of several topics that is cut again and again, each time within the histories, has each message once.
#[test]
fn a_stream_of_several_topics_resumes() {
    for (name, flags) in [("one", &["--shards", "1"][..]), ("two", &["--shards", "2", "--io", "epoll"])] {
        let ruled = Ruled::start(&format!("several-{name}"), HISTORIES, flags);
        let server = &ruled.server;
        let (target, topics) = ("/events?topic=all/a&topic=all/b&topic=all/c", ["all/a", "all/b", "all/c"]);
        let mut got = topics.map(|_| Vec::<u64>::new());
        let (mut id, mut published) = (None::<String>, 0_u64);
        for round in 0..12 {
            let line = id.as_ref().map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
            let target = if round == 0 { format!("{target}&since=earliest") } else { target.to_owned() };
            let mut stream = EventStream::ask(dial(server.address()), &stream_request(&target, &line));
            for _ in 0..20 {
                publish(
                    server,
                    &format!("/t/{}", topics[published as usize % 3]),
                    "text/plain",
                    &published.to_string(),
                );
                published += 1;
            }
            // The stream is cut after some of its messages: others are on their way.
            let whole = round == 11;
            let mut left = if whole { usize::MAX } else { round % 5 * 7 + 5 };
            while left > 0 && got.iter().map(Vec::len).sum::<usize>() < published as usize {
                let event = stream.event();
                id.clone_from(&event.id);
                if event.event == "ready" {
                    continue;
                }
                let (topic, data) = told(&event);
                let index = topics.iter().position(|name| *name == topic).unwrap();
                got[index].push(data.as_str().map(|text| text.parse().unwrap()).or(data.as_u64()).unwrap());
                left -= 1;
            }
        }
        for (index, got) in got.iter().enumerate() {
            let expected: Vec<u64> = (0..published).filter(|number| number % 3 == index as u64).collect();
            assert_eq!(*got, expected, "{}", topics[index]);
        }
    }
}

#[test]
fn tokens_of_streams() {
    let server = Server::start(&["--subscribe-tokens", "right"]);
    let status = |target: &str, lines: &str| {
        EventStream::ask(dial(server.address()), &stream_request(target, lines)).head.status()
    };
    assert_eq!(status("/t/x", ""), 401);
    assert_eq!(status("/t/x?access_token=wrong", ""), 401);
    assert_eq!(status("/t/x?access_token=right", ""), 200);
    assert_eq!(status("/t/x", "Authorization: Bearer right\r\n"), 200);
    let head = stream_request("/t/x", "").replacen("GET", "HEAD", 1);
    assert_eq!(exchange(server.address(), &head).status(), 401);
}

/// A browser gives up a stream for good after any status but 200, so a refusal that passes is a stream that ends.
#[test]
fn a_full_server_lets_streams_come_back() {
    let server = Server::start(&["--shards", "1", "--max-connections-per-address", "2"]);
    let streams = [(); 2].map(|()| EventStream::open(server.address(), "/t/x"));
    let mut refused = EventStream::ask(dial(server.address()), &stream_request("/t/x", ""));
    assert_eq!((refused.head.status(), refused.header("content-type")), (200, Some("text/event-stream")));
    let close = refused.close_event();
    assert!(close.json()["error"].as_str().unwrap().contains("from one address"), "{close:?}");
    assert!((5_000..15_000).contains(&close.retry.unwrap()), "{close:?}");
    assert_eq!(exchange(server.address(), &request("GET", "/")).status(), 429);
    server.expect_counts(&[("refused_total{cause=\"address\"}", 2)]);
    drop(streams);
}

/// A server with rules of topics, whose settings' file a drop removes.
struct Ruled {
    server: Server,
    file: PathBuf,
}

impl Ruled {
    fn start(name: &str, rules: &str, flags: &[&str]) -> Ruled {
        let file = std::env::temp_dir().join(format!("ringhub-sse-{name}-{}.toml", std::process::id()));
        fs::write(&file, rules).unwrap();
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(&file).args(flags);
        Ruled { server: Server::start_command(command), file }
    }
}

impl Drop for Ruled {
    fn drop(&mut self) {
        fs::remove_file(&self.file).unwrap();
    }
}

/// A stream that stalls and reads on knows what it has lost, by each policy.
#[test]
fn policies_for_slow_streams() {
    const COUNT: usize = 200;
    let rules = ["close", "drop_oldest", "drop_newest", "latest"].map(|policy| {
        let key = if policy == "latest" { "key = \"/key\"\n" } else { "" };
        format!("[[topics]]\nmatch = \"{policy}\"\nslow = \"{policy}\"\nbacklog_messages = 5\n{key}")
    });
    let ruled = Ruled::start("policies", &rules.concat(), &["--shards", "1", "--send-buffer", "4096"]);
    let server = &ruled.server;
    let rest = "x".repeat(50_000);
    for policy in ["close", "drop_oldest", "drop_newest", "latest"] {
        let stream = dial_with(server.address(), Some(4_096));
        let mut stream = EventStream::ask(stream, &stream_request(&format!("/t/{policy}"), ""));
        assert_eq!(stream.event().event, "ready");
        let mut ids = Vec::new();
        for number in 0..COUNT {
            let body = format!("{{\"number\":{number},\"key\":\"{}\",\"rest\":\"{rest}\"}}", number % 3);
            ids.push(publish(server, &format!("/t/{policy}"), "application/json", &body));
        }
        if policy == "close" {
            let events: Vec<ServerEvent> = std::iter::from_fn(|| stream.next()).collect();
            let close = events.last().unwrap().json();
            assert_eq!((&close["code"], &close["reason"]), (&1008.into(), &"slow consumer".into()));
            for (event, id) in events[..events.len() - 1].iter().zip(&ids) {
                assert_eq!(event.id.as_ref(), Some(id), "nothing is missing before the end");
            }
            continue;
        }
        let (mut got, mut lost) = (Vec::new(), 0);
        while got.len() + lost < COUNT {
            let event = stream.event();
            let data = event.json();
            if event.event == "lagged" {
                assert_eq!((&data["topic"], &data["policy"]), (&policy.into(), &policy.into()));
                lost += data["count"].as_u64().unwrap() as usize;
            } else {
                let number = data["number"].as_u64().unwrap() as usize;
                assert_eq!(event.id.as_ref(), Some(&ids[number]));
                got.push(number);
            }
        }
        assert!(lost > 0 && got.is_sorted_by(|one, next| one < next), "{policy}: {lost} {got:?}");
    }
}

/// Whoever may not subscribe gets no stream, and a revoked client's stream ends.
#[test]
fn permissions_of_streams() {
    let rules = "admin_tokens = [\"of-the-operator\"]\n[[topics]]\nmatch = \"closed\"\nsubscribe = \"nobody\"\n";
    let ruled = Ruled::start("permissions", rules, &["--shards", "1"]);
    let address = ruled.server.address();
    assert_eq!(EventStream::ask(dial(address), &stream_request("/t/closed", "")).head.status(), 403);
    let (mut stream, _) = EventStream::open(address, "/t/open");
    let list = "GET /connections HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer of-the-operator\r\n\r\n";
    let list: serde_json::Value = serde_json::from_str(&ask(&mut dial(address), list).body).unwrap();
    let id = list["connections"][0]["id"].as_str().unwrap_or_else(|| panic!("{list}"));
    let close =
        format!("DELETE /connections/{id} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer of-the-operator\r\n\r\n");
    assert!(ask(&mut dial(address), &close).status() < 300);
    assert!(stream.close_event().json()["code"].as_u64().is_some());
}

/// Returns the topic and the data of a message on a stream of several topics.
#[track_caller]
fn told(event: &ServerEvent) -> (String, serde_json::Value) {
    assert_eq!(event.event, "", "{event:?}");
    let data = event.json();
    (data["topic"].as_str().unwrap().into(), data["data"].clone())
}

/// Asks for a stream, and returns it with its first events, one of each topic.
#[track_caller]
fn stream_of(server: &Server, request: &str, topics: usize) -> (EventStream, Vec<ServerEvent>) {
    let mut stream = EventStream::ask(dial(server.address()), request);
    assert_eq!(stream.head.status(), 200, "{stream:?}");
    let events = (0..topics).map(|_| stream.event()).collect();
    (stream, events)
}

#[test]
fn several_topics_in_one_stream() {
    for flags in [&["--shards", "1"][..], &["--shards", "3"], &["--shards", "2", "--io", "epoll"]] {
        let server = Server::start(flags);
        let target = "/events?topic=b&topic=a%2Fx&topic=c";
        let (mut stream, begin) = stream_of(&server, &stream_request(target, ""), 3);
        let mut topics: Vec<String> =
            begin.iter().map(|event| event.json()["topic"].as_str().unwrap().to_owned()).collect();
        topics.sort_unstable();
        assert_eq!(topics, ["a/x", "b", "c"]);
        assert!(begin.iter().all(|event| event.event == "ready"), "{begin:?}");
        let mut ids = vec![begin[2].id.clone().unwrap()];
        for (topic, content_type, body, data) in [
            ("a/x", "text/plain", "one\ntwo", "one\ntwo".into()),
            ("b", "application/json", "{\n\"x\": 1}", serde_json::json!({ "x": 1 })),
            ("a/x", "text/plain", "three", "three".into()),
        ] {
            publish(&server, &format!("/t/{topic}"), content_type, body);
            let event = stream.event();
            assert_eq!(told(&event), (topic.to_owned(), data));
            ids.push(event.id.unwrap());
        }
        publish(&server, "/t/c", "", "\0\u{1}");
        let event = stream.event();
        assert_eq!((event.json()["topic"].as_str(), event.json()["base64"].as_str()), (Some("c"), Some("AAE=")));
        ids.push(event.id.unwrap());
        let hash = ids[0].split_once(';').unwrap().0;
        assert!(ids.iter().all(|id| id.split_once(';').unwrap().0 == hash), "{ids:?}");
        assert!((1..ids.len()).all(|at| !ids[..at].contains(&ids[at])), "{ids:?}");
        // Many messages leave together, and each has an id of its own.
        let mut raw = server.connect("/t/b?mode=pub");
        (0..500).for_each(|number| raw.send_text(&number.to_string()));
        for number in 0..500 {
            let event = stream.event();
            assert_eq!(told(&event), ("b".to_owned(), number.to_string().into()));
            let id = event.id.unwrap();
            assert_ne!(Some(&id), ids.last());
            ids.push(id);
        }
        // The last id is the position in all topics.
        let last = ids.last().unwrap();
        let again = stream_request(target, &format!("Last-Event-ID: {last}\r\n"));
        let (_, events) = stream_of(&server, &again, 3);
        assert!(events.iter().all(|event| event.event == "ready"), "{events:?}");
        // An id of other topics says nothing.
        let other = stream_request("/events?topic=a%2Fx&topic=b", &format!("Last-Event-ID: {last}\r\n"));
        let (_, events) = stream_of(&server, &other, 2);
        assert!(events.iter().all(|event| event.event == "gap"), "{events:?}");
    }
}

#[test]
fn several_topics_for_http_1_0_and_for_one_name() {
    let mut server = Server::start(&["--shards", "1"]);
    let request = "GET /events?topic=a&topic=b HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n";
    let (mut old, _) = stream_of(&server, request, 2);
    let (mut one, _) = stream_of(&server, &stream_request("/events?topic=a", ""), 1);
    assert_eq!((old.header("transfer-encoding"), one.header("transfer-encoding")), (None, Some("chunked")));
    publish(&server, "/t/a", "text/plain", "x");
    assert_eq!(told(&old.event()), ("a".to_owned(), "x".into()));
    assert_eq!(told(&one.event()), ("a".to_owned(), "x".into()));
    server.signal(Signal::TERM);
    assert_eq!(old.close_event().json()["code"], 1012);
    assert_eq!(one.close_event().json()["code"], 1012);
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn bad_requests_for_several_topics() {
    let rules = "[[topics]]\nmatch = \"closed\"\nsubscribe = \"nobody\"\n";
    let ruled = Ruled::start("several", rules, &["--shards", "1"]);
    let address = ruled.server.address();
    let many = (0..33).map(|number| format!("topic={number}&")).collect::<String>() + "since=earliest";
    for (query, status, reason) in [
        ("", 400, "0 topics are given, not 1 to 32"),
        (&*many, 400, "33 topics are given, not 1 to 32"),
        ("topic=a&topic=a", 400, "is given twice"),
        ("topic=a&topic=", 400, "topic"),
        ("topic=a&echo=true", 400, "\"echo\" is not known here; topic, since"),
        ("topic=a&topic=closed", 403, ""),
    ] {
        let request = stream_request(&format!("/events?{query}"), "Connection: close\r\n");
        let response = exchange(address, &request);
        assert_eq!(response.status(), status, "{query}: {response:?}");
        assert!(response.error().contains(reason), "{query}: {response:?}");
    }
    let plain = exchange(address, "GET /events?topic=a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!((plain.status(), plain.error().contains("text/event-stream")), (406, true), "{plain:?}");
    let preflight = ask(&mut dial(address), &request("OPTIONS", "/events?topic=a"));
    assert_eq!(preflight.status(), 204);
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("last-event-id"));
    assert_eq!(exchange(address, &crate::support::upgrade_request("/events?topic=a")).status(), 404);
}

/// A slow stream of several topics is told what it has lost of each.
#[test]
fn a_slow_stream_of_several_topics() {
    const COUNT: usize = 150;
    let rules = "[[topics]]\nmatch = \"**\"\nslow = \"drop_oldest\"\nbacklog_messages = 5\n";
    let ruled = Ruled::start("slow-several", rules, &["--shards", "1", "--send-buffer", "4096"]);
    let server = &ruled.server;
    let stream = dial_with(server.address(), Some(4_096));
    let mut stream = EventStream::ask(stream, &stream_request("/events?topic=a&topic=b", ""));
    (0..2).for_each(|_| assert_eq!(stream.event().event, "ready"));
    let rest = "x".repeat(50_000);
    for number in 0..COUNT {
        for topic in ["a", "b"] {
            publish(server, &format!("/t/{topic}"), "application/json", &format!("[{number},\"{rest}\"]"));
        }
    }
    let (mut got, mut lost) = ([Vec::new(), Vec::new()], [0; 2]);
    let of = |topic: &str| usize::from(topic == "b");
    while (0..2).any(|at| got[at].len() + lost[at] < COUNT) {
        let event = stream.event();
        let data = event.json();
        let at = of(data["topic"].as_str().unwrap());
        if event.event == "lagged" {
            lost[at] += data["count"].as_u64().unwrap() as usize;
        } else {
            got[at].push(data["data"][0].as_u64().unwrap());
        }
    }
    for at in 0..2 {
        assert!(lost[at] > 0 && got[at].is_sorted_by(|one, next| one < next), "{lost:?} {got:?}");
    }
}

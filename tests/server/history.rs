//! The history of topics over plain HTTP.

use std::{fs, path::PathBuf};

use crate::support::{Response, Server, clean, exchange, post, program};

/// A server with rules of topics, whose settings' file a drop removes.
struct Kept {
    server: Server,
    file: PathBuf,
}

impl Kept {
    fn start(name: &str, flags: &[&str]) -> Kept {
        let file = std::env::temp_dir().join(format!("ringhub-history-{name}-{}.toml", std::process::id()));
        let rules = "admin_tokens = [\"of-the-operator\"]\n\
                     [[topics]]\nmatch = \"kept/*\"\nhistory_messages = 5\nhistory_age = \"1h\"\n\
                     [[topics]]\nmatch = \"last\"\nretain = true\n\
                     [[topics]]\nmatch = \"closed\"\nhistory_messages = 5\nhistory = \"nobody\"\n";
        fs::write(&file, rules).unwrap();
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(&file).args(flags);
        Kept { server: Server::start_command(command), file }
    }

    fn publish(&self, topic: &str, content_type: &str, body: &str) {
        let response = exchange(self.server.address(), &post(&format!("/t/{topic}"), content_type, body));
        assert_eq!(response.status(), 202, "{response:?}");
    }

    fn ask(&self, method: &str, target: &str, lines: &str) -> Response {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n");
        exchange(self.server.address(), &request)
    }

    fn page(&self, target: &str) -> serde_json::Value {
        let response = self.ask("GET", target, "Accept: application/json\r\n");
        assert_eq!(response.status(), 200, "{response:?}");
        serde_json::from_str(&response.body).expect("JSON")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        fs::remove_file(&self.file).unwrap();
    }
}

const OPERATOR: &str = "Authorization: Bearer of-the-operator\r\n";

fn offsets(page: &serde_json::Value) -> Vec<u64> {
    page["messages"].as_array().unwrap().iter().map(|message| message["offset"].as_u64().unwrap()).collect()
}

/// On each backend, and with several shards: the topic's home answers, whichever shard it is.
#[test]
fn pages_of_a_history() {
    for flags in [&["--shards", "1"][..], &["--shards", "3"], &["--shards", "2", "--io", "epoll"]] {
        let kept = Kept::start(&format!("pages-{}", flags.join("")), flags);
        for number in 1..=7 {
            kept.publish("kept/a", "application/json", &format!("{{\"n\":{number}}}"));
        }
        let page = kept.page("/t/kept/a");
        let epoch = page["epoch"].as_str().unwrap();
        assert_eq!((&page["first"], &page["offset"], &page["gap"]), (&3.into(), &7.into(), &false.into()));
        assert_eq!(offsets(&page), [3, 4, 5, 6, 7]);
        assert_eq!(page["messages"][0]["data"]["n"], 3);
        assert!(page["messages"][0]["time"].as_u64().unwrap() > 1_700_000_000_000);
        let of = |query: &str| kept.page(&format!("/t/kept/a?{query}"));
        let first = of("limit=2");
        assert_eq!((offsets(&first), first["next"].as_str()), (vec![3, 4], Some(&*format!("{epoch}.4"))));
        let second = of(&format!("limit=10&since={}", first["next"].as_str().unwrap()));
        assert_eq!((offsets(&second), second["next"].as_str()), (vec![5, 6, 7], None));
        assert_eq!(offsets(&of("reverse=true&limit=2")), [7, 6]);
        assert_eq!(offsets(&of(&format!("reverse=true&since={epoch}.6"))), [5, 4, 3]);
        assert_eq!(offsets(&of("last=2")), [6, 7]);
        assert_eq!(offsets(&of("limit=0")), [0_u64; 0]);
        for unknown in [format!("{epoch}.1"), format!("{epoch}.8"), "1.5".to_owned()] {
            let page = of(&format!("since={unknown}"));
            assert_eq!((offsets(&page), &page["gap"]), (vec![3, 4, 5, 6, 7], &true.into()), "{unknown}");
        }
        let forgotten = kept.ask("DELETE", "/t/kept/a", OPERATOR);
        assert_eq!((forgotten.status(), &*forgotten.body), (200, "{\"forgotten\":5}\n"));
        let page = of(&format!("since={epoch}.6"));
        assert_eq!((offsets(&page), &page["gap"], &page["offset"]), (vec![], &true.into(), &7.into()));
    }
}

#[test]
fn a_history_is_asked_for_by_its_media_type() {
    let kept = Kept::start("asked", &["--shards", "1"]);
    kept.publish("last", "text/plain", "first");
    kept.publish("last", "", "second");
    let json = "Accept: text/html;q=0.1, Application/JSON; q=1\r\n";
    let page: serde_json::Value = serde_json::from_str(&kept.ask("GET", "/t/last", json).body).unwrap();
    assert_eq!((offsets(&page), page["messages"][0]["base64"].as_str()), (vec![2], Some("c2Vjb25k")));
    assert_eq!(kept.ask("GET", "/t/last", "Accept: */*\r\n").status(), 426);
    assert_eq!(kept.ask("GET", "/t/last?limit=1", "").status(), 400, "an option of no subscription");
    let bad = kept.ask("GET", "/t/last?since=later", json);
    assert_eq!((bad.status(), bad.error().contains("since is \"later\", not EPOCH.OFFSET")), (400, true));
    assert_eq!(kept.ask("DELETE", "/t/last?since=1.1", "").status(), 400);
    let none = kept.page("/t/other");
    assert_eq!((offsets(&none), &none["offset"]), (vec![], &0.into()));
    let head = kept.ask("HEAD", "/t/last", json);
    assert_eq!((head.status(), head.body.len()), (200, 0));
    let tag = head.header("etag").unwrap().to_owned();
    let known = format!("{json}If-None-Match: {tag}\r\n");
    let same = kept.ask("GET", "/t/last", &known);
    assert_eq!((same.status(), same.body.len(), same.header("etag")), (304, 0, Some(&*tag)));
    kept.publish("last", "", "third");
    assert_eq!(kept.ask("GET", "/t/last", &known).status(), 200);
}

#[test]
fn who_may_read_and_forget() {
    let kept = Kept::start("who", &["--shards", "1"]);
    kept.publish("closed", "", "x");
    let json = "Accept: application/json\r\n";
    let refused = kept.ask("GET", "/t/closed", json);
    assert_eq!(
        (refused.status(), refused.error()),
        (403, "nobody may read the history of the topic \"closed\"".into())
    );
    assert_eq!(kept.ask("DELETE", "/t/closed", "").status(), 401);
    let authorized = kept.ask("DELETE", "/t/closed", OPERATOR);
    assert_eq!((authorized.status(), &*authorized.body), (200, "{\"forgotten\":1}\n"));
}

/// The figures of a server that has nothing to do are those of its last message, also without a limit of memory.
#[test]
fn kept_messages_are_counted_while_the_server_sleeps() {
    let kept = Kept::start("gauge", &["--shards", "1"]);
    (0..40).for_each(|topic| kept.publish(&format!("kept/{topic}"), "text/plain", "one"));
    kept.server.counts_until("all messages are counted", |counts| counts.get("history_messages") == 40);
}

//! The program with rules of topics in its settings' file.

use std::{fs, path::PathBuf};

use crate::support::{Client, Server, clean, dial, exchange, post, program};

/// A settings' file, which a drop removes.
struct File(PathBuf);

impl File {
    fn new(name: &str, settings: &str) -> File {
        let path = std::env::temp_dir().join(format!("ringhub-topics-{name}-{}.toml", std::process::id()));
        fs::write(&path, settings).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// A topic is reached by its name, whatever its path: its rule holds for WebSockets in each mode, and for HTTP.
#[test]
fn rules_of_topics_in_a_file() {
    let settings = "[[topics]]\nmatch = [\"read/*\", \"news\"]\npublish = \"nobody\"\n\
                    [[topics]]\nmatch = \"read/free\"\n\
                    [[topics]]\nmatch = \"own/**\"\nsubscribe = \"granted\"\npublish = \"granted\"\n";
    let file = File::new("rules", settings);
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file.0);
    let server = Server::start_command(command);
    let opened = |target: &str| {
        Client::open(dial(server.address()), target, b"").map(drop).map_err(|response| response.status())
    };
    for (topic, may_subscribe, may_publish) in [
        ("free", true, true),
        ("news", true, false),
        ("read/a", true, false),
        ("read%2Fa", true, false),
        ("read/free", true, true),
        ("read/a/b", true, true),
        ("own/a/b", false, false),
    ] {
        let outcome = |is_permitted: bool| if is_permitted { Ok(()) } else { Err(403) };
        assert_eq!(opened(&format!("/t/{topic}?mode=sub")), outcome(may_subscribe), "{topic}");
        assert_eq!(opened(&format!("/t/{topic}?mode=pub")), outcome(may_publish), "{topic}");
        assert_eq!(opened(&format!("/t/{topic}")), outcome(may_subscribe && may_publish), "{topic}");
        let posted = exchange(server.address(), &post(&format!("/t/{topic}"), "text/plain", "x"));
        assert_eq!(posted.status(), if may_publish { 202 } else { 403 }, "{topic}");
    }
    let refused = exchange(server.address(), &post("/t/news", "text/plain", "x"));
    assert_eq!(refused.error(), "nobody may publish to the topic \"news\"");
    let looked = exchange(server.address(), "GET /t/news HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(looked.status(), 403);
    assert!(looked.error().ends_with("; mode=sub asks for less, which is permitted"), "{}", looked.error());
}

/// `check-config` prints the rules, and every error of theirs with its line.
#[test]
fn rules_of_topics_are_checked() {
    let check = |settings: &str| {
        let file = File::new("check", settings);
        let output = clean(program()).arg("check-config").arg(&file.0).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.success(), text.replace(&file.0.display().to_string(), "FILE"))
    };
    let (is_good, text) = check("[[topics]]\nmatch = \"orders/*\"\npublish = \"nobody\"\n");
    assert!(
        is_good && text.contains("[[topics]]") && text.contains("match = \"orders/*\"\npublish = \"nobody\"\n"),
        "{text}"
    );
    let (is_good, text) =
        check("[[topics]]\nmatch = \"a/*\"\n[[topics]]\nmatch = \"a/*\"\n[[topics]]\nmatch = \"*/a\"\n");
    assert!(!is_good, "{text}");
    for expected in [
        "FILE:4: topics.match: \"a/*\" has a rule already, at FILE:2",
        "FILE:6: topics.match: \"*/a\" is no pattern: an asterisk stands only at the end",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
}

/// A rule for slow subscribers that cannot be meant is an error with its line and its cause.
#[test]
fn rules_for_slow_subscribers_are_checked() {
    for (columns, expected) in [
        ("slow = \"drop\"", "FILE:3: topics.slow: \"drop\""),
        ("slow = 1", "FILE:3: topics.slow: "),
        ("slow = \"latest\"\nkey = \"symbol\"", "\"symbol\" is no key: a JSON pointer begins with a slash"),
        (
            "slow = \"latest\"\nkey = \"/a~2\"",
            "FILE:4: topics.key: \"/a~2\" is no key: in a JSON pointer, ~ is followed",
        ),
        ("slow = \"latest\"\nkey = \"\"", "FILE:4: topics.key: \"\" is no key: a JSON pointer begins with a slash"),
        ("slow = \"drop_oldest\"\nkey = \"/a\"", "key has no effect with slow = \"drop_oldest\", only with \"latest\""),
        ("backlog_bytes = \"1023KiB\"", "less than one of the largest messages (max_message), 1MiB"),
        ("backlog_bytes = \"many\"", "FILE:3: topics.backlog_bytes: "),
        ("backlog_messages = 0", "backlog_messages is 0, less than one message"),
        ("backlog_messages = \"-1\"", "FILE:3: topics.backlog_messages: \"-1\" is no number"),
        ("backlog_age = \"0\"", "backlog_age is less than a millisecond"),
        ("backlog_age = \"soon\"", "FILE:3: topics.backlog_age: "),
        ("backlog_rate = 1", "FILE:3: unknown key \"backlog_rate\" of a rule of topics; did you mean \"backlog_age\"?"),
    ] {
        let file = File::new("slow", &format!("[[topics]]\nmatch = \"a\"\n{columns}\n"));
        let output = clean(program()).arg("check-config").arg(&file.0).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        let text = text.replace(&file.0.display().to_string(), "FILE");
        assert!(!output.status.success() && text.contains(expected), "{expected:?} is not in {text}");
    }
}

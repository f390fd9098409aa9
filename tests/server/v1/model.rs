//! Random conversations of a client, compared with a plain model of `ringhub.v1`.
//!
//! On one shard the model knows every answer and their order. With several shards a subscription, or the place of a
//! message, may come later than the next command. Then the model knows every answer, what each subscription begins
//! with, and, unless it ends early, all that it brings.
//!
//! `RINGHUB_SEED=n` replays one conversation.

use std::{collections::BTreeMap, env};

use serde_json::{Value, json};

use super::{json, open};
use crate::support::{Client, Server};

/// Random numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A topic of a conversation.
#[derive(Default, Clone)]
struct Topic {
    /// The subscription that the client has, by its number among those of this topic, and whether it has echo.
    own: Option<(usize, bool)>,
    /// What each subscription brings: its messages, and whether it ends.
    brings: Vec<(Vec<Value>, bool)>,
    offset: u64,
}

/// What the client must get for a conversation.
struct Model {
    topics: BTreeMap<String, Topic>,
    /// The answers in the order of the commands: the name of the frame, and members that it must have.
    answers: Vec<(&'static str, Value)>,
}

/// Commands that fail, whatever the state: the command, whose id is `#`, and the name of the error.
const WRONG: &[(&str, &str)] = &[
    (r#"{"subscribe":{"id":#}}"#, "missing_member"),
    (r#"{"subscribe":{"id":#,"topic":""}}"#, "bad_topic"),
    (r#"{"subscribe":{"id":#,"topic":"x","x":1}}"#, "unknown_member"),
    (r#"{"unsubscribe":{"id":#,"topic":"never"}}"#, "not_subscribed"),
    (r#"{"unsubscribe":{"id":#,"topic":1}}"#, "bad_member"),
    (r#"{"publish":{"id":#,"topic":"x","base64":"?"}}"#, "bad_member"),
    (r#"{"publish":{"id":#,"topic":"x","topic":"x","data":1}}"#, "duplicate_member"),
    (r#"{"refresh":{"id":#,"token":"x"}}"#, "no_authenticator"),
];

/// Payloads of messages: the members of the command, and of the message.
const PAYLOADS: &[&str] = &[r#""data":"text""#, r#""data":{"a":[1,2]}"#, r#""data":null"#, r#""base64":"AAE=""#];

/// Draws a conversation of a client. Returns its commands.
fn draw(random: &mut Random, number: u64, is_exact: bool, model: &mut Model) -> Vec<String> {
    let count = 1 + random.below(12);
    let commands = (0..count).map(|id| {
        let name = format!("{number}/{}", random.below(3));
        // Without an id nobody could tell which subscription was cancelled.
        let has_id = random.below(4) > 0 || !is_exact;
        let with_id = if has_id { format!("\"id\":{id},") } else { String::new() };
        let own_id = if has_id { json!(id) } else { Value::Null };
        let topic = model.topics.entry(name.clone()).or_default();
        match random.below(10) {
            0..3 => {
                let has_echo = random.below(3) > 0;
                match topic.own {
                    Some(_) => {
                        model.answers.push(("error", json!({"id": own_id, "name": "already_subscribed"})));
                    }
                    None => {
                        topic.own = Some((topic.brings.len(), has_echo));
                        topic.brings.push((Vec::new(), false));
                        model
                            .answers
                            .push(("subscribed", json!({"id": own_id, "topic": name, "offset": topic.offset})));
                    }
                }
                format!(r#"{{"subscribe":{{{with_id}"topic":"{name}","echo":{has_echo}}}}}"#)
            }
            3..5 => {
                match topic.own.take() {
                    Some((subscription, _)) => {
                        topic.brings[subscription].1 = true;
                        model.answers.push(("unsubscribed", json!({"id": own_id, "topic": name})));
                    }
                    None => model.answers.push(("error", json!({"id": own_id, "name": "not_subscribed"}))),
                }
                format!(r#"{{"unsubscribe":{{{with_id}"topic":"{name}"}}}}"#)
            }
            5..8 => {
                let payload = PAYLOADS[random.below(PAYLOADS.len() as u64) as usize];
                topic.offset += 1;
                if let Some((subscription, true)) = topic.own {
                    let mut message: Value = serde_json::from_str(&format!("{{{payload}}}")).unwrap();
                    message["offset"] = json!(topic.offset);
                    message["topic"] = json!(name);
                    topic.brings[subscription].0.push(message);
                }
                if has_id {
                    let place = json!({"id": id, "topic": name, "offset": topic.offset});
                    model.answers.push(("published", place));
                }
                format!(r#"{{"publish":{{{payload},{with_id}"topic":"{name}"}}}}"#)
            }
            8 => {
                model.answers.push(("pong", json!({"id": id})));
                format!(r#"{{"ping":{{"id":{id}}}}}"#)
            }
            _ => {
                let (command, error) = WRONG[random.below(WRONG.len() as u64) as usize];
                model.answers.push(("error", json!({"id": id, "name": error})));
                command.replace('#', &id.to_string())
            }
        }
    });
    commands.collect()
}

/// Holds a conversation, and compares what comes with the model.
fn converse(client: &mut Client, number: u64, is_exact: bool) {
    let mut model = Model { topics: BTreeMap::new(), answers: Vec::new() };
    let commands = draw(&mut Random(number), number, is_exact, &mut model);
    commands.iter().for_each(|command| client.send_text(command));
    // Frames as they came: the answers, and for each topic what its subscriptions have brought.
    let mut answers = Vec::new();
    let mut brought: BTreeMap<String, Vec<Vec<Value>>> = BTreeMap::new();
    let mut is_open: BTreeMap<String, bool> = BTreeMap::new();
    let context = || format!("conversation {number}: {commands:#?}");
    while !is_whole(&model, &answers, &brought) {
        let frame = json(client);
        let (kind, members) = frame.as_object().and_then(|frame| frame.iter().next()).expect("one member");
        let topic = members["topic"].as_str().unwrap_or_default().to_owned();
        match &**kind {
            "message" => {
                assert!(is_open.get(&topic).is_some_and(|is_open| *is_open), "{frame} outside, {}", context());
                let mut message = members.clone();
                assert!(message.as_object_mut().unwrap().remove("epoch").is_some_and(|epoch| epoch.is_string()));
                brought.get_mut(&topic).unwrap().last_mut().unwrap().push(message);
                continue;
            }
            "subscribed" => {
                brought.entry(topic.clone()).or_default().push(Vec::new());
                assert_ne!(is_open.insert(topic, true), Some(true), "{}", context());
            }
            "unsubscribed" => _ = is_open.insert(topic, false),
            "error" if members["name"] == "cancelled" => {
                assert!(!is_exact, "{}", context());
                // The subscription that was cancelled brings nothing.
                brought.entry(topic_of(&commands, &members["id"])).or_default().push(Vec::new());
            }
            _ => {}
        }
        answers.push((kind.clone(), members.clone()));
    }
    check_answers(&model, answers, is_exact, &context());
    for (topic, Topic { brings, .. }) in &model.topics {
        let found = brought.remove(topic).unwrap_or_default();
        assert_eq!(found.len(), brings.len(), "{topic}, {}", context());
        for ((messages, ends), found) in brings.iter().zip(found) {
            let is_prefix = messages.starts_with(&found);
            assert!(if is_exact || !ends { *messages == found } else { is_prefix }, "{found:?}, {}", context());
        }
    }
}

/// Returns the topic of the command with an id.
fn topic_of(commands: &[String], id: &Value) -> String {
    let of_id = commands.iter().map(|command| serde_json::from_str::<Value>(command).unwrap());
    let mut topics = of_id.filter(|command| command["subscribe"]["id"] == *id);
    topics.next().map(|command| command["subscribe"]["topic"].as_str().unwrap().to_owned()).unwrap_or_default()
}

/// Returns whether all has come that must come.
fn is_whole(model: &Model, answers: &[(String, Value)], brought: &BTreeMap<String, Vec<Vec<Value>>>) -> bool {
    let messages = model.topics.iter().all(|(topic, Topic { brings, .. })| {
        let found = brought.get(topic);
        brings.iter().enumerate().all(|(at, (messages, ends))| {
            let found = found.and_then(|found| found.get(at)).map_or(0, Vec::len);
            *ends || found >= messages.len()
        })
    });
    messages && answers.len() >= model.answers.len()
}

/// Compares the answers. On several shards they may come in another order, and a subscription may be cancelled.
fn check_answers(model: &Model, mut answers: Vec<(String, Value)>, is_exact: bool, context: &str) {
    let fits = |(kind, members): &(&'static str, Value), (found_kind, found): &(String, Value)| {
        let is_cancelled = !is_exact && *kind == "subscribed" && found["name"] == "cancelled";
        let each = members.as_object().unwrap().iter();
        let mut each = each.filter(|(name, _)| !is_cancelled || *name == "id");
        (kind == found_kind || is_cancelled) && each.all(|(name, value)| found[name] == *value)
    };
    assert_eq!(model.answers.len(), answers.len(), "{answers:#?}, {context}");
    for expected in &model.answers {
        let at = if is_exact { Some(0) } else { answers.iter().position(|found| fits(expected, found)) };
        let found = at.map(|at| answers.remove(at));
        assert!(found.as_ref().is_some_and(|found| fits(expected, found)), "{expected:?}, {found:?}, {context}");
    }
}

fn hold(shards: &str, conversations: u64, is_exact: bool) {
    let server = Server::start(&["--shards", shards]);
    let seed: Option<u64> = env::var("RINGHUB_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let numbers = seed.map_or(0..conversations, |seed| seed..seed + 1);
    let mut client = open(&server, "/ws");
    for number in numbers {
        // A connection has a limit of topics.
        if number % 100 == 0 {
            client.expect_nothing();
            client = open(&server, "/ws");
        }
        converse(&mut client, number, is_exact);
    }
    client.expect_nothing();
}

#[test]
fn ten_thousand_conversations_on_one_shard() {
    hold("1", 10_000, true);
}

#[test]
fn conversations_on_several_shards() {
    hold("3", 2_000, false);
}

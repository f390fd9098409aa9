//! The body of a fuzz target: it takes any bytes and panics on a broken invariant. Tests run it too.

use super::{
    command::{Command, ID_MAX, SHORT_BYTES_MAX, parse},
    encode::Answer,
};
use crate::proto::MessageType;

/// Reads any bytes as a command, and checks what the reader says against a reading of the whole message by `serde_json`
/// into a tree.
///
/// - A command is valid JSON, and the tree has the same values.
/// - An error is one frame of JSON, and its id is the command's.
pub fn command(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let tree: Option<serde_json::Value> = serde_json::from_str(text).ok();
    match parse(text) {
        Ok(request) => {
            assert!(request.id.is_none_or(|id| id <= ID_MAX));
            // Numbers beyond a double, and nesting beyond the reader's limit, have no tree.
            let Some(tree) = tree else { return };
            let (name, members) = tree.as_object().and_then(|object| object.iter().next()).expect("an envelope");
            assert_eq!(members.get("id").and_then(serde_json::Value::as_u64), request.id, "{text}");
            let text_of = |member: &str| members.get(member).and_then(serde_json::Value::as_str);
            match request.command {
                Command::Subscribe { topic, has_echo, has_presence, resume } => {
                    let names = ["since", "last"].map(|member| members.get(member).is_some());
                    assert_eq!(resume.is_some(), names.contains(&true), "{text}");
                    assert_eq!((&**name, text_of("topic")), ("subscribe", Some(&*topic)));
                    let flag = |member: &str| members.get(member).and_then(serde_json::Value::as_bool);
                    let flags = ["echo", "presence"].map(|member| flag(member).unwrap_or_default());
                    assert_eq!(flags, [has_echo, has_presence]);
                }
                Command::Presence { topic } => {
                    assert_eq!((&**name, text_of("topic")), ("presence", Some(&*topic)));
                }
                Command::Unsubscribe { topic } => {
                    assert_eq!((&**name, text_of("topic")), ("unsubscribe", Some(&*topic)));
                }
                Command::Publish { topic, publication } => {
                    assert_eq!((&**name, text_of("topic")), ("publish", Some(&*topic)));
                    assert_eq!(text_of("event"), publication.event_name());
                    assert_eq!(text_of("key"), publication.key_name());
                    let names = [publication.event_name(), publication.key_name()];
                    assert!(names.into_iter().flatten().all(|name| (1..=SHORT_BYTES_MAX).contains(&name.len())));
                    let payload = publication.payload();
                    match (publication.kind(), publication.is_json()) {
                        (MessageType::Text, true) => {
                            let value: serde_json::Value = serde_json::from_slice(payload).expect("it is JSON");
                            assert!(members.get("data") == Some(&value) && !value.is_string(), "{text}");
                        }
                        (MessageType::Text, false) => {
                            assert_eq!(text_of("data").map(str::as_bytes), Some(payload));
                        }
                        (MessageType::Binary, _) => {
                            assert!(text_of("base64").is_some() && members.get("data").is_none())
                        }
                    }
                }
                Command::Refresh { token } => assert_eq!((&**name, text_of("token")), ("refresh", Some(&*token.0))),
                Command::Ping => assert_eq!(name, "ping"),
            }
        }
        Err(fault) => {
            let answer = Answer::from(&fault).text();
            let answer: serde_json::Value = serde_json::from_str(&answer).expect("an error is JSON");
            let error = &answer["error"];
            assert_eq!(error.get("id").and_then(serde_json::Value::as_u64), fault.id);
            assert!(error["code"].is_u64() && error["name"].is_string() && error["reason"].is_string());
            assert!(answer.to_string().len() <= 2_048, "an error is short");
        }
    }
}

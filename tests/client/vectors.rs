//! The test vectors of `ringhub.v1`, tests/vectors/ringhub.v1.json, with `TopicClient`: a peer plays the server.

use std::{collections::HashMap, fs, path::Path};

use ringhub::{
    client::{NoTopicReceipt, Payload, PublishOptions, TopicClient, TopicError, TopicEvent, TopicPlace, TopicReceipt},
    proto::OpCode,
};
use serde_json::{Value, json, value::RawValue};
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{
    client, on_tokio,
    peer::{Peer, Side},
    topics::read,
};

/// The place in an answer, and the receipt as JSON.
type Answer = Result<(Option<TopicPlace>, Option<Value>), TopicError>;

/// What the vectors have shown of the client.
#[derive(Debug, Default)]
struct Counts {
    sent: usize,
    answered: usize,
    messages: usize,
}

/// A command that the client has been asked for, and the id that it has chosen; `None` if it has sent nothing.
struct Asked {
    call: JoinHandle<Answer>,
    own: Option<u64>,
}

const EPOCH: u64 = 6_019_237_467_231_046;

#[test]
fn the_client_does_as_the_vectors_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ringhub.v1.json");
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    let mut counts = Counts::default();
    on_tokio(async {
        for vector in vectors {
            let steps = vector["steps"].as_array().unwrap();
            let opens = steps.iter().filter(|step| step["protocols"][0] == "ringhub.v1");
            // The client takes no binary frames.
            for open in opens.filter(|step| !step["open"].as_str().unwrap().contains("binary=true")) {
                let own: Vec<&Value> = steps.iter().filter(|step| step["client"] == open["client"]).collect();
                play(&own, &format!("{}, {}", vector["name"], open["client"]), &mut counts).await;
            }
        }
    });
    assert!(vectors.len() >= 20 && counts.sent >= 50 && counts.answered >= 50 && counts.messages >= 20, "{counts:?}");
}

/// Plays the part of the server for one client of a vector.
async fn play(steps: &[&Value], name: &str, counts: &mut Counts) {
    let peer = Peer::listen().await;
    let (topics, events) = TopicClient::new(client(&format!("ws://{}/ws", peer.address()))).unwrap();
    let accept = async {
        let mut side = peer.accept().await;
        side.upgrade_with(Some("ringhub.v1"), b"").await;
        side
    };
    let (opened, mut side) = tokio::join!(topics.connect(), accept);
    opened.unwrap();
    let mut events = read(events);
    let mut asked: HashMap<u64, Asked> = HashMap::new();
    for step in steps {
        if let Some(sent) = step["send"].as_str() {
            if let Some((id, call)) = call(&topics, sent) {
                let own = sent_by(&mut side, call, sent, name).await;
                counts.sent += usize::from(own.own.is_some());
                asked.insert(id, own);
            }
        } else if let Some(expected) = step["expect"].as_str() {
            let text = expected.replace("<epoch>", &EPOCH.to_string()).replace("<reason>", "some reason");
            let mut frame: Value = serde_json::from_str(&text).unwrap();
            let (kind, body) = frame.as_object_mut().unwrap().iter_mut().next().unwrap();
            let (kind, about) = (kind.clone(), body["id"].as_u64().and_then(|id| asked.remove(&id)));
            match about {
                Some(Asked { call, own }) => {
                    if let Some(own) = own {
                        body["id"] = own.into();
                        let body = body.clone();
                        side.send_text(&json!({ kind.clone(): body }).to_string()).await;
                    }
                    check_answer(&kind, &frame[&kind], call.await.unwrap(), name);
                    counts.answered += 1;
                }
                None => {
                    // The bytes of `data` stay as they are. No command of the client has this id.
                    let has_id = body.get("id").is_some();
                    let shown = if has_id { text.replacen("\"id\":", "\"id\":99", 1) } else { text.clone() };
                    side.send_text(&shown).await;
                    let body = body.clone();
                    let is_told = ["error", "presence"].contains(&&*kind);
                    if is_told || (body.get("id").is_none() && kind != "pong") {
                        check_event(&kind, &body, &text, events.recv().await.unwrap(), name);
                        counts.messages += usize::from(kind == "message");
                    }
                }
            }
        }
    }
}

/// Returns the call that sends a command, with the id in the vector; `None` for what the client never sends.
fn call(topics: &TopicClient, sent: &str) -> Option<(u64, JoinHandle<Answer>)> {
    let command: Value = serde_json::from_str(sent).ok()?;
    // A member that is there twice, or a second spelling, is not what the client sends.
    let (kind, members) = command.as_object().filter(|command| command.len() == 1)?.iter().next()?;
    let members = members.as_object()?;
    let id = members.get("id")?.as_u64()?;
    let of_message = ["data", "base64", "event", "key", "idempotency_key", "receipt"];
    let known: &[&str] = match &**kind {
        "subscribe" => &["echo"],
        "publish" => &of_message,
        "refresh" => &["token"],
        _ => &[],
    };
    let is_known = |name: &String| ["id", "topic"].contains(&&**name) || known.contains(&&**name);
    let is_twice = |name: &&str| sent.matches(&format!("\"{name}\":")).count() > 1;
    if !members.keys().all(is_known) || ["topic", "data", "id"].iter().any(is_twice) {
        return None;
    }
    let text = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
    let (topics, topic) = (topics.clone(), text("topic"));
    let call = match &**kind {
        "ping" if members.len() == 1 => tokio::spawn(async move { topics.ping().await.map(|()| (None, None)) }),
        "refresh" => {
            let token = text("token").filter(|_| members.len() == 2)?;
            tokio::spawn(async move { topics.refresh(&token).await.map(|()| (None, None)) })
        }
        "subscribe" if members.get("echo").is_none_or(Value::is_boolean) => {
            let (topic, has_echo) = (topic?, members.get("echo") == Some(&Value::Bool(true)));
            tokio::spawn(async move {
                let subscribed =
                    if has_echo { topics.subscribe_with_echo(&topic).await } else { topics.subscribe(&topic).await };
                subscribed.map(|place| (place, None))
            })
        }
        "unsubscribe" if members.len() == 2 => {
            let topic = topic?;
            tokio::spawn(async move { topics.unsubscribe(&topic).await.map(|()| (None, None)) })
        }
        "publish" => {
            let topic = topic?;
            let is_text = |name: &&str| members.get(*name).is_none_or(Value::is_string);
            if !of_message[2..5].iter().all(is_text) || members.get("receipt").is_some_and(|value| !value.is_boolean())
            {
                return None;
            }
            let names = ["event", "key", "idempotency_key"].map(text);
            let has_receipt = members.get("receipt") == Some(&Value::Bool(true));
            let payload = match (members.get("data"), text("base64")) {
                (Some(Value::String(text)), None) => Payload::Text(text.clone()),
                (Some(_), None) => Payload::Json(raw(sent)?),
                (None, Some(base64)) => {
                    use base64::{Engine as _, engine::general_purpose::STANDARD};
                    Payload::Binary(STANDARD.decode(base64).ok()?.into())
                }
                _ => return None,
            };
            tokio::spawn(async move {
                let [event, key, id] = &names;
                let mut options = PublishOptions::new().receipt(has_receipt);
                options = event.iter().fold(options, |options, event| options.event(event));
                options = key.iter().fold(options, |options, key| options.key(key));
                options = id.iter().fold(options, |options, id| options.id(id));
                let placed = topics.publish_with(&topic, &payload, &options).await?;
                Ok((Some(placed.place), placed.receipt.map(as_json)))
            })
        }
        _ => return None,
    };
    Some((id, call))
}

/// Returns a receipt as the server has sent it.
fn as_json(receipt: Result<TopicReceipt, NoTopicReceipt>) -> Value {
    match receipt {
        Ok(TopicReceipt { matched, sent, queued, dropped, closed, .. }) => {
            json!({"matched": matched, "sent": sent, "queued": queued, "dropped": dropped, "closed": closed})
        }
        Err(why) => json!({"error": why.name}),
    }
}

/// Returns the value of `data` as it stands in a command.
fn raw(sent: &str) -> Option<Box<RawValue>> {
    let outer: HashMap<String, HashMap<String, Box<RawValue>>> = serde_json::from_str(sent).ok()?;
    outer.into_values().next()?.remove("data")
}

/// Returns a call with the id under which the client has sent it. The rest of the command is as in the vector.
async fn sent_by(side: &mut Side<TcpStream>, mut call: JoinHandle<Answer>, sent: &str, name: &str) -> Asked {
    let frame = tokio::select! {
        frame = side.frame() => Some(frame),
        answer = &mut call => {
            // The client refuses a second subscription itself.
            return Asked { call: tokio::spawn(async { answer.unwrap() }), own: None };
        }
    };
    let (opcode, bytes) = frame.unwrap();
    let (mut found, mut meant): (Value, Value) =
        (serde_json::from_slice(&bytes).unwrap(), serde_json::from_str(sent).unwrap());
    let take = |command: &mut Value| {
        let members = command.as_object_mut().unwrap().values_mut().next().unwrap().as_object_mut().unwrap();
        // The client leaves out what is the default.
        members.retain(|name, value| !["echo", "receipt"].contains(&&**name) || *value != Value::Bool(false));
        members.remove("id")
    };
    let own = take(&mut found).and_then(|id| id.as_u64());
    take(&mut meant);
    assert_eq!((opcode, found), (OpCode::Text, meant), "{name}");
    Asked { call, own }
}

fn place(body: &Value) -> Option<TopicPlace> {
    let epoch = body["epoch"].as_str()?.parse().unwrap();
    Some(TopicPlace { epoch, offset: body["offset"].as_u64()? })
}

fn check_answer(kind: &str, body: &Value, answer: Answer, name: &str) {
    match (kind, answer) {
        ("error", Err(TopicError::Refused(error))) => {
            let found = (json!(error.code), json!(error.name), json!(error.is_temporary));
            assert_eq!(found, (body["code"].clone(), body["name"].clone(), body["temporary"].clone()), "{name}");
        }
        (_, Ok(found)) if kind != "error" => {
            assert_eq!(found, (place(body), body.get("receipt").cloned()), "{name}");
        }
        (_, other) => panic!("{name}: {other:?} after {kind} {body}"),
    }
}

fn check_event(kind: &str, body: &Value, text: &str, event: TopicEvent, name: &str) {
    match (kind, event) {
        ("message", TopicEvent::Message(message)) => {
            assert_eq!(
                (message.topic.as_str(), message.place),
                (body["topic"].as_str().unwrap(), place(body)),
                "{name}"
            );
            assert_eq!(message.event.as_deref(), body["event"].as_str(), "{name}");
            match message.payload {
                Payload::Text(text) => assert_eq!(Some(&*text), body["data"].as_str(), "{name}"),
                Payload::Json(json) => {
                    assert!(text.contains(&format!("\"data\":{}}}}}", json.get())), "{name}: {json}")
                }
                Payload::Binary(bytes) => {
                    use base64::{Engine as _, engine::general_purpose::STANDARD};
                    assert_eq!(STANDARD.encode(&bytes), body["base64"], "{name}");
                }
            }
        }
        ("subscribed", TopicEvent::Subscribed { topic, place: found, .. }) => {
            assert_eq!((json!(topic), found), (body["topic"].clone(), place(body)), "{name}");
        }
        ("unsubscribed", TopicEvent::Unsubscribed { topic, because }) => {
            assert_eq!(
                (json!(topic), because.map(|because| json!(because.code))),
                (body["topic"].clone(), body.get("code").cloned())
            );
        }
        ("presence" | "presence_changed", TopicEvent::Unknown(found)) => {
            // Without the id that the test has given the frame.
            assert!(found.ends_with(&text[text.len() / 2..]), "{name}: {found}");
        }
        ("error", TopicEvent::Error(error)) => assert_eq!(json!(error.name), body["name"], "{name}"),
        (_, other) => panic!("{name}: {other:?} after {text}"),
    }
}

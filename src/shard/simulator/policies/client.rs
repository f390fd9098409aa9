//! The clients of the simulator of policies: what they have agreed to, and what they were sent.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    super::{line::Line, world::for_each_frame},
    topic_of,
};
use crate::{
    hub::{ConnectionId, testing::reversed},
    proto::MessageType,
};

/// What a client has agreed to, and so what becomes of it when it is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Its format has notices.
    Told,
    /// It speaks `ringhub.v1`, which has notices.
    Json,
    /// It has agreed to lose messages.
    Silent,
    /// It is closed.
    Raw,
}

pub(super) struct Client {
    pub(super) id: ConnectionId,
    /// The client's shard, and the number of its line there.
    pub(super) at: (usize, usize),
    pub(super) manner: Manner,
    /// The topics, each with the messages that it had before the client connected.
    pub(super) topics: Vec<(usize, usize)>,
    pub(super) texts: Vec<String>,
    /// The messages that the client's socket has taken whole, and the bytes that were looked at for them.
    pub(super) taken: BTreeSet<(usize, u64)>,
    pub(super) looked_at: usize,
}

/// What a client was sent after the answer and before a close frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Message { topic: usize, number: u64 },
    Lag { topic: usize, from: u64, to: u64, count: u64 },
}

impl Client {
    /// Looks at what the socket has taken since the last look. Returns the beginning of a frame that it has not taken
    /// whole.
    pub(super) fn look_at(&mut self, line: &Line) -> Vec<u8> {
        let all = line.fetched.iter().chain(&line.sent).copied();
        let new: Vec<u8> = all.skip(self.looked_at).collect();
        let length = for_each_frame(&new, |_, payload| self.taken.extend(self.manner.message(payload)));
        self.looked_at += length;
        new[length..].to_vec()
    }

    pub(super) fn item(&self, text: &str) -> Item {
        match self.manner {
            Manner::Told => item_of(str::from_utf8(&reversed(MessageType::Text, text.as_bytes())).expect("text")),
            Manner::Json => item_of_v1(text),
            Manner::Silent | Manner::Raw => item_of(text),
        }
    }
}

impl Manner {
    /// Returns the topic and the number of a message; `None` for any other payload. The look is a quick one.
    pub(super) fn message(self, payload: &[u8]) -> Option<(usize, u64)> {
        let text = match self {
            Manner::Told => payload.iter().rev().take(100).copied().collect(),
            Manner::Json => {
                let at = payload.windows(7).position(|window| window == b"\"data\":")?;
                payload[at..].iter().filter(|byte| **byte != b'\\').take(100).copied().collect()
            }
            Manner::Silent | Manner::Raw => payload[..payload.len().min(100)].to_vec(),
        };
        let text = str::from_utf8(&text).ok()?;
        let (number, rest) = text.split_once("{\"n\":")?.1.split_once(',')?;
        let name = rest.strip_prefix("\"t\":\"")?.split('"').next()?;
        Some((topic_of(name), number.parse().ok()?))
    }
}

/// Returns the item of a payload, or of a notice of the test's format.
pub(super) fn item_of(text: &str) -> Item {
    if let Some(lag) = text.strip_prefix("lag ") {
        let parts: Vec<&str> = lag.split(' ').collect();
        let [from, to, count] = [2, 3, 4].map(|at| parts[at].parse().expect("a number"));
        return Item::Lag { topic: topic_of(parts[0]), from, to, count };
    }
    let message: Value = serde_json::from_str(text).expect("JSON");
    Item::Message { topic: topic_of(message["t"].as_str().expect("a topic")), number: number(&message["n"]) }
}

/// Returns the item of a frame of `ringhub.v1`.
pub(super) fn item_of_v1(frame: &str) -> Item {
    let frame: Value = serde_json::from_str(frame).expect("JSON");
    match &frame["message"]["data"] {
        Value::String(text) => item_of(text),
        Value::Null => {
            let lag = &frame["lagged"];
            let [from, to, count] = ["from", "to", "count"].map(|member| number(&lag[member]));
            Item::Lag { topic: topic_of(lag["topic"].as_str().expect("a topic")), from, to, count }
        }
        data => item_of(&data.to_string()),
    }
}

pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

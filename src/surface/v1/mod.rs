//! `ringhub.v1`: one socket for many topics. Clients send commands as JSON, and get answers and messages of topics; see
//! docs/protocol.md.
//!
//! The files: `command` reads commands, `error` has the table of errors, `encode` makes the frames of the server, `talk`
//! is the state of a connection, and `handler` acts on commands.

mod command;
mod encode;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod handler;
mod talk;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use self::handler::Speaker;
use super::surface::{PathRow, Surface, TopicUse, any_values};
use crate::{
    auth::TOKEN_KEY,
    endpoints::{Intent, Openings},
    handler::Typed,
    hub::NewEncoding,
    proto::{Refusal, query_pairs},
};

/// The name of the subprotocol.
pub const PROTOCOL: &str = "ringhub.v1";

/// The path at which a server without routes of its own speaks the subprotocol.
pub const PATTERN: &str = "/ws";

/// The surface of the subprotocol.
pub(crate) const V1: Surface = Surface {
    name: PROTOCOL,
    effect: "speaks the subprotocol `ringhub.v1`: one connection for many topics, see [protocol.md](protocol.md)",
    topics: TopicUse::OfMessages,
    keys: &[],
    check: any_values,
    forgets_request: false,
    skips_broadcasts: true,
    paths: &[PathRow { below: "", openings: Some(OPENINGS), endpoints: &[] }],
    protocol: Some(PROTOCOL),
    beside: None,
    handler: |parts| Arc::new(Typed(Arc::new(Speaker::new(parts.judge.clone(), parts.encodings)))),
    encodings: &[
        NewEncoding { name: AS_JSON, encode: encode::message_as_json, encode_lag: Some(encode::lag) },
        NewEncoding { name: AS_BINARY, encode: encode::message_as_binary, encode_lag: Some(encode::lag) },
    ],
};

/// The encodings of messages.
const AS_JSON: &str = "ringhub.v1";
const AS_BINARY: &str = "ringhub.v1.binary";

/// The openings at a path of the surface's own.
const OPENINGS: Openings = Openings {
    methods: &["GET", "HEAD"],
    intent: Some(|head| TalkOptions::read(head.query(), Names::NoTopic).map(|_| Intent::Use)),
};

/// The openings at a path that names a topic, to which the client subscribes at once.
pub(crate) const OPENINGS_AT_A_TOPIC: Openings = Openings {
    methods: &["GET"],
    intent: Some(|head| {
        let intent = Intent::Attach { subscribes: true, publishes: false };
        TalkOptions::read(head.query(), Names::Topic).map(|_| intent)
    }),
};

/// Whether the path of an opening request names a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Topic,
    NoTopic,
}

/// The options in the query of an opening request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct TalkOptions {
    /// Whether messages of topics come in binary frames.
    is_binary: bool,
    /// Whether the client receives its own messages to the topic of the path.
    has_echo: bool,
}

impl TalkOptions {
    /// Reads the query of an opening request.
    ///
    /// # Errors
    ///
    /// 400 for a query that is malformed, or has an unknown key or value, or a key twice.
    fn read(query: Option<&str>, names: Names) -> Result<TalkOptions, Refusal> {
        let bad = |what: String| Err(Refusal::new(400, what));
        let known = match names {
            Names::Topic => "binary, echo and access_token are",
            Names::NoTopic => "binary and access_token are",
        };
        let mut options = TalkOptions::default();
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for pair in query_pairs(query) {
            let (Some(key), Some(value)) = pair else { return bad("the query is not percent-encoded UTF-8".into()) };
            if seen.contains(&key) {
                return bad(format!("{key:?} is given twice"));
            }
            let option = match &*key {
                "binary" => &mut options.is_binary,
                "echo" if names == Names::Topic => &mut options.has_echo,
                // Read with the credentials.
                TOKEN_KEY => {
                    seen.push(key);
                    continue;
                }
                _ => return bad(format!("{key:?} is not known for {PROTOCOL}; {known}")),
            };
            *option = match &*value {
                "true" => true,
                "false" => false,
                _ => return bad(format!("{key} is {value:?}, not true or false")),
            };
            seen.push(key);
        }
        Ok(options)
    }
}

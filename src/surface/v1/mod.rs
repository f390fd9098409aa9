//! `ringhub.v1`: one socket for many topics. Clients send commands as JSON, and get answers and messages of topics; see
//! docs/protocol.md.
//!
//! The files: `command` reads commands, `error` has the table of errors, `encode` makes the frames of the server,
//! `talk` is the state of a connection, `options` reads the query of an opening request, `handler` acts on commands,
//! `refresh` judges the topics of a connection by a new token.

mod command;
pub(super) mod encode;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod handler;
mod options;
mod refresh;
mod talk;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(super) use self::command::read_item;
pub use self::options::{PATTERN, PROTOCOL};
pub(crate) use self::talk::COMMANDS_MAX;
use self::{
    encode::{AS_BINARY, AS_JSON},
    handler::Speaker,
    options::{Names, TalkOptions},
};
use super::surface::{PathRow, Surface, TopicUse, any_values};
use crate::{
    endpoints::{Intent, Openings, Opens},
    handler::Typed,
    hub::NewEncoding,
};

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
    beside: &[],
    handler: |parts| Arc::new(Typed(Arc::new(Speaker::new(parts.judge.clone(), parts.encodings)))),
    encodings: &[
        NewEncoding {
            name: AS_JSON,
            encode: encode::message_as_json,
            encode_lag: Some(encode::lag),
            growth: encode::GROWTH_AS_JSON,
            is_body: false,
        },
        NewEncoding {
            name: AS_BINARY,
            encode: encode::message_as_binary,
            encode_lag: Some(encode::lag),
            growth: encode::GROWTH_AS_BINARY,
            is_body: false,
        },
    ],
};

/// The openings at a path of the surface's own.
const OPENINGS: Openings = Openings {
    opens: Opens::WebSocket,
    methods: &["GET", "HEAD"],
    intent: Some(|head| TalkOptions::read(head.query(), Names::NoTopic).map(|_| Intent::Use)),
    topics: None,
    resumes: None,
};

/// The openings at a path that names a topic, to which the client subscribes at once.
pub(crate) const OPENINGS_AT_A_TOPIC: Openings = Openings {
    opens: Opens::WebSocket,
    methods: &["GET"],
    intent: Some(|head| {
        let options = TalkOptions::read(head.query(), Names::Topic)?;
        Ok(match options.resume {
            Some(_) => Intent::Resume { publishes: false },
            None => Intent::Attach { subscribes: true, publishes: false },
        })
    }),
    topics: None,
    resumes: None,
};

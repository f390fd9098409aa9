//! Raw topics: one resource per topic, each message published as it is.
//!
//! `GET /t/{topic}` with an upgrade subscribes, and the client's messages are published to the topic. The query has
//! options: `echo=true` returns the client's own messages too; `mode=sub` only receives, `mode=pub` only publishes;
//! `scope=local` stays within the shard.

use std::borrow::Cow;

use crate::{
    auth::TOKEN_KEY,
    endpoints::Intent,
    handler::{Accept, Connection, Handler},
    hub::{Scope, SubscribeOptions, TopicName},
    proto::{CloseCode, Message, Refusal, RequestHead, query_pairs},
};

/// An opening request at a topic, with the options of its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRequest {
    /// The topic to attach to.
    pub topic: TopicName,
    /// Whether the client receives.
    pub subscribes: bool,
    /// Whether the client may publish.
    pub publishes: bool,
    /// Whether the client receives its own messages.
    pub has_echo: bool,
    /// The scope of the client's messages.
    pub scope: Scope,
}

impl RawRequest {
    /// Reads the query of an opening request.
    ///
    /// # Errors
    ///
    /// 400 for a query that is malformed, or has an unknown key or value, or a key twice.
    pub fn new(topic: TopicName, query: Option<&str>) -> Result<RawRequest, Refusal> {
        let mut request =
            RawRequest { topic, subscribes: true, publishes: true, has_echo: false, scope: Scope::Server };
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for pair in query_pairs(query) {
            let (Some(key), Some(value)) = pair else { return Err(bad("the query is not percent-encoded UTF-8")) };
            if seen.contains(&key) {
                return Err(bad(&format!("{key:?} is given twice")));
            }
            match (&*key, &*value) {
                ("echo", "true") => request.has_echo = true,
                ("echo", "false") => request.has_echo = false,
                ("mode", "both") => {}
                ("mode", "sub") => request.publishes = false,
                ("mode", "pub") => request.subscribes = false,
                ("scope", "local") => request.scope = Scope::Shard,
                ("scope", "global") => request.scope = Scope::Server,
                // Read with the credentials.
                (TOKEN_KEY, _) => {}
                ("echo", _) => return Err(bad(&format!("echo is {value:?}, not true or false"))),
                ("mode", _) => return Err(bad(&format!("mode is {value:?}, not both, sub or pub"))),
                ("scope", _) => return Err(bad(&format!("scope is {value:?}, not local or global"))),
                _ => return Err(bad(&format!("{key:?} is not known; echo, mode, scope and access_token are"))),
            }
            seen.push(key);
        }
        Ok(request)
    }

    /// Returns the intent that has to be authorized.
    pub(crate) fn intent(&self) -> Intent {
        Intent::Attach { subscribes: self.subscribes, publishes: self.publishes }
    }

    /// Accepts the request with its subscription and its forwarding.
    #[must_use]
    pub fn accept(self) -> Accept<()> {
        let RawRequest { topic, subscribes, publishes, has_echo, scope } = self;
        let mut accept = Accept::default();
        if subscribes {
            accept = accept.subscribe(topic.clone(), SubscribeOptions { has_echo });
        }
        if publishes { accept.forward(topic, scope) } else { accept }
    }
}

/// The server's handler `hub`, which publishes messages to topics as they are. [`RawRequest::accept`] makes the
/// subscription and the forwarding of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawTopics;

impl Handler for RawTopics {
    type State = ();

    /// The messages of clients that publish are forwarded, without a call of the handler.
    const PUBLISHES: bool = false;

    /// Closes the connection: its client has `mode=sub`, since the messages of all other clients are forwarded.
    fn on_message(&self, connection: &mut Connection<'_, ()>, _: Message<'_>) {
        // The connection may be closing already.
        _ = connection.close(CloseCode::POLICY_VIOLATION, "this connection only receives");
    }
}

/// The pattern of topics.
pub const TOPIC_PATTERN: &str = "/t/{topic...}";

/// Returns whether a request has an upgrade to a WebSocket, valid or not.
#[must_use]
pub fn is_opening_request(head: &RequestHead) -> bool {
    head.headers().list_contains("upgrade", "websocket")
}

fn bad(what: &str) -> Refusal {
    Refusal::new(400, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let check = |query: &str, expected: Result<(bool, bool, bool, Scope), u16>| {
            let found = RawRequest::new(TopicName::new("x").unwrap(), Some(query)).map_err(|refusal| refusal.status);
            assert_eq!(found.map(|r| (r.subscribes, r.publishes, r.has_echo, r.scope)), expected, "{query}");
        };
        check("", Ok((true, true, false, Scope::Server)));
        check("echo=true", Ok((true, true, true, Scope::Server)));
        check("mode=sub&echo=false", Ok((true, false, false, Scope::Server)));
        check("mode=pub&scope=local", Ok((false, true, false, Scope::Shard)));
        check("access_token=x", Ok((true, true, false, Scope::Server)));
        check("%65cho=t%72ue&mode=%73ub", Ok((true, false, true, Scope::Server)));
        for bad in [
            "echo=1",
            "echo",
            "mode=",
            "mode=PUB",
            "scope=x",
            "x=1",
            "echo=true&echo=true",
            "echo=true&%65cho=true",
            "Echo=true",
            "echo=%",
            "%=x",
            "mode=%ff",
        ] {
            check(bad, Err(400));
        }
    }
}

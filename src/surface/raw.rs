//! Raw topics: one resource per topic, each message published as it is.
//!
//! `GET /t/{topic}` with an upgrade subscribes, and what the client sends is published to the topic. The query says
//! more: `echo=true` returns the client's own messages too; `mode=sub` only receives, `mode=pub` only publishes;
//! `scope=local` stays within the shard.

use super::access::{Right, Shown, TOKEN_KEY};
use crate::{
    config::Access,
    handler::{Accept, Connection, Handler, OpeningRequest, Response},
    hub::{Scope, TopicName},
    proto::{CloseCode, Message, Refusal, RequestHead},
};

/// What an opening request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRequest {
    /// The topic to attach to.
    pub topic: TopicName,
    /// Whether the client receives.
    pub subscribes: bool,
    /// Whether the client may publish.
    pub publishes: bool,
    /// Whether it receives its own messages.
    pub echo: bool,
    /// How far its messages go.
    pub scope: Scope,
}

impl RawRequest {
    /// Reads the query of an opening request.
    ///
    /// # Errors
    ///
    /// 400 for one that cannot be.
    pub fn new(topic: TopicName, query: Option<&str>) -> Result<RawRequest, Refusal> {
        let mut request = RawRequest { topic, subscribes: true, publishes: true, echo: false, scope: Scope::Global };
        let mut seen: Vec<&str> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if seen.contains(&key) {
                return Err(bad(&format!("{key:?} is given twice")));
            }
            seen.push(key);
            match (key, value) {
                ("echo", "true") => request.echo = true,
                ("echo", "false") => request.echo = false,
                ("mode", "both") => {}
                ("mode", "sub") => request.publishes = false,
                ("mode", "pub") => request.subscribes = false,
                ("scope", "local") => request.scope = Scope::Local,
                ("scope", "global") => request.scope = Scope::Global,
                // Read by `access`.
                (TOKEN_KEY, _) => {}
                ("echo", _) => return Err(bad(&format!("echo is {value:?}, not true or false"))),
                ("mode", _) => return Err(bad(&format!("mode is {value:?}, not both, sub or pub"))),
                ("scope", _) => return Err(bad(&format!("scope is {value:?}, not local or global"))),
                _ => return Err(bad(&format!("{key:?} is not known; echo, mode, scope and access_token are"))),
            }
        }
        Ok(request)
    }

    /// Does whoever shows this have the tokens for what the request asks for? Origins are the route's business.
    ///
    /// # Errors
    ///
    /// See [`Shown::check_tokens`].
    pub fn check(&self, shown: &Shown<'_>, access: &Access) -> Result<(), Refusal> {
        let rights: &[Right] = match (self.subscribes, self.publishes) {
            (true, true) => &[Right::Subscribe, Right::Publish],
            (true, false) => &[Right::Subscribe],
            (false, _) => &[Right::Publish],
        };
        shown.check_tokens(access, rights)
    }
}

/// Serves topics as they are: the server's handler `hub`.
#[derive(Debug, Clone, Default)]
pub struct RawTopics {
    access: Access,
}

impl RawTopics {
    /// With these tokens. Origins are the route's business.
    #[must_use]
    pub fn new(access: Access) -> Self {
        RawTopics { access }
    }
}

impl Handler for RawTopics {
    type State = ();

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        // Routes of the hub are resolved to topics, and nobody else has this handler.
        let Some(topic) = request.topic.clone() else { return Err(Response::error(404, "no topic is at this path")) };
        let raw = RawRequest::new(topic, request.raw_query())?;
        let shown = Shown::new(None, request.headers().get("authorization"), request.raw_query());
        raw.check(&shown, &self.access)?;
        let RawRequest { topic, subscribes, publishes, echo, scope } = raw;
        let mut accept = Accept::default();
        if subscribes {
            accept = accept.subscribe(topic.clone(), echo);
        }
        Ok(if publishes { accept.forward(topic, scope) } else { accept })
    }

    /// Only of a client that asked for `mode=sub`: those of the others are forwarded.
    fn on_message(&self, connection: &mut Connection<'_, ()>, _: Message<'_>) {
        // It may be closing already.
        _ = connection.close(CloseCode::POLICY_VIOLATION, "this connection only receives");
    }
}

/// The pattern of topics.
pub const TOPIC_PATTERN: &str = "/t/{topic...}";

/// Does this head ask for a WebSocket, acceptably or not?
#[must_use]
pub fn asks_for_websocket(head: &RequestHead) -> bool {
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
            assert_eq!(found.map(|r| (r.subscribes, r.publishes, r.echo, r.scope)), expected, "{query}");
        };
        check("", Ok((true, true, false, Scope::Global)));
        check("echo=true", Ok((true, true, true, Scope::Global)));
        check("mode=sub&echo=false", Ok((true, false, false, Scope::Global)));
        check("mode=pub&scope=local", Ok((false, true, false, Scope::Local)));
        check("access_token=x", Ok((true, true, false, Scope::Global)));
        for bad in ["echo=1", "echo", "mode=", "mode=PUB", "scope=x", "x=1", "echo=true&echo=true", "Echo=true"] {
            check(bad, Err(400));
        }
    }
}

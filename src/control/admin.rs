//! The administration of a server by HTTP: lists connections and topics, closes connections, and revokes identities and
//! tokens.

use std::sync::Arc;

use hyper::{
    StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use serde::Serialize;

use super::{
    admin_query::{AdminQuery, NewRevocation},
    answers::{Answer, JSON, response},
    body::{self, BodyMax},
    shared::Shared,
};
use crate::{
    auth::{Revocation, RevocationError},
    endpoints::AdminPath,
    hub::{Command, ConnectionFilter, ConnectionId, ConnectionSummary, Reply, TopicCursor, TopicSummary, Who},
    proto::{CloseCode, Refusal, RequestHead},
};

/// A request to the administration that has been admitted, and whose query has been read.
pub(super) enum AdminCall {
    List {
        filter: ConnectionFilter,
        after: Option<ConnectionId>,
        limit: usize,
    },
    Close {
        id: ConnectionId,
        code: CloseCode,
        reason: String,
    },
    CloseAll {
        who: Who,
        code: CloseCode,
        reason: String,
    },
    ListTopics {
        prefix: Arc<str>,
        after: Option<TopicCursor>,
        limit: usize,
    },
    ListRevocations {
        after: Option<Who>,
        limit: usize,
    },
    /// The body has what is revoked.
    Revoke,
    Lift(Who),
}

impl AdminCall {
    /// Returns the methods of a path, for `Allow`.
    pub(super) fn methods(path: &AdminPath) -> &'static str {
        match path {
            AdminPath::Connections => "GET, HEAD, DELETE",
            AdminPath::Connection(_) => "DELETE",
            AdminPath::Topics => "GET, HEAD",
            AdminPath::Revocations => "GET, HEAD, POST, DELETE",
        }
    }

    /// Reads a request with one of the methods of its path.
    ///
    /// # Errors
    ///
    /// 400 for a query that is malformed, has an unknown key, or lacks one; 404 for a text that is no id.
    pub(super) fn read(path: &AdminPath, head: &RequestHead) -> Result<AdminCall, Refusal> {
        let query = |known: &[&str]| AdminQuery::read(head.query(), known);
        let is_delete = head.method() == "DELETE";
        Ok(match path {
            AdminPath::Connections if is_delete => {
                let query = query(&["identity", "token_id", "code", "reason"])?;
                let (code, reason) = query.close(CLOSED_REASON)?;
                AdminCall::CloseAll { who: query.who()?, code, reason }
            }
            AdminPath::Connections => {
                let query = query(&["identity", "topic", "limit", "after"])?;
                AdminCall::List { filter: query.filter()?, after: query.after_connection()?, limit: query.limit()? }
            }
            AdminPath::Connection(id) => {
                let (code, reason) = query(&["code", "reason"])?.close(CLOSED_REASON)?;
                let id = id.parse().map_err(|error| Refusal::new(404, format!("{id:?} is no connection: {error}")))?;
                AdminCall::Close { id, code, reason }
            }
            AdminPath::Topics => {
                let query = query(&["prefix", "limit", "after"])?;
                let prefix = query.get("prefix").unwrap_or_default().into();
                AdminCall::ListTopics { prefix, after: query.after_topic()?, limit: query.limit()? }
            }
            AdminPath::Revocations if is_delete => AdminCall::Lift(query(&["identity", "token_id"])?.who()?),
            AdminPath::Revocations if head.method() == "POST" => {
                query(&[])?;
                AdminCall::Revoke
            }
            AdminPath::Revocations => {
                let query = query(&["limit", "after"])?;
                AdminCall::ListRevocations { after: query.after_revocation()?, limit: query.limit()? }
            }
        })
    }

    /// Asks the shards, and answers.
    ///
    /// # Errors
    ///
    /// 400 for a body, a name or an end that is wrong, 413 and 408 for its body, 404 for a connection or a revocation
    /// that there is not, and 503 for a revocation for which there is no room. On a server that has ended, a revocation
    /// is noted and closes no connection; everything else about connections is 503.
    pub(super) async fn answer(self, shared: &Shared, body: Incoming) -> Result<Answer, Refusal> {
        let (publisher, shards) = (&shared.publisher, shared.config.get().shards as u16);
        let endpoints = shared.endpoints.get();
        let revocations = endpoints.revocations();
        match self {
            AdminCall::List { filter, after, limit } => {
                let page = publisher.connection_page(shards, &filter, after, limit).await;
                let page = page.ok_or_else(Refusal::leaving)?;
                let connections = page.connections.iter().map(ConnectionRow::from).collect();
                Ok(json(&ConnectionList { connections, next: page.next.map(|next| next.to_string()) }))
            }
            AdminCall::ListTopics { prefix, after, limit } => {
                let page = publisher.topic_page(shards, &prefix, after, limit).await.ok_or_else(Refusal::leaving)?;
                let next = page.next.map(|next| next.to_string());
                Ok(json(&TopicList { topics: page.topics.iter().map(TopicRow::from).collect(), next }))
            }
            AdminCall::Close { id, code, reason } => {
                let absent = || Refusal::new(404, format!("there is no open connection {id}"));
                if id.shard() >= shards {
                    return Err(absent());
                }
                match publisher.command(id.shard(), Command::Close { id, code, reason: reason.into() }).await {
                    Some(Reply::Done(true)) => Ok(json(&Closed { closed: 1 })),
                    Some(_) => Err(absent()),
                    None => Err(Refusal::leaving()),
                }
            }
            AdminCall::CloseAll { who, code, reason } => {
                let closed = publisher.disconnect_all(shards, &who, code, &reason).await;
                Ok(json(&Closed { closed: closed.ok_or_else(Refusal::leaving)? }))
            }
            AdminCall::ListRevocations { after, limit } => {
                let (page, has_more) = revocations.page(after.as_ref(), limit);
                let next = page.last().filter(|_| has_more).map(|last| cursor(&last.who));
                Ok(json(&RevocationList { revocations: page.iter().map(RevocationRow::from).collect(), next }))
            }
            AdminCall::Revoke => {
                let (body, _room) = body::read(shared, BODY_MAX, body).await?;
                let NewRevocation { who, until, code, reason } = NewRevocation::read(&body)?;
                let closed = publisher.revoke(shards, revocations, &who, until, (code, &reason)).await;
                let closed = closed.map_err(not_revoked)?;
                Ok(json(&Revoked { closed, revocation: (&Revocation::new(who, until)).into() }))
            }
            AdminCall::Lift(who) if revocations.lift(&who) => Ok(json(&Lifted { lifted: 1 })),
            AdminCall::Lift(who) => Err(Refusal::new(404, format!("there is no revocation of {who}"))),
        }
    }
}

/// Returns the refusal of a revocation.
fn not_revoked(error: RevocationError) -> Refusal {
    match error {
        RevocationError::Full => Refusal::not_now(error.to_string()),
        RevocationError::Over | RevocationError::Name => Refusal::new(400, error.to_string()),
    }
}

/// Returns the `after` of the page that follows a revocation.
fn cursor(who: &Who) -> String {
    match who {
        Who::Identity(name) => format!("identity:{name}"),
        Who::Token(id) => format!("token_id:{id}"),
    }
}

/// Returns an answer that no cache keeps.
fn json(value: &impl Serialize) -> Answer {
    let mut text = serde_json::to_vec(value).expect("texts and numbers can be encoded");
    text.push(b'\n');
    let mut answer = response(StatusCode::OK, JSON, text);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[derive(Serialize)]
struct ConnectionList<'a> {
    connections: Vec<ConnectionRow<'a>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct ConnectionRow<'a> {
    id: String,
    identity: Option<&'a str>,
    address: Option<String>,
    route: &'a str,
    path: Option<&'a str>,
    protocol: Option<&'a str>,
    topics: Vec<&'a str>,
    topic_count: usize,
    since: u64,
    owed_bytes: usize,
}

impl<'a> From<&'a ConnectionSummary> for ConnectionRow<'a> {
    fn from(summary: &'a ConnectionSummary) -> Self {
        ConnectionRow {
            id: summary.id.to_string(),
            identity: summary.identity.as_deref(),
            address: summary.address.map(|address| address.to_string()),
            route: &summary.route,
            path: summary.path.as_deref(),
            protocol: summary.protocol.as_deref(),
            topics: summary.topics.iter().map(|topic| topic.as_str()).collect(),
            topic_count: summary.topic_count,
            since: summary.age.as_secs(),
            owed_bytes: summary.owed_bytes,
        }
    }
}

#[derive(Serialize)]
struct TopicList<'a> {
    topics: Vec<TopicRow<'a>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct TopicRow<'a> {
    topic: &'a str,
    subscribers: u64,
}

impl<'a> From<&'a TopicSummary> for TopicRow<'a> {
    fn from(TopicSummary { topic, subscribers }: &'a TopicSummary) -> Self {
        TopicRow { topic: topic.as_str(), subscribers: *subscribers }
    }
}

#[derive(Serialize)]
struct Closed {
    closed: u64,
}

#[derive(Serialize)]
struct Lifted {
    lifted: u64,
}

#[derive(Serialize)]
struct Revoked {
    closed: u64,
    #[serde(flatten)]
    revocation: RevocationRow,
}

#[derive(Serialize)]
struct RevocationList {
    revocations: Vec<RevocationRow>,
    next: Option<String>,
}

#[derive(Serialize)]
struct RevocationRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    until: u64,
}

impl From<&Revocation> for RevocationRow {
    fn from(Revocation { who, until }: &Revocation) -> Self {
        let (identity, token_id) = match who {
            Who::Identity(name) => (Some(name.to_string()), None),
            Who::Token(id) => (None, Some(id.to_string())),
        };
        RevocationRow { identity, token_id, until: *until }
    }
}

/// The reason in the close frame of a connection, unless the request says otherwise.
const CLOSED_REASON: &str = "disconnected";

/// The largest body of a request that revokes.
const BODY_MAX: BodyMax = BodyMax { bytes: 4_096, what: "the largest revocation" };

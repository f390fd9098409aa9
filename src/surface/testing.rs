//! A second surface, for tests: lines of text over WebSockets, and endpoints with other methods and deeper paths.
//!
//! A client of `{route}/open` sends commands: `subscribe TOPIC`, `unsubscribe TOPIC`, `publish TOPIC PAYLOAD`, `renew
//! TOKEN`. Answers begin with a colon, and messages of topics come as they are. `POST {route}/publish` publishes a JSON
//! body that names its topic; `PUT {route}/topics/{topic...}` publishes to the topic of the path. The line `X-Name` of
//! an opening request chooses the name by which the connection is known.

use std::{
    future::{Future, ready},
    mem,
    sync::Arc,
};

use serde_json::{Value, json};

use super::surface::{HandlerParts, KeyFault, KeyKind, PathRow, Surface, SurfaceKey, TopicUse};
use crate::{
    auth::Identity,
    endpoints::{BodyLimit, HttpEndpoint, HttpRequest, Intent, Judge, Openings, RouteValues},
    handler::{Accept, Connection, Handler, OpeningRequest, Response, Typed},
    hub::{
        Growth, NewEncoding, Publication, Scope, SubscribeOptions, TopicName,
        testing::{reverse, tell_of_lag},
    },
    proto::{Message, Refusal},
};

/// The surface of lines.
pub(crate) const LINES: Surface = Surface {
    name: "lines",
    effect: "takes commands as lines of text",
    topics: TopicUse::OfMessages,
    keys: &[
        SurfaceKey {
            qualified: "routes.greeting",
            kind: KeyKind::Text,
            value: "text",
            preset: "none",
            help: "First line that a client gets.",
        },
        SurfaceKey {
            qualified: "routes.has_deletes",
            kind: KeyKind::Boolean,
            value: "`true` or `false`",
            preset: "`false`",
            help: "Whether `DELETE` is answered 200.",
        },
        SurfaceKey {
            qualified: "routes.max_line",
            kind: KeyKind::Size,
            value: "size",
            preset: "1KiB",
            help: "Longest command.",
        },
        SurfaceKey {
            qualified: "routes.passwords",
            kind: KeyKind::Secrets,
            value: "table: a password for each name",
            preset: "none",
            help: "Passwords of those who may read facts.",
        },
    ],
    check: |values| match values.text("greeting") {
        Some("") => Err(KeyFault { key: "greeting", what: "it is empty; leave it out".into() }),
        _ if values.size("max_line") == Some(0) => {
            Err(KeyFault { key: "max_line", what: "no command fits into 0 bytes".into() })
        }
        _ => Ok(()),
    },
    forgets_request: false,
    skips_broadcasts: true,
    paths: &[
        PathRow { below: "/open", openings: Some(Openings::OF_ANY_HANDLER), endpoints: &[] },
        // A route at `/` cannot have this path, which is the server's own.
        PathRow { below: "/healthz", openings: None, endpoints: &[FACTS] },
        PathRow { below: "/publish", openings: None, endpoints: &[PUBLISH] },
        PathRow { below: "/topics/{topic...}", openings: None, endpoints: &[PUT] },
        PathRow { below: "/facts/{kind}/{name}", openings: None, endpoints: &[FACTS, DELETE] },
    ],
    protocol: None,
    beside: &[],
    handler: |parts| {
        let HandlerParts { values, judge, .. } = parts;
        Arc::new(Typed(Arc::new(Lines { values: Arc::clone(values), judge: judge.clone() })))
    },
    encodings: &[NewEncoding {
        name: "reversed",
        encode: reverse,
        encode_lag: Some(tell_of_lag),
        growth: Growth::RAW,
        is_body: false,
    }],
};

/// `POST publish` with `{"topic": ..., "payload": ...}`.
const PUBLISH: HttpEndpoint = HttpEndpoint {
    methods: &["POST"],
    intent: |_| Ok(Intent::Use),
    body: BodyLimit::Bytes(4_096),
    page_headers: &["x-line"],
    answer: |request| Box::pin(publish_named(request)),
};

/// `PUT topics/{topic...}` with a body that is the message. A line `X-Topic` names another topic than the path.
const PUT: HttpEndpoint = HttpEndpoint {
    methods: &["PUT", "PATCH"],
    intent: |_| Ok(Intent::Publish),
    body: BodyLimit::Message,
    page_headers: &[],
    answer: |request| Box::pin(put(request)),
};

/// `GET facts/{kind}/{name}`, for those who may receive.
const FACTS: HttpEndpoint = HttpEndpoint {
    methods: &["GET"],
    intent: |head| match head.query() {
        None => Ok(Intent::Attach { subscribes: true, publishes: false }),
        Some(_) => Err(Refusal::new(400, "facts have no query")),
    },
    body: BodyLimit::Nothing,
    page_headers: &["x-fact", "x-other"],
    answer: |request| Box::pin(async move { facts(&request) }),
};

/// `DELETE facts/{kind}/{name}`.
const DELETE: HttpEndpoint = HttpEndpoint {
    methods: &["DELETE"],
    answer: |request| {
        Box::pin(async move {
            Ok(match request.values.boolean("has_deletes") {
                Some(true) => Response::new(200, "text/plain", "deleted"),
                _ => Response::error(410, "there are no deletes"),
            })
        })
    },
    ..FACTS
};

async fn publish_named(mut request: Box<HttpRequest>) -> Result<Response, Refusal> {
    let bad = |what: &str| Refusal::new(400, what);
    let body: Value = serde_json::from_slice(&mem::take(&mut request.body)).map_err(|error| bad(&error.to_string()))?;
    let [topic, payload] = ["topic", "payload"].map(|key| body[key].as_str());
    let topic = request.topic_named(topic.ok_or_else(|| bad("topic is missing"))?)?;
    let message = Publication::text(payload.ok_or_else(|| bad("payload is missing"))?);
    let published = request.publish(request.may_publish(&topic).await?, message).await?;
    Ok(Response::new(200, "application/json", json!({ "offset": published.place.offset }).to_string()))
}

async fn put(mut request: Box<HttpRequest>) -> Result<Response, Refusal> {
    let named = request.head.headers().get("x-topic").map(|name| request.topic_named(&String::from_utf8_lossy(name)));
    let topic = named.transpose()?.or_else(|| request.topic.clone());
    let topic = topic.ok_or_else(|| Refusal::new(404, "the path names no topic"))?;
    let message = Publication::binary(&mem::take(&mut request.body));
    let published = request.publish(request.may_publish(&topic).await?, message).await?;
    Ok(Response::new(201, "text/plain", format!("{topic} {}", published.place.offset))
        .header("X-Topic", topic.as_str()))
}

fn facts(request: &HttpRequest) -> Result<Response, Refusal> {
    let passwords = request.values.secrets("passwords");
    let given = request.head.headers().get("x-password").map(String::from_utf8_lossy);
    if !passwords.is_empty() && !passwords.iter().any(|(_, password)| Some(&**password) == given.as_deref()) {
        return Err(Refusal::new(403, "the password is missing or wrong"));
    }
    let named = request.parameters().into_iter().map(|(name, value)| format!("{name}={value}"));
    let identity = request.identity.as_ref().map_or("nobody", |identity| &identity.name);
    let body = format!("{} for {identity}, from {}", named.collect::<Vec<_>>().join(" "), request.peer.is_some());
    Ok(Response::new(200, "text/plain", body))
}

/// The handler of lines.
struct Lines {
    values: Arc<RouteValues>,
    judge: Judge,
}

impl Handler for Lines {
    type State = ();

    fn opening(&self, request: &OpeningRequest) -> impl Future<Output = Result<Accept<()>, Response>> {
        let name = request.headers().get("x-name").map(String::from_utf8_lossy);
        let known_by = |name| Accept::default().identity(Identity::new(name));
        ready(Ok(name.map_or_else(Accept::default, known_by)))
    }

    fn on_open(&self, connection: &mut Connection<'_, ()>) {
        if let Some(greeting) = self.values.text("greeting") {
            connection.send_text(greeting);
        }
    }

    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        let line = message.as_text().unwrap_or_default();
        let line_bytes_max = self.values.size("max_line").unwrap_or(1_024);
        let outcome = match line.len() as u64 {
            bytes if bytes > line_bytes_max => Err(Refusal::new(413, "the command is too long")),
            _ => self.act(connection, line),
        };
        answer(connection, outcome);
    }

    fn on_subscribed(&self, connection: &mut Connection<'_, ()>, topic: &TopicName) {
        connection.send_text(format!(":subscribed {topic}"));
    }
}

impl Lines {
    fn act(&self, connection: &mut Connection<'_, ()>, line: &str) -> Outcome {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, payload) = rest.split_once(' ').unwrap_or((rest, ""));
        let topic = self.judge.topic(connection, name)?;
        match command {
            "subscribe" => {
                let name = topic.clone();
                self.judge.may_subscribe(connection, &topic, move |connection, decided| {
                    let subscribed = decided.and_then(|()| {
                        let subscribed = connection.subscribe(&name, SubscribeOptions::default().echo());
                        subscribed.map_err(|error| Refusal::new(409, error.to_string()))
                    });
                    answer(connection, subscribed.map(|()| None));
                });
                Ok(None)
            }
            "unsubscribe" => {
                connection.unsubscribe(&topic);
                Ok(Some(format!(":unsubscribed {topic}")))
            }
            "publish" => {
                let message = Publication::text(payload);
                let name = topic.clone();
                self.judge.may_publish(connection, &topic, move |connection, decided| {
                    let published = decided.and_then(|grant| grant.check(message)).map(|message| {
                        connection.publish(&name, &message, Scope::Server);
                        None
                    });
                    answer(connection, published);
                });
                Ok(None)
            }
            "renew" => {
                let renewed = connection.renew_token(name);
                let renewed = renewed.map_err(|error| Refusal::new(403, error.to_string()))?;
                Ok(Some(format!(":renewed {}", renewed.unsubscribed.len())))
            }
            _ => Err(Refusal::new(400, format!("{command:?} is no command"))),
        }
    }
}

/// The outcome of a command: its answer, if it has one, or its refusal.
type Outcome = Result<Option<String>, Refusal>;

fn answer(connection: &mut Connection<'_, ()>, outcome: Outcome) {
    match outcome {
        Ok(Some(answer)) => drop(connection.send_text(answer)),
        Ok(None) => {}
        Err(refusal) => drop(connection.send_text(format!(":refused {} {}", refusal.status, refusal.error))),
    }
}

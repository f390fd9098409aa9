//! Raw topics: one resource per topic, each message published as it is.
//!
//! `GET /t/{topic}` with an upgrade subscribes, and the client's messages are published to the topic. The query has
//! options: `echo=true` returns the client's own messages too; `mode=sub` only receives, `mode=pub` only publishes;
//! `scope=local` stays within the shard; `lag=silent` lets the topic's policy drop messages; `since` and `last` let the
//! client first receive messages of the topic's history.

use std::{borrow::Cow, mem, sync::Arc};

use serde::Serialize;

use super::{
    events::{EVENTS, Names, STREAMS_AT_A_TOPIC, SUBSCRIBES, StreamOptions, headers_of_stream, is_for_stream},
    history, presence,
    receipt::ReceiptJson,
    resume::read_resume,
    surface::{Beside, PathRow, Surface, TopicUse, any_values},
    v1::{OPENINGS_AT_A_TOPIC, V1},
};
use crate::{
    auth::TOKEN_KEY,
    endpoints::{BodyLimit, HttpEndpoint, HttpRequest, Intent, Openings, Opens},
    handler::{Accept, Connection, Handler, OpeningRequest, Response, Typed},
    hub::{Place, Publication, Published, Resume, Scope, SubscribeOptions, TopicName},
    proto::{CloseCode, HandshakeError, Headers, Message, Refusal, RequestHead, query_pairs},
};

/// The surface of raw topics. A topic's subscriber costs nothing beside its slot.
pub(crate) const RAW: Surface = Surface {
    name: "hub",
    effect: "subscribes to the topic in the place of `{topic}` or `{topic...}`, and publishes to it, see \
             [topics.md](topics.md)",
    topics: TopicUse::OfPath,
    keys: &[],
    check: any_values,
    forgets_request: true,
    skips_broadcasts: true,
    paths: &[PathRow { below: "", openings: Some(OPENINGS), endpoints: &[READ, PUBLISH, FORGET] }],
    protocol: None,
    beside: &[
        Beside { surface: &V1, openings: OPENINGS_AT_A_TOPIC },
        Beside { surface: &EVENTS, openings: STREAMS_AT_A_TOPIC },
    ],
    handler: |_| Arc::new(Typed(Arc::new(RawTopics))),
    encodings: &[],
};

const OPENINGS: Openings = Openings {
    opens: Opens::WebSocket,
    methods: &["GET"],
    intent: Some(|head| RawOptions::read(head.query()).map(|options| options.intent())),
    topics: None,
    resumes: None,
};

/// `POST /t/{topic}` publishes its body.
const PUBLISH: HttpEndpoint = HttpEndpoint {
    methods: &["POST"],
    intent: |head| {
        PostOptions::read(head.query())?;
        id_of_post(head.headers())?;
        Ok(Intent::Publish)
    },
    body: BodyLimit::Message,
    page_headers: &[ID_HEADER],
    answer: |request| Box::pin(publish(request)),
};

/// `GET /t/{topic}` with a view reads who is subscribed, that of a client that accepts JSON reads the history of the
/// topic, and `HEAD` of one that accepts an event stream has the head of the stream. A browser hides the response to a
/// failed opening handshake from its page, so the page can ask by any other `GET` why no WebSocket opens.
const READ: HttpEndpoint = HttpEndpoint {
    methods: &["GET"],
    intent: |head| {
        if is_for_stream(head) {
            return StreamOptions::read(head, Names::Path).map(|_| SUBSCRIBES);
        }
        match presence::read_view(head.query())? {
            Some(_) => Ok(Intent::ReadPresence),
            None if history::is_for_history(head) => history::read_query(head.query()).map(|_| Intent::ReadHistory),
            None => RawOptions::read(head.query()).map(|options| options.intent()),
        }
    },
    body: BodyLimit::Nothing,
    page_headers: &["cache-control", "if-none-match", "last-event-id"],
    answer: |request| Box::pin(read(request)),
};

/// `DELETE /t/{topic}` forgets the history of the topic.
const FORGET: HttpEndpoint = HttpEndpoint {
    methods: &["DELETE"],
    intent: |head| match query_pairs(head.query()).find(|pair| pair.0.as_deref() != Some(TOKEN_KEY)) {
        None => Ok(Intent::ForgetHistory),
        Some(_) => Err(bad(&format!("DELETE has no options in its query but {TOKEN_KEY}"))),
    },
    body: BodyLimit::Nothing,
    page_headers: &[],
    answer: |request| Box::pin(history::answer_forget(request)),
};

/// The options in the query of an opening request at a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RawOptions {
    /// Whether the client receives.
    subscribes: bool,
    /// Whether the client may publish.
    publishes: bool,
    /// Whether the client receives its own messages.
    has_echo: bool,
    /// The scope of the client's messages.
    scope: Scope,
    /// Whether the topic's policy may drop messages, of which no frame tells the client.
    has_silent_lags: bool,
    /// The messages of the history that the client receives first.
    resume: Option<Resume>,
    /// Whether the client receives although messages after its position may be missing.
    accepts_unrecovered: bool,
}

impl RawOptions {
    /// Reads the query of an opening request.
    ///
    /// # Errors
    ///
    /// 400 for a query that is malformed, or has an unknown key or value, or a key twice, or options that exclude each
    /// other.
    fn read(query: Option<&str>) -> Result<RawOptions, Refusal> {
        let mut options = RawOptions {
            subscribes: true,
            publishes: true,
            has_echo: false,
            scope: Scope::Server,
            has_silent_lags: false,
            resume: None,
            accepts_unrecovered: false,
        };
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        let (mut since, mut last) = (None, None);
        for pair in query_pairs(query) {
            let (Some(key), Some(value)) = pair else { return Err(bad("the query is not percent-encoded UTF-8")) };
            if seen.contains(&key) {
                return Err(bad(&format!("{key:?} is given twice")));
            }
            match (&*key, &*value) {
                ("echo", "true") => options.has_echo = true,
                ("echo", "false") => options.has_echo = false,
                ("mode", "both") => {}
                ("mode", "sub") => options.publishes = false,
                ("mode", "pub") => options.subscribes = false,
                ("scope", "local") => options.scope = Scope::Shard,
                ("scope", "global") => options.scope = Scope::Server,
                ("lag", "silent") => options.has_silent_lags = true,
                ("lag", "close") => options.has_silent_lags = false,
                ("unrecovered", "accept") => options.accepts_unrecovered = true,
                ("unrecovered", "close") => options.accepts_unrecovered = false,
                ("since", _) => since = Some(value),
                ("last", _) => last = Some(value),
                // Read with the credentials.
                (TOKEN_KEY, _) => {}
                ("echo", _) => return Err(bad(&format!("echo is {value:?}, not true or false"))),
                ("mode", _) => return Err(bad(&format!("mode is {value:?}, not both, sub or pub"))),
                ("scope", _) => return Err(bad(&format!("scope is {value:?}, not local or global"))),
                ("lag", _) => return Err(bad(&format!("lag is {value:?}, not close or silent"))),
                ("unrecovered", _) => return Err(bad(&format!("unrecovered is {value:?}, not close or accept"))),
                _ => return Err(bad(&format!("{key:?} is not known; {KNOWN} are"))),
            }
            seen.push(key);
        }
        options.resume = read_resume(since.as_deref(), last.as_deref()).map_err(|error| bad(&error))?;
        if options.resume.is_some() && !options.subscribes {
            return Err(bad("mode=pub excludes since and last: the client receives nothing"));
        }
        Ok(options)
    }

    /// Returns the intent that has to be authorized.
    fn intent(self) -> Intent {
        let RawOptions { subscribes, publishes, resume, .. } = self;
        match resume {
            Some(_) => Intent::Resume { publishes },
            None => Intent::Attach { subscribes, publishes },
        }
    }

    /// Accepts an opening request at a topic with its subscription and its forwarding.
    fn accept(self, topic: TopicName) -> Accept<()> {
        let RawOptions { subscribes, publishes, has_echo, scope, has_silent_lags, resume, accepts_unrecovered } = self;
        let mut accept = Accept::default();
        if subscribes {
            let options = SubscribeOptions {
                has_echo,
                has_silent_lags,
                resume,
                accepts_unrecovered,
                ..SubscribeOptions::default()
            };
            accept = accept.subscribe(topic.clone(), options);
        }
        if publishes { accept.forward(topic, scope) } else { accept }
    }
}

/// The options of an opening request at a topic.
const KNOWN: &str = "echo, mode, scope, lag, since, last, unrecovered and access_token";

/// The server's handler `hub`, which publishes messages to topics as they are: the topic of the path and the query of
/// the opening request decide about a connection's subscription and forwarding.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawTopics;

impl Handler for RawTopics {
    type State = ();

    /// The messages of clients that publish are forwarded, without a call of the handler.
    const PUBLISHES: bool = false;

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        let topic = request.topic().ok_or_else(|| Response::error(404, "this path names no topic"))?;
        Ok(RawOptions::read(request.raw_query())?.accept(topic.clone()))
    }

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

/// Answers a `GET` that is no opening request.
async fn read(request: Box<HttpRequest>) -> Result<Response, Refusal> {
    if is_for_stream(&request.head) {
        return Ok(headers_of_stream());
    }
    if let Some(view) = presence::read_view(request.head.query())? {
        return presence::answer_view(request, view).await;
    }
    if history::is_for_history(&request.head) {
        return history::answer_page(request).await;
    }
    Err(HandshakeError::Upgrade.refusal())
}

/// The options in the query of a POST.
#[derive(Debug, Default, PartialEq, Eq)]
struct PostOptions<'a> {
    /// The key of the publication.
    key: Option<Cow<'a, str>>,
    /// Whether the publisher waits for a receipt.
    asks_receipt: Option<bool>,
}

impl<'a> PostOptions<'a> {
    /// Reads the query of a POST. The query has no other option but the token.
    fn read(query: Option<&'a str>) -> Result<PostOptions<'a>, Refusal> {
        let mut found = PostOptions::default();
        for pair in query_pairs(query) {
            let (Some(option), Some(value)) = pair else { return Err(bad("the query is not percent-encoded UTF-8")) };
            match (&*option, &*value) {
                (TOKEN_KEY, _) => {}
                ("key", _) if found.key.is_some() => return Err(bad("\"key\" is given twice")),
                ("receipt", _) if found.asks_receipt.is_some() => return Err(bad("\"receipt\" is given twice")),
                ("key", _) => found.key = Some(value),
                ("receipt", "true") => found.asks_receipt = Some(true),
                ("receipt", "false") => found.asks_receipt = Some(false),
                ("receipt", _) => return Err(bad(&format!("receipt is {value:?}, not true or false"))),
                _ => return Err(bad(&format!("{option:?} is not known here; key, receipt and {TOKEN_KEY} are"))),
            }
        }
        Ok(found)
    }
}

/// Bytes of the longest id of a publication.
const ID_BYTES_MAX: usize = 255;

/// Returns the id of the publication in the head of a POST: the value of `Idempotency-Key`, which may stand in
/// quotation marks (RFC 8941 3.3.3).
fn id_of_post(headers: &Headers) -> Result<Option<Cow<'_, str>>, Refusal> {
    let value = match headers.only(ID_HEADER) {
        Ok(value) => value,
        Err(0) => return Ok(None),
        Err(_) => return Err(bad("Idempotency-Key is given twice")),
    };
    let is_text = value.iter().all(|octet| octet.is_ascii_graphic() || *octet == b' ');
    let text = str::from_utf8(value).ok().filter(|_| is_text);
    let id = text.and_then(|text| if text.starts_with('"') { quoted(text) } else { Some(text.into()) });
    let id = id.ok_or_else(|| bad("Idempotency-Key is neither visible ASCII nor a string in quotation marks"))?;
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(bad(&format!("Idempotency-Key has {} bytes, not 1 to {ID_BYTES_MAX}", id.len())));
    }
    Ok(Some(id))
}

/// Returns the contents of a string in quotation marks, in which a backslash stands before a quotation mark and before
/// a backslash.
fn quoted(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains(['"', '\\']) {
        return Some(inner.into());
    }
    let (mut plain, mut characters) = (String::with_capacity(inner.len()), inner.chars());
    while let Some(character) = characters.next() {
        plain.push(match character {
            '"' => return None,
            '\\' => characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?,
            other => other,
        });
    }
    Some(plain.into())
}

/// The header line with the id of a publication.
const ID_HEADER: &str = "idempotency-key";

/// Publishes the body of a request to the topic of its path.
async fn publish(mut request: Box<HttpRequest>) -> Result<Response, Refusal> {
    let topic = request.topic.clone().ok_or_else(|| Refusal::new(404, "this path names no topic"))?;
    let grant = request.may_publish(&topic).await?;
    let body = mem::take(&mut request.body);
    let kind = BodyKind::of(request.head.headers());
    let message = if kind == BodyKind::Binary {
        Publication::binary(&body)
    } else {
        let text = simdutf8::compat::from_utf8(&body).map_err(|error| {
            let at = error.valid_up_to();
            bad(&format!("the body is text by its Content-Type and not UTF-8 at byte {at}"))
        })?;
        // A text that only claims to be JSON is text.
        let json = (kind == BodyKind::Json).then(|| Publication::json(text).ok()).flatten();
        json.unwrap_or_else(|| Publication::text(text))
    };
    let PostOptions { key, asks_receipt } = PostOptions::read(request.head.query())?;
    let message = match key {
        Some(key) => message.key(&key).map_err(|error| bad(&error.to_string()))?,
        None => message,
    };
    let message = if asks_receipt == Some(true) { message.ask_receipt() } else { message };
    let message = match id_of_post(request.head.headers())? {
        Some(id) => message.id(&id),
        None => message,
    };
    // The message has a copy of the body, and may wait for its offset.
    drop(body);
    let Published { place: Place { epoch, offset, .. }, receipt } = request.publish(grant, message).await?;
    let published = Placed { topic: topic.as_str(), epoch, offset, receipt: receipt.map(ReceiptJson::from) };
    let mut text = serde_json::to_vec(&published).expect("a name and two numbers can be encoded");
    text.push(b'\n');
    Ok(Response::new(202, "application/json", text))
}

/// The body of the answer to a message that was published.
#[derive(Serialize)]
struct Placed<'a> {
    topic: &'a str,
    epoch: u64,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptJson>,
}

/// What a body is by its Content-Type. Every body that is not text is binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Binary,
    Text,
    Json,
}

impl BodyKind {
    fn of(headers: &Headers) -> BodyKind {
        let content_type = headers.get("content-type").filter(|value| value.is_ascii());
        let Some(content_type) = content_type.and_then(|value| str::from_utf8(value).ok()) else {
            return BodyKind::Binary;
        };
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is = |other: &str, part: Option<&str>| part.is_some_and(|part| part.eq_ignore_ascii_case(other));
        if is("text/", media_type.get(.."text/".len())) || is("application/x-www-form-urlencoded", Some(media_type)) {
            return BodyKind::Text;
        }
        let suffix = media_type.len().checked_sub("+json".len()).and_then(|at| media_type.get(at..));
        if is("+json", suffix) || is("application/json", Some(media_type)) { BodyKind::Json } else { BodyKind::Binary }
    }
}

fn bad(what: &str) -> Refusal {
    Refusal::new(400, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_lose_messages_silently() {
        let of = |query| RawOptions::read(Some(query)).map(|options| options.has_silent_lags).map_err(|_| ());
        assert_eq!([of(""), of("lag=close"), of("lag=silent"), of("lag=")], [Ok(false), Ok(false), Ok(true), Err(())]);
    }

    #[test]
    fn keys_of_posts() {
        for (query, expected) in [
            ("", Ok(None)),
            ("key=a%20b&access_token=x", Ok(Some("a b"))),
            ("access_token=x", Ok(None)),
            ("key=a&key=a", Err(400)),
            ("key=a&receipt=true", Ok(Some("a"))),
            ("receipt=false", Ok(None)),
            ("receipt=1", Err(400)),
            ("receipt=true&receipt=true", Err(400)),
            ("key=%", Err(400)),
            ("echo=true", Err(400)),
        ] {
            let found = PostOptions::read(Some(query)).map(|options| options.key).map_err(|refusal| refusal.status);
            assert_eq!(found.as_ref().map(Option::as_deref), expected.as_ref().map(|key| *key), "{query}");
        }
    }

    #[test]
    fn ids_of_posts() {
        let id_of = |lines: &str| {
            let head = format!("POST /t/a HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let (head, _) = RequestHead::decode(head.as_bytes()).unwrap().unwrap();
            id_of_post(head.headers())
                .map(|id| id.map(Cow::into_owned))
                .map_err(|refusal| (refusal.status, refusal.error))
        };
        let of = |value: &str| id_of(&format!("Idempotency-Key: {value}\r\n"));
        assert_eq!(id_of(""), Ok(None));
        for (value, expected) in [
            ("8e03978e-40d5", "8e03978e-40d5"),
            ("a b", "a b"),
            (r#""8e03978e-40d5""#, "8e03978e-40d5"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#"a"b"#, r#"a"b"#),
        ] {
            assert_eq!(of(value), Ok(Some(expected.to_owned())), "{value}");
        }
        let long = "x".repeat(ID_BYTES_MAX);
        assert_eq!(of(&long), Ok(Some(long.clone())));
        let malformed = "Idempotency-Key is neither visible ASCII nor a string in quotation marks";
        for value in ["\"a", "\"a\"b\"", r#""a\x""#, r#""a\""#, "\"", "\u{e4}", "a\tb"] {
            assert_eq!(of(value), Err((400, malformed.to_owned())), "{value}");
        }
        assert_eq!(of(&format!("{long}x")).unwrap_err().1, "Idempotency-Key has 256 bytes, not 1 to 255");
        assert_eq!(of("").unwrap_err().1, "Idempotency-Key has 0 bytes, not 1 to 255");
        assert_eq!(of("\"\"").unwrap_err().1, "Idempotency-Key has 0 bytes, not 1 to 255");
        let twice = id_of("Idempotency-Key: a\r\nIdempotency-Key: a\r\n");
        assert_eq!(twice.unwrap_err().1, "Idempotency-Key is given twice");
    }

    #[test]
    fn queries() {
        let check = |query: &str, expected: Result<(bool, bool, bool, Scope), u16>| {
            let found = RawOptions::read(Some(query)).map_err(|refusal| refusal.status);
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

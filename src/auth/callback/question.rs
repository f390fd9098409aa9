//! The questions to the application, in JSON.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    super::{Credentials, TopicQuestion, TopicRight},
    breaker::Asker,
};
use crate::{
    hub::TopicName,
    proto::{Refusal, query_pairs},
    rates::AddressBlock,
};

/// A question as it is sent, the hash of it, by which its answer is kept, and the client whose request asks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) body: Vec<u8>,
    pub(super) key: Key,
    pub(super) asker: Asker,
}

/// The SHA-256 of a question.
pub(super) type Key = [u8; 32];

impl Question {
    fn of(credentials: &Credentials<'_>, fields: &impl Serialize) -> Result<Question, Refusal> {
        let body = serde_json::to_vec(fields).expect("text and numbers, and JSON that was checked");
        if body.len() > QUESTION_BYTES_MAX {
            let what = "the question about this request, which the application would be asked, has more than";
            return Err(Refusal::new(431, format!("{what} {QUESTION_BYTES_MAX} bytes")));
        }
        Ok(Question { key: Sha256::digest(&body).into(), body, asker: credentials.address().map(AddressBlock::of) })
    }

    /// Returns the question about a request. Of the header lines, those of the given names are sent. Several lines of
    /// one name are joined (RFC 9110 5.3, RFC 6265 5.4); of several `authorization` lines none is sent, since a proxy
    /// in front may have judged any of them.
    ///
    /// # Errors
    ///
    /// 431 for a question that is too large.
    pub(super) fn connect(credentials: &Credentials<'_>, names: &[String]) -> Result<Question, Refusal> {
        let head = credentials.head;
        let mut headers = BTreeMap::new();
        for name in names {
            let mut lines = head.headers().get_all(name).map(String::from_utf8_lossy);
            let Some(first) = lines.next() else { continue };
            let between = if name == "cookie" { "; " } else { ", " };
            let joined = lines.fold(first.clone().into_owned(), |lines, line| lines + between + &*line);
            if name != "authorization" || joined == first {
                headers.insert(&**name, joined);
            }
        }
        let protocols = head.headers().list("sec-websocket-protocol").map(String::from_utf8_lossy);
        let connect = Connect {
            kind: "connect",
            method: head.method(),
            path: head.path(),
            query: head.query().unwrap_or_default(),
            topic: credentials.topic().map(TopicName::as_str),
            address: credentials.address(),
            protocols: protocols.map(|protocol| protocol.into_owned()).collect(),
            token: credentials.renewed_token(),
            headers,
        };
        Question::of(credentials, &connect)
    }

    /// Returns the question whether the sender of a request has a right over a topic.
    ///
    /// # Errors
    ///
    /// 431 for a question that is too large.
    pub(super) fn topic(question: &TopicQuestion<'_>) -> Result<Question, Refusal> {
        let &TopicQuestion { credentials, identity, right, topic } = question;
        let info = identity.and_then(|identity| identity.info.as_deref());
        let of_topic = OfTopic {
            kind: match right {
                TopicRight::Subscribe => "subscribe",
                TopicRight::Publish => "publish",
                TopicRight::Presence => "presence",
                TopicRight::History => "history",
            },
            topic: topic.as_str(),
            identity: identity.map(|identity| &*identity.name),
            // An embedder's authenticator may have put anything there.
            info: info.and_then(|info| serde_json::from_str(info).ok()),
            token_id: identity.and_then(|identity| identity.each().find_map(|each| each.token_id.as_deref())),
            address: credentials.address(),
        };
        Question::of(&credentials, &of_topic)
    }
}

/// Returns whether the question about a request has something by which the application could know the sender: a renewed
/// token, a list of subprotocols, a part of the query, or one of the header lines of the given names. Parts of the
/// query that the hub reads itself are left out, and the header lines that a browser sends by itself.
pub(super) fn shows_credentials(credentials: &Credentials<'_>, names: &[String]) -> bool {
    let headers = credentials.head.headers();
    let is_sent_by_browsers = |name: &str| name.starts_with("sec-") || LINES_OF_BROWSERS.contains(&name);
    let is_of_hub = |key: Option<&str>, value: Option<&str>| {
        key.zip(value).is_some_and(|(key, value)| OPTIONS_OF_HUB.contains(&(key, value)))
    };
    credentials.renewed_token().is_some()
        || headers.get("sec-websocket-protocol").is_some()
        || query_pairs(credentials.head.query()).any(|(key, value)| !is_of_hub(key.as_deref(), value.as_deref()))
        || names.iter().any(|name| !is_sent_by_browsers(name) && headers.get(name).is_some())
}

/// Header lines that browsers send by themselves, beside those whose names begin with `sec-`.
const LINES_OF_BROWSERS: [&str; 8] =
    ["cookie", "origin", "host", "referer", "user-agent", "accept", "accept-encoding", "accept-language"];

/// The pairs of the query that the handler `hub` takes, but for the token.
const OPTIONS_OF_HUB: [(&str, &str); 7] = [
    ("mode", "both"),
    ("mode", "sub"),
    ("mode", "pub"),
    ("echo", "true"),
    ("echo", "false"),
    ("scope", "local"),
    ("scope", "global"),
];

/// The most bytes of a question. Without a renewed token none has so many, since the head of a request is short.
const QUESTION_BYTES_MAX: usize = 32 << 10;

/// The fields of a question about a request, in the order in which they are sent.
#[derive(Serialize)]
struct Connect<'a> {
    kind: &'static str,
    method: &'a str,
    path: &'a str,
    query: &'a str,
    topic: Option<&'a str>,
    address: Option<IpAddr>,
    protocols: Vec<String>,
    token: Option<&'a str>,
    headers: BTreeMap<&'a str, String>,
}

/// The fields of a question about a topic, in the order in which they are sent.
#[derive(Serialize)]
struct OfTopic<'a> {
    kind: &'static str,
    topic: &'a str,
    identity: Option<&'a str>,
    info: Option<Value>,
    token_id: Option<&'a str>,
    address: Option<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::{super::super::Identity, *};
    use crate::proto::RequestHead;

    fn connect(target: &str, lines: &[&str], names: &[&str], peer: Option<&str>) -> String {
        connect_about(None, target, lines, names, peer)
    }

    fn connect_about(
        topic: Option<&TopicName>,
        target: &str,
        lines: &[&str],
        names: &[&str],
        peer: Option<&str>,
    ) -> String {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let head = RequestHead::decode(format!("GET {target} HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap().unwrap().0;
        let peer = peer.map(|peer| peer.parse().unwrap());
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let question = Question::connect(&Credentials::new(&head, peer).about(topic), &names).unwrap();
        assert_eq!(question.key[..], Sha256::digest(&question.body)[..]);
        String::from_utf8(question.body).unwrap()
    }

    #[test]
    fn the_bytes_of_a_question_about_a_request() {
        let topic = TopicName::new("orders/42").unwrap();
        let asked = connect_about(
            Some(&topic),
            "/t/orders%2F42?access_token=x%20y",
            &["Host: a", "Authorization: Bearer \"x\"", "Cookie: a=1", "X-Other: no", "cookie: b=2", "Origin: null"],
            &["authorization", "cookie", "origin"],
            Some("[::ffff:192.0.2.7]:5000"),
        );
        let expected = concat!(
            r#"{"kind":"connect","method":"GET","path":"/t/orders%2F42","query":"access_token=x%20y","#,
            r#""topic":"orders/42","address":"192.0.2.7","protocols":[],"token":null,"#,
            r#""headers":{"authorization":"Bearer \"x\"","cookie":"a=1; b=2","#,
            r#""origin":"null"}}"#
        );
        assert_eq!(asked, expected);
        let asked = connect("/", &["Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Protocol: c"], &["x-none"], None);
        let expected = concat!(
            r#"{"kind":"connect","method":"GET","path":"/","query":"","topic":null,"address":null,"#,
            r#""protocols":["a","b","c"],"token":null,"headers":{}}"#
        );
        assert_eq!(asked, expected);
    }

    /// Whatever the application could take for a key is one. Lines that a browser adds by itself are none.
    #[test]
    fn a_request_shows_what_no_browser_adds() {
        let names =
            ["authorization", "cookie", "origin", "x-api-key", "user-agent", "sec-fetch-site"].map(String::from);
        let shows = |target: &str, line: &str| {
            let head = format!("GET {target} HTTP/1.1\r\n{line}\r\n\r\n");
            let head = RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
            shows_credentials(&Credentials::new(&head, None), &names)
        };
        for line in ["Authorization: x", "X-Api-Key: x", "Sec-WebSocket-Protocol: x"] {
            assert!(shows("/", line), "{line}");
        }
        for query in ["key=x", "access_token=x", "mode=x", "mode=sub&k", "%ff=x"] {
            assert!(shows(&format!("/?{query}"), "X: y"), "{query}");
        }
        for line in ["Cookie: a=b", "Origin: null", "User-Agent: x", "Sec-Fetch-Site: none", "X-Other: x"] {
            assert!(!shows("/?mode=sub&echo=true&scope=local", line), "{line}");
        }
        let head = RequestHead::decode(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap().0;
        assert!(shows_credentials(&Credentials::new(&head, None).with_token("fresh"), &[]));
    }

    /// A token that is renewed has another answer than the one before.
    #[test]
    fn a_renewed_token_is_sent() {
        let head = RequestHead::decode(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap().0;
        let credentials = Credentials::new(&head, None);
        let [before, after] =
            [credentials, credentials.with_token("fresh")].map(|sent| Question::connect(&sent, &[]).unwrap());
        assert!(String::from_utf8(after.body).unwrap().contains(r#""token":"fresh""#));
        assert_ne!(before.key, after.key);
    }

    /// A renewed token, and what an embedder knows of an identity, may be large, and JSON makes more of it.
    #[test]
    fn a_question_has_a_limit() {
        let head = RequestHead::decode(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap().0;
        let credentials = Credentials::new(&head, "192.0.2.7:9".parse().ok());
        let renewed = |token: &str| Question::connect(&credentials.with_token(token), &[]);
        assert_eq!(renewed("x").unwrap().asker, Some(AddressBlock::of([192, 0, 2, 7].into())));
        let text = |count| "\u{1}".repeat(count);
        let (fits, too_large) = (QUESTION_BYTES_MAX / 6 - 100, QUESTION_BYTES_MAX / 6 + 1);
        assert!(renewed(&text(fits)).is_ok());
        assert_eq!(renewed(&text(too_large)).unwrap_err().status, 431);
        let mut identity = Identity::new("42");
        identity.info = Some(format!("[{}1]", "1,".repeat(QUESTION_BYTES_MAX)).into());
        let (topic, right) = (TopicName::new("a").unwrap(), TopicRight::Publish);
        let question = TopicQuestion { credentials, identity: Some(&identity), right, topic: &topic };
        assert_eq!(Question::topic(&question).unwrap_err().status, 431);
    }

    /// The longest head of a request makes a question within the limit, whatever is in it.
    #[test]
    fn a_question_about_any_head_is_asked() {
        for octet in [b'"', b'\\', 0xff, b'\t'] {
            let mut head = b"GET / HTTP/1.1\r\nCookie: x".to_vec();
            head.resize(crate::proto::HEAD_BYTES_MAX - 5, octet);
            head.extend(b"x\r\n\r\n");
            let head = RequestHead::decode(&head).unwrap().unwrap().0;
            let credentials = Credentials::new(&head, None);
            assert!(Question::connect(&credentials, &["cookie".into()]).is_ok(), "{octet}");
        }
    }

    #[test]
    fn several_lines_of_one_name() {
        let headers = |lines: &[&str]| {
            let asked = connect("/", lines, &["authorization", "x-role"], None);
            asked.split_once("\"headers\":").unwrap().1.trim_end_matches('}').to_string()
        };
        assert_eq!(headers(&["Authorization: a", "Authorization: b"]), "{");
        assert_eq!(headers(&["Authorization: a", "Authorization: "]), "{");
        assert_eq!(headers(&["X-Role: a", "X-Role: b"]), r#"{"x-role":"a, b""#);
    }

    #[test]
    fn the_bytes_of_a_question_about_a_topic() {
        let topic = TopicName::new("orders/42").unwrap();
        let mut identity = Identity::new("42");
        identity.info = Some(r#"{"name": "Ann"}"#.into());
        identity.token_id = Some("t-1".into());
        let head = RequestHead::decode(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap().0;
        let credentials = Credentials::new(&head, "[::1]:9".parse().ok());
        let ask = |right, identity: Option<&Identity>| {
            let question = Question::topic(&TopicQuestion { credentials, identity, right, topic: &topic }).unwrap();
            String::from_utf8(question.body).unwrap()
        };
        let expected = concat!(
            r#"{"kind":"subscribe","topic":"orders/42","identity":"42","info":{"name":"Ann"},"token_id":"t-1","#,
            r#""address":"::1"}"#
        );
        assert_eq!(ask(TopicRight::Subscribe, Some(&identity)), expected);
        let expected =
            r#"{"kind":"publish","topic":"orders/42","identity":null,"info":null,"token_id":null,"address":"::1"}"#;
        assert_eq!(ask(TopicRight::Publish, None), expected);
        assert!(ask(TopicRight::Presence, None).starts_with(r#"{"kind":"presence","#));
        assert!(ask(TopicRight::History, None).starts_with(r#"{"kind":"history","#));
        // A callback has named the identity, and a token stands behind it.
        let named = Identity::new("ann").after(identity.clone());
        let asked = ask(TopicRight::Publish, Some(&named));
        assert!(asked.contains(r#""identity":"ann","info":null,"token_id":"t-1""#), "{asked}");
        identity.info = Some("no JSON".into());
        assert!(ask(TopicRight::Publish, Some(&identity)).contains(r#""info":null"#));
    }
}

//! What a server expects and answers, checked and ready for use.

use crate::error::Error;
use crate::pattern::{Pattern, Text, Values};
use crate::payload::Template;
use crate::preset::Publishers;
use crate::tls;
use crate::units::Packing;
use md5::Digest as _;
use ring::hmac;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where connections lead, and their TLS.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<tls::Settings>,
}

/// An opening handshake's request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) host: String,
    pub(crate) path: Text,
    /// Further header lines, each with CRLF.
    pub(crate) lines: String,
}

/// The messages on connections, as the server wants them.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) packing: Packing,
    /// The steps after the opening handshake.
    pub(crate) hello: Vec<Step>,
    /// The message that subscribes to a topic; `None` if the path does.
    pub(crate) subscribe: Option<Text>,
    /// The pattern of the answer to `subscribe`; `{topic}` may stand in it.
    pub(crate) acknowledgement: Option<String>,
    /// The pattern of a delivery; `None` if the whole unit is the payload.
    pub(crate) delivery: Option<Pattern>,
    pub(crate) replies: Vec<(Pattern, Text)>,
    pub(crate) ignored: Vec<Pattern>,
    pub(crate) refusals: Vec<Pattern>,
    pub(crate) publishers: Publishers,
}

/// A step before a connection is open.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Text),
    Await(Pattern),
}

/// How messages are published.
#[derive(Clone, Debug)]
pub(crate) enum Publishing {
    Message { request: Request, text: Text },
    Post(Post),
}

/// A request of HTTP that publishes.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: String,
    pub(crate) method: String,
    pub(crate) path: Text,
    /// Further header lines, each with CRLF.
    pub(crate) lines: String,
    pub(crate) body: Text,
    pub(crate) signing: Option<PusherKeys>,
}

/// What signs requests of Pusher's HTTP API.
#[derive(Clone, Debug)]
pub(crate) struct PusherKeys {
    pub(crate) key: String,
    pub(crate) secret: String,
}

impl Step {
    /// Reads `send:TEXT` or `await:PATTERN`.
    pub(crate) fn parse(step: &str) -> Result<Step, Error> {
        match step.split_once(':') {
            Some(("send", text)) => Ok(Step::Send(Text::parse(text).for_sending("--hello")?)),
            Some(("await", pattern)) => Ok(Step::Await(Pattern::of_flag("--hello", pattern)?)),
            _ => Err(Error::Options(format!("--hello {step}: expected send:TEXT or await:PATTERN"))),
        }
    }
}

impl Protocol {
    /// Returns whether each message is a payload, and no message is answered.
    pub(crate) fn is_raw(&self) -> bool {
        self.delivery.is_none() && self.packing == Packing::Whole && self.replies.is_empty()
    }
}

impl Request {
    /// Returns an opening request (RFC 6455 4.1) with the key of the RFC's example, whose answer is known.
    pub(crate) fn bytes(&self, values: &Values<'_>) -> Vec<u8> {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
            self.path.fill_text(values),
            self.host,
            self.lines
        )
        .into_bytes()
    }
}

impl Post {
    /// Returns the request for a stream's messages, with room for a stamp.
    pub(crate) fn template(&self, values: &Values<'_>) -> Template {
        let body = self.body.fill(values);
        let path = self.path.fill_text(values);
        let head = self.head(&path, body.bytes.len());
        let payload_at = head.len() + body.payload_at.expect("the body of a request that publishes has a payload");
        let id_at = body.id_at.map(|at| head.len() + at);
        Template::of_bytes([head.as_bytes(), &body.bytes].concat(), payload_at, id_at, values.size)
    }

    /// Signs a request that [`Self::template`] made, after its stamp was written: the signature depends on the body.
    pub(crate) fn signed(&self, request: &[u8]) -> Option<Vec<u8>> {
        let keys = self.signing.as_ref()?;
        let head_end = crate::pattern::position(request, b"\r\n\r\n")? + 4;
        let (head, body) = request.split_at(head_end);
        let path = std::str::from_utf8(head).ok()?.split(' ').nth(1)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let path = keys.sign(&self.method, path, body, now);
        Some([self.head(&path, body.len()).as_bytes(), body].concat())
    }

    fn head(&self, path: &str, length: usize) -> String {
        let Post { method, host, lines, .. } = self;
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Content-Length: {length}\r\n\r\n")
    }
}

impl PusherKeys {
    /// Returns a path with the query that authenticates a request of Pusher's HTTP API.
    fn sign(&self, method: &str, path: &str, body: &[u8], now_seconds: u64) -> String {
        let digest = hex(&md5::Md5::digest(body));
        let query = format!("auth_key={}&auth_timestamp={now_seconds}&auth_version=1.0&body_md5={digest}", self.key);
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let signature = hmac::sign(&key, format!("{method}\n{path}\n{query}").as_bytes());
        format!("{path}?{query}&auth_signature={}", hex(signature.as_ref()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all text");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of Pusher's documentation of its HTTP API.
    #[test]
    fn pushers_own_example_of_a_signature() {
        let keys = PusherKeys { key: "278d425bdf160c739803".to_owned(), secret: "7ad3773142a6692b25b8".to_owned() };
        let body = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        let path = keys.sign("POST", "/apps/3/events", body, 1_353_088_179);
        assert_eq!(
            path,
            "/apps/3/events?auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
             &body_md5=ec365a775a4cd0599faeb73354201b6f\
             &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        );
    }

    #[test]
    fn steps() {
        assert!(matches!(Step::parse("send:{}").unwrap(), Step::Send(_)));
        assert!(matches!(Step::parse("await:{any}").unwrap(), Step::Await(_)));
        assert!(Step::parse("wait:x").is_err() && Step::parse("send:{any}").is_err());
    }
}

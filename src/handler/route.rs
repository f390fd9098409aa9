//! Which handler serves which path, and under which rules.

use std::{fmt, sync::Arc};

use super::Factory;
use crate::{
    auth::{Authenticator, Gate, Origins},
    hub::{TopicName, TopicNameError},
    proto::{Deliver, KeepAlive, MessageLimits, RequestPath, percent_decode},
};

/// What the parameters of a pattern stand for, by name.
pub type Parameters = Vec<(String, String)>;

/// Paths that a route serves: fixed segments, `{name}` for one segment, and `{name...}` at the end for the rest, which
/// may be empty.
///
/// ```
/// use ringhub::handler::Pattern;
/// let pattern = Pattern::new("/chat/{room}")?;
/// assert_eq!(pattern.parameters("/chat/a%20b"), Some(vec![("room".into(), "a b".into())]));
/// assert_eq!(pattern.parameters("/chat/a/b"), None);
/// # Ok::<(), ringhub::handler::PatternError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Fixed(String),
    Parameter(String),
    Rest(String),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// See [`PatternError`].
    pub fn new(text: &str) -> Result<Pattern, PatternError> {
        let error = |what: &str| PatternError { pattern: text.into(), what: what.into() };
        let Some(path) = text.strip_prefix('/') else { return Err(error("does not begin with /")) };
        if text.bytes().any(|octet| !octet.is_ascii_graphic() || b"?#".contains(&octet)) {
            return Err(error("has a character that a path has not; percent-encode it"));
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for part in path.split('/') {
            if let Some(Segment::Rest(name)) = segments.last() {
                return Err(error(&format!("has something behind {{{name}...}}, which takes the rest")));
            }
            let Some(inner) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
                if part.contains(['{', '}']) {
                    return Err(error("has a brace within a segment; a parameter is a whole one"));
                }
                // As the path of a request is read, of which an empty segment may be the last.
                let fixed = percent_decode(part).ok_or_else(|| error("is not percent-encoded UTF-8"))?;
                segments.push(Segment::Fixed(fixed));
                continue;
            };
            let (name, is_rest) = match inner.strip_suffix("...") {
                Some(name) => (name, true),
                None => (inner, false),
            };
            if name.is_empty() || !name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_') {
                return Err(error("has a parameter without a name of letters, digits and _"));
            }
            if names.contains(&name) {
                return Err(error(&format!("has {{{name}}} twice")));
            }
            names.push(name);
            segments.push(if is_rest { Segment::Rest(name.into()) } else { Segment::Parameter(name.into()) });
        }
        let last = segments.len() - 1;
        let is_possible = |(at, segment): (usize, &Segment)| match segment {
            Segment::Fixed(text) if text.is_empty() => at == last,
            Segment::Fixed(text) => ![".", ".."].contains(&&**text) && !text.chars().any(char::is_control),
            Segment::Parameter(_) | Segment::Rest(_) => true,
        };
        if !segments.iter().enumerate().all(is_possible) {
            return Err(error(
                "has a segment that no request may have: an empty one before the last, . or .., or one \
                              with a control character",
            ));
        }
        Ok(Pattern { text: text.into(), segments })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the parameters stand for in that path, percent-decoded; `None` if it does not match, or is no path (see
    /// [`PathError`](crate::proto::PathError)). One segment is never empty.
    #[must_use]
    pub fn parameters(&self, path: &str) -> Option<Parameters> {
        let path = RequestPath::parse(path).ok()?;
        self.matches(&path).then(|| self.parameters_of(&path))
    }

    /// Returns whether the pattern serves that path.
    pub(crate) fn matches(&self, path: &RequestPath) -> bool {
        let mut parts = path.segments();
        for segment in &self.segments {
            match (segment, parts.next()) {
                (Segment::Rest(_), Some(_)) => return true,
                (Segment::Fixed(fixed), Some(part)) if fixed == part => {}
                (Segment::Parameter(_), Some(part)) if !part.is_empty() => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// What the parameters stand for in a path that matches.
    pub(crate) fn parameters_of(&self, path: &RequestPath) -> Parameters {
        let mut parts = path.segments();
        let mut parameters = Vec::new();
        for segment in &self.segments {
            let part = parts.next().unwrap_or_default();
            match segment {
                Segment::Fixed(_) => {}
                Segment::Parameter(name) => parameters.push((name.clone(), part.into())),
                Segment::Rest(name) => {
                    let rest = parts.by_ref().fold(part.to_owned(), |rest, part| rest + "/" + part);
                    parameters.push((name.clone(), rest));
                }
            }
        }
        parameters
    }

    /// Is there such a parameter?
    #[must_use]
    pub fn has_parameter(&self, name: &str) -> bool {
        self.segments.iter().any(|segment| match segment {
            Segment::Fixed(_) => false,
            Segment::Parameter(other) | Segment::Rest(other) => other == name,
        })
    }

    /// The pattern of everything below a path without parameters: of `/site` that is `/site/{...}`. `None` if it has
    /// parameters.
    pub(crate) fn below(&self) -> Option<Pattern> {
        let mut segments = self.segments.clone();
        let is_fixed = segments.iter().all(|segment| matches!(segment, Segment::Fixed(_)));
        segments.retain(|segment| *segment != Segment::Fixed(String::new()));
        segments.push(Segment::Rest(String::new()));
        is_fixed.then(|| Pattern { text: self.text.clone(), segments })
    }

    /// How many segments it has.
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Is there a path that both serve, neither more precisely than the other?
    pub(crate) fn clashes_with(&self, other: &Pattern) -> bool {
        let shape = |pattern: &Pattern| -> Vec<Option<String>> {
            let segments = pattern.segments.iter().map(|segment| match segment {
                Segment::Fixed(text) => Some(text.clone()),
                Segment::Parameter(_) => None,
                // No segment has a slash.
                Segment::Rest(_) => Some("/".into()),
            });
            segments.collect()
        };
        shape(self) == shape(other)
    }

    /// What makes a pattern more precise than another: fixed before one segment before the rest, from the front.
    pub(crate) fn precision(&self) -> Vec<u8> {
        let precision = self.segments.iter().map(|segment| match segment {
            Segment::Fixed(_) => 2,
            Segment::Parameter(_) => 1,
            Segment::Rest(_) => 0,
        });
        precision.collect()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A pattern that cannot be.
///
/// ```
/// use ringhub::handler::Pattern;
/// let error = Pattern::new("chat").unwrap_err();
/// assert_eq!(error.to_string(), "the route \"chat\" does not begin with /");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    pattern: String,
    what: String,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the route {:?} {}", self.pattern, self.what)
    }
}

impl std::error::Error for PatternError {}

/// The rules of a route. What is not set is as the server has it.
///
/// ```
/// use ringhub::handler::RouteOptions;
/// let options = RouteOptions::new().protocols(["v2.chat", "v1.chat"]).max_message(64 * 1024);
/// ```
#[derive(Clone, Default)]
pub struct RouteOptions {
    pub(crate) gate: Gate,
    pub(crate) protocols: Vec<String>,
    pub(crate) needs_protocol: bool,
    pub(crate) max_message: Option<u32>,
    pub(crate) max_frame: Option<u32>,
    pub(crate) max_fragments: Option<u32>,
    pub(crate) check_utf8: Option<bool>,
    pub(crate) deliver: Deliver,
    pub(crate) frames: bool,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) ping_payload: Vec<u8>,
    pub(crate) forgets_request: bool,
    pub(crate) no_broadcast: bool,
    pub(crate) manual_backpressure: bool,
}

impl RouteOptions {
    /// Everything as the server has it.
    #[must_use]
    pub fn new() -> Self {
        RouteOptions::default()
    }

    /// Only pages of these origins may open it; others are answered 403.
    #[must_use]
    pub fn origins(mut self, origins: Origins) -> Self {
        self.gate.origins = Some(origins);
        self
    }

    /// Only whom this admits may open it.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.gate.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Sub-protocols, the best first. The first of them that a client offers is chosen; a client that offers none of
    /// them is served without one (RFC 6455 4.2.2), unless [`RouteOptions::needs_protocol`].
    #[must_use]
    pub fn protocols<'a>(mut self, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// A client that offers none of the sub-protocols is answered 400.
    #[must_use]
    pub fn needs_protocol(mut self) -> Self {
        self.needs_protocol = true;
        self
    }

    /// Largest message from a client, in bytes: 1 to 1 GiB. Beyond it: close 1009.
    #[must_use]
    pub fn max_message(mut self, bytes: u32) -> Self {
        self.max_message = Some(bytes);
        self
    }

    /// Largest frame from a client, in bytes, not above the largest message. Beyond it: close 1009.
    #[must_use]
    pub fn max_frame(mut self, bytes: u32) -> Self {
        self.max_frame = Some(bytes);
        self
    }

    /// Fragments of one message, at least 1. Beyond it: close 1009.
    #[must_use]
    pub fn max_fragments(mut self, count: u32) -> Self {
        self.max_fragments = Some(count);
        self
    }

    /// Whether text is checked to be UTF-8 (RFC 6455 8.1), which it is by default.
    #[must_use]
    pub fn check_utf8(mut self, is_checked: bool) -> Self {
        self.check_utf8 = Some(is_checked);
        self
    }

    /// Whole messages, or each fragment as it comes.
    #[must_use]
    pub fn deliver(mut self, deliver: Deliver) -> Self {
        self.deliver = deliver;
        self
    }

    /// Show every whole frame to [`Handler::on_frame`](super::Handler::on_frame) first.
    #[must_use]
    pub fn frames(mut self) -> Self {
        self.frames = true;
        self
    }

    /// When silent clients are pinged and given up, such as [`KeepAlive::seconds`].
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// What pings carry, at most 125 bytes (RFC 6455 5.5); nothing by default.
    #[must_use]
    pub fn ping_payload(mut self, payload: &[u8]) -> Self {
        self.ping_payload = payload.to_vec();
        self
    }

    /// Do not keep the opening request for [`Connection::request`](super::Connection::request): it costs some hundred
    /// bytes for each connection. The span in which the handler is called, with the connection's id and peer, is kept
    /// only for subscribers to the level of debugging then.
    #[must_use]
    pub fn forget_request(mut self) -> Self {
        self.forgets_request = true;
        self
    }

    /// Its connections are not reached by [`Hub::broadcast`](crate::server::Hub::broadcast), which saves some twenty
    /// bytes for each.
    #[must_use]
    pub fn no_broadcast(mut self) -> Self {
        self.no_broadcast = true;
        self
    }

    /// The handler looks after clients that do not read what they are sent. Without this a connection that is owed
    /// more than half of its backlog's limit is not read from until it has taken some, and a message sent to it that
    /// finds no room closes it with 1008. With this the connection is read from whatever it is owed, and such a message
    /// is only refused: [`Refused::Full`](super::Refused::Full).
    ///
    /// ```
    /// use ringhub::handler::RouteOptions;
    /// let options = RouteOptions::new().manual_backpressure();
    /// ```
    #[must_use]
    pub fn manual_backpressure(mut self) -> Self {
        self.manual_backpressure = true;
        self
    }

    /// The limits of messages, where `default` are the server's.
    pub(crate) fn message_limits(&self, default: &MessageLimits) -> MessageLimits {
        let message = self.max_message.unwrap_or(default.message_bytes_max);
        MessageLimits {
            message_bytes_max: message,
            frame_bytes_max: self.max_frame.unwrap_or(default.frame_bytes_max.min(message)),
            fragments_max: self.max_fragments.unwrap_or(default.fragments_max),
            check_utf8: self.check_utf8.unwrap_or(default.check_utf8),
            deliver: self.deliver,
        }
    }
}

impl fmt::Debug for RouteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteOptions")
            .field("gate", &self.gate)
            .field("protocols", &self.protocols)
            .finish_non_exhaustive()
    }
}

/// The topics that a route of the hub leads to: those that begin with a prefix, which may be empty. The parameter
/// `topic` of its pattern is what follows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicSpace {
    prefix: String,
}

impl TopicSpace {
    /// Of all names that begin so.
    ///
    /// # Errors
    ///
    /// A sentence about a prefix with which no topic's name begins.
    pub(crate) fn new(prefix: &str) -> Result<TopicSpace, String> {
        if prefix.is_empty() {
            return Err("it is empty, and every topic begins with that; leave it away".into());
        }
        TopicName::new(&format!("{prefix}x")).map_err(|error| format!("no topic begins with {prefix:?}: {error}"))?;
        Ok(TopicSpace { prefix: prefix.into() })
    }

    /// The topic that a value of the parameter names.
    ///
    /// # Errors
    ///
    /// See [`TopicNameError`].
    pub(crate) fn topic(&self, value: &str) -> Result<TopicName, TopicNameError> {
        if value.is_empty() {
            return Err(TopicNameError::Empty);
        }
        TopicName::new(&format!("{}{value}", self.prefix))
    }

    /// Returns whether a topic is one of these. How it was spelled, `%2F` included, makes no difference.
    pub(crate) fn include(&self, topic: &TopicName) -> bool {
        topic.as_str().starts_with(&self.prefix)
    }

    /// Returns whether all topics of another route are among these.
    pub(crate) fn include_all(&self, other: &TopicSpace) -> bool {
        other.prefix.starts_with(&self.prefix)
    }
}

/// One route of a server.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) pattern: Pattern,
    pub(crate) options: RouteOptions,
    /// Which topics of the hub it leads to, if it is one of the hub's.
    pub(crate) topics: Option<TopicSpace>,
    pub(crate) factory: Arc<dyn Factory>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("pattern", &self.pattern).field("options", &self.options).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &str, expected: Option<&[(&str, &str)]>) {
        let found = Pattern::new(pattern).unwrap().parameters(path);
        let expected = expected.map(|pairs| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect());
        assert_eq!(found, expected, "{pattern} {path}");
    }

    #[test]
    fn patterns() {
        check("/", "/", Some(&[]));
        check("/", "/a", None);
        check("/a/b", "/a/b", Some(&[]));
        check("/a/b", "/a/b/", None);
        check("/a/{x}/c", "/a/1%2F2/c", Some(&[("x", "1/2")]));
        check("/a/{x}", "/a/", None);
        check("/a/{x}", "/a/%ff", None);
        check("/a/{x}", "/a/%4", None);
        check("/a/{x}", "/b/../a/c", None);
        check("/a/", "/a/", Some(&[]));
        check("/a/", "/a", None);
        check("/t/{topic...}", "/t/a//b", None);
        check("/t/{topic...}", "/t/a%2F%2Fb/", Some(&[("topic", "a//b/")]));
        check("/a%20b/{x}", "/%61%20b/c", Some(&[("x", "c")]));
        check("/%61b/{x}", "/a%62/c", Some(&[("x", "c")]));
        check("/t/{topic...}", "/t/a/b%20c", Some(&[("topic", "a/b c")]));
        check("/t/{topic...}", "/t/", Some(&[("topic", "")]));
        check("/t/{topic...}", "/t", None);
        check("/{a}/{b}", "/1/2", Some(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn patterns_that_cannot_be() {
        for (pattern, what) in [
            ("a", "begin with /"),
            ("", "begin with /"),
            ("/a b", "percent-encode"),
            ("/a?b", "percent-encode"),
            ("/{a...}/b", "takes the rest"),
            ("/x{a}", "whole one"),
            ("/{}", "without a name"),
            ("/{a-b}", "without a name"),
            ("/{a}/{a}", "twice"),
            ("/%f", "percent-encoded"),
            ("/a//b", "no request may have"),
            ("//", "no request may have"),
            ("/a/../{b}", "no request may have"),
            ("/%2e", "no request may have"),
            ("/a%0A", "no request may have"),
        ] {
            let error = Pattern::new(pattern).expect_err(pattern).to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

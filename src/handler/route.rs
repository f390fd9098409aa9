//! Patterns of paths, and the routes that they lead to.

use std::{borrow::Cow, fmt, sync::Arc};

use super::{rules::Rules, typed::Factory};
use crate::{
    hub::{TopicName, TopicNameError},
    proto::{RequestPath, percent_decode},
};

/// The values of a pattern's parameters, by name.
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
            return Err(error("has a character that a path cannot have; percent-encode it"));
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for part in path.split('/') {
            if let Some(Segment::Rest(name)) = segments.last() {
                return Err(error(&format!("has something after {{{name}...}}, which takes the rest")));
            }
            let Some(inner) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
                if part.contains(['{', '}']) {
                    let what = "has a brace within a segment; a parameter must be a whole segment, such as /{name}";
                    return Err(error(what));
                }
                // Decoded like the path of a request. The check below allows only the last segment to be empty.
                let fixed = percent_decode(part).ok_or_else(|| error("is not percent-encoded UTF-8"))?;
                segments.push(Segment::Fixed(fixed.into_owned()));
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
                "has a segment that no request may have: an empty one that is not the last, \".\" or \"..\", or \
                              one with a control character",
            ));
        }
        Ok(Pattern { text: text.into(), segments })
    }

    /// Returns the pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the values of the parameters in a path, percent-decoded; `None` if the path does not match or is
    /// malformed (see [`PathError`](crate::proto::PathError)). The value of `{name}` is never empty; the value of
    /// `{name...}` may be.
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

    /// Returns the values of the parameters in a path that matches.
    pub(crate) fn parameters_of(&self, path: &RequestPath) -> Parameters {
        let mut parts = path.segments();
        let mut parameters = Vec::new();
        for segment in &self.segments {
            let part = parts.next().unwrap_or_default();
            match segment {
                Segment::Fixed(_) => {}
                Segment::Parameter(name) => parameters.push((name.clone(), part.into())),
                Segment::Rest(name) => {
                    parameters.push((name.clone(), rest(part, parts.by_ref()).into_owned()));
                }
            }
        }
        parameters
    }

    /// Returns the value of one parameter in a path that matches; empty text if there is no such parameter.
    pub(crate) fn parameter_of<'a>(&self, name: &str, path: &'a RequestPath) -> Cow<'a, str> {
        let mut parts = path.segments();
        for segment in &self.segments {
            let part = parts.next().unwrap_or_default();
            match segment {
                Segment::Parameter(other) if other == name => return part.into(),
                Segment::Rest(other) if other == name => return rest(part, parts),
                _ => {}
            }
        }
        Cow::default()
    }

    /// Returns whether the pattern has a parameter of that name.
    #[must_use]
    pub fn has_parameter(&self, name: &str) -> bool {
        self.segments.iter().any(|segment| match segment {
            Segment::Fixed(_) => false,
            Segment::Parameter(other) | Segment::Rest(other) => other == name,
        })
    }

    /// Returns the pattern of all paths below this fixed path: `/site` and `/site/` both give `/site/{...}`. Returns
    /// `None` if this pattern has parameters.
    pub(crate) fn below(&self) -> Option<Pattern> {
        let mut segments = self.segments.clone();
        let is_fixed = segments.iter().all(|segment| matches!(segment, Segment::Fixed(_)));
        segments.retain(|segment| *segment != Segment::Fixed(String::new()));
        segments.push(Segment::Rest(String::new()));
        is_fixed.then(|| Pattern { text: self.text.clone(), segments })
    }

    /// Returns the pattern of the one path above those of a pattern that ends with `{name...}`: `/api` for
    /// `/api/{rest...}`. Returns `None` for any other pattern, and for `/{rest...}`, which has `/` itself.
    pub(crate) fn above(&self) -> Option<Pattern> {
        let (last, others) = self.segments.split_last()?;
        let is_below = matches!(last, Segment::Rest(_)) && !others.is_empty();
        is_below.then(|| Pattern { text: self.text.clone(), segments: others.to_vec() })
    }

    /// Returns the number of segments.
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Returns whether both patterns match the same paths: they differ at most in the names of their parameters.
    pub(crate) fn clashes_with(&self, other: &Pattern) -> bool {
        // The names of parameters make no difference.
        let shape = |pattern: &Pattern| -> Vec<Segment> {
            let segments = pattern.segments.iter().map(|segment| match segment {
                Segment::Fixed(text) => Segment::Fixed(text.clone()),
                Segment::Parameter(_) => Segment::Parameter(String::new()),
                Segment::Rest(_) => Segment::Rest(String::new()),
            });
            segments.collect()
        };
        shape(self) == shape(other)
    }

    /// Returns a key that is greater for a more precise pattern: segment by segment from the front, a fixed segment is
    /// greater than `{name}`, and `{name}` is greater than `{name...}`.
    pub(crate) fn precision(&self) -> Vec<u8> {
        let precision = self.segments.iter().map(|segment| match segment {
            Segment::Fixed(_) => 2,
            Segment::Parameter(_) => 1,
            Segment::Rest(_) => 0,
        });
        precision.collect()
    }
}

/// Joins a segment and the segments after it.
fn rest<'a>(first: &'a str, others: impl Iterator<Item = &'a str>) -> Cow<'a, str> {
    others.fold(first.into(), |rest, part| rest + "/" + part)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The error of a malformed pattern.
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

/// The topics that a route of the hub leads to: those that begin with a prefix, which may be empty. The parameter
/// `topic` of the route's pattern stands for the rest of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicSpace {
    prefix: String,
}

impl TopicSpace {
    /// Returns the space of all topics whose names begin with a prefix.
    ///
    /// # Errors
    ///
    /// A sentence about the empty prefix, or about a prefix with which no topic's name begins.
    pub(crate) fn new(prefix: &str) -> Result<TopicSpace, String> {
        if prefix.is_empty() {
            return Err("an empty prefix includes every topic; leave the key out".into());
        }
        TopicName::new(&format!("{prefix}x")).map_err(|error| format!("no topic begins with {prefix:?}: {error}"))?;
        Ok(TopicSpace { prefix: prefix.into() })
    }

    /// Returns the topic whose name is the prefix, followed by this value of the parameter `topic`.
    ///
    /// # Errors
    ///
    /// See [`TopicNameError`].
    pub(crate) fn topic(&self, value: &str) -> Result<TopicName, TopicNameError> {
        if value.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if self.prefix.is_empty() { TopicName::new(value) } else { TopicName::new(&format!("{}{value}", self.prefix)) }
    }

    /// Returns whether a topic is in the space. The name is decoded already, so an escape such as `%2F` in a request's
    /// path cannot evade the check.
    pub(crate) fn include(&self, topic: &TopicName) -> bool {
        // An empty string points to no memory, and `memcmp` of glibc reads from there with an empty mask of AVX-512: a
        // fault that the CPU suppresses in some 500 ns.
        self.is_everything() || topic.as_str().starts_with(&self.prefix)
    }

    /// Returns whether every topic is in the space.
    pub(crate) fn is_everything(&self) -> bool {
        self.prefix.is_empty()
    }

    /// Returns whether all topics of another space are in this one.
    pub(crate) fn include_all(&self, other: &TopicSpace) -> bool {
        other.prefix.starts_with(&self.prefix)
    }
}

/// The parameter of a hub's pattern that names the topic.
pub(crate) const TOPIC: &str = "topic";

/// One route of a server.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) pattern: Pattern,
    pub(crate) rules: Rules,
    /// The topics that the route leads to, if it is a route of the hub.
    pub(crate) topics: Option<TopicSpace>,
    pub(crate) factory: Arc<dyn Factory>,
}

impl Route {
    /// Returns whether the route leads to a topic.
    pub(crate) fn leads_to(&self, topic: &TopicName) -> bool {
        self.topics.as_ref().is_some_and(|topics| topics.include(topic))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("pattern", &self.pattern).field("rules", &self.rules).finish()
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
    fn patterns_clash_whatever_their_parameters_are_called() {
        let clash = |a: &str, b: &str| Pattern::new(a).unwrap().clashes_with(&Pattern::new(b).unwrap());
        assert!(clash("/a/{x}", "/a/{y}") && clash("/a/{x...}", "/a/{y...}") && clash("/a/b", "/a/%62"));
        assert!(!clash("/a/{x}", "/a/{x...}") && !clash("/a/b", "/a/{x}"));
        // An escaped slash stays in its segment, so `/a/%2F` is a fixed pattern.
        assert!(!clash("/a/%2F", "/a/{x...}"));
    }

    #[test]
    fn the_path_above_a_rest_is_one() {
        let above = |pattern: &str, path: &str| {
            let above = Pattern::new(pattern).unwrap().above();
            above.map(|above| above.matches(&RequestPath::parse(path).unwrap()))
        };
        assert_eq!(above("/api/{rest...}", "/api"), Some(true));
        assert_eq!(above("/api/{rest...}", "/api/"), Some(false), "the rest may be empty, so the pattern has it");
        assert_eq!(above("/a/{b}/{rest...}", "/a/x"), Some(true));
        assert_eq!((above("/{rest...}", "/"), above("/api", "/api"), above("/{a}", "/a")), (None, None, None));
    }

    #[test]
    fn malformed_patterns() {
        for (pattern, what) in [
            ("a", "begin with /"),
            ("", "begin with /"),
            ("/a b", "percent-encode"),
            ("/a?b", "percent-encode"),
            ("/{a...}/b", "takes the rest"),
            ("/x{a}", "a whole segment, such as /{name}"),
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

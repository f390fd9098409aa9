//! The options of a request for a stream: the position that its client asks for.

use std::borrow::Cow;

use super::{
    super::resume::{digits, position},
    positions::Positions,
};
use crate::{
    auth::TOKEN_KEY,
    hub::{OrderEnd, Resume, TopicName},
    proto::{Refusal, RequestHead, query_pairs},
};

/// The options of a request for a stream.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::surface) struct StreamOptions {
    /// The position that the client asks for.
    pub(super) requested: Option<Requested>,
    /// The names in the query, which stands for no path with a topic.
    pub(super) topics: Vec<String>,
}

/// Where a request names its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::surface) enum Names {
    /// The path names the topic.
    Path,
    /// The query names the topics.
    Query,
}

/// The most topics of a stream. The id of each message has a position in each of them, and a client sends the last id
/// in its next request.
pub(super) const TOPICS_MAX: usize = 32;

/// The position that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requested {
    /// The position as the client has it, perhaps cut.
    pub(super) text: String,
    /// What it means; `None` for a position that the server does not know.
    pub(super) from: Option<Resume>,
}

impl StreamOptions {
    /// Reads the query and the header line `Last-Event-ID`, which goes before the query: a browser repeats the query
    /// whenever it connects again. A position that cannot be read is no error, since a browser would give the stream up
    /// for good: it is a position that the server does not know.
    ///
    /// # Errors
    ///
    /// 400 for a query that is malformed, or has an unknown key, or a key twice, or several positions.
    pub(in crate::surface) fn read(head: &RequestHead, names: Names) -> Result<StreamOptions, Refusal> {
        let bad = |what: String| Err(Refusal::new(400, what));
        let (mut requested, mut has_token) = (None::<(Cow<'_, str>, Requested)>, false);
        let mut topics: Vec<String> = Vec::new();
        for pair in query_pairs(head.query()) {
            let (Some(key), Some(value)) = pair else { return bad("the query is not percent-encoded UTF-8".into()) };
            let new = match &*key {
                // Read with the credentials.
                TOKEN_KEY if has_token => return bad(format!("{key:?} is given twice")),
                TOKEN_KEY => {
                    has_token = true;
                    continue;
                }
                "topic" if names == Names::Query => {
                    if topics.iter().any(|other| *other == value) {
                        return bad(format!("topic={value:?} is given twice"));
                    }
                    topics.push(value.into_owned());
                    continue;
                }
                "since" | "last_event_id" => Requested::after(&value),
                "last" => Requested { from: digits(&value).map(Resume::Last), text: short(&value) },
                _ => {
                    let topic = if names == Names::Query { "topic, " } else { "" };
                    return bad(format!(
                        "{key:?} is not known here; {topic}since, last_event_id, last and {TOKEN_KEY} are"
                    ));
                }
            };
            match requested.replace((key, new)) {
                Some((earlier, _)) if Some(&earlier) == requested.as_ref().map(|(key, _)| key) => {
                    return bad(format!("{earlier:?} is given twice"));
                }
                Some(_) => return bad("since, last_event_id and last exclude each other".into()),
                None => {}
            }
        }
        let of_header = match head.headers().only("last-event-id") {
            Ok([]) => None,
            Ok(value) => Some(Requested::after(&String::from_utf8_lossy(value))),
            Err(0) => None,
            Err(_) => Some(Requested { text: String::new(), from: None }),
        };
        let of_query = requested.map(|(_, requested)| requested).filter(|requested| !requested.text.is_empty());
        if names == Names::Query && !(1..=TOPICS_MAX).contains(&topics.len()) {
            let given = topics.len();
            return bad(format!("{given} topics are given, not 1 to {TOPICS_MAX}, each as topic=…"));
        }
        topics.sort_unstable();
        Ok(StreamOptions { requested: of_header.or(of_query), topics })
    }
}

impl Requested {
    /// Returns what the position means for each of several topics.
    pub(super) fn of_each(&self, topics: &[TopicName]) -> Vec<(TopicName, Requested)> {
        let ends = Positions::read(&self.text, topics);
        let of_topic = |(at, topic): (usize, &TopicName)| {
            let requested = match (self.from, &ends) {
                (Some(from @ (Resume::Earliest | Resume::Last(_))), _) => {
                    Requested { text: self.text.clone(), from: Some(from) }
                }
                (_, Some(ends)) => {
                    let OrderEnd { epoch, offset } = ends[at];
                    Requested { text: format!("{epoch}.{offset}"), from: Some(Resume::After { epoch, offset }) }
                }
                // The position of one topic says nothing of several.
                _ => Requested { text: self.text.clone(), from: None },
            };
            (topic.clone(), requested)
        };
        topics.iter().enumerate().map(of_topic).collect()
    }

    /// Reads a position after which the client wants to go on.
    pub(super) fn after(text: &str) -> Requested {
        let from = match text {
            "earliest" | "0" => Some(Resume::Earliest),
            _ => position(text).map(|OrderEnd { epoch, offset }| Resume::After { epoch, offset }),
        };
        Requested { text: short(text), from }
    }

    /// Returns where the subscription begins. A position that the server does not know is one of an epoch that no order
    /// has: everything that is kept follows.
    pub(super) fn resume(&self) -> Resume {
        self.from.unwrap_or(Resume::After { epoch: 0, offset: 0 })
    }

    /// Returns the position that the client has, if the server knows it.
    pub(super) fn end(&self) -> Option<OrderEnd> {
        match self.from {
            Some(Resume::After { epoch, offset }) => Some(OrderEnd { epoch, offset }),
            _ => None,
        }
    }
}

/// Returns a text that a client has sent, cut to a length that no position of the server has.
fn short(text: &str) -> String {
    cut(text, POSITION_BYTES_MAX).to_owned()
}

/// Returns the beginning of a text, with at most `most` bytes.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The most bytes of a position: a hash, and two numbers for each of the most topics.
const POSITION_BYTES_MAX: usize = 14 + 28 * TOPICS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn options(head: &str) -> Result<Option<(String, Option<Resume>)>, Refusal> {
        let head = RequestHead::decode(format!("GET {head}\r\n\r\n").as_bytes()).unwrap().expect("whole").0;
        Ok(StreamOptions::read(&head, Names::Path)?.requested.map(|Requested { text, from }| (text, from)))
    }

    #[test]
    fn positions_are_read() {
        let at = Resume::After { epoch: 17, offset: 42 };
        for (head, expected) in [
            ("/t/a HTTP/1.1", None),
            ("/t/a?since= HTTP/1.1", None),
            ("/t/a?access_token=x HTTP/1.1\r\nLast-Event-ID:", None),
            ("/t/a?since=17.42 HTTP/1.1", Some(("17.42", Some(at)))),
            ("/t/a?last_event_id=17:42 HTTP/1.1", Some(("17:42", Some(at)))),
            ("/t/a?since=1.1 HTTP/1.1\r\nLast-Event-ID: 17.42", Some(("17.42", Some(at)))),
            ("/t/a?since=earliest HTTP/1.1", Some(("earliest", Some(Resume::Earliest)))),
            ("/t/a?last=7 HTTP/1.1", Some(("7", Some(Resume::Last(7))))),
            ("/t/a?last=many HTTP/1.1", Some(("many", None))),
            ("/t/a HTTP/1.1\r\nLast-Event-ID: \u{e4}", Some(("\u{e4}", None))),
            ("/t/a HTTP/1.1\r\nLast-Event-ID: 1.1\r\nLast-Event-ID: 1.1", Some(("", None))),
        ] {
            let expected = expected.map(|(text, from)| (text.to_owned(), from));
            assert_eq!(options(head), Ok(expected), "{head}");
        }
        let long = format!("/t/a HTTP/1.1\r\nLast-Event-ID: {}", "9".repeat(5_000));
        assert!(options(&long).unwrap().is_some_and(|(text, from)| text.len() <= POSITION_BYTES_MAX && from.is_none()));
        for (query, expected) in [
            ("since=1.1&since=1.1", "\"since\" is given twice"),
            ("access_token=x&access_token=x", "\"access_token\" is given twice"),
            ("since=1.1&last=2", "since, last_event_id and last exclude each other"),
            ("echo=true", "\"echo\" is not known here; since, last_event_id, last and access_token are"),
            ("since=%", "the query is not percent-encoded UTF-8"),
        ] {
            let refusal = options(&format!("/t/a?{query} HTTP/1.1")).unwrap_err();
            assert_eq!((refusal.status, &*refusal.error), (400, expected), "{query}");
        }
    }

    #[test]
    fn topics_are_named_by_the_query() {
        let of = |query: &str| {
            let head = format!("GET /events?{query} HTTP/1.1\r\n\r\n");
            let head = RequestHead::decode(head.as_bytes()).unwrap().expect("whole").0;
            StreamOptions::read(&head, Names::Query).map(|options| options.topics).map_err(|refusal| refusal.error)
        };
        assert_eq!(of("topic=b&topic=a%2Fc&since=earliest"), Ok(vec!["a/c".to_owned(), "b".to_owned()]));
        assert_eq!(of("topic=a&topic=a"), Err("topic=\"a\" is given twice".to_owned()));
        assert_eq!(of(""), Err("0 topics are given, not 1 to 32, each as topic=\u{2026}".to_owned()));
        let many = |count: usize| (0..count).map(|number| format!("topic={number}&")).collect::<String>();
        let many = |count: usize| of(many(count).trim_end_matches('&')).map(|topics| topics.len());
        assert_eq!(many(TOPICS_MAX), Ok(TOPICS_MAX));
        assert!(many(TOPICS_MAX + 1).unwrap_err().starts_with("33 topics are given"));
        assert!(of("topic=a&echo=1").unwrap_err().ends_with("topic, since, last_event_id, last and access_token are"));
    }
}

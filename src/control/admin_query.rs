//! Reads the queries and bodies of requests to the administration.

use serde::Deserialize;

use crate::{
    auth::{TOKEN_KEY, unix_seconds},
    hub::{ConnectionFilter, ConnectionId, TopicCursor, TopicName, Who},
    proto::{CloseCode, CloseFrame, Refusal, query_pairs},
};

/// The pairs of a query, each key once.
pub(super) struct AdminQuery(Vec<(String, String)>);

impl AdminQuery {
    /// Reads a query whose keys are among these.
    ///
    /// # Errors
    ///
    /// 400 for a query that is malformed, or has an unknown key or a key twice.
    pub(super) fn read(query: Option<&str>, known: &[&str]) -> Result<AdminQuery, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query_pairs(query) {
            let (Some(key), Some(value)) = pair else { return Err(bad("the query is not percent-encoded UTF-8")) };
            if key == TOKEN_KEY {
                return Err(bad("the token of the administration goes into the header Authorization, not the query"));
            }
            if !known.contains(&&*key) {
                let known = if known.is_empty() { "none is".into() } else { format!("{} are", known.join(", ")) };
                return Err(bad(&format!("{key:?} is not known here; {known}")));
            }
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(bad(&format!("{key:?} is given twice")));
            }
            pairs.push((key.into_owned(), value.into_owned()));
        }
        Ok(AdminQuery(pairs))
    }

    /// Returns the value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == key).map(|(_, value)| &**value)
    }

    /// Returns which connections are wanted.
    ///
    /// # Errors
    ///
    /// 400 for an empty identity or a malformed topic.
    pub(super) fn filter(&self) -> Result<ConnectionFilter, Refusal> {
        let mut filter = ConnectionFilter::default();
        if let Some(name) = self.get("identity") {
            filter = filter.identity(not_empty("identity", name)?);
        }
        if let Some(topic) = self.get("topic") {
            filter = filter.topic(TopicName::new(topic).map_err(|error| bad(&error.to_string()))?);
        }
        Ok(filter)
    }

    /// Returns the most rows of a page.
    ///
    /// # Errors
    ///
    /// 400 for anything but a number from 1 to [`LIMIT_MAX`].
    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        let Some(text) = self.get("limit") else { return Ok(LIMIT_DEFAULT) };
        let limit = digits(text).filter(|limit| (1..=LIMIT_MAX as u64).contains(limit));
        limit
            .map(|limit| limit as usize)
            .ok_or_else(|| bad(&format!("limit is {text:?}, not a number from 1 to {LIMIT_MAX}")))
    }

    /// Returns the place after which a page of connections begins.
    ///
    /// # Errors
    ///
    /// 400 for anything but a `next` of an earlier page, or an id.
    pub(super) fn after_connection(&self) -> Result<Option<ConnectionId>, Refusal> {
        let read = |text: &str| text.parse().map_err(|error| bad(&format!("after is {text:?}: {error}")));
        self.get("after").map(read).transpose()
    }

    /// Returns the place after which a page of topics begins.
    ///
    /// # Errors
    ///
    /// 400 for anything but a `next` of an earlier page.
    pub(super) fn after_topic(&self) -> Result<Option<TopicCursor>, Refusal> {
        let read = |text: &str| {
            TopicCursor::parse(text).ok_or_else(|| bad(&format!("after is {text:?}, not the next of an earlier page")))
        };
        self.get("after").map(read).transpose()
    }

    /// Returns the revocation after which a page of revocations begins.
    ///
    /// # Errors
    ///
    /// 400 for anything but a `next` of an earlier page.
    pub(super) fn after_revocation(&self) -> Result<Option<Who>, Refusal> {
        let read = |text: &str| match text.split_once(':') {
            Some(("identity", name)) => Ok(Who::identity(name)),
            Some(("token_id", id)) => Ok(Who::token(id)),
            _ => Err(bad(&format!("after is {text:?}, not the next of an earlier page"))),
        };
        self.get("after").map(read).transpose()
    }

    /// Returns the owner that the query names.
    ///
    /// # Errors
    ///
    /// 400 unless the query has exactly one of `identity` and `token_id`.
    pub(super) fn who(&self) -> Result<Who, Refusal> {
        who(self.get("identity"), self.get("token_id"))
    }

    /// Returns the close code and the reason for connections that are closed.
    ///
    /// # Errors
    ///
    /// 400 for a code that must not be sent, or a reason that is too long.
    pub(super) fn close(&self, reason: &str) -> Result<(CloseCode, String), Refusal> {
        let number = |text: &str| {
            let code = digits(text).and_then(|code| u16::try_from(code).ok());
            code.ok_or_else(|| bad(&format!("code is {text:?}, not a close code such as 1008 or 4000")))
        };
        close(self.get("code").map(number).transpose()?, self.get("reason"), reason)
    }
}

/// The body of a request that revokes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationBody {
    identity: Option<String>,
    token_id: Option<String>,
    until: Option<u64>,
    r#for: Option<u64>,
    code: Option<u16>,
    reason: Option<String>,
}

/// A revocation that a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewRevocation {
    pub(super) who: Who,
    /// The end, in seconds of Unix time.
    pub(super) until: u64,
    pub(super) code: CloseCode,
    pub(super) reason: String,
}

impl NewRevocation {
    /// Reads the body of a request.
    ///
    /// # Errors
    ///
    /// 400 for a body that is not JSON, lacks something, or has something twice or too much.
    pub(super) fn read(body: &[u8]) -> Result<NewRevocation, Refusal> {
        let body: RevocationBody =
            serde_json::from_slice(body).map_err(|error| bad(&format!("the body is no revocation: {error}")))?;
        let RevocationBody { identity, token_id, until, r#for, code, reason } = body;
        let who = who(identity.as_deref(), token_id.as_deref())?;
        let until = match (until, r#for) {
            (Some(until), None) if until <= unix_seconds() => {
                return Err(bad(&format!("until is {until}, which is over")));
            }
            (Some(until), None) => until,
            (None, Some(0)) => return Err(bad("for is 0 seconds, which is over at once")),
            (None, Some(seconds)) => unix_seconds().saturating_add(seconds),
            _ => return Err(bad("exactly one of until (seconds of Unix time) and for (seconds) is needed")),
        };
        let (code, reason) = close(code, reason.as_deref(), "revoked")?;
        Ok(NewRevocation { who, until, code, reason })
    }
}

fn who(identity: Option<&str>, token_id: Option<&str>) -> Result<Who, Refusal> {
    match (identity, token_id) {
        (Some(name), None) => Ok(Who::identity(not_empty("identity", name)?)),
        (None, Some(id)) => Ok(Who::token(not_empty("token_id", id)?)),
        _ => Err(bad("exactly one of identity and token_id is needed")),
    }
}

fn close(code: Option<u16>, reason: Option<&str>, default: &str) -> Result<(CloseCode, String), Refusal> {
    let (code, reason) = (code.unwrap_or(CloseCode::POLICY_VIOLATION.0), reason.unwrap_or(default));
    CloseFrame::new(code, reason).map_err(|error| bad(&error.to_string()))?;
    Ok((CloseCode(code), reason.to_owned()))
}

fn not_empty<'a>(key: &str, value: &'a str) -> Result<&'a str, Refusal> {
    if value.is_empty() { Err(bad(&format!("{key} is empty"))) } else { Ok(value) }
}

/// Reads a number that consists of digits: `parse` would also accept a sign.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?
}

fn bad(what: &str) -> Refusal {
    Refusal::new(400, what)
}

/// The rows of a page, unless the request says otherwise.
const LIMIT_DEFAULT: usize = 100;

/// The most rows of a page.
pub(super) const LIMIT_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &[&str] = &["identity", "topic", "limit", "after", "code", "reason", "token_id"];

    fn query(text: &str) -> Result<AdminQuery, String> {
        AdminQuery::read(Some(text), KNOWN).map_err(|refusal| refusal.error)
    }

    #[test]
    fn queries_that_are_refused() {
        let check = |text: &str, expected: &str| {
            let all = |query: AdminQuery| -> Result<(), Refusal> {
                query.filter()?;
                query.limit()?;
                query.after_connection()?;
                query.close("")?;
                Ok(())
            };
            let outcome = query(text).and_then(|query| all(query).map_err(|refusal| refusal.error));
            assert_eq!(outcome, Err(expected.into()), "{text}");
        };
        check("x=1", "\"x\" is not known here; identity, topic, limit, after, code, reason, token_id are");
        check("limit=1&limit=1", "\"limit\" is given twice");
        check("limit=1&%6cimit=1", "\"limit\" is given twice");
        check("identity=%ff", "the query is not percent-encoded UTF-8");
        check("access_token=x", "the token of the administration goes into the header Authorization, not the query");
        check("identity=", "identity is empty");
        check("topic=", "the topic's name is empty");
        check("topic=%0a", "the topic's name has a control character");
        for limit in ["", "0", "1001", "-1", "+1", "1e2", "99999999999999999999"] {
            check(&format!("limit={limit}"), &format!("limit is {limit:?}, not a number from 1 to 1000"));
        }
        let id = "a connection's id is three numbers with dots between them, such as 0.17.2";
        check("after=1.2", &format!("after is \"1.2\": {id}"));
        check("code=70000", "code is \"70000\", not a close code such as 1008 or 4000");
        check("code=x", "code is \"x\", not a close code such as 1008 or 4000");
        check("code=1006", "close code 1006 must not be sent");
        check(&format!("reason={}", "x".repeat(124)), "a close reason of 124 bytes is longer than 123");
        let none = AdminQuery::read(Some("x=1"), &[]).err().map(|refusal| refusal.error);
        assert_eq!(none.as_deref(), Some("\"x\" is not known here; none is"));
    }

    #[test]
    fn queries_that_are_read() {
        let read = query("identity=ann%20b&topic=a/b&limit=7&after=1.2.3&code=4000&reason=out").unwrap();
        let expected = ConnectionFilter::default().identity("ann b").topic(TopicName::new("a/b").unwrap());
        assert_eq!(read.filter(), Ok(expected));
        assert_eq!((read.limit(), read.after_connection()), (Ok(7), Ok(Some(ConnectionId::new(1, 2, 3)))));
        assert_eq!(read.close("x"), Ok((CloseCode(4000), "out".into())));
        assert_eq!(read.who(), Ok(Who::identity("ann b")));
        let empty = query("").unwrap();
        assert_eq!((empty.limit(), empty.close("x")), (Ok(100), Ok((CloseCode::POLICY_VIOLATION, "x".into()))));
        assert!(empty.who().is_err() && query("identity=a&token_id=b").unwrap().who().is_err());
        assert_eq!(query("after=identity:a:b").unwrap().after_revocation(), Ok(Some(Who::identity("a:b"))));
        assert_eq!(query("after=token_id:t").unwrap().after_revocation(), Ok(Some(Who::token("t"))));
        assert!(query("after=a").unwrap().after_revocation().is_err());
    }

    #[test]
    fn bodies() {
        let check = |body: &str, expected: &str| {
            let error = NewRevocation::read(body.as_bytes()).unwrap_err().error;
            assert!(error.contains(expected), "{body}: {error}");
        };
        check("", "the body is no revocation: EOF");
        check("[]", "the body is no revocation: ");
        check(r#"{"identity":"a"}"#, "exactly one of until");
        check(r#"{"identity":"a","until":1,"for":1}"#, "exactly one of until");
        check(r#"{"identity":"a","until":1}"#, "until is 1, which is over");
        check(r#"{"identity":"a","for":0}"#, "for is 0 seconds");
        check(r#"{"identity":"a","for":-1}"#, "invalid value");
        check(r#"{"identity":"a","for":1.5}"#, "invalid type");
        check(r#"{"for":5}"#, "exactly one of identity and token_id");
        check(r#"{"identity":"a","token_id":"b","for":5}"#, "exactly one of identity and token_id");
        check(r#"{"identity":"","for":5}"#, "identity is empty");
        check(r#"{"identity":"a","for":5,"x":1}"#, "unknown field `x`");
        check(r#"{"identity":"a","for":5,"code":1005}"#, "close code 1005 must not be sent");
        let read = NewRevocation::read(br#"{"token_id":"t","for":60,"code":4001,"reason":"bye"}"#).unwrap();
        assert!((unix_seconds() + 55..=unix_seconds() + 60).contains(&read.until), "{read:?}");
        assert_eq!((read.who, read.code, &*read.reason), (Who::token("t"), CloseCode(4001), "bye"));
        let endless = NewRevocation::read(format!(r#"{{"identity":"a","for":{}}}"#, u64::MAX).as_bytes()).unwrap();
        assert_eq!((endless.until, endless.code), (u64::MAX, CloseCode::POLICY_VIOLATION));
    }

    proptest! {
        /// Any text is read or refused with 400.
        #[test]
        fn any_query_is_read_or_refused(text in "[a-z=&%0-9._:+é-]{0,60}", body in ".{0,60}") {
            match AdminQuery::read(Some(&text), KNOWN) {
                Ok(query) => {
                    let outcomes = [
                        query.filter().err(), query.limit().err(), query.after_connection().err(),
                        query.after_revocation().err(), query.who().err(), query.close("").err(),
                    ];
                    prop_assert!(outcomes.iter().flatten().all(|refusal| refusal.status == 400));
                }
                Err(refusal) => prop_assert_eq!(refusal.status, 400),
            }
            if let Err(refusal) = NewRevocation::read(body.as_bytes()) {
                prop_assert_eq!(refusal.status, 400);
            }
        }
    }
}

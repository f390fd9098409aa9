//! The answers of the application, in JSON.
//!
//! A field that is not known is an error, so that a misspelt `grants` does not give all topics to everybody. No error
//! shows a value: an answer may have data of a client.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::super::{Grants, TopicRight};
use crate::{
    hub::TopicPattern,
    outbound::{OutboundAnswer, OutboundError},
};

/// The answer of the application to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// For how long the answer may be kept.
    pub(super) cache_for: Duration,
}

/// What the application has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow(Allowed),
    Deny { status: u16, reason: String },
}

/// What the application says of somebody whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Allowed {
    pub(super) identity: Option<String>,
    pub(super) info: Option<Arc<str>>,
    pub(super) grants: Option<Arc<Grants>>,
    pub(super) expires_in: Option<Duration>,
}

/// The reason for which there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The application has not answered in time.
    Timeout(String),
    /// The application cannot be reached.
    Down(String),
    /// The application says that it has failed, which may be due to this question.
    Failed(String),
    /// The hub has not asked: it makes as many requests as it may, or does not serve.
    NotAsked(String),
    /// The application's answer is none that docs/callbacks.md has.
    Malformed(String),
}

/// What a question is about, which decides the fields of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Request,
    Topic,
}

/// Reads the outcome of a question. 401 and 403 deny, whatever the body is.
pub(super) fn read(subject: Subject, outcome: Result<OutboundAnswer, OutboundError>) -> Result<Answer, Fault> {
    let answer = outcome.map_err(|error| match error {
        OutboundError::Timeout(_) => Fault::Timeout(error.to_string()),
        OutboundError::TooLarge(_) => Fault::Malformed(error.to_string()),
        OutboundError::Limit | OutboundError::NotServing => Fault::NotAsked(error.to_string()),
        _ => Fault::Down(error.to_string()),
    })?;
    match answer.status {
        200 => {}
        status @ (401 | 403) => return Ok(Answer { verdict: denial(status, None), cache_for: Duration::ZERO }),
        status @ (408 | 429 | 500..=599) => return Err(Fault::Failed(format!("it has answered {status}"))),
        status @ 300..=399 => return Err(Fault::Malformed(format!("it has answered {status}, a redirect"))),
        status => return Err(Fault::Malformed(format!("it has answered {status}, and not 200"))),
    }
    let kind = answer.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Fault::Malformed("the answer's Content-Type is not application/json".into()));
    }
    parse(subject, &answer.body).map_err(Fault::Malformed)
}

/// Reads the body of an answer.
fn parse(subject: Subject, body: &[u8]) -> Result<Answer, String> {
    let value = serde_json::from_slice(body)
        .map_err(|error| format!("the answer is no JSON from line {}, column {} on", error.line(), error.column()))?;
    let Value::Object(mut fields) = value else { return Err("the answer is no JSON object".into()) };
    let Some(Value::Bool(is_allowed)) = fields.remove("allow") else {
        return Err("the answer has no \"allow\" that is true or false".into());
    };
    let cache_for = seconds(&mut fields, "cache_for", 0)?.unwrap_or_default();
    let verdict = match (is_allowed, subject) {
        (false, _) => {
            let status = match take(&mut fields, "status") {
                None => 403,
                Some(status) => (status.as_u64().filter(|status| (400..=599).contains(status)))
                    .ok_or("\"status\" is no number from 400 to 599")? as u16,
            };
            denial(status, text(&mut fields, "reason", REASON_BYTES_MAX)?)
        }
        (true, Subject::Topic) => Verdict::Allow(Allowed::default()),
        (true, Subject::Request) => Verdict::Allow(Allowed {
            identity: Some(
                text(&mut fields, "identity", IDENTITY_BYTES_MAX)?
                    .filter(|identity| !identity.is_empty())
                    .ok_or("an answer that allows has no \"identity\", a text that is not empty")?,
            ),
            info: info(&mut fields)?,
            grants: grants(&mut fields)?,
            expires_in: seconds(&mut fields, "expires_in", 1)?,
        }),
    };
    match fields.keys().next() {
        None => Ok(Answer { verdict, cache_for }),
        Some(name) => {
            let shown: String = name.chars().take(NAME_CHARACTERS_SHOWN).collect();
            Err(format!("an answer with \"allow\": {is_allowed} to this question has no field {shown:?}"))
        }
    }
}

fn denial(status: u16, reason: Option<String>) -> Verdict {
    Verdict::Deny { status, reason: reason.unwrap_or_else(|| "the application does not allow this".into()) }
}

/// Takes the value of a field; `null` stands for no value.
fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.remove(name).filter(|value| !value.is_null())
}

fn text(fields: &mut Map<String, Value>, name: &str, bytes_max: usize) -> Result<Option<String>, String> {
    match take(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= bytes_max => Ok(Some(text)),
        Some(Value::String(_)) => Err(format!("{name:?} has more than {bytes_max} bytes")),
        Some(_) => Err(format!("{name:?} is no text")),
    }
}

fn seconds(fields: &mut Map<String, Value>, name: &str, least: u64) -> Result<Option<Duration>, String> {
    let Some(value) = take(fields, name) else { return Ok(None) };
    let seconds = value.as_u64().filter(|seconds| (least..=SECONDS_MAX).contains(seconds));
    let seconds = seconds.map(Duration::from_secs);
    seconds.map(Some).ok_or_else(|| format!("{name:?} is no whole number of seconds from {least} to {SECONDS_MAX}"))
}

fn info(fields: &mut Map<String, Value>) -> Result<Option<Arc<str>>, String> {
    let Some(value) = take(fields, "info") else { return Ok(None) };
    let text = value.to_string();
    if text.len() > INFO_BYTES_MAX {
        return Err(format!("\"info\" has more than {INFO_BYTES_MAX} bytes of JSON"));
    }
    Ok(Some(text.into()))
}

fn grants(fields: &mut Map<String, Value>) -> Result<Option<Arc<Grants>>, String> {
    let Some(value) = take(fields, "grants") else { return Ok(None) };
    let Value::Object(mut lists) = value else { return Err("\"grants\" is no JSON object".into()) };
    let (mut grants, mut count) = (Grants::default(), 0);
    for (name, right) in RIGHTS {
        let Some(list) = take(&mut lists, name) else { continue };
        let Value::Array(list) = list else { return Err(format!("\"grants\" has no list as {name:?}")) };
        count += list.len();
        let patterns = list.iter().enumerate().map(|(at, pattern)| {
            let pattern = pattern.as_str().and_then(|pattern| pattern.parse::<TopicPattern>().ok());
            pattern.ok_or_else(|| format!("{name:?} of \"grants\" has no pattern of topics at index {at}"))
        });
        grants = grants.allow(right, patterns.collect::<Result<Vec<_>, _>>()?);
    }
    if let Some(name) = lists.keys().next() {
        let shown: String = name.chars().take(NAME_CHARACTERS_SHOWN).collect();
        return Err(format!("\"grants\" has no field {shown:?}"));
    }
    if count > PATTERNS_MAX {
        return Err(format!("\"grants\" has more than {PATTERNS_MAX} patterns"));
    }
    Ok(Some(Arc::new(grants)))
}

/// The fields of `grants`.
pub(super) const RIGHTS: [(&str, TopicRight); 4] = [
    ("subscribe", TopicRight::Subscribe),
    ("publish", TopicRight::Publish),
    ("presence", TopicRight::Presence),
    ("history", TopicRight::History),
];

const IDENTITY_BYTES_MAX: usize = 256;
const REASON_BYTES_MAX: usize = 256;
const INFO_BYTES_MAX: usize = 4 << 10;
const PATTERNS_MAX: usize = 1_000;
const NAME_CHARACTERS_SHOWN: usize = 32;

/// 366 days.
const SECONDS_MAX: u64 = 366 * 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::TopicName;

    fn of_request(body: &str) -> Result<Answer, String> {
        parse(Subject::Request, body.as_bytes())
    }

    #[test]
    fn somebody_is_let_in() {
        let answer = of_request(concat!(
            r#"{"allow":true,"identity":"42","info":{"name":"Ann"},"expires_in":60,"cache_for":30,"#,
            r#""grants":{"subscribe":["orders/42","news/*"],"publish":[],"presence":null,"history":["**"]}}"#
        ));
        let answer = answer.unwrap();
        assert_eq!(answer.cache_for, Duration::from_secs(30));
        let Verdict::Allow(allowed) = answer.verdict else { panic!() };
        assert_eq!(allowed.identity.as_deref(), Some("42"));
        assert_eq!(allowed.info.as_deref(), Some(r#"{"name":"Ann"}"#));
        assert_eq!(allowed.expires_in, Some(Duration::from_secs(60)));
        let (grants, topic) = (allowed.grants.unwrap(), TopicName::new("orders/42").unwrap());
        assert!(grants.has(TopicRight::Subscribe, &topic) && grants.has(TopicRight::History, &topic));
        assert!(!grants.has(TopicRight::Publish, &topic) && !grants.has(TopicRight::Presence, &topic));
        let least = of_request(r#"{"allow":true,"identity":"42"}"#).unwrap();
        let expected = Allowed { identity: Some("42".into()), ..Allowed::default() };
        assert_eq!(least, Answer { verdict: Verdict::Allow(expected), cache_for: Duration::ZERO });
    }

    #[test]
    fn somebody_is_kept_out() {
        let check = |body: &str, status: u16, reason: &str, seconds: u64| {
            let verdict = Verdict::Deny { status, reason: reason.into() };
            let expected = Answer { verdict, cache_for: Duration::from_secs(seconds) };
            assert_eq!(of_request(body), Ok(expected.clone()), "{body}");
            assert_eq!(parse(Subject::Topic, body.as_bytes()), Ok(expected), "{body}");
        };
        check(r#"{"allow":false}"#, 403, "the application does not allow this", 0);
        check(r#"{"allow":false,"status":402,"reason":"pay first","cache_for":5}"#, 402, "pay first", 5);
    }

    #[test]
    fn answers_about_topics() {
        let parse = |body: &str| parse(Subject::Topic, body.as_bytes());
        let expected = Answer { verdict: Verdict::Allow(Allowed::default()), cache_for: Duration::from_secs(9) };
        assert_eq!(parse(r#"{"allow":true,"cache_for":9}"#), Ok(expected));
        assert!(parse(r#"{"allow":true,"identity":"42"}"#).unwrap_err().contains("has no field \"identity\""));
    }

    #[test]
    fn what_is_no_answer() {
        let check = |body: &str, expected: &str| {
            let error = of_request(body).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hush"), "{body}: {error}");
        };
        check("", "no JSON from line 1, column 0");
        check("{\"allow\":true,", "no JSON from line 1");
        check("[]", "no JSON object");
        check("{}", "no \"allow\"");
        check(r#"{"allow":"true","identity":"hush"}"#, "no \"allow\"");
        check(r#"{"allow":true}"#, "no \"identity\"");
        check(r#"{"allow":true,"identity":""}"#, "no \"identity\"");
        check(r#"{"allow":true,"identity":42}"#, "\"identity\" is no text");
        check(&format!(r#"{{"allow":true,"identity":"{}"}}"#, "x".repeat(257)), "more than 256 bytes");
        check(r#"{"allow":true,"identity":"hush","grant":{}}"#, "has no field \"grant\"");
        check(r#"{"allow":true,"identity":"hush","status":403}"#, "has no field \"status\"");
        check(r#"{"allow":false,"identity":"hush"}"#, "has no field \"identity\"");
        check(r#"{"allow":false,"status":200}"#, "\"status\"");
        check(r#"{"allow":false,"status":600}"#, "\"status\"");
        check(r#"{"allow":false,"reason":["hush"]}"#, "\"reason\" is no text");
        check(r#"{"allow":true,"identity":"a","grants":[]}"#, "\"grants\" is no JSON object");
        check(r#"{"allow":true,"identity":"a","grants":{"subscribe":"**"}}"#, "no list as \"subscribe\"");
        check(r#"{"allow":true,"identity":"a","grants":{"subscribe":["a","hush/*/b"]}}"#, "at index 1");
        check(r#"{"allow":true,"identity":"a","grants":{"publish":[1]}}"#, "at index 0");
        check(r#"{"allow":true,"identity":"a","grants":{"subscribes":[]}}"#, "no field \"subscribes\"");
        let many = vec!["\"a\""; 1_001].join(",");
        check(&format!(r#"{{"allow":true,"identity":"a","grants":{{"publish":[{many}]}}}}"#), "more than 1000 pat");
        check(&format!(r#"{{"allow":true,"identity":"a","info":"{}"}}"#, "x".repeat(5_000)), "more than 4096 bytes");
        for bad in ["0", "-1", "1.5", "\"9\"", "31622401"] {
            check(&format!(r#"{{"allow":true,"identity":"a","expires_in":{bad}}}"#), "\"expires_in\"");
        }
        check(r#"{"allow":false,"cache_for":-1}"#, "\"cache_for\"");
    }
}

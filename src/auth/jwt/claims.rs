//! The claims of a token whose signature is right, and the identity that they make.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use super::{
    super::{Grants, Identity, TopicRight},
    fault::Fault,
    token::Object,
};
use crate::hub::TopicPattern;

/// The names of the claims that make an identity.
#[derive(Debug, Clone, Hash)]
pub(super) struct ClaimNames {
    /// The claim that is the identity's name.
    pub(super) subject: String,
    /// The claim that others may see.
    pub(super) info: String,
    /// The claim with the topics of each right.
    pub(super) topics: [(TopicRight, String); 4],
}

impl Default for ClaimNames {
    fn default() -> Self {
        let topics = [
            (TopicRight::Subscribe, "subscribe"),
            (TopicRight::Publish, "publish"),
            (TopicRight::Presence, "presence"),
            (TopicRight::History, "history"),
        ];
        let topics = topics.map(|(right, name)| (right, name.into()));
        ClaimNames { subject: "sub".into(), info: "info".into(), topics }
    }
}

/// The topics of a token with none of the claims for topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BareTokens {
    /// The token admits to no topic.
    #[default]
    None,
    /// The token admits to every topic that its route and the rules of the topic leave to everybody who is admitted.
    All,
}

/// Returns the identity that the claims of a token make.
///
/// # Errors
///
/// The first claim that is malformed, or that is too large.
pub(super) fn identity(
    claims: &Object,
    names: &ClaimNames,
    bare: BareTokens,
    leeway: Duration,
) -> Result<Identity, Fault> {
    let mut identity = Identity::new(subject(claims, &names.subject)?);
    identity.info = info(claims, &names.info)?;
    identity.grants = grants(claims, names, bare)?.map(Arc::new);
    identity.expires = expires(claims, leeway)?;
    identity.token_id = match claims.text("jti")? {
        Some(id) if id.len() > NAME_BYTES_MAX => return Err(too_long("jti", NAME_BYTES_MAX)),
        id => id.map(Arc::from),
    };
    Ok(identity)
}

/// Returns the name of the identity. A whole number is a name too: many applications number their users.
fn subject(claims: &Object, name: &str) -> Result<String, Fault> {
    let subject = match claims.0.get(name) {
        None | Some(Value::Null) => {
            return Err(Fault::of(format!("its claim {name} is missing, which names its owner")));
        }
        Some(Value::String(subject)) => subject.clone(),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        Some(_) => return Err(Fault::of(format!("its claim {name} is neither text nor a whole number"))),
    };
    if subject.is_empty() {
        return Err(Fault::of(format!("its claim {name} is empty")));
    }
    if subject.len() > NAME_BYTES_MAX {
        return Err(too_long(name, NAME_BYTES_MAX));
    }
    Ok(subject)
}

fn info(claims: &Object, name: &str) -> Result<Option<Arc<str>>, Fault> {
    let Some(info) = claims.0.get(name).filter(|info| !info.is_null()) else { return Ok(None) };
    let text = info.to_string();
    if text.len() > INFO_BYTES_MAX {
        return Err(too_long(name, INFO_BYTES_MAX));
    }
    Ok(Some(text.into()))
}

/// Returns the topics that the claims name. A claim that is missing names none.
fn grants(claims: &Object, names: &ClaimNames, bare: BareTokens) -> Result<Option<Grants>, Fault> {
    let mut grants = Grants::default();
    let mut count = 0;
    let mut is_bare = true;
    for (right, name) in &names.topics {
        let patterns = match claims.0.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(patterns)) => patterns,
            Some(_) => return Err(Fault::of(format!("its claim {name} is no list of topics"))),
        };
        is_bare = false;
        count += patterns.len();
        if count > PATTERNS_MAX {
            return Err(Fault::of(format!("it names more than {PATTERNS_MAX} patterns of topics")));
        }
        let mut read = Vec::with_capacity(patterns.len());
        for (at, pattern) in patterns.iter().enumerate() {
            let pattern = pattern.as_str().and_then(|text| text.parse::<TopicPattern>().ok());
            let what = || Fault::of(format!("item {} of its claim {name} is no pattern of topics", at + 1));
            read.push(pattern.ok_or_else(what)?);
        }
        grants = grants.allow(*right, read);
    }
    Ok(if is_bare && bare == BareTokens::All { None } else { Some(grants) })
}

/// Returns the time from which the token is not accepted any more.
fn expires(claims: &Object, leeway: Duration) -> Result<Option<SystemTime>, Fault> {
    let Some(exp) = claims.0.get("exp").filter(|exp| !exp.is_null()) else { return Ok(None) };
    // The check of the signature's crate has taken any number that is not negative.
    let seconds = exp.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let expires = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(seconds)?.checked_add(leeway));
    expires.map(Some).ok_or(Fault::of("its claim exp is no time"))
}

fn too_long(name: &str, max: usize) -> Fault {
    Fault::of(format!("its claim {name} has more than {max} bytes"))
}

/// The most bytes of a name of an identity, and of the id of a token.
pub(super) const NAME_BYTES_MAX: usize = 256;

/// The most bytes of what others may see of an identity, as JSON. Each connection of the identity keeps it.
pub(super) const INFO_BYTES_MAX: usize = 1 << 10;

/// The most patterns of topics in a token, over all its claims.
pub(super) const PATTERNS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(claims: &str, bare: BareTokens) -> Result<Identity, Fault> {
        identity(&serde_json::from_str(claims).unwrap(), &ClaimNames::default(), bare, Duration::from_secs(5))
    }

    #[test]
    fn claims_make_an_identity() {
        let claims = r#"{"sub": "42", "info": {"name": "Ann", "age": 7}, "subscribe": ["news/*"], "history": [],
            "publish": ["a", "b/**"], "exp": 2000000000.5, "jti": "t1", "other": 1}"#;
        let found = read(claims, BareTokens::None).unwrap();
        assert_eq!(found.name, "42");
        assert_eq!(found.info.as_deref(), Some(r#"{"age":7,"name":"Ann"}"#));
        assert_eq!(found.expires, Some(UNIX_EPOCH + Duration::from_millis(2_000_000_005_500)));
        assert_eq!(found.token_id.as_deref(), Some("t1"));
        let grants = found.grants.unwrap();
        let topics = |right| grants.patterns(right).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(topics(TopicRight::Subscribe), ["news/*"]);
        assert_eq!(topics(TopicRight::Publish), ["a", "b/**"]);
        assert!(topics(TopicRight::Presence).is_empty() && topics(TopicRight::History).is_empty());
        assert_eq!(read(r#"{"sub": 42}"#, BareTokens::None).unwrap().name, "42");
    }

    #[test]
    fn a_token_without_topics_admits_to_none_unless_the_issuer_says_so() {
        let grants = |claims: &str, bare| read(claims, bare).unwrap().grants;
        assert_eq!(grants(r#"{"sub": "a"}"#, BareTokens::None).as_deref(), Some(&Grants::default()));
        assert_eq!(grants(r#"{"sub": "a", "publish": null}"#, BareTokens::All), None);
        // One claim is enough for the others to mean nothing.
        let one = grants(r#"{"sub": "a", "publish": []}"#, BareTokens::All);
        assert_eq!(one.as_deref(), Some(&Grants::default()));
    }

    #[test]
    fn claims_that_are_malformed() {
        let check = |claims: &str, expected: &str| match read(claims, BareTokens::None) {
            Err(Fault::Invalid(what)) => assert!(what.contains(expected), "{claims}: {what}"),
            other => panic!("{claims}: {other:?}"),
        };
        check("{}", "its claim sub is missing");
        check(r#"{"sub": null}"#, "its claim sub is missing");
        check(r#"{"sub": ""}"#, "its claim sub is empty");
        check(r#"{"sub": 4.2}"#, "neither text nor a whole number");
        check(r#"{"sub": ["a"]}"#, "neither text nor a whole number");
        check(&format!(r#"{{"sub": "{}"}}"#, "x".repeat(257)), "its claim sub has more than 256 bytes");
        check(r#"{"sub": "a", "jti": 7}"#, "its claim jti is no text");
        check(&format!(r#"{{"sub": "a", "jti": "{}"}}"#, "x".repeat(257)), "its claim jti has more than 256 bytes");
        check(&format!(r#"{{"sub": "a", "info": "{}"}}"#, "x".repeat(1023)), "its claim info has more than 1024 bytes");
        check(r#"{"sub": "a", "subscribe": "news"}"#, "its claim subscribe is no list of topics");
        check(r#"{"sub": "a", "publish": {"a": 1}}"#, "its claim publish is no list of topics");
        check(r#"{"sub": "a", "history": ["a", 7]}"#, "item 2 of its claim history is no pattern of topics");
        check(r#"{"sub": "a", "presence": ["a*"]}"#, "item 1 of its claim presence is no pattern of topics");
        let many = vec![r#""a""#; 200].join(",");
        check(&format!(r#"{{"sub": "a", "subscribe": [{many}], "publish": [{many}]}}"#), "more than 256 patterns");
        for exp in ["-1", "1e300", r#""soon""#, "[]"] {
            check(&format!(r#"{{"sub": "a", "exp": {exp}}}"#), "its claim exp is no time");
        }
    }
}

//! The reasons for which a token is not accepted, and the refusals that tell them.

use std::borrow::Cow;

use crate::proto::Refusal;

/// The reason for which a token is not accepted. It repeats no part of a token, since refusals and logs show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The token is wrong; the sentence's subject is the token.
    Invalid(Cow<'static, str>),
    /// The token names a key that its issuer is not known to have.
    UnknownKey,
    /// The keys of the issuer are not known now.
    NoKeys,
}

impl Fault {
    /// Returns the fault of a sentence whose subject is the token.
    pub(super) fn of(what: impl Into<Cow<'static, str>>) -> Fault {
        Fault::Invalid(what.into())
    }

    /// Returns the reason in words.
    pub(super) fn words(&self) -> &str {
        match self {
            Fault::Invalid(what) => what,
            Fault::UnknownKey => "it names a key (kid) that its issuer does not have",
            Fault::NoKeys => "the keys of its issuer cannot be fetched now",
        }
    }
}

impl From<Fault> for Refusal {
    /// Returns 401 with a challenge that tells the reason (RFC 6750 3), or 503 while there are no keys.
    fn from(fault: Fault) -> Refusal {
        let error = format!("the token is not accepted: {}", fault.words());
        match fault {
            Fault::NoKeys => Refusal::no_decision(error),
            Fault::Invalid(_) | Fault::UnknownKey => {
                let description = quotable(&error);
                let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{description}\"");
                Refusal::new(401, error).header("WWW-Authenticate", &challenge)
            }
        }
    }
}

/// Returns a text with question marks for the characters that a description may not have (RFC 6750 3).
fn quotable(text: &str) -> String {
    let is_allowed = |character: char| matches!(character, ' '..='~') && !matches!(character, '"' | '\\');
    text.chars().map(|character| if is_allowed(character) { character } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::RefusalCause;

    #[test]
    fn refusals_tell_the_reason() {
        let refusal = Refusal::from(Fault::of("it has \"x\\y\" and ü"));
        assert_eq!(refusal.status, 401);
        assert_eq!(refusal.error, "the token is not accepted: it has \"x\\y\" and ü");
        let expected =
            "Bearer error=\"invalid_token\", error_description=\"the token is not accepted: it has ?x?y? and ?\"";
        assert_eq!(refusal.headers, [("WWW-Authenticate".into(), expected.into())]);
        let refusal = Refusal::from(Fault::NoKeys);
        assert_eq!((refusal.status, refusal.headers[0].0.as_str()), (503, "Retry-After"));
        assert_eq!(refusal.cause, RefusalCause::Undecided);
    }
}

//! The reasons for which a token is not accepted, and the refusals that tell them.

use std::{borrow::Cow, time::Duration};

use crate::proto::{Refusal, RefusalCause};

/// The reason for which a token is not accepted. It repeats no part of a token, since refusals and logs show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The token is wrong, or nobody knows whether it is right; the sentence's subject is the token.
    Invalid(Cow<'static, str>),
    /// The token is not accepted for another reason: its signature is right, or it came in a way in which no token
    /// counts. The sentence's subject is the token.
    Unfit(Cow<'static, str>),
    /// The token names a key that its issuer does not have.
    UnknownKey,
    /// The token names a key that is not among those that were fetched, and no others have been fetched since it came.
    NewKey,
    /// The keys of the issuer are not known now.
    NoKeys,
}

impl Fault {
    /// Returns the fault of a sentence whose subject is the token.
    pub(super) fn of(what: impl Into<Cow<'static, str>>) -> Fault {
        Fault::Invalid(what.into())
    }

    /// Returns the fault of a token whose signature is right.
    pub(super) fn of_genuine(self) -> Fault {
        match self {
            Fault::Invalid(what) => Fault::Unfit(what),
            other => other,
        }
    }

    /// Returns the reason in words.
    pub(super) fn words(&self) -> &str {
        match self {
            Fault::Invalid(what) | Fault::Unfit(what) => what,
            Fault::UnknownKey => "it names a key (kid) that its issuer does not have",
            Fault::NewKey => "it names a key (kid) for which the keys of its issuer have not been fetched again",
            Fault::NoKeys => "the keys of its issuer cannot be fetched now",
        }
    }
}

impl From<Fault> for Refusal {
    /// Returns 401 with a challenge that tells the reason (RFC 6750 3), or 503 if the keys do not suffice to decide. A
    /// token that may be a guess is one of wrong credentials.
    fn from(fault: Fault) -> Refusal {
        let error = format!("the token is not accepted: {}", fault.words());
        match fault {
            Fault::NoKeys => Refusal::no_decision(error),
            Fault::NewKey => {
                let seconds = PAUSE.as_secs().to_string();
                Refusal::new(503, error).header("Retry-After", &seconds).because(RefusalCause::Undecided)
            }
            Fault::Invalid(_) | Fault::UnknownKey => invalid(error).for_wrong_credentials(),
            Fault::Unfit(_) => invalid(error),
        }
    }
}

fn invalid(error: String) -> Refusal {
    let description = quotable(&error);
    let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{description}\"");
    Refusal::new(401, error).header("WWW-Authenticate", &challenge)
}

/// The usual shortest time from the beginning of a fetch of keys, and from its failure, to the next. After it, a token
/// whose key may be new is worth another try.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

/// Returns a text with question marks for the characters that a description may not have (RFC 6750 3).
fn quotable(text: &str) -> String {
    let is_allowed = |character: char| matches!(character, ' '..='~') && !matches!(character, '"' | '\\');
    text.chars().map(|character| if is_allowed(character) { character } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let refusal = Refusal::from(Fault::NewKey);
        let retry = ("Retry-After".into(), "5".into());
        assert_eq!((refusal.status, refusal.headers, refusal.cause), (503, vec![retry], RefusalCause::Undecided));
    }

    /// A token that the issuer has signed is no guess, nor is one that nobody has looked at.
    #[test]
    fn only_tokens_that_may_be_guesses_are_wrong_credentials() {
        let is_guess = |fault: Fault| Refusal::from(fault).is_for_wrong_credentials();
        assert!(is_guess(Fault::of("its signature is wrong")) && is_guess(Fault::UnknownKey));
        for fault in [Fault::of("it has expired").of_genuine(), Fault::NewKey, Fault::NoKeys] {
            assert!(!is_guess(fault.clone()), "{fault:?}");
        }
    }
}

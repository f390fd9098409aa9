//! Bearer tokens without names.

use std::fmt;

use subtle::{Choice, ConstantTimeEq};

/// Bearer tokens (RFC 6750) of which one must be shown; by default, none has to be shown.
///
/// ```
/// use ringhub::auth::Tokens;
/// let tokens = Tokens::new(vec!["secret".into()])?;
/// assert!(tokens.admit(Some(b"secret")) && !tokens.admit(Some(b"guess")) && !tokens.admit(None));
/// assert!(Tokens::default().admit(None));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Default)]
pub struct Tokens(Vec<String>);

/// The characters of a token (RFC 6750 2.1), for errors.
pub(super) const CHARACTERS: &str = "A-Z a-z 0-9 - . _ ~ + / =";

impl Tokens {
    /// Checks that each token can be sent in an `Authorization` header. To require no token, use [`Tokens::default`],
    /// not an empty list.
    ///
    /// # Errors
    ///
    /// If a token is empty or has characters other than those of RFC 6750 2.1, or if the list is empty. The error is a
    /// sentence that shows no token.
    pub fn new(tokens: Vec<String>) -> Result<Tokens, String> {
        if tokens.is_empty() {
            return Err("the list is empty, and nobody could show one of its tokens".into());
        }
        let is_allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~+/=".contains(&octet);
        for (at, token) in tokens.iter().enumerate() {
            if token.is_empty() || !token.bytes().all(is_allowed) {
                return Err(format!("token {} is empty or has characters beyond {CHARACTERS}", at + 1));
            }
        }
        Ok(Tokens(tokens))
    }

    /// Returns whether a token must be shown.
    #[must_use]
    pub fn are_required(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns whether the shown token is one of these, or none is required. The time is the same for a wrong token as
    /// for a right one of the same length.
    #[must_use]
    pub fn admit(&self, shown: Option<&[u8]>) -> bool {
        if !self.are_required() {
            return true;
        }
        let Some(shown) = shown else { return false };
        let equal = self.0.iter().map(|token| token.as_bytes().ct_eq(shown));
        equal.fold(Choice::from(0), |any, equal| any | equal).into()
    }
}

/// Prints the number of tokens, never a token.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        assert!(Tokens::new(Vec::new()).unwrap_err().starts_with("the list is empty"));
        let tokens = Tokens::new(vec!["a.b".into(), "c/d=".into()]).unwrap();
        assert!(tokens.are_required());
        for (shown, is_admitted) in
            [(Some("a.b"), true), (Some("c/d="), true), (Some("a.c"), false), (Some("a"), false), (None, false)]
        {
            assert_eq!(tokens.admit(shown.map(str::as_bytes)), is_admitted, "{shown:?}");
        }
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
        for bad in ["", "a b", "a\n", "ü", "a\"b"] {
            assert!(Tokens::new(vec!["a".into(), bad.into()]).unwrap_err().starts_with("token 2 "), "{bad}");
        }
    }
}

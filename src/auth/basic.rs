//! Users and passwords (RFC 7617).

use std::{collections::BTreeSet, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::{Authenticator, Identity, credentials::Credentials};
use crate::proto::Refusal;

/// Users and passwords (RFC 7617). A request without a password, or with a wrong one, is answered 401 with a
/// challenge.
///
/// ```
/// use ringhub::auth::Basic;
/// let basic = Basic::new("the hub", [("alice", "a long password"), ("bob", "another")])?;
/// assert_eq!(format!("{basic:?}"), r#"Basic { challenge: "Basic realm=\"the hub\", charset=\"UTF-8\"", users: 2 }"#);
/// let basic = Basic::checked_by("the hub", |user, password| user == "alice" && password.len() == 7)?;
/// # Ok::<(), String>(())
/// ```
#[derive(Clone)]
pub struct Basic {
    challenge: String,
    check: Check,
}

#[derive(Clone)]
enum Check {
    /// The users, each with the SHA-256 of the password. The password itself is not kept. The time of a comparison does
    /// not depend on the bytes that are compared, only on the length of the user's name.
    Users(Vec<(String, [u8; 32])>),
    By(Arc<Judge>),
}

/// A function of a user and a password, which returns whether the user has this password.
type Judge = dyn Fn(&str, &str) -> bool + Send + Sync;

impl Basic {
    /// Admits these users. There must be at least one user. Each user has a password, given as it is or as its SHA-256:
    /// `sha256:` and 64 hexadecimal digits.
    ///
    /// With a SHA-256, a person who sees the settings does not see the password. But a SHA-256 is quick to compute, so
    /// it does not protect a password that can be guessed. A slow hash would delay the shard. So compare slow hashes on
    /// another thread, and let a handler's `opening` wait for the result.
    ///
    /// # Errors
    ///
    /// If the realm or a user cannot be sent, if a user is named twice, if a password is empty or a broken SHA-256, or
    /// if there is no user. The error is a sentence that contains no password.
    pub fn new<U, P>(realm: &str, users: impl IntoIterator<Item = (U, P)>) -> Result<Basic, String>
    where
        U: Into<String>,
        P: AsRef<str>,
    {
        let (mut digests, mut names) = (Vec::new(), BTreeSet::new());
        for (user, password) in users {
            let user: String = user.into();
            if user.is_empty() || user.contains(|c: char| c == ':' || c.is_control()) {
                return Err(format!("the user {user:?} is empty or has a colon or control characters"));
            }
            let digest = digest_of(password.as_ref()).map_err(|what| format!("the password of {user:?} {what}"))?;
            if !names.insert(user.clone()) {
                return Err(format!("the user {user:?} is there twice"));
            }
            digests.push((user, digest));
        }
        if digests.is_empty() {
            return Err("without users, nobody could be admitted".into());
        }
        Ok(Basic { challenge: challenge(realm)?, check: Check::Users(digests) })
    }

    /// Admits a user if `check`, called with the user's name and password, returns true. `check` is called on the
    /// threads of shards and on the control thread, so `check` must be quick.
    ///
    /// # Errors
    ///
    /// If the realm cannot be sent. The error is a sentence.
    pub fn checked_by(
        realm: &str,
        check: impl Fn(&str, &str) -> bool + Send + Sync + 'static,
    ) -> Result<Basic, String> {
        Ok(Basic { challenge: challenge(realm)?, check: Check::By(Arc::new(check)) })
    }

    fn admits(&self, user: &str, password: &str) -> bool {
        match &self.check {
            Check::Users(users) => {
                let shown = Sha256::digest(password);
                let admits = |(name, digest): &(String, [u8; 32])| {
                    name.as_bytes().ct_eq(user.as_bytes()) & digest[..].ct_eq(&shown[..])
                };
                users.iter().fold(Choice::from(0), |any, entry| any | admits(entry)).into()
            }
            Check::By(check) => check(user, password),
        }
    }
}

impl Authenticator for Basic {
    fn depends_on_topic(&self) -> bool {
        false
    }

    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let refusal = |what: &str| Refusal::new(401, what).header("WWW-Authenticate", &self.challenge);
        let shown = credentials.authorization("Basic").ok_or_else(|| refusal("this needs a user and a password"))?;
        match decode(shown) {
            Some((user, password)) if self.admits(&user, &password) => Ok(Identity::new(user)),
            Some(_) => Err(refusal("the user or the password is wrong").for_wrong_credentials()),
            None => {
                let what = "the credentials are not a user and a password in base64 and UTF-8";
                Err(refusal(what).for_wrong_credentials())
            }
        }
    }

    fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        credentials.authorization("Basic").is_some()
    }
}

/// Prints the number of users, unless a function checks the users. Never prints a password.
impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut basic = f.debug_struct("Basic");
        basic.field("challenge", &self.challenge);
        match &self.check {
            Check::Users(users) => basic.field("users", &users.len()).finish(),
            Check::By(_) => basic.finish_non_exhaustive(),
        }
    }
}

/// Returns the challenge for a realm (RFC 7617 2, 2.1).
fn challenge(realm: &str) -> Result<String, String> {
    if realm.is_empty() || !realm.bytes().all(|octet| octet.is_ascii_graphic() || octet == b' ') {
        return Err(format!("the realm {realm:?} is empty or has characters that are not printable ASCII"));
    }
    // A quoted string (RFC 9110 5.6.4).
    let realm = realm.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!("Basic realm=\"{realm}\", charset=\"UTF-8\""))
}

fn digest_of(password: &str) -> Result<[u8; 32], &'static str> {
    if password.is_empty() {
        return Err("is empty");
    }
    let Some(hex) = password.strip_prefix("sha256:") else { return Ok(Sha256::digest(password).into()) };
    let (mut digest, broken) = ([0; 32], "begins with sha256:, but 64 hexadecimal digits do not follow");
    if hex.len() != 64 {
        return Err(broken);
    }
    for (octet, digits) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16).ok_or(broken);
        *octet = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Ok(digest)
}

/// Returns the user, which stands before the first colon, and the password, which follows the colon (RFC 7617 2).
fn decode(shown: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(shown).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.into(), password.into()))
}

#[cfg(test)]
mod tests {
    use super::{super::testing::judge, *};

    const CHALLENGE: &str = "Basic realm=\"a \\\"b\\\\\", charset=\"UTF-8\"";

    fn basic() -> Basic {
        let users = [("alice", "secret"), ("çelik", "ünlü:1")];
        Basic::new("a \"b\\", users).unwrap()
    }

    fn check(basic: &Basic, lines: &[&str], expected: Option<&str>) {
        let expected = expected.map(String::from).ok_or((401, vec![basic.challenge.clone()]));
        assert_eq!(judge(basic, "/", lines, None), expected, "{lines:?}");
    }

    fn line(shown: impl AsRef<[u8]>) -> String {
        format!("Authorization: Basic {}", STANDARD.encode(shown))
    }

    /// RFC 7617 2 and 2.1.
    #[test]
    fn users_and_passwords() {
        let basic = basic();
        assert_eq!(basic.challenge, CHALLENGE);
        check(&basic, &[&line("alice:secret")], Some("alice"));
        check(&basic, &[&line("çelik:ünlü:1")], Some("çelik"));
        check(&basic, &[&line("alice:secret").replace("Basic ", "bAsIC   ")], Some("alice"));
        for wrong in ["alice:Secret", "alice:secre", "alice:", "alice", ":secret", ":", "", "bob:secret", "eve:secret"]
        {
            check(&basic, &[&line(wrong)], None);
        }
    }

    #[test]
    fn a_password_can_be_its_digest() {
        let digest: String = Sha256::digest("hushed").iter().map(|octet| format!("{octet:02x}")).collect();
        let basic = Basic::new("r", [("bob", format!("sha256:{digest}"))]).unwrap();
        check(&basic, &[&line("bob:hushed")], Some("bob"));
        check(&basic, &[&line(format!("bob:sha256:{digest}"))], None);
        check(&basic, &[&line(format!("bob:{digest}"))], None);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let basic = basic();
        check(&basic, &[], None);
        for value in ["", "Basic", "Basic ", "Basic !", "Basic YWxpY2U6c2VjcmV0=", "Basic YWxpY2U6c2VjcmV", "Bearer x"]
        {
            check(&basic, &[&format!("Authorization: {value}")], None);
        }
        check(&basic, &["Authorization: BasicYWxpY2U6c2VjcmV0"], None);
        check(&basic, &[&line(b"alice:\xff")], None);
        // Two headers are refused: a proxy in front may have judged one of them, and the server the other.
        check(&basic, &[&line("alice:secret"), &line("alice:secret")], None);
    }

    #[test]
    fn a_closure_decides() {
        let basic = Basic::checked_by("r", |user, password| user == "a" && password == "b:c").unwrap();
        check(&basic, &[&line("a:b:c")], Some("a"));
        check(&basic, &[&line("a:b")], None);
        assert_eq!(format!("{basic:?}"), "Basic { challenge: \"Basic realm=\\\"r\\\", charset=\\\"UTF-8\\\"\", .. }");
    }

    #[test]
    fn what_cannot_be_sent_is_refused_without_the_password() {
        let check = |realm: &str, users: &[(&str, &str)], expected: &str| {
            let error = Basic::new(realm, users.iter().copied()).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hush"), "{error}");
        };
        check("", &[("a", "hush")], "the realm \"\"");
        check("ü", &[("a", "hush")], "the realm \"ü\"");
        check("a\nb", &[("a", "hush")], "the realm \"a\\nb\"");
        check("r", &[], "without users");
        check("r", &[("", "hush")], "the user \"\"");
        check("r", &[("a:b", "hush")], "the user \"a:b\"");
        check("r", &[("a\0", "hush")], "the user");
        check("r", &[("a", "hush"), ("a", "hush2")], "the user \"a\" is there twice");
        check("r", &[("a", "")], "the password of \"a\" is empty");
        check("r", &[("a", "sha256:hush")], "the password of \"a\" begins with sha256:");
        check("r", &[("a", &format!("sha256:{}", "é".repeat(32)))], "begins with sha256:");
        assert!(!format!("{:?}", basic()).contains("alice"));
    }
}

//! Several authenticators as one.

use std::{fmt, sync::Arc};

use super::{
    Authenticator, Identity, Later,
    credentials::{Credentials, after_scheme},
};
use crate::proto::Refusal;

/// Begins an authenticator that requires all of several. See [`AllOf`].
pub fn all_of(first: impl Authenticator) -> AllOf {
    AllOf { first: Box::new(first), others: Vec::new() }
}

/// Begins an authenticator that requires one of several. See [`AnyOf`].
pub fn any_of(first: impl Authenticator) -> AnyOf {
    AnyOf { first: Box::new(first), others: Vec::new() }
}

/// Requires every authenticator to succeed. The result is the identity from the last one, or the first refusal. The
/// identities from the others stand behind it ([`Identity::each`]): their grants, their expiry and their revocation
/// hold too.
///
/// Put the cheapest authenticator first, and last the one whose identity you need:
///
/// ```
/// use ringhub::auth::{Basic, Network, all_of};
/// let staff = all_of(Network::new(&["10.0.0.0/8"], &[])?).and(Basic::new("staff", [("alice", "secret")])?);
/// # Ok::<(), String>(())
/// ```
pub struct AllOf {
    first: Box<dyn Authenticator>,
    others: Vec<Arc<dyn Authenticator>>,
}

impl AllOf {
    /// Requires another authenticator.
    #[must_use]
    pub fn and(mut self, other: impl Authenticator) -> AllOf {
        self.others.push(Arc::new(other));
        self
    }

    fn each(&self) -> impl Iterator<Item = &dyn Authenticator> {
        std::iter::once(&*self.first).chain(self.others.iter().map(|other| &**other))
    }
}

impl Authenticator for AllOf {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let first = self.first.authenticate(credentials)?;
        self.others.iter().try_fold(first, |earlier, other| Ok(other.authenticate(credentials)?.after(earlier)))
    }

    /// Returns the work of the first authenticator that has to wait, unless one before it refuses the request.
    fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
        decide_in_order(self.each(), credentials, |outcome| outcome.is_err())
    }

    fn takes_cookies(&self) -> bool {
        self.each().any(Authenticator::takes_cookies)
    }

    fn depends_on_topic(&self) -> bool {
        self.each().any(Authenticator::depends_on_topic)
    }

    fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        self.each().any(|authenticator| authenticator.sees_credentials(credentials))
    }
}

/// Requires one authenticator to succeed. The result is the identity from the first authenticator that succeeds.
///
/// If none succeeds, one of the refusals is the answer: the first 503, since its authenticator could not decide, and
/// might have admitted the request; else the refusal of the authenticator whose scheme the request has tried; else the
/// first refusal with a challenge; else the first refusal. The challenges of all authenticators are added to every
/// answer but a 503, each in its own header line. The answer is one for wrong credentials
/// ([`Refusal::for_wrong_credentials`]) if one of the refusals is.
///
/// ```
/// use ringhub::auth::{Basic, Bearer, any_of};
/// let either = any_of(Bearer::new([("ci", "a-token")])?).or(Basic::new("people", [("alice", "secret")])?);
/// # Ok::<(), String>(())
/// ```
pub struct AnyOf {
    first: Box<dyn Authenticator>,
    others: Vec<Arc<dyn Authenticator>>,
}

impl AnyOf {
    /// Accepts another authenticator.
    #[must_use]
    pub fn or(mut self, other: impl Authenticator) -> AnyOf {
        self.others.push(Arc::new(other));
        self
    }

    fn each(&self) -> impl Iterator<Item = &dyn Authenticator> {
        std::iter::once(&*self.first).chain(self.others.iter().map(|other| &**other))
    }
}

impl Authenticator for AnyOf {
    /// Returns the work of the first authenticator that has to wait, unless one before it admits the request.
    fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
        decide_in_order(self.each(), credentials, |outcome| outcome.is_ok())
    }

    fn takes_cookies(&self) -> bool {
        self.each().any(Authenticator::takes_cookies)
    }

    fn depends_on_topic(&self) -> bool {
        self.each().any(Authenticator::depends_on_topic)
    }

    fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        self.each().any(|authenticator| authenticator.sees_credentials(credentials))
    }

    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let mut refusals = Vec::new();
        for authenticator in self.each() {
            match noted(authenticator, credentials) {
                Ok(identity) => return Ok(identity),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let is_for_wrong_credentials = refusals.iter().any(|refusal| refusal.is_for_wrong_credentials);
        let has_tried = |refusal: &Refusal| challenges(refusal).any(|challenge| answers(challenge, credentials));
        if let Some(undecided) = refusals.iter().position(|refusal| refusal.status == 503) {
            return Err(Refusal { is_for_wrong_credentials, ..refusals.remove(undecided) });
        }
        let most_useful = (refusals.iter().position(has_tried))
            .or_else(|| refusals.iter().position(|refusal| challenges(refusal).next().is_some()))
            .unwrap_or(0);
        let mut answer = Refusal { is_for_wrong_credentials, ..refusals.remove(most_useful) };
        for refusal in &refusals {
            for challenge in challenges(refusal) {
                answer = answer.header(CHALLENGE, challenge);
            }
        }
        Err(answer)
    }
}

/// Makes one authenticator of several: if `is_all`, all of them must admit a request, otherwise any of them. Returns
/// `None` if there are none.
pub(crate) fn together(authenticators: Vec<Arc<dyn Authenticator>>, is_all: bool) -> Option<Arc<dyn Authenticator>> {
    let mut each = authenticators.into_iter();
    let first = each.next()?;
    Some(match each.len() {
        0 => first,
        _ if is_all => Arc::new(each.fold(all_of(first), |all, other| all.and(other))),
        _ => Arc::new(each.fold(any_of(first), |any, other| any.or(other))),
    })
}

/// Returns the work of the first authenticator that has to wait, unless the outcome of an earlier one decides alone. An
/// authenticator is prepared only when it is reached: it may ask another server, and a request that an earlier
/// authenticator has decided must cause no question.
fn decide_in_order<'a>(
    each: impl Iterator<Item = &'a dyn Authenticator>,
    credentials: &Credentials<'_>,
    decides: impl Fn(&Result<Identity, Refusal>) -> bool,
) -> Option<Later> {
    let mut each = each.peekable();
    while let Some(authenticator) = each.next() {
        if let Some(later) = authenticator.prepare(credentials) {
            return Some(later);
        }
        // The outcome of the last one is of no use here, and may be costly.
        if each.peek().is_none() || decides(&noted(authenticator, credentials)) {
            return None;
        }
    }
    None
}

/// Asks an authenticator of a chain, and notes wrong credentials. A later authenticator may have to wait or may admit
/// the request, and then no refusal tells them.
fn noted(authenticator: &dyn Authenticator, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
    let outcome = authenticator.authenticate(credentials);
    credentials.note(&outcome);
    outcome
}

fn challenges(refusal: &Refusal) -> impl Iterator<Item = &str> {
    refusal.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(CHALLENGE)).map(|(_, value)| &**value)
}

/// Returns whether the request has tried the scheme of a challenge. A challenge with an error implies that it has (RFC
/// 6750 3).
fn answers(challenge: &str, credentials: &Credentials<'_>) -> bool {
    let scheme = challenge.split(' ').next().unwrap_or_default();
    challenge.contains(" error=") || credentials.header().is_some_and(|value| after_scheme(value, scheme).is_some())
}

const CHALLENGE: &str = "WWW-Authenticate";

impl fmt::Debug for AllOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AllOf({})", 1 + self.others.len())
    }
}

impl fmt::Debug for AnyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyOf({})", 1 + self.others.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Basic, Bearer, Network, testing::judge},
        *,
    };
    use crate::proto::RequestHead;

    /// `alice:secret`.
    const ALICE: &str = "Authorization: Basic YWxpY2U6c2VjcmV0";
    const EVE: &str = "Authorization: Basic ZXZlOng=";
    const TOKEN: &str = "Authorization: Bearer word";
    const WRONG: &str = "Authorization: Bearer guess";
    const OF_BASIC: &str = "Basic realm=\"r\", charset=\"UTF-8\"";
    const OF_BEARER: &str = "Bearer";
    const INVALID: &str = "Bearer error=\"invalid_token\"";

    fn basic() -> Basic {
        Basic::new("r", [("alice", "secret")]).unwrap()
    }

    fn bearer() -> Bearer {
        Bearer::new([("ci", "word")]).unwrap()
    }

    fn network() -> Network {
        Network::new(&["10.0.0.0/8"], &[]).unwrap()
    }

    fn check(authenticator: &dyn Authenticator, line: &str, peer: &str, expected: Result<&str, (u16, &[&str])>) {
        let lines = [line];
        let lines = if line.is_empty() { &[][..] } else { &lines };
        let expected = expected.map(String::from);
        let expected = expected.map_err(|(status, all)| (status, all.iter().map(ToString::to_string).collect()));
        assert_eq!(judge(authenticator, "/", lines, Some(peer)), expected, "{line} {peer}");
    }

    #[test]
    fn all_must_admit() {
        let all = all_of(network()).and(basic());
        check(&all, ALICE, "10.0.0.1", Ok("alice"));
        check(&all, ALICE, "11.0.0.1", Err((403, &[])));
        check(&all, "", "11.0.0.1", Err((403, &[])));
        check(&all, "", "10.0.0.1", Err((401, &[OF_BASIC])));
        check(&all, EVE, "10.0.0.1", Err((401, &[OF_BASIC])));
        check(&all_of(basic()), ALICE, "10.0.0.1", Ok("alice"));
    }

    #[test]
    fn one_that_admits_is_enough() {
        let any = any_of(basic()).or(bearer()).or(network());
        check(&any, ALICE, "11.0.0.1", Ok("alice"));
        check(&any, TOKEN, "11.0.0.1", Ok("ci"));
        check(&any, WRONG, "10.0.0.1", Ok("10.0.0.0/8"));
        check(&any_of(basic()), ALICE, "10.0.0.1", Ok("alice"));
    }

    /// RFC 9110 11.6.1: the challenges of all.
    #[test]
    fn the_most_useful_refusal_answers() {
        let any = any_of(network()).or(basic()).or(bearer());
        check(&any, "", "11.0.0.1", Err((401, &[OF_BASIC, OF_BEARER])));
        check(&any, EVE, "11.0.0.1", Err((401, &[OF_BASIC, OF_BEARER])));
        check(&any, WRONG, "11.0.0.1", Err((401, &[INVALID, OF_BASIC])));
        check(&any, "Authorization: Digest x", "11.0.0.1", Err((401, &[OF_BASIC, OF_BEARER])));
        let scoped = Bearer::checked_by(|_| Err(super::super::TokenFault::InsufficientScope));
        let scope = "Bearer error=\"insufficient_scope\"";
        check(&any_of(basic()).or(scoped), TOKEN, "11.0.0.1", Err((403, &[scope, OF_BASIC])));
        check(&any_of(network()), TOKEN, "11.0.0.1", Err((403, &[])));
    }

    /// Waits, and counts how often it has been prepared.
    #[derive(Default)]
    struct Asking(std::sync::atomic::AtomicUsize);

    impl Authenticator for Asking {
        fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
            panic!("it has yet to wait")
        }

        fn prepare(&self, _: &Credentials<'_>) -> Option<Later> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Some(Box::pin(async {}))
        }
    }

    /// Returns whether a request waits, and how often the last authenticator has been prepared.
    fn prepared(chain: &dyn Authenticator, asking: &Asking, line: &str, peer: &str) -> (bool, usize) {
        let head = format!("GET / HTTP/1.1\r\n{line}\r\n\r\n");
        let head = crate::proto::RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
        let later = chain.prepare(&Credentials::new(&head, Some(format!("{peer}:9").parse().unwrap())));
        (later.is_some(), asking.0.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Who is refused or admitted by an earlier authenticator causes no question of a later one.
    #[test]
    fn only_the_authenticator_that_is_reached_is_prepared() {
        let asking = Arc::new(Asking::default());
        let all = all_of(network()).and(basic()).and(Arc::clone(&asking));
        assert_eq!(prepared(&all, &asking, ALICE, "11.0.0.1"), (false, 0));
        assert_eq!(prepared(&all, &asking, EVE, "10.0.0.1"), (false, 0));
        assert_eq!(prepared(&all, &asking, ALICE, "10.0.0.1"), (true, 1));
        let any = any_of(network()).or(basic()).or(Arc::clone(&asking));
        assert_eq!(prepared(&any, &asking, EVE, "10.0.0.1"), (false, 1));
        assert_eq!(prepared(&any, &asking, ALICE, "11.0.0.1"), (false, 1));
        assert_eq!(prepared(&any, &asking, EVE, "11.0.0.1"), (true, 2));
        let first = any_of(Arc::clone(&asking)).or(network());
        assert_eq!(prepared(&first, &asking, "X: y", "10.0.0.1"), (true, 3));
    }

    /// The last identity counts for the name, and no other one gets lost.
    #[test]
    fn every_identity_is_kept() {
        let head = RequestHead::decode(format!("GET / HTTP/1.1\r\n{ALICE}\r\n\r\n").as_bytes()).unwrap().unwrap().0;
        let credentials = Credentials::new(&head, "10.0.0.1:1".parse().ok());
        let found = |authenticator: &dyn Authenticator| -> Vec<String> {
            let identity = authenticator.authenticate(&credentials).unwrap();
            identity.each().map(|each| each.name.clone()).collect()
        };
        let all = || all_of(network()).and(basic());
        let twice = Basic::new("other", [("alice", "secret")]).unwrap();
        assert_eq!(found(&all()), ["alice", "10.0.0.0/8"]);
        assert_eq!(found(&all_of(all()).and(network())), ["10.0.0.0/8", "alice", "10.0.0.0/8"]);
        assert_eq!(found(&all_of(network()).and(all())), ["alice", "10.0.0.0/8", "10.0.0.0/8"]);
        assert_eq!(found(&all().and(twice)), ["alice", "alice", "10.0.0.0/8"]);
        assert_eq!(found(&any_of(bearer()).or(all())), ["alice", "10.0.0.0/8"]);
        assert_eq!(found(&any_of(basic()).or(all())), ["alice"]);
    }

    /// Refuses, since it cannot ask anybody.
    struct Undecided;

    impl Authenticator for Undecided {
        fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
            Err(Refusal::new(503, "nobody answers"))
        }
    }

    /// A client that is told 401 forgets its login, which may be right.
    #[test]
    fn a_chain_with_one_that_cannot_decide_has_not_decided() {
        let any = any_of(bearer()).or(Undecided).or(network());
        check(&any, TOKEN, "11.0.0.1", Ok("ci"));
        check(&any, "", "10.0.0.1", Ok("10.0.0.0/8"));
        check(&any, WRONG, "11.0.0.1", Err((503, &[])));
        check(&any, "", "11.0.0.1", Err((503, &[])));
    }

    /// The refusal of a part for wrong credentials is not hidden by the answer of another part.
    #[test]
    fn wrong_credentials_are_told_by_every_answer() {
        let is_wrong = |authenticator: &dyn Authenticator, line: &str| {
            let head = RequestHead::decode(format!("GET / HTTP/1.1\r\n{line}\r\n\r\n").as_bytes()).unwrap().unwrap().0;
            let refusal = authenticator.authenticate(&Credentials::new(&head, None)).unwrap_err();
            refusal.is_for_wrong_credentials()
        };
        let scoped = Bearer::checked_by(|_| Err(super::super::TokenFault::InsufficientScope));
        let any = any_of(any_of(network()).or(bearer())).or(basic()).or(Undecided);
        for wrong in [WRONG, EVE, "Authorization: Basic !"] {
            assert!(is_wrong(&any, wrong), "{wrong}");
            assert!(is_wrong(&any_of(network()).or(bearer()).or(basic()), wrong), "{wrong}");
        }
        assert!(is_wrong(&all_of(basic()).and(network()), EVE));
        for right in ["X: y", "Cookie: a=b", "Authorization: Digest x"] {
            assert!(!is_wrong(&any, right), "{right}");
        }
        assert!(!is_wrong(&all_of(basic()).and(network()), ALICE) && !is_wrong(&scoped, TOKEN));
    }

    #[test]
    fn a_chain_sees_what_one_of_its_parts_sees() {
        let check = |authenticator: &dyn Authenticator, seen: &[&str], unseen: &[&str]| {
            for (lines, expected) in [(seen, true), (unseen, false)] {
                for line in lines {
                    let head = format!("GET / HTTP/1.1\r\n{line}\r\n\r\n");
                    let head = RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
                    let sees = authenticator.sees_credentials(&Credentials::new(&head, None));
                    assert_eq!(sees, expected, "{line}");
                }
            }
        };
        let of_protocols = "Sec-WebSocket-Protocol: access_token, guess";
        check(&basic(), &[ALICE, EVE], &[TOKEN, of_protocols, "Cookie: a=b", "X: y"]);
        check(&bearer(), &[TOKEN, WRONG, of_protocols], &[ALICE, "Cookie: a=b", "X: y"]);
        check(&network(), &[], &[ALICE, TOKEN, "X: y"]);
        let both: [Arc<dyn Authenticator>; 2] =
            [Arc::new(all_of(basic()).and(bearer())), Arc::new(any_of(basic()).or(bearer()))];
        both.iter().for_each(|chain| check(chain, &[ALICE, TOKEN], &["Cookie: a=b", "X: y"]));
        // An authenticator that does not say what it looks at may look at anything.
        check(&any_of(network()).or(Undecided), &["X: y"], &[]);
    }

    #[test]
    fn chains_nest() {
        let nested: Arc<dyn Authenticator> = Arc::new(any_of(basic()).or(bearer()));
        let all = all_of(network()).and(nested);
        check(&all, TOKEN, "10.0.0.1", Ok("ci"));
        check(&all, "", "10.0.0.1", Err((401, &[OF_BASIC, OF_BEARER])));
        assert_eq!(format!("{all:?}"), "AllOf(2)");
    }
}

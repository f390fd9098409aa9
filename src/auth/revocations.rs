//! Revocations: identities and tokens that are refused until a time.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::Identity;
use crate::{hub::Who, proto::Refusal};

/// The revocations of a server, which all of its threads share. A clone is another handle to the same revocations.
///
/// A revocation ends by the wall clock, since the tokens that it stands against expire by the same clock.
#[derive(Clone)]
pub(crate) struct Revocations(Arc<Inner>);

struct Inner {
    /// The number of entries in the table. While it is 0, [`Revocations::check`] takes no lock.
    count: AtomicUsize,
    table: Mutex<Table>,
}

struct Table {
    /// The end of each revocation, in seconds of Unix time.
    identities: BTreeMap<Arc<str>, u64>,
    tokens: BTreeMap<Arc<str>, u64>,
    /// The most revocations.
    most: usize,
}

/// A revocation that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revocation {
    /// The owner of the connections and requests that are refused.
    pub who: Who,
    /// The end, in seconds of Unix time.
    pub until: u64,
}

/// The reason for which a revocation is refused.
///
/// ```
/// use ringhub::auth::RevocationError;
/// assert_eq!(RevocationError::Over.to_string(), "the end of the revocation is not in the future");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationError {
    /// As many revocations are in force as `max_revocations` allows.
    Full,
    /// The end is not in the future.
    Over,
    /// The name is empty or longer than [`Revocation::NAME_BYTES_MAX`].
    Name,
}

impl fmt::Display for RevocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RevocationError::Full => f.write_str("as many revocations are in force as max_revocations allows"),
            RevocationError::Over => f.write_str("the end of the revocation is not in the future"),
            RevocationError::Name => {
                let most = Revocation::NAME_BYTES_MAX;
                write!(f, "the name of the identity, or the id of the token, is empty or has more than {most} bytes")
            }
        }
    }
}

impl std::error::Error for RevocationError {}

impl Revocation {
    /// Returns the revocation of an owner until a time, in seconds of Unix time.
    pub(crate) fn new(who: Who, until: u64) -> Self {
        Revocation { who, until }
    }

    /// Bytes of the longest name of an identity, and of the longest id of a token, that can be revoked.
    pub const NAME_BYTES_MAX: usize = 512;
}

impl Default for Revocations {
    fn default() -> Self {
        let table = Table { identities: BTreeMap::new(), tokens: BTreeMap::new(), most: DEFAULT_MAX };
        Revocations(Arc::new(Inner { count: AtomicUsize::new(0), table: Mutex::new(table) }))
    }
}

impl Revocations {
    /// Returns how many revocations there are, including those that are over and not forgotten yet.
    pub(crate) fn count_all(&self) -> usize {
        // Relaxed: the number is for a sum of memory.
        self.0.count.load(Ordering::Relaxed)
    }

    /// Sets the most revocations. Revocations that are in force stay.
    pub(crate) fn set_max(&self, most: usize) {
        self.lock().most = most;
    }

    /// Refuses an identity or a token until `until`, in seconds of Unix time. A later call for the same one replaces
    /// the time.
    ///
    /// # Errors
    ///
    /// See [`RevocationError`]. No revocation gives way to a new one before its end.
    pub(crate) fn revoke(&self, who: &Who, until: u64) -> Result<(), RevocationError> {
        if who.name().is_empty() || who.name().len() > Revocation::NAME_BYTES_MAX {
            return Err(RevocationError::Name);
        }
        let now = unix_seconds();
        if until <= now {
            return Err(RevocationError::Over);
        }
        let mut table = self.lock();
        if !table.of_kind(who).contains_key(&**who.name()) && table.len() >= table.most {
            table.identities.retain(|_, until| *until > now);
            table.tokens.retain(|_, until| *until > now);
            if table.len() >= table.most {
                self.count(&table);
                return Err(RevocationError::Full);
            }
        }
        table.of_kind(who).insert(Arc::clone(who.name()), until);
        self.count(&table);
        Ok(())
    }

    /// Ends a revocation. Returns whether it was in force.
    pub(crate) fn lift(&self, who: &Who) -> bool {
        let mut table = self.lock();
        let until = table.of_kind(who).remove(&**who.name());
        self.count(&table);
        until.is_some_and(|until| until > unix_seconds())
    }

    /// Checks that none of these identities is revoked, and none of their tokens.
    ///
    /// # Errors
    ///
    /// 403 for a revoked identity, 401 for a revoked token (RFC 6750 3.1).
    pub(crate) fn check<'a>(&self, mut identities: impl Iterator<Item = &'a Identity>) -> Result<(), Refusal> {
        // Relaxed: whoever is told of a revocation by its caller has been told by way of a lock or a lane.
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let (table, now) = (self.lock(), unix_seconds());
        let is_in_force = |until: Option<&u64>| until.is_some_and(|&until| until > now);
        identities.try_for_each(|identity| {
            if is_in_force(table.identities.get(&*identity.name)) {
                return Err(Refusal::new(403, "the access of this identity has been revoked"));
            }
            let token = identity.token_id.as_deref();
            if token.is_some_and(|token| is_in_force(table.tokens.get(token))) {
                let refusal = Refusal::new(401, "the bearer token has been revoked");
                return Err(refusal.header("WWW-Authenticate", "Bearer error=\"invalid_token\""));
            }
            Ok(())
        })
    }

    /// Returns at most `most` revocations that are in force, in the order of [`Who`], and whether more follow. The
    /// first one follows `after`.
    pub(crate) fn page(&self, after: Option<&Who>, most: usize) -> (Vec<Revocation>, bool) {
        let (table, now) = (self.lock(), unix_seconds());
        let (of_identities, of_tokens) = match after {
            None => (Some(Bound::Unbounded), Bound::Unbounded),
            Some(Who::Identity(name)) => (Some(Bound::Excluded(&**name)), Bound::Unbounded),
            Some(Who::Token(id)) => (None, Bound::Excluded(&**id)),
        };
        let identities = of_identities.into_iter().flat_map(|from| {
            let each = table.identities.range::<str, _>((from, Bound::Unbounded));
            each.map(|(name, &until)| Revocation { who: Who::Identity(Arc::clone(name)), until })
        });
        let tokens = table.tokens.range::<str, _>((of_tokens, Bound::Unbounded));
        let tokens = tokens.map(|(id, &until)| Revocation { who: Who::Token(Arc::clone(id)), until });
        let mut in_force = identities.chain(tokens).filter(|revocation| revocation.until > now);
        let page = in_force.by_ref().take(most).collect();
        (page, in_force.next().is_some())
    }

    fn count(&self, table: &Table) {
        self.0.count.store(table.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn len(&self) -> usize {
        self.identities.len() + self.tokens.len()
    }

    fn of_kind(&mut self, who: &Who) -> &mut BTreeMap<Arc<str>, u64> {
        match who {
            Who::Identity(_) => &mut self.identities,
            Who::Token(_) => &mut self.tokens,
        }
    }
}

/// Shows the number of revocations, no name.
impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocations({})", self.0.count.load(Ordering::Relaxed))
    }
}

/// Returns the seconds since 1970 by the wall clock.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The most revocations before the settings are known.
const DEFAULT_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> u64 {
        unix_seconds() + 3_600
    }

    fn status(revocations: &Revocations, identity: &Identity) -> Option<u16> {
        revocations.check(identity.each()).err().map(|refusal| refusal.status)
    }

    #[test]
    fn identities_and_tokens_are_refused_until_they_are_lifted() {
        let revocations = Revocations::default();
        let ann = Identity { token_id: Some("t1".into()), ..Identity::new("ann") };
        assert_eq!(status(&revocations, &ann), None);
        let (identity, token) = (Who::identity("ann"), Who::token("t1"));
        revocations.revoke(&token, later()).unwrap();
        assert_eq!(status(&revocations, &ann), Some(401));
        assert_eq!(status(&revocations, &Identity::new("t1")), None, "a token's id is no name");
        revocations.revoke(&identity, later()).unwrap();
        assert_eq!(status(&revocations, &ann), Some(403));
        assert!(revocations.lift(&identity) && !revocations.lift(&identity));
        assert_eq!(status(&revocations, &ann), Some(401));
        assert!(revocations.lift(&token));
        assert_eq!(status(&revocations, &ann), None);
    }

    /// A full table refuses; an entry leaves at its end, and not for another one.
    #[test]
    fn no_revocation_gives_way() {
        let revocations = Revocations::default();
        revocations.set_max(2);
        revocations.revoke(&Who::identity("a"), later()).unwrap();
        revocations.revoke(&Who::token("b"), later()).unwrap();
        assert_eq!(revocations.revoke(&Who::identity("c"), later()), Err(RevocationError::Full));
        assert_eq!(revocations.revoke(&Who::identity("a"), later() + 5), Ok(()), "it is there already");
        assert_eq!(status(&revocations, &Identity::new("a")), Some(403));
        // One that is over makes room.
        revocations.lock().tokens.insert("b".into(), unix_seconds());
        assert_eq!(revocations.revoke(&Who::identity("c"), later()), Ok(()));
        assert_eq!(revocations.page(None, 9).0.len(), 2);
    }

    #[test]
    fn what_cannot_be_revoked() {
        let revocations = Revocations::default();
        assert_eq!(revocations.revoke(&Who::identity("a"), unix_seconds()), Err(RevocationError::Over));
        assert_eq!(revocations.revoke(&Who::identity(""), later()), Err(RevocationError::Name));
        let long = "x".repeat(Revocation::NAME_BYTES_MAX + 1);
        assert_eq!(revocations.revoke(&Who::token(&long), later()), Err(RevocationError::Name));
        assert_eq!(revocations.revoke(&Who::token(&long[1..]), u64::MAX), Ok(()));
        assert_eq!(revocations.page(None, 9).0[0].until, u64::MAX);
    }

    #[test]
    fn a_revocation_that_is_over_refuses_nobody() {
        let revocations = Revocations::default();
        revocations.revoke(&Who::identity("a"), later()).unwrap();
        revocations.lock().identities.insert("a".into(), unix_seconds());
        assert_eq!(status(&revocations, &Identity::new("a")), None);
        assert!(revocations.page(None, 9).0.is_empty() && !revocations.lift(&Who::identity("a")));
    }

    #[test]
    fn pages_have_each_revocation_once() {
        let revocations = Revocations::default();
        let all: Vec<Who> = ["a", "b", "c"].map(Who::identity).into_iter().chain(["a", "b"].map(Who::token)).collect();
        all.iter().for_each(|who| revocations.revoke(who, later()).unwrap());
        for most in 1..=6 {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let (page, has_more) = revocations.page(after.as_ref(), most);
                assert!(page.len() <= most);
                found.extend(page.into_iter().map(|revocation| revocation.who));
                if !has_more {
                    break;
                }
                after = found.last().cloned();
            }
            assert_eq!(found, all, "pages of {most}");
        }
    }
}

//! The identities of one sender: those that the gates in front of its endpoint have found, and the one that a handler
//! has chosen.

use std::time::SystemTime;

use super::{Identity, revocations::Revocations};
use crate::proto::Refusal;

/// The identities of the sender of a request, or of a connection. A sender without any costs no allocation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identities {
    /// The identity that the gate of the sender's own route has found.
    of_gate: Option<Box<Identity>>,
    /// The identity that a handler has chosen.
    chosen: Option<Box<Identity>>,
    /// The identities that the gates of other routes have found, without their grants: the judge asks these gates about
    /// each topic again.
    others: Vec<Identity>,
}

impl Identities {
    /// Returns the identities of a sender that gates have admitted: the gate of its own route, and those of others.
    pub(crate) fn new(of_gate: Option<Identity>, others: &[Identity]) -> Identities {
        let others = others.iter().flat_map(Identity::each).map(Identity::without_grants).collect();
        Identities { of_gate: of_gate.map(Box::new), chosen: None, others }
    }

    /// Returns the identity by which the sender is known: the one that a handler has chosen, or else the one that the
    /// gate of its own route has found.
    pub(crate) fn own(&self) -> Option<&Identity> {
        self.chosen.as_deref().or(self.of_gate.as_deref())
    }

    /// Returns all identities.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Identity> + Clone {
        self.of_route().chain(&self.others)
    }

    /// Returns the identities whose grants the judge has to know for another topic: the one that a handler has chosen,
    /// and then those that the gate of the sender's own route has found. It asks the other gates again.
    pub(crate) fn of_route(&self) -> impl Iterator<Item = &Identity> + Clone {
        self.chosen.iter().chain(&self.of_gate).flat_map(|identity| identity.each())
    }

    /// Returns the bytes of memory of all of them, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.all().map(Identity::bytes).sum()
    }

    /// Returns whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.of_gate.is_none() && self.chosen.is_none() && self.others.is_empty()
    }

    /// Returns whether the gate of the sender's own route has found identities, and each of them has grants: these say
    /// which topics the sender may use.
    pub(crate) fn name_topics(&self) -> bool {
        self.of_gate.as_ref().is_some_and(|of_gate| of_gate.each().all(|identity| identity.grants.is_some()))
    }

    /// Returns whether an identity, with those before it, is among these: each with the same name and the same token,
    /// and none expires earlier than it is known to.
    pub(crate) fn have(&self, identity: &Identity) -> bool {
        let is_known = |found: &Identity| {
            self.all().any(|known| {
                let is_same = known.name == found.name && known.token_id == found.token_id;
                is_same && found.expires.is_none_or(|ends| known.expires.is_some_and(|known| known <= ends))
            })
        };
        identity.each().all(is_known)
    }

    /// Returns the time at which the first of them expires.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        self.all().filter_map(|identity| identity.expires).min()
    }

    /// Checks that all of them are still valid: the sender was admitted some time before.
    ///
    /// # Errors
    ///
    /// 401 for an identity or a token that has expired, 403 for a revoked identity, 401 for a revoked token.
    pub(crate) fn check_again(&self, revocations: &Revocations) -> Result<(), Refusal> {
        self.all().try_for_each(Identity::check_expiry)?;
        revocations.check(self.all())
    }

    /// Lets the sender be known by an identity that a handler has chosen.
    pub(crate) fn choose(&mut self, identity: Identity) {
        self.chosen = Some(Box::new(identity));
    }

    /// Replaces the identity by which the sender is known by one that a handler has chosen, if both have the same name
    /// or the sender had none. The identity that the gate of the route has found stays. Returns whether the identity
    /// was replaced.
    pub(crate) fn renew_chosen(&mut self, identity: Identity) -> bool {
        let is_same = self.own().is_none_or(|own| own.name == identity.name);
        if is_same {
            self.choose(identity);
        }
        is_same
    }

    /// Replaces the identity that the gate of the route has found, and the one that a handler has chosen, by that of a
    /// fresh token, if all their names are the same or there were none. Returns whether they were replaced.
    pub(crate) fn renew_of_gate(&mut self, identity: Identity) -> bool {
        let names = |identity: &Identity| identity.each().map(|each| each.name.clone()).collect::<Vec<_>>();
        let is_same = self.own().is_none_or(|own| own.name == identity.name)
            && self.of_gate.as_ref().is_none_or(|earlier| names(earlier) == names(&identity));
        if is_same {
            (self.of_gate, self.chosen) = (Some(Box::new(identity)), None);
        }
        is_same
    }

    /// Forgets the identities that the gates of other routes have found. The judge has to ask these gates again about
    /// each topic of the sender.
    pub(crate) fn forget_others(&mut self) {
        self.others.clear();
    }

    /// Adds the identities that the gates of other routes have found for a further topic. Of two with the same name and
    /// the same token, the earlier expiry holds. Returns `None` if there would be more than [`OTHERS_MAX`].
    pub(crate) fn with_others(&self, found: &Identities) -> Option<Identities> {
        let mut sum = self.clone();
        for identity in found.all() {
            let is_same = |other: &&mut Identity| other.name == identity.name && other.token_id == identity.token_id;
            if let Some(other) = sum.others.iter_mut().find(is_same) {
                other.expires = [other.expires, identity.expires].into_iter().flatten().min();
            } else if sum.others.len() < OTHERS_MAX {
                sum.others.push(identity.without_grants());
            } else {
                return None;
            }
        }
        Some(sum)
    }
}

/// The most identities of other routes' gates that a connection has when the topics of its messages add some.
pub(crate) const OTHERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hub::Who;

    fn named(name: &str, token: &str, expires: Option<u64>) -> Identity {
        let expires = expires.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        Identity { token_id: Some(token.into()), expires, ..Identity::new(name) }
    }

    fn ends(identities: &Identities) -> Option<u64> {
        identities.ends().map(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    fn tokens(identities: &Identities) -> String {
        identities.all().map(|identity| identity.token_id.as_deref().unwrap_or_default()).collect()
    }

    /// The identity of a gate with two authenticators, and that of another route's gate.
    fn found() -> Identities {
        let of_gate = named("42", "b", Some(50)).after(named("ann", "a", Some(30)));
        Identities::new(Some(of_gate), &[named("guest", "c", Some(40)).after(named("net", "d", None))])
    }

    #[test]
    fn the_first_expiry_of_all_holds() {
        let found = found();
        assert_eq!((&*found.own().unwrap().name, &*tokens(&found), ends(&found)), ("42", "bacd", Some(30)));
        let of_other = Identities::new(None, &[named("guest", "c", None)]);
        assert!(of_other.own().is_none() && !of_other.is_empty());
        assert!(Identities::default().is_empty() && ends(&Identities::default()).is_none());
    }

    /// What a handler renews is the identity that it has chosen. What a token renews is all that the gate of the route
    /// has found.
    #[test]
    fn a_renewal_forgets_no_other_expiry() {
        let mut sender = found();
        assert!(!sender.renew_chosen(Identity::new("ann")));
        assert!(sender.renew_chosen(named("42", "h", Some(10))));
        assert_eq!((&*tokens(&sender), ends(&sender)), ("hbacd", Some(10)));
        assert!(sender.renew_chosen(named("42", "H", None)));
        assert_eq!((&*tokens(&sender), ends(&sender)), ("Hbacd", Some(30)), "the gate's token still ends");
        let fresh = |name: &str| named("42", "B", Some(70)).after(named(name, "A", Some(60)));
        assert!(!sender.renew_of_gate(fresh("ben")), "the other authenticator has found another user");
        assert!(!sender.renew_of_gate(named("42", "B", None)));
        assert!(!sender.renew_of_gate(named("43", "B", None).after(named("ann", "A", None))));
        assert!(sender.renew_of_gate(fresh("ann")));
        assert_eq!((&*tokens(&sender), ends(&sender)), ("BAcd", Some(40)), "the other route's token still ends");
        let mut chosen = Identities::default();
        assert!(chosen.renew_chosen(named("42", "h", None)) && !chosen.renew_chosen(Identity::new("43")));
        assert!(!chosen.renew_of_gate(Identity::new("43")) && chosen.renew_of_gate(Identity::new("42")));
    }

    #[test]
    fn the_topics_of_messages_add_identities() {
        let of = |token: &str, expires| Identities::new(None, &[named("ann", token, Some(expires))]);
        let (one, again) = (found().with_others(&of("1", 70)).unwrap(), of("1", 20));
        assert_eq!((&*tokens(&one), ends(&one)), ("bacd1", Some(30)));
        let same = one.with_others(&again).unwrap();
        assert_eq!((&*tokens(&same), ends(&same)), ("bacd1", Some(20)));
        let add = |sum: Option<Identities>, number: usize| sum?.with_others(&of(&format!("<{number}>"), 70));
        assert!((0..OTHERS_MAX - 3).fold(Some(one.clone()), add).is_some());
        assert!((0..OTHERS_MAX - 2).fold(Some(one), add).is_none());
    }

    #[test]
    fn each_identity_is_checked_again() {
        let (revocations, far) = (Revocations::default(), 1 << 40);
        let sender = Identities::new(Some(named("42", "b", Some(far)).after(named("ann", "a", None))), &[]);
        let status = |sender: &Identities| sender.check_again(&revocations).err().map(|refusal| refusal.status);
        assert_eq!(status(&sender), None);
        for who in [Who::identity("42"), Who::identity("ann"), Who::token("a"), Who::token("b")] {
            revocations.revoke(&who, far).unwrap();
            assert_eq!(status(&sender), Some(if matches!(who, Who::Identity(_)) { 403 } else { 401 }), "{who:?}");
            assert!(revocations.lift(&who));
        }
        assert_eq!(status(&found()), Some(401), "it has expired");
    }
}

//! Permissions over topics: the decision by a topic's rule and the grants of identities, and the source that decides
//! where a rule says so.

use super::{
    Identity,
    answers::Later,
    credentials::Credentials,
    grants::{Grants, TopicRight},
};
use crate::{
    hub::{Permission, TopicName, TopicRules},
    proto::Refusal,
};

/// Decides about topics whose rule is [`Permission::Callback`]: mostly by asking the application.
///
/// A source is asked on the threads of shards and on the control thread, and must answer at once. [`prepare`] lets the
/// request wait for another thread, as [`Authenticator::prepare`] does. The server does not keep the decisions: a
/// source that is asked about the same question again and again has a cache of its own.
///
/// ```
/// use ringhub::{auth::{PermissionSource, TopicQuestion}, proto::Refusal};
///
/// /// Lets everybody into the topics below the own name.
/// struct Own;
///
/// impl PermissionSource for Own {
///     fn decide(&self, question: &TopicQuestion<'_>) -> Result<(), Refusal> {
///         let name = question.identity.map(|identity| format!("{}/", identity.name));
///         let is_own = name.is_some_and(|name| question.topic.as_str().starts_with(&name));
///         if is_own { Ok(()) } else { Err(Refusal::new(403, "this topic is somebody else's")) }
///     }
/// }
/// ```
///
/// [`prepare`]: PermissionSource::prepare
/// [`Authenticator::prepare`]: super::Authenticator::prepare
pub trait PermissionSource: Send + Sync + 'static {
    /// Decides a question.
    ///
    /// # Errors
    ///
    /// The refusal of the request, mostly 403. It is about the topic: a mark of it for wrong credentials
    /// ([`Refusal::for_wrong_credentials`]) has no effect.
    fn decide(&self, question: &TopicQuestion<'_>) -> Result<(), Refusal>;

    /// Returns the work that a request has to wait for before [`PermissionSource::decide`] can decide, or `None` if it
    /// can decide at once.
    ///
    /// The server calls this function only for a request that can wait. The work must not begin before it is polled,
    /// like that of [`Authenticator::prepare`](super::Authenticator::prepare).
    fn prepare(&self, question: &TopicQuestion<'_>) -> Option<Later> {
        _ = question;
        None
    }
}

/// A question about a topic: may the sender of a request use it in this way?
#[derive(Debug, Clone, Copy)]
pub struct TopicQuestion<'a> {
    /// The credentials of the request. For a message on a WebSocket they are those of the opening request, with the
    /// token that has been renewed last.
    pub credentials: Credentials<'a>,
    /// The identity of the sender, if an authenticator has found one.
    pub identity: Option<&'a Identity>,
    /// The intended use.
    pub right: TopicRight,
    /// The topic.
    pub topic: &'a TopicName,
}

/// The decision about a topic by its rule and by grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    /// The grants of an identity do not have the topic.
    NotGranted,
    /// The topic is only for identities with grants.
    NeedsGrant,
    /// The topic is for nobody.
    Closed,
    /// The source of permissions decides.
    Asks,
}

/// Decides about a topic by its rule, and by the grants of all identities that authenticators have found. Each gate
/// that leads to the topic has admitted the request, so grants of each of them hold.
pub(crate) fn decide<'a>(
    permission: Permission,
    identities: impl Iterator<Item = &'a Identity>,
    right: TopicRight,
    topic: &TopicName,
) -> Decision {
    let has_topic = |grants: &Grants| grants.has(right, topic);
    let mut granted = identities.filter_map(|identity| identity.grants.as_deref()).map(has_topic).peekable();
    match permission {
        Permission::Anyone => Decision::Allowed,
        Permission::Nobody => Decision::Closed,
        Permission::Callback => Decision::Asks,
        Permission::Granted if granted.peek().is_none() => Decision::NeedsGrant,
        Permission::Admitted | Permission::Granted if granted.all(|has_topic| has_topic) => Decision::Allowed,
        Permission::Admitted | Permission::Granted => Decision::NotGranted,
    }
}

impl TopicRules {
    /// Returns the column of a right.
    pub(crate) fn permission(&self, right: TopicRight) -> Permission {
        match right {
            TopicRight::Subscribe => self.subscribe,
            TopicRight::Publish => self.publish,
            TopicRight::Presence => self.presence,
            TopicRight::History => self.history,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every rule, for identities without grants, with grants of the topic, and with grants of others.
    #[test]
    fn rules_and_grants_decide() {
        use Decision::{Allowed, Asks, Closed, NeedsGrant, NotGranted};
        use Permission::{Admitted, Anyone, Callback, Granted, Nobody};
        let topic = TopicName::new("orders/42").unwrap();
        let of = |pattern: &str| {
            let grants = Grants::default().allow(TopicRight::Publish, [pattern.parse().unwrap()]);
            Identity::new("ann").with_grants(grants)
        };
        let (plain, own, other) = (Identity::new("ann"), of("orders/42"), of("orders/43"));
        let empty = Identity::new("ann").with_grants(Grants::default());
        let senders: [&[&Identity]; 8] = [
            &[],
            &[&plain],
            &[&own],
            &[&other],
            &[&empty],
            // Several gates lead to the topic, and each has found an identity.
            &[&plain, &own],
            &[&own, &other],
            &[&own, &own],
        ];
        let lines: [(Permission, [Decision; 8]); 5] = [
            (Admitted, [Allowed, Allowed, Allowed, NotGranted, NotGranted, Allowed, NotGranted, Allowed]),
            (Granted, [NeedsGrant, NeedsGrant, Allowed, NotGranted, NotGranted, Allowed, NotGranted, Allowed]),
            (Anyone, [Allowed; 8]),
            (Callback, [Asks; 8]),
            (Nobody, [Closed; 8]),
        ];
        for (permission, expected) in lines {
            for (at, (identities, expected)) in senders.into_iter().zip(expected).enumerate() {
                let decision = decide(permission, identities.iter().copied(), TopicRight::Publish, &topic);
                assert_eq!(decision, expected, "{permission:?}, sender {at}");
            }
        }
        // A right over a topic gives no other right over it.
        let by_other_right = decide(Admitted, [&own].into_iter(), TopicRight::Subscribe, &topic);
        assert_eq!(by_other_right, NotGranted);
    }

    #[test]
    fn each_right_has_its_column() {
        use Permission::{Anyone, Callback, Granted, Nobody};
        let rules = TopicRules {
            subscribe: Anyone,
            publish: Granted,
            presence: Callback,
            history: Nobody,
            ..TopicRules::default()
        };
        let of = [TopicRight::Subscribe, TopicRight::Publish, TopicRight::Presence, TopicRight::History]
            .map(|right| rules.permission(right));
        assert_eq!(of, [Anyone, Granted, Callback, Nobody]);
    }
}

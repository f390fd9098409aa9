//! The permissions over topics: their rules, and the source that decides where a rule says so.

use std::{fmt, sync::Arc};

use super::denied::Denied;
use crate::{
    auth::{Credentials, Decision, Identity, PermissionSource, TopicQuestion, TopicRight, decide},
    handler::{Panicked, sendable},
    hub::{KeyPointer, TopicName, TopicPattern, TopicRule, TopicTable},
    proto::Refusal,
};

/// The rules of topics, and the source of permissions. They belong to one table of endpoints, and do not change.
#[derive(Clone, Default)]
pub(crate) struct Permissions {
    rules: Arc<TopicTable>,
    source: Option<Arc<dyn PermissionSource>>,
}

/// Where the decision about a topic comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecidedBy {
    Rules,
    Source,
}

impl Permissions {
    pub(crate) fn new(rules: Arc<TopicTable>, source: Option<Arc<dyn PermissionSource>>) -> Permissions {
        Permissions { rules, source }
    }

    /// Returns whether every topic is for everybody.
    pub(super) fn are_open(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the pointer to the keys of a topic's messages.
    pub(super) fn key_of(&self, topic: &TopicName) -> Option<&KeyPointer> {
        self.rules.key_of(topic)
    }

    /// Judges whether the sender of a request may use a topic in all these ways, by the rules of the topic. The
    /// identities are those that the gates in front of the topic have found. If one of two ways alone would be
    /// permitted, the refusal names the `mode` that asks for that way.
    ///
    /// # Errors
    ///
    /// 403 by the rule of the topic; the refusal of the source, or 500 if there is no source; [`Denied::Later`] if the
    /// source has to wait and the request can wait; [`Denied::Panicked`] if the source has panicked.
    pub(super) fn judge<'a>(
        &self,
        credentials: &Credentials<'_>,
        rights: &[TopicRight],
        topic: &TopicName,
        identities: impl Iterator<Item = &'a Identity> + Clone,
    ) -> Result<DecidedBy, Denied> {
        if rights.is_empty() {
            return Ok(DecidedBy::Rules);
        }
        let rules = self.rules.of(topic);
        let decide = |right: TopicRight| decide(rules.permission(right), identities.clone(), right, topic);
        let mut by = DecidedBy::Rules;
        for &right in rights {
            match decide(right) {
                Decision::Allowed => {}
                Decision::Asks => by = DecidedBy::Source,
                denial => {
                    let is_other = |other: &&TopicRight| **other != right && decide(**other) == Decision::Allowed;
                    // A reading of a history has no mode.
                    let has_modes = !rights.contains(&TopicRight::History) && !rights.contains(&TopicRight::Presence);
                    let mode = rights.iter().find(is_other).filter(|_| has_modes).and_then(|other| mode(*other));
                    let mut refusal = refusal(denial, right, topic, mode);
                    if denial != Decision::Closed && identities.clone().any(has_no_topic) {
                        refusal.error += NO_TOPIC;
                    }
                    return Err(Denied::Refused(refusal));
                }
            }
        }
        if by == DecidedBy::Rules {
            return Ok(by);
        }
        // Whatever needs no answer of the application is decided before the application is asked.
        for &right in rights.iter().filter(|right| decide(**right) == Decision::Asks) {
            self.ask(&TopicQuestion { credentials: *credentials, identity: identities.clone().next(), right, topic })?;
        }
        Ok(by)
    }

    /// Asks the source of permissions.
    fn ask(&self, question: &TopicQuestion<'_>) -> Result<(), Denied> {
        let Some(source) = &self.source else {
            let what = format!("nobody answers for the topic {:?}: this server has no source", question.topic.as_str());
            return Err(Denied::Refused(Refusal::new(500, what)));
        };
        let can_wait = question.credentials.answers().is_some();
        let answer = Panicked::catch(|| match can_wait.then(|| source.prepare(question)).flatten() {
            Some(later) => Err(Denied::Later(later)),
            None => source.decide(question).map_err(|refusal| {
                let refusal = sendable(refusal);
                Denied::Refused(Refusal { is_for_wrong_credentials: false, ..refusal })
            }),
        });
        answer.unwrap_or_else(|Panicked(panic)| {
            tracing::error!(panic, "the source of permissions has panicked over a request");
            Err(Denied::Panicked)
        })
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.as_ref().map(|_| "a source");
        f.debug_struct("Permissions").field("rules", &self.rules).field("source", &source).finish()
    }
}

/// Returns the first pattern whose topics the application would be asked about.
pub(crate) fn asking<'a>(rules: impl IntoIterator<Item = &'a TopicRule>) -> Option<&'a TopicPattern> {
    rules.into_iter().find(|rule| rule.asks()).and_then(|rule| rule.patterns().first())
}

/// Returns whether the grants of an identity have no topic at all.
fn has_no_topic(identity: &Identity) -> bool {
    use TopicRight::{History, Presence, Publish, Subscribe};
    let has_none =
        |right: &TopicRight| identity.grants.as_ref().is_some_and(|grants| grants.patterns(*right).is_empty());
    [Subscribe, Publish, Presence, History].iter().all(has_none)
}

/// The end of a refusal of a sender whose grants have no topic at all.
const NO_TOPIC: &str =
    "; its grants have no topic at all, as those of a token without a claim for topics (see claims and bare_tokens)";

/// Returns the refusal of a use of a topic. `mode` asks for less, which would be permitted.
fn refusal(denial: Decision, right: TopicRight, topic: &TopicName, mode: Option<&str>) -> Refusal {
    let (name, verb) = (topic.as_str(), verb(right));
    let what = match denial {
        Decision::Closed => format!("nobody may {verb} the topic {name:?}"),
        Decision::NeedsGrant => format!("only a sender with a grant for the topic {name:?} may {verb} it"),
        _ => format!("this sender's grants do not let it {verb} the topic {name:?}"),
    };
    let remedy = mode.map(|mode| format!("; {mode} asks for less, which is permitted")).unwrap_or_default();
    Refusal::new(403, what + &remedy)
}

/// Returns the use of a topic, in words that the topic follows.
fn verb(right: TopicRight) -> &'static str {
    match right {
        TopicRight::Subscribe => "subscribe to",
        TopicRight::Publish => "publish to",
        TopicRight::Presence => "see who is in",
        TopicRight::History => "read the history of",
    }
}

/// Returns the pair of the query by which a client asks for this right alone.
fn mode(right: TopicRight) -> Option<&'static str> {
    match right {
        TopicRight::Subscribe => Some("mode=sub"),
        TopicRight::Publish => Some("mode=pub"),
        TopicRight::Presence | TopicRight::History => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{
        auth::{Answers, Grants, Later},
        hub::Permission,
        proto::RequestHead,
    };

    /// A source that permits each subscription, refuses every other right, and keeps the questions.
    #[derive(Default)]
    struct Fake {
        asked: Mutex<Vec<String>>,
        waits: bool,
        prepared: AtomicUsize,
    }

    impl PermissionSource for Fake {
        fn decide(&self, question: &TopicQuestion<'_>) -> Result<(), Refusal> {
            let TopicQuestion { identity, right, topic, .. } = question;
            let identity = identity.map_or("nobody", |identity| &identity.name);
            self.asked.lock().unwrap().push(format!("{identity} {right:?} {topic}"));
            assert_ne!(topic.as_str(), "ask/panic", "as intended");
            match right {
                TopicRight::Subscribe => Ok(()),
                _ => Err(Refusal::new(403, "the application says no")),
            }
        }

        fn prepare(&self, _: &TopicQuestion<'_>) -> Option<Later> {
            self.prepared.fetch_add(1, Ordering::Relaxed);
            self.waits.then(|| Box::pin(async {}) as Later)
        }
    }

    fn permissions(source: Option<Arc<Fake>>) -> Permissions {
        let rule = |pattern: &str| TopicRule::new([pattern.parse().unwrap()]);
        let rules = [
            rule("ask/*").subscribe(Permission::Callback).publish(Permission::Callback),
            rule("half/*").subscribe(Permission::Callback).publish(Permission::Nobody),
            rule("read/*").publish(Permission::Nobody),
            rule("own/*").subscribe(Permission::Granted).publish(Permission::Granted),
        ];
        let source = source.map(|source| source as Arc<dyn PermissionSource>);
        Permissions::new(Arc::new(TopicTable::new(&rules).unwrap()), source)
    }

    /// Judges the use of a topic. Returns the status and the text of a refusal.
    fn judge(
        permissions: &Permissions,
        rights: &[TopicRight],
        topic: &str,
        identity: Option<&Identity>,
        answers: Option<&Answers>,
    ) -> Result<DecidedBy, String> {
        let head = RequestHead::decode(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap().0;
        let credentials = Credentials::new(&head, None);
        let credentials = answers.map_or(credentials, |answers| credentials.with_answers(answers));
        let topic = TopicName::new(topic).unwrap();
        permissions.judge(&credentials, rights, &topic, identity.into_iter()).map_err(|denied| match denied {
            Denied::Refused(refusal) => format!("{} {}", refusal.status, refusal.error),
            other => format!("{other:?}"),
        })
    }

    const BOTH: [TopicRight; 2] = [TopicRight::Subscribe, TopicRight::Publish];

    #[test]
    fn a_refusal_names_what_would_do() {
        let permissions = permissions(None);
        let ann = Identity::new("ann")
            .with_grants(Grants::default().allow(TopicRight::Subscribe, ["own/a".parse().unwrap()]));
        let check = |rights: &[TopicRight], topic: &str, identity: Option<&Identity>, expected: &str| {
            assert_eq!(judge(&permissions, rights, topic, identity, None), Err(expected.into()), "{topic}");
        };
        assert_eq!(judge(&permissions, &BOTH, "free", None, None), Ok(DecidedBy::Rules));
        assert_eq!(judge(&permissions, &[], "own/a", None, None), Ok(DecidedBy::Rules));
        assert_eq!(judge(&permissions, &BOTH[..1], "own/a", Some(&ann), None), Ok(DecidedBy::Rules));
        let less = "; mode=sub asks for less, which is permitted";
        check(&BOTH, "read/a", None, &format!("403 nobody may publish to the topic \"read/a\"{less}"));
        check(&BOTH[1..], "read/a", None, "403 nobody may publish to the topic \"read/a\"");
        let only = "403 only a sender with a grant for the topic \"own/a\" may subscribe to it";
        check(&BOTH, "own/a", None, only);
        let grants = "403 this sender's grants do not let it publish to the topic \"own/a\"";
        check(&BOTH, "own/a", Some(&ann), &format!("{grants}{less}"));
        let grants = "403 this sender's grants do not let it subscribe to the topic \"free\"";
        check(&BOTH, "free", Some(&ann), grants);
        let bare = Identity::new("bare").with_grants(Grants::default());
        check(&BOTH, "free", Some(&bare), &format!("{grants}{NO_TOPIC}"));
        check(&BOTH[1..], "read/a", Some(&bare), "403 nobody may publish to the topic \"read/a\"");
    }

    #[test]
    fn a_source_is_asked_where_a_rule_says_so() {
        let fake = Arc::new(Fake::default());
        let permissions = permissions(Some(Arc::clone(&fake)));
        let ann = Identity::new("ann");
        assert_eq!(judge(&permissions, &BOTH[..1], "ask/a", Some(&ann), None), Ok(DecidedBy::Source));
        assert_eq!(judge(&permissions, &BOTH, "ask/a", None, None), Err("403 the application says no".into()));
        // Nobody is asked about a request that is refused anyway.
        let refused = judge(&permissions, &BOTH, "half/a", Some(&ann), None).unwrap_err();
        assert_eq!(refused, "403 nobody may publish to the topic \"half/a\"");
        assert_eq!(judge(&permissions, &BOTH, "ask/panic", None, None), Err("Panicked".into()));
        let asked =
            ["ann Subscribe ask/a", "nobody Subscribe ask/a", "nobody Publish ask/a", "nobody Subscribe ask/panic"];
        assert_eq!(*fake.asked.lock().unwrap(), asked);
    }

    #[test]
    fn a_source_may_have_to_wait() {
        let fake = Arc::new(Fake { waits: true, ..Fake::default() });
        let permissions = permissions(Some(Arc::clone(&fake)));
        let answers = Answers::default();
        assert_eq!(judge(&permissions, &BOTH[..1], "ask/a", None, Some(&answers)), Err("Later".into()));
        assert_eq!(fake.prepared.load(Ordering::Relaxed), 1);
        // A request that cannot wait is decided as well as may be, and prepares nothing.
        assert_eq!(judge(&permissions, &BOTH[..1], "ask/a", None, None), Ok(DecidedBy::Source));
        assert_eq!(fake.prepared.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn without_a_source_nobody_is_admitted() {
        let refused = judge(&permissions(None), &BOTH[..1], "ask/a", None, None).unwrap_err();
        assert!(refused.starts_with("500 nobody answers for the topic \"ask/a\""), "{refused}");
        let rules = [
            TopicRule::new(["a".parse().unwrap()]),
            TopicRule::new(["b/*".parse().unwrap()]).publish(Permission::Callback),
        ];
        assert_eq!(asking(&rules).map(ToString::to_string).as_deref(), Some("b/*"));
        assert_eq!(asking(&rules[..1]), None);
    }
}

//! A `refresh` under way: judges the topics of its connection by the new token, some in each turn, before the token
//! takes the place of the earlier one.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{
    command::Fault,
    error::ErrorCode,
    handler::{Client, Speaker, not_renewed, refused},
};
use crate::{
    auth::Identities,
    handler::{AcceptedToken, RenewError, Renewed},
    hub::TopicName,
    proto::{Refusal, State},
};

/// A `refresh` whose token the authenticator of the route has accepted. The commands of the connection wait behind it.
pub(super) struct Refresh {
    id: Option<u64>,
    token: AcceptedToken,
    /// The topics that have not been judged.
    topics: Vec<TopicName>,
    /// How many topics are judged now.
    judging: usize,
    /// The topics that the token does not permit.
    refused: Vec<(TopicName, Fault)>,
    /// The error if the judge cannot decide about a topic now.
    undecided: Option<Fault>,
}

/// A refresh that the decisions about several topics share.
type Shared = Rc<RefCell<Option<Refresh>>>;

impl Speaker {
    /// Takes the decision about a token, and begins to judge the topics of the connection by an accepted one.
    pub(super) fn begin_refresh(
        &self,
        connection: &mut Client<'_>,
        id: Option<u64>,
        accepted: Result<AcceptedToken, RenewError>,
    ) {
        let mut token = match accepted {
            Ok(token) => token,
            Err(error) => {
                if let RenewError::Refused(refusal) = &error {
                    self.judge.count_guess(connection, refusal);
                }
                self.fail(connection, not_renewed(id, &error));
                return self.go_on(connection);
            }
        };
        // The gates of other routes have found identities by the old token.
        token.identities.forget_others();
        let topics: Vec<TopicName> = connection.state().topics.keys().cloned().collect();
        connection.hold(None, token.bytes() + size_of_val(&topics[..]));
        let refresh = Refresh { id, token, topics, judging: 0, refused: Vec::new(), undecided: None };
        refresh.judge_some(self, connection);
    }
}

impl Refresh {
    /// Judges the next topics.
    fn judge_some(mut self, speaker: &Speaker, connection: &mut Client<'_>) {
        // A connection that is closing carries out nothing more.
        if connection.websocket_state() != State::Open {
            return;
        }
        let topics = self.topics.split_off(self.topics.len().saturating_sub(TOPICS_PER_TURN));
        if topics.is_empty() {
            return self.finish(speaker, connection);
        }
        self.judging = topics.len();
        let (identities, token) = (Arc::new(self.token.identities.clone()), self.token.token.clone());
        let shared: Shared = Rc::new(RefCell::new(Some(self)));
        for topic in topics {
            let (speaker, shared, name) = (speaker.clone(), Rc::clone(&shared), topic.clone());
            speaker.judge.clone().may_subscribe_by(
                connection,
                (&identities, &token),
                &topic,
                move |connection, decided| {
                    let mut place = shared.borrow_mut();
                    let Some(refresh) = place.as_mut() else { return };
                    if refresh.note(name, decided) {
                        let refresh = place.take();
                        drop(place);
                        refresh.into_iter().for_each(|refresh| refresh.go_on(&speaker, connection));
                    }
                },
            );
        }
    }

    /// Notes the decision about a topic. Returns whether it is the last of those that are judged now.
    fn note(&mut self, topic: TopicName, decided: Result<Identities, Refusal>) -> bool {
        let noted = decided.and_then(|others| self.token.note_others(&others));
        if let Err(refusal) = noted {
            let fault = refused(None, &refusal);
            if fault.code.is_temporary() {
                self.undecided = Some(Fault { id: self.id, code: ErrorCode::Unavailable, ..fault });
            } else {
                self.refused.push((topic, fault));
            }
        }
        self.judging -= 1;
        self.judging == 0
    }

    /// Judges further topics in another turn, if there are any.
    fn go_on(self, speaker: &Speaker, connection: &mut Client<'_>) {
        if self.topics.is_empty() || self.undecided.is_some() {
            return self.finish(speaker, connection);
        }
        let (id, of_work) = (self.id, speaker.clone());
        let is_begun = connection.spawn(async move |handle| {
            // The connection may have ended.
            _ = handle.with(move |connection| self.judge_some(&of_work, connection)).await;
        });
        if !is_begun {
            let reason = "too much work of this connection waits for decisions".into();
            speaker.fail(connection, Fault { id, code: ErrorCode::Unavailable, reason });
            speaker.go_on(connection);
        }
    }

    /// Lets the token take the place of the earlier one, and ends the subscriptions that it does not permit. If the
    /// judge could not decide about a topic, nothing changes.
    fn finish(self, speaker: &Speaker, connection: &mut Client<'_>) {
        let Refresh { id, token, refused, undecided, .. } = self;
        let taken = match undecided {
            Some(fault) => Err(fault),
            None => connection.take_token(token).map_err(|error| not_renewed(id, &error)),
        };
        match taken {
            Ok(Renewed { unsubscribed }) => {
                speaker.refreshed(connection, id);
                for (topic, fault) in &refused {
                    speaker.end_subscription(connection, topic, fault);
                }
                for topic in unsubscribed.iter().filter(|topic| refused.iter().all(|(other, _)| other != *topic)) {
                    let reason = format!("the new token does not permit {topic}");
                    let fault = Fault { id: None, code: ErrorCode::Forbidden, reason };
                    speaker.end_subscription(connection, topic, &fault);
                }
                speaker.judge_watched(connection);
            }
            Err(fault) => speaker.fail(connection, fault),
        }
        speaker.go_on(connection);
    }
}

/// The most topics that are judged again in one turn.
pub(crate) const TOPICS_PER_TURN: usize = 16;

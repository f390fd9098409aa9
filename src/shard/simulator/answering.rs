//! The handler of the simulated clients, for messages that are not forwarded to a topic, and the notes that it takes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use super::names::{Name, prepare};
use crate::{
    handler::{Closed, Connection, Handler, Refused, Sent, ShardApi, SubscribeError},
    hub::{ConnectionId, Publication, Scope, SubscribeOptions, TopicName},
    proto::{CloseCode, Message},
};

/// Answers `?1` with `!1`, acts after `act 1`, closes after `close`, and closes with 1008 after any other message.
#[derive(Debug, Default)]
pub(super) struct Answering {
    pub(super) desk: Desk,
}

/// The acts that clients may ask their handler for, and the notes of those that were performed. The handler and the
/// simulation share the desk.
#[derive(Debug, Default, Clone)]
pub(super) struct Desk(Arc<Mutex<Papers>>);

#[derive(Debug, Default)]
pub(super) struct Papers {
    /// By the numbers that clients send.
    pub(super) acts: Vec<Act>,
    /// The events since the simulation last read them.
    pub(super) notes: Vec<Note>,
    /// The acts that follow when a subscription goes live.
    then: HashMap<(ConnectionId, usize), Then>,
    farewells: HashMap<ConnectionId, Speech>,
}

/// A message that a handler publishes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speech {
    pub(super) topic: usize,
    pub(super) name: Name,
    pub(super) size: usize,
}

/// An act of a connection: in a handler's callback, or in a call between two turns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Subscribe {
        topic: usize,
        echo: bool,
        then: Then,
    },
    Unsubscribe {
        topic: usize,
    },
    Publish(Speech),
    /// The handler publishes when the connection has ended.
    Farewell(Speech),
    Close,
}

/// The act that follows when a subscription goes live.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    Nothing,
    /// A subscription ends: this one or another one.
    Unsubscribe {
        topic: usize,
    },
    Publish(Speech),
    Close,
}

/// An event in a handler or in a call.
#[derive(Debug)]
pub(super) enum Note {
    /// The handler was called with a message.
    Message,
    Subscribed {
        id: ConnectionId,
        topic: usize,
        echo: bool,
        outcome: Result<(), SubscribeError>,
    },
    /// A subscription has gone live.
    Live {
        id: ConnectionId,
        topic: usize,
    },
    Unsubscribed {
        id: ConnectionId,
        topic: usize,
    },
    /// A message was published in a callback, either because of a client's order or without one.
    Published {
        is_asked: bool,
    },
}

/// The means by which an act reaches its connection: in a handler's callback, or in a call.
pub(super) trait Hands {
    fn id(&self) -> ConnectionId;
    fn subscribe(&mut self, topic: &TopicName, options: SubscribeOptions) -> Result<(), SubscribeError>;
    fn unsubscribe(&mut self, topic: &TopicName) -> bool;
    fn publish(&mut self, topic: &TopicName, message: &Publication);
    fn close(&mut self, code: CloseCode, reason: &str);
}

impl Hands for Connection<'_, ()> {
    fn id(&self) -> ConnectionId {
        Connection::id(self)
    }

    fn subscribe(&mut self, topic: &TopicName, options: SubscribeOptions) -> Result<(), SubscribeError> {
        Connection::subscribe(self, topic, options)
    }

    fn unsubscribe(&mut self, topic: &TopicName) -> bool {
        Connection::unsubscribe(self, topic)
    }

    fn publish(&mut self, topic: &TopicName, message: &Publication) {
        Connection::publish(self, topic, message, Scope::Server);
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        // A connection that is closing has its close frame.
        _ = Connection::close(self, code, reason);
    }
}

/// The means of a call.
pub(super) struct Called<'a> {
    pub(super) id: ConnectionId,
    pub(super) shard: &'a mut dyn ShardApi,
}

impl Hands for Called<'_> {
    fn id(&self) -> ConnectionId {
        self.id
    }

    fn subscribe(&mut self, topic: &TopicName, options: SubscribeOptions) -> Result<(), SubscribeError> {
        self.shard.subscribe(self.id, topic, options)
    }

    fn unsubscribe(&mut self, topic: &TopicName) -> bool {
        self.shard.unsubscribe(self.id, topic)
    }

    fn publish(&mut self, topic: &TopicName, message: &Publication) {
        self.shard.publish(Some(self.id), topic, message.into(), Scope::Server);
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        self.shard.close(self.id, code, reason);
    }
}

impl Desk {
    pub(super) fn papers(&self) -> MutexGuard<'_, Papers> {
        self.0.lock().expect("no call has panicked")
    }
}

impl Papers {
    /// Performs an act, and notes it.
    pub(super) fn perform(&mut self, hands: &mut impl Hands, act: Act) {
        let id = hands.id();
        match act {
            Act::Subscribe { topic, echo, then } => {
                let outcome = hands
                    .subscribe(&topic_name(topic), SubscribeOptions { has_echo: echo, ..SubscribeOptions::default() });
                if outcome.is_ok() {
                    self.then.insert((id, topic), then);
                }
                self.notes.push(Note::Subscribed { id, topic, echo, outcome });
            }
            Act::Unsubscribe { topic } => {
                if hands.unsubscribe(&topic_name(topic)) {
                    self.notes.push(Note::Unsubscribed { id, topic });
                }
            }
            Act::Publish(Speech { topic, name, size }) => hands.publish(&topic_name(topic), &prepare(name, size)),
            Act::Farewell(speech) => _ = self.farewells.insert(id, speech),
            Act::Close => hands.close(CLOSED_AS_ASKED, "as asked"),
        }
    }
}

impl Handler for Answering {
    type State = ();

    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        let papers = &mut *self.desk.papers();
        papers.notes.push(Note::Message);
        let text = std::str::from_utf8(message.payload()).expect("clients ask in text");
        if let Some(number) = text.strip_prefix('?') {
            if let Sent::Refused(Refused::Full) = connection.send_text(format!("!{number}")) {
                Hands::close(connection, CLOSED_AS_FULL, "no room for an answer");
            }
        } else if let Some(number) = text.strip_prefix("act ") {
            let number: usize = number.parse().expect("an act has a number");
            let act = papers.acts[number];
            if matches!(act, Act::Publish(_)) {
                papers.notes.push(Note::Published { is_asked: true });
            }
            papers.perform(connection, act);
        } else if text == "close" {
            Hands::close(connection, CLOSED_AS_ASKED, "as asked");
        } else {
            Hands::close(connection, CloseCode::POLICY_VIOLATION, "this connection only receives");
        }
    }

    fn on_subscribed(&self, connection: &mut Connection<'_, ()>, topic: &TopicName) {
        let papers = &mut *self.desk.papers();
        let (id, topic) = (connection.id(), topic_number(topic));
        papers.notes.push(Note::Live { id, topic });
        match papers.then.remove(&(id, topic)) {
            None | Some(Then::Nothing) => {}
            Some(Then::Unsubscribe { topic }) => papers.perform(connection, Act::Unsubscribe { topic }),
            Some(Then::Publish(speech)) => {
                papers.notes.push(Note::Published { is_asked: false });
                papers.perform(connection, Act::Publish(speech));
            }
            Some(Then::Close) => papers.perform(connection, Act::Close),
        }
    }

    fn on_close(&self, connection: &mut Connection<'_, ()>, _closed: &Closed) {
        let papers = &mut *self.desk.papers();
        if let Some(speech) = papers.farewells.remove(&connection.id()) {
            papers.notes.push(Note::Published { is_asked: false });
            papers.perform(connection, Act::Publish(speech));
        }
    }
}

pub(super) fn topic_name(number: usize) -> TopicName {
    TopicName::new(&format!("topic {number}")).expect("a name")
}

/// Returns the number of the topic of that name.
pub(super) fn topic_number(name: &TopicName) -> usize {
    let number = name.as_str().strip_prefix("topic ").and_then(|number| number.parse().ok());
    // Other tests name their topics as they like, and read no notes.
    number.unwrap_or(usize::MAX)
}

pub(super) const CLOSED_AS_ASKED: CloseCode = CloseCode(4_000);
pub(super) const CLOSED_AS_FULL: CloseCode = CloseCode(4_001);
pub(super) const CLOSED_BY_COMMAND: CloseCode = CloseCode(4_002);

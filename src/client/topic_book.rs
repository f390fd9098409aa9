//! The topics of a `TopicClient`, and its commands without an answer: plain data that decides what each frame of the
//! server, and each loss of a connection, means for them.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{
    topic_error::TopicError,
    topic_event::{CommandError, Frame, Placed, TopicEvent, TopicPlace},
};

/// The topics that the caller wants, and the commands without an answer. Each command and each subscription belongs to
/// one connection, by its number: a loss of that connection ends them, however late the caller reads of the loss. `W`
/// is whoever waits for an answer.
#[derive(Debug)]
pub(super) struct TopicBook<W> {
    /// The id of the next command. No id is used twice, whatever the connection.
    next: u64,
    commands: HashMap<u64, Command<W>>,
    /// The topics that the caller wants, by their names in commands.
    topics: BTreeMap<String, Topic>,
    /// The names of the topics in commands, by those in the server's frames.
    names: HashMap<String, String>,
    /// How many of the topics are idle.
    idle: usize,
    /// How many of the commands subscribe again.
    again: usize,
}

/// A command without an answer.
#[derive(Debug)]
struct Command<W> {
    connection: u64,
    kind: Kind,
    waiter: Option<W>,
}

#[derive(Debug)]
enum Kind {
    /// Subscribes to this topic; again if the topic has been live before.
    Subscribe {
        topic: String,
        is_again: bool,
    },
    /// Unsubscribes from a topic, which the caller had or had not.
    Unsubscribe {
        had_topic: bool,
    },
    Other,
}

/// A topic that the caller wants.
#[derive(Debug)]
struct Topic {
    has_echo: bool,
    stage: Stage,
    /// The name of the topic in the server's frames, which may have a prefix; `None` before the first subscription is
    /// live.
    name: Option<String>,
    /// The place of the last message that has come, or that the client was told is missing.
    last: Option<TopicPlace>,
    /// The place after which another connection goes on: of the last message that has come. Messages that a notice has
    /// told of as missing may stand before others that are still to come, so they do not count.
    position: Option<TopicPlace>,
}

/// A topic to subscribe to again.
#[derive(Debug)]
pub(super) struct Again {
    /// The id of the command.
    pub(super) id: u64,
    pub(super) topic: String,
    pub(super) has_echo: bool,
    /// The place after which the subscription goes on, if the client knows one.
    pub(super) since: Option<TopicPlace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The command of this id has no answer.
    Joining {
        connection: u64,
        id: u64,
    },
    Live {
        connection: u64,
    },
    /// The connection was lost, or the server could not decide: the topic is to be subscribed to again, not before this
    /// time.
    Idle {
        until: Option<Instant>,
    },
}

/// The meaning of a frame for the caller.
#[derive(Debug)]
pub(super) enum Outcome<W> {
    Nothing,
    Event(TopicEvent),
    /// Whoever waits gets this answer. If nobody waits any more, the event tells of it.
    Answer {
        waiter: W,
        answer: Answer,
        event: Option<TopicEvent>,
    },
}

/// The answer to a command, with what it tells of places.
pub(super) type Answer = Result<Option<Placed>, TopicError>;

/// What becomes of a request to unsubscribe.
#[derive(Debug)]
pub(super) enum Unsubscribing<W> {
    /// The command is to be sent, with this id.
    Send(u64),
    /// No connection has the subscription, and none will.
    Done(W),
    /// There is no connection, and no such topic.
    NotOpen,
}

impl<W> Default for TopicBook<W> {
    fn default() -> Self {
        TopicBook {
            next: 0,
            commands: HashMap::new(),
            topics: BTreeMap::new(),
            names: HashMap::new(),
            idle: 0,
            again: 0,
        }
    }
}

impl<W> TopicBook<W> {
    /// Adds a topic, and the command that subscribes to it on a connection. Returns the id of the command.
    ///
    /// # Errors
    ///
    /// `already_subscribed` if the caller wants the topic already.
    pub(super) fn subscribe(
        &mut self,
        connection: u64,
        topic: &str,
        has_echo: bool,
        waiter: W,
    ) -> Result<u64, TopicError> {
        if self.topics.contains_key(topic) {
            return Err(TopicError::Refused(CommandError {
                code: ALREADY_SUBSCRIBED,
                name: "already_subscribed".into(),
                reason: format!("the client has subscribed to {topic}"),
                is_temporary: false,
            }));
        }
        let kind = Kind::Subscribe { topic: topic.into(), is_again: false };
        let id = self.begin(connection, kind, Some(waiter));
        let stage = Stage::Joining { connection, id };
        self.topics.insert(topic.into(), Topic { has_echo, stage, name: None, last: None, position: None });
        Ok(id)
    }

    /// Takes a topic out, and adds the command that unsubscribes from it on the open connection, if the server may have
    /// the subscription.
    pub(super) fn unsubscribe(&mut self, open: Option<u64>, topic: &str, waiter: W) -> Unsubscribing<W> {
        let had = self.remove(topic);
        let on = match had {
            Some(Stage::Joining { connection, .. } | Stage::Live { connection }) => Some(connection),
            Some(Stage::Idle { .. }) => None,
            None => open,
        };
        match open {
            Some(open) if on == Some(open) => {
                let kind = Kind::Unsubscribe { had_topic: had.is_some() };
                Unsubscribing::Send(self.begin(open, kind, Some(waiter)))
            }
            _ if had.is_some() => Unsubscribing::Done(waiter),
            _ => Unsubscribing::NotOpen,
        }
    }

    /// Adds a command of another kind. Returns its id.
    pub(super) fn command(&mut self, connection: u64, waiter: W) -> u64 {
        self.begin(connection, Kind::Other, Some(waiter))
    }

    /// Notes that a command was not sent.
    pub(super) fn unsent(&mut self, id: u64) {
        let Some(command) = self.take_command(id) else { return };
        if let Kind::Subscribe { topic, is_again } = command.kind {
            self.end_joining(&topic, id, is_again.then_some(None));
        }
    }

    /// Returns the next topic to subscribe to again on a connection, and adds the command; `None` if no topic is due,
    /// or if [`AGAIN_MAX`] such commands have no answer.
    pub(super) fn due(&mut self, connection: u64, now: Instant) -> Option<Again> {
        if self.idle == 0 || self.again >= AGAIN_MAX {
            return None;
        }
        let is_due = |topic: &Topic| match topic.stage {
            Stage::Idle { until } => until.is_none_or(|until| until <= now),
            Stage::Joining { .. } | Stage::Live { .. } => false,
        };
        let (name, topic) = self.topics.iter_mut().find(|(_, topic)| is_due(topic))?;
        let (id, name, has_echo, since) = (self.next, name.clone(), topic.has_echo, topic.position);
        topic.stage = Stage::Joining { connection, id };
        self.idle -= 1;
        self.begin(connection, Kind::Subscribe { topic: name.clone(), is_again: true }, None);
        Some(Again { id, topic: name, has_echo, since })
    }

    /// Returns when the first topic that waits may be subscribed to again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.idle == 0 {
            return None;
        }
        let until = self.topics.values().filter_map(|topic| match topic.stage {
            Stage::Idle { until } => until,
            Stage::Joining { .. } | Stage::Live { .. } => None,
        });
        until.min()
    }

    /// Ends what belongs to connections other than the open one: commands without an answer fail, and topics that were
    /// live become idle. Returns those that wait, with their answers.
    pub(super) fn moved(&mut self, open: Option<u64>) -> Vec<(W, Answer)> {
        let is_over = |connection: u64| open != Some(connection);
        let over: Vec<u64> =
            self.commands.iter().filter(|(_, command)| is_over(command.connection)).map(|(&id, _)| id).collect();
        let mut answers = Vec::new();
        for id in over {
            let Some(command) = self.take_command(id) else { continue };
            let answer = match command.kind {
                Kind::Subscribe { topic, is_again } => {
                    self.end_joining(&topic, id, is_again.then_some(None));
                    Err(TopicError::Lost)
                }
                // The subscription has ended with its connection.
                Kind::Unsubscribe { .. } => Ok(None),
                Kind::Other => Err(TopicError::Lost),
            };
            answers.extend(command.waiter.map(|waiter| (waiter, answer)));
        }
        for topic in self.topics.values_mut() {
            if let Stage::Live { connection } = topic.stage
                && is_over(connection)
            {
                topic.stage = Stage::Idle { until: None };
                self.idle += 1;
            }
        }
        answers
    }

    /// Takes a frame of the server. `text` is the frame itself. An answer to a command that has failed since has no
    /// meaning. A topic that the server cannot decide about is subscribed to again not before `again` says.
    pub(super) fn take(&mut self, frame: Frame, text: String, again: impl FnOnce() -> Instant) -> Outcome<W> {
        match frame {
            Frame::Message(message) => {
                let Some(message) = message.read() else { return Outcome::Event(TopicEvent::Unknown(text)) };
                if let Some(place) = message.place
                    && !self.note_message(&message.topic, place)
                {
                    return Outcome::Nothing;
                }
                Outcome::Event(TopicEvent::Message(message))
            }
            Frame::Lagged(lagged) => {
                if let (Some(epoch), Some(offset)) = (lagged.epoch, lagged.to) {
                    self.note_last(&lagged.topic, TopicPlace { epoch, offset });
                }
                Outcome::Event(TopicEvent::Lagged(lagged))
            }
            Frame::Subscribed(subscribed) => {
                let place = subscribed.place();
                self.subscribed(subscribed.id, subscribed.topic, place, subscribed.recovered)
            }
            Frame::Unsubscribed(ended) if ended.id.is_some() => self.done(ended.id, Ok(None)),
            Frame::Unsubscribed(ended) => {
                self.forget(&ended.topic);
                Outcome::Event(TopicEvent::Unsubscribed { topic: ended.topic, because: ended.because })
            }
            Frame::Published(published) => self.done(published.id, Ok(published.placed())),
            Frame::Refreshed { id } | Frame::Pong { id } => self.done(id, Ok(None)),
            Frame::Error { id, error } => self.failed(id, error, again),
        }
    }

    /// Forgets those that wait: nobody reads the answers any more.
    pub(super) fn forget_waiters(&mut self) {
        self.commands.values_mut().for_each(|command| command.waiter = None);
    }

    fn begin(&mut self, connection: u64, kind: Kind, waiter: Option<W>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.again += usize::from(matches!(kind, Kind::Subscribe { is_again: true, .. }));
        self.commands.insert(id, Command { connection, kind, waiter });
        id
    }

    fn take_command(&mut self, id: u64) -> Option<Command<W>> {
        let command = self.commands.remove(&id)?;
        self.again -= usize::from(matches!(command.kind, Kind::Subscribe { is_again: true, .. }));
        Some(command)
    }

    /// Takes a topic out. Returns its stage.
    fn remove(&mut self, topic: &str) -> Option<Stage> {
        let Topic { stage, name, .. } = self.topics.remove(topic)?;
        self.idle -= usize::from(matches!(stage, Stage::Idle { .. }));
        if let Some(name) = name {
            self.names.remove(&name);
        }
        Some(stage)
    }

    /// Ends the wait of a topic for the answer to a command. With `idle` the topic is subscribed to again, not before
    /// the time in it; without it the topic is taken out. Returns whether the topic has waited for this command.
    fn end_joining(&mut self, topic: &str, id: u64, idle: Option<Option<Instant>>) -> bool {
        let entry = self.topics.get_mut(topic);
        let Some(entry) = entry.filter(|entry| matches!(entry.stage, Stage::Joining { id: own, .. } if own == id))
        else {
            return false;
        };
        match idle {
            Some(until) => {
                entry.stage = Stage::Idle { until };
                self.idle += 1;
            }
            None => _ = self.remove(topic),
        }
        true
    }

    /// Notes that a subscription is live.
    fn subscribed(
        &mut self,
        id: Option<u64>,
        name: String,
        place: Option<TopicPlace>,
        recovered: Option<bool>,
    ) -> Outcome<W> {
        let command = id.and_then(|id| self.take_command(id));
        if id.is_some() && command.is_none() {
            // The connection of the command was lost since.
            return Outcome::Nothing;
        }
        let mut last = None;
        if let (Some(id), Some(Command { connection, kind: Kind::Subscribe { topic, .. }, .. })) = (id, &command)
            && let Some(entry) = self.topics.get_mut(topic)
            && entry.stage == (Stage::Joining { connection: *connection, id })
        {
            entry.stage = Stage::Live { connection: *connection };
            last = std::mem::replace(&mut entry.last, place);
            // The caller may have read messages of an earlier connection since the command: these come again.
            entry.position = match (entry.position, place) {
                (Some(position), Some(place)) if recovered == Some(true) && position.is_after(place) => Some(position),
                _ => place,
            };
            entry.name = Some(name.clone());
            self.names.insert(name.clone(), topic.clone());
        }
        let event = TopicEvent::Subscribed { topic: name, place, last, recovered };
        match command.and_then(|command| command.waiter) {
            Some(waiter) => answer(waiter, Ok(Some(Placed { place, receipt: None, recovered })), Some(event)),
            None => Outcome::Event(event),
        }
    }

    /// Answers a command that has no topic of its own.
    fn done(&mut self, id: Option<u64>, result: Answer) -> Outcome<W> {
        match id.and_then(|id| self.take_command(id)).and_then(|command| command.waiter) {
            Some(waiter) => answer(waiter, result, None),
            None => Outcome::Nothing,
        }
    }

    /// Answers a command that has failed.
    fn failed(&mut self, id: Option<u64>, error: CommandError, again: impl FnOnce() -> Instant) -> Outcome<W> {
        let Some((id, command)) = id.and_then(|id| Some((id, self.take_command(id)?))) else {
            return Outcome::Event(TopicEvent::Error(error));
        };
        let Command { connection, kind, waiter } = command;
        match kind {
            Kind::Subscribe { topic, is_again: true } => {
                return self.not_again(connection, id, topic, error, again);
            }
            Kind::Subscribe { topic, is_again: false } => _ = self.end_joining(&topic, id, None),
            Kind::Unsubscribe { had_topic: true } if error.code == NOT_SUBSCRIBED => {
                // The server has ended the subscription in the same moment.
                return waiter.map_or(Outcome::Nothing, |waiter| answer(waiter, Ok(None), None));
            }
            Kind::Unsubscribe { .. } | Kind::Other => {}
        }
        match waiter {
            Some(waiter) => answer(waiter, Err(TopicError::Refused(error.clone())), Some(TopicEvent::Error(error))),
            None => Outcome::Event(TopicEvent::Error(error)),
        }
    }

    /// Notes that the server has not subscribed the client again.
    fn not_again(
        &mut self,
        connection: u64,
        id: u64,
        topic: String,
        error: CommandError,
        again: impl FnOnce() -> Instant,
    ) -> Outcome<W> {
        if error.code == ALREADY_SUBSCRIBED {
            // The path of the connection, or the program of the server, has subscribed the client.
            if let Some(entry) = self.topics.get_mut(&topic)
                && entry.stage == (Stage::Joining { connection, id })
            {
                entry.stage = Stage::Live { connection };
            }
            return Outcome::Nothing;
        }
        if error.is_temporary {
            let waits = self.end_joining(&topic, id, Some(Some(again())));
            return if waits { Outcome::Event(TopicEvent::Error(error)) } else { Outcome::Nothing };
        }
        let name = self.topics.get(&topic).and_then(|entry| entry.name.clone());
        if self.end_joining(&topic, id, None) {
            let topic = name.unwrap_or(topic);
            return Outcome::Event(TopicEvent::Unsubscribed { topic, because: Some(error) });
        }
        // The caller has unsubscribed meanwhile.
        Outcome::Nothing
    }

    /// Takes the topic out that the server has ended, unless a later command subscribes to it.
    fn forget(&mut self, name: &str) {
        let Some(topic) = self.names.get(name).cloned() else { return };
        if self.topics.get(&topic).is_some_and(|entry| matches!(entry.stage, Stage::Live { .. })) {
            self.remove(&topic);
        }
    }

    /// Notes the place of a topic's message that has come. Returns whether it has come for the first time.
    fn note_message(&mut self, name: &str, place: TopicPlace) -> bool {
        let Some(entry) = self.names.get(name).and_then(|topic| self.topics.get_mut(topic)) else { return true };
        let is_known = entry.position.is_some_and(|position| position == place || position.is_after(place));
        if !is_known {
            (entry.last, entry.position) = (Some(place), Some(place));
        }
        !is_known
    }

    /// Notes the place of a topic's last message that is missing.
    fn note_last(&mut self, name: &str, place: TopicPlace) {
        if let Some(entry) = self.names.get(name).and_then(|topic| self.topics.get_mut(topic)) {
            entry.last = Some(place);
        }
    }
}

fn answer<W>(waiter: W, answer: Answer, event: Option<TopicEvent>) -> Outcome<W> {
    Outcome::Answer { waiter, answer, event }
}

/// The code of the error `already_subscribed`.
const ALREADY_SUBSCRIBED: u16 = 110;

/// The code of the error `not_subscribed`.
const NOT_SUBSCRIBED: u16 = 111;

/// The most commands without an answer that subscribe again. The server takes 256 commands of a connection; the others
/// are for the caller.
pub(super) const AGAIN_MAX: usize = 128;

/// The longest time until a topic that the server could not decide about is subscribed to again.
pub(super) const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;

//! The state of a connection: its topics, and its commands that have not been answered.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{
    command::{Fault, Request},
    error::ErrorCode,
};
use crate::hub::TopicName;

/// The state of a connection.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// The topic of the path, if the path names one. The client may use no other topic.
    pub(super) of_path: Option<TopicName>,
    /// The topics that the client has subscribed to.
    pub(super) topics: HashMap<TopicName, Stage>,
    /// Those of these topics whose joins and leaves the client is told of.
    pub(super) watched: HashSet<TopicName>,
    /// The topics whose subscriptions are not live, and that the client wanted to resume, but may not read the history
    /// of.
    without_history: Vec<TopicName>,
    /// Whether a command has to wait for a decision. All later commands wait behind it.
    pub(super) has_to_wait: bool,
    /// The time of the last `refresh` that the judge was asked about.
    refreshed: Option<Instant>,
    /// Whether the commands that have waited are carried out now.
    pub(super) is_catching_up: bool,
    /// The ids of the commands that have not been answered.
    ids: HashSet<u64>,
    /// How many commands have not been carried out, or whose answers depend on another thread.
    under_way: usize,
}

/// The stage of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The subscription is not live. The command had this id.
    Joining(Option<u64>),
    Live,
}

impl Talk {
    /// Returns the state of a connection whose path names a topic.
    pub(super) fn at(topic: TopicName) -> Talk {
        let of_path = Some(topic.clone());
        Talk { of_path, topics: HashMap::from([(topic, Stage::Joining(None))]), under_way: 1, ..Talk::default() }
    }

    /// Counts a command that has come.
    ///
    /// # Errors
    ///
    /// An id that another command has, and too many commands under way.
    pub(super) fn begin(&mut self, request: &Request<'_>) -> Result<(), Fault> {
        let fault = |code, reason| Fault { id: request.id, code, reason };
        if let Some(id) = request.id.filter(|id| self.ids.contains(id)) {
            return Err(fault(ErrorCode::DuplicateId, format!("another command with the id {id} is not answered yet")));
        }
        if self.under_way >= COMMANDS_MAX {
            let reason = format!("{COMMANDS_MAX} commands of this connection are not answered yet");
            return Err(fault(ErrorCode::TooManyCommands, reason));
        }
        self.ids.extend(request.id);
        self.under_way += 1;
        Ok(())
    }

    /// Notes that a command is answered, or needs no answer.
    pub(super) fn end(&mut self, id: Option<u64>) {
        if let Some(id) = id {
            self.ids.remove(&id);
            if self.ids.is_empty() && self.ids.capacity() > KEPT {
                self.ids = HashSet::new();
            }
        }
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Returns how many topics and ids the tables have room for.
    #[cfg(test)]
    pub(super) fn capacities(&self) -> [usize; 2] {
        [self.topics.capacity(), self.ids.capacity()]
    }

    /// Takes a topic out. The memory of many topics is not kept for few.
    pub(super) fn remove(&mut self, topic: &TopicName) -> Option<Stage> {
        self.take_without_history(topic);
        let stage = self.topics.remove(topic);
        self.watched.remove(topic);
        if self.topics.capacity() > KEPT && self.topics.len() < self.topics.capacity() / 4 {
            self.topics.shrink_to(2 * self.topics.len());
        }
        stage
    }

    /// Notes that the client may not read the history of a topic in which it wanted to resume.
    pub(super) fn note_without_history(&mut self, topic: &TopicName) {
        self.without_history.push(topic.clone());
    }

    /// Takes the note of [`Talk::note_without_history`]. Returns whether there was one.
    pub(super) fn take_without_history(&mut self, topic: &TopicName) -> bool {
        let index = self.without_history.iter().position(|other| other == topic);
        index.map(|index| self.without_history.swap_remove(index)).is_some()
    }

    /// Returns whether the judge may be asked about another token now, and notes that it is.
    pub(super) fn may_refresh(&mut self, now: Instant) -> bool {
        let may = self.refreshed.is_none_or(|last| now.saturating_duration_since(last) >= REFRESH_INTERVAL);
        if may {
            self.refreshed = Some(now);
        }
        may
    }

    /// Notes that the judge was not asked about a token, since the route has no authenticator.
    pub(super) fn note_unasked(&mut self) {
        self.refreshed = None;
    }
}

/// The most commands of a connection that are not answered.
pub(crate) const COMMANDS_MAX: usize = 256;

/// The least time between two tokens of a connection about which the judge is asked.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Ids and topics that a table has room for although it has fewer.
const KEPT: usize = 32;

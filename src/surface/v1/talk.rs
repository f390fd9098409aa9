//! The state of a connection: its topics, and its commands that have not been answered.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{
    command::{Fault, Request},
    error::ErrorCode,
};
use crate::hub::TopicName;

/// The state of a connection.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// The topics that the client has subscribed to.
    pub(super) topics: HashMap<TopicName, Stage>,
    /// Whether a command has to wait for a decision. All later commands wait behind it.
    pub(super) has_to_wait: bool,
    /// The commands that wait behind another, as they came.
    behind: VecDeque<Box<str>>,
    behind_bytes: usize,
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
        Talk { topics: HashMap::from([(topic, Stage::Joining(None))]), under_way: 1, ..Talk::default() }
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
        }
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Keeps a command that waits behind another. Returns whether there was room.
    pub(super) fn wait(&mut self, text: &str) -> bool {
        // One command of any size has room.
        let has_room = self.behind.is_empty() || self.behind_bytes + text.len() <= BEHIND_BYTES_MAX;
        if has_room {
            self.behind_bytes += text.len();
            self.behind.push_back(text.into());
        }
        has_room
    }

    /// Takes the next command that has waited, unless the one before has to wait itself.
    pub(super) fn next(&mut self) -> Option<Box<str>> {
        if self.has_to_wait {
            return None;
        }
        let text = self.behind.pop_front()?;
        self.behind_bytes -= text.len();
        Some(text)
    }
}

/// The most commands of a connection that are not answered.
pub(crate) const COMMANDS_MAX: usize = 256;

/// The most bytes of commands that wait behind another, beyond the first.
pub(crate) const BEHIND_BYTES_MAX: usize = 64 * 1_024;

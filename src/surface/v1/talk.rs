//! The state of a connection: its topics, and its commands that have not been answered.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use super::{
    command::{Fault, Request},
    error::ErrorCode,
};
use crate::hub::TopicName;

/// The state of a connection.
#[derive(Default)]
pub(super) struct Talk {
    /// The topic of the path, if the path names one. The client may use no other topic.
    pub(super) of_path: Option<TopicName>,
    /// The topics that the client has subscribed to.
    pub(super) topics: HashMap<TopicName, Stage>,
    /// Whether a command has to wait for a decision. All later commands wait behind it.
    pub(super) has_to_wait: bool,
    /// The commands that wait behind another, as they came.
    behind: VecDeque<Box<str>>,
    behind_bytes: usize,
    /// The bytes of the payload of a command that waits for a decision.
    pub(super) held_bytes: usize,
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
        }
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Keeps a command that waits behind another. Returns whether there was room.
    pub(super) fn wait(&mut self, text: &str) -> bool {
        // One command of any size has room, and is not counted.
        let first = self.behind.front().map_or(text.len(), |first| first.len());
        let has_room = self.behind_bytes + text.len() - first <= BEHIND_BYTES_MAX;
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

    /// Returns the bytes of the commands that wait, roughly.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.held_bytes + self.behind_bytes
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

/// Never shows the commands that wait: one may have a token.
impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Talk { topics, under_way, behind, .. } = self;
        let mut shown = f.debug_struct("Talk");
        shown.field("topics", topics).field("under_way", under_way).field("behind", &behind.len());
        shown.finish_non_exhaustive()
    }
}

/// The most commands of a connection that are not answered.
pub(crate) const COMMANDS_MAX: usize = 256;

/// The most bytes of commands that wait behind another, beyond the first.
pub(crate) const BEHIND_BYTES_MAX: usize = 64 * 1_024;

/// The least time between two tokens of a connection about which the judge is asked.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

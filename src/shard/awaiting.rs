//! The connections that are not received from because a home or a topic is behind.
//!
//! A connection whose messages go to one topic stands in the queues of that topic's home. Where a handler decides where
//! messages go, the connection stands in the queues of the home to which it has just published without room, or else in
//! the queues for any home. A connection whose topic has gathered its share of memory stands in the queues of topics.
//! When its home or topic is not behind any more, the connection is served in its turn among the connections of the
//! shard.
//!
//! A connection that begins to close, or ends, leaves only its id in a queue. The connection never waits again, so the
//! id is passed over.

use std::collections::{HashMap, VecDeque};

use crate::hub::{ConnectionId, Homes, TopicId};

/// The connections that are not received from because a home or a topic is behind.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    /// By the home's number.
    by_home: Vec<Queues>,
    any: Queues,
    /// The queues of each topic that a connection waits for. A topic with empty queues has no entry.
    by_topic: HashMap<TopicId, Queues>,
    /// The topics of `by_topic`, in the order in which they are looked at.
    topics: VecDeque<TopicId>,
    /// All topics were behind when they were looked at last. None gets room before the next flush.
    are_topics_behind: bool,
    /// The number of ids in all queues.
    entries: usize,
    /// The number of connections that wait.
    waiting: usize,
    /// The number of waiting connections whose input is not parsed to its end.
    unparsed: usize,
    /// The home whose queues are looked at first, so that no home is always the last.
    next: usize,
}

impl Awaiting {
    /// Returns whether no queue has an entry.
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Returns how many connections wait with input that is not parsed to its end.
    pub(super) fn unparsed(&self) -> usize {
        self.unparsed
    }

    /// Returns whether connections stand in the queues for these homes.
    pub(super) fn has(&self, homes: Homes) -> bool {
        let queues = match homes {
            Homes::One(home) => self.by_home.get(usize::from(home)),
            Homes::Any => Some(&self.any),
            Homes::Topic(topic) => self.by_topic.get(&topic),
        };
        queues.is_some_and(|queues| !queues.is_empty())
    }

    /// Begins a turn, in which topics are looked at anew.
    pub(super) fn begin_turn(&mut self) {
        self.are_topics_behind = false;
    }

    /// Adds a connection to a queue of these homes, or of this topic: to `busy`, for connections that had more input
    /// than their part of the frames, if `is_busy`; otherwise to `ready`.
    pub(super) fn push(&mut self, homes: Homes, is_busy: bool, id: ConnectionId) {
        self.entries += 1;
        let queues = self.queues(homes);
        let queue = if is_busy { &mut queues.busy } else { &mut queues.ready };
        queue.push_back(id);
    }

    /// Adds a connection in front of the others in the queue `busy` of these homes.
    pub(super) fn push_front(&mut self, homes: Homes, id: ConnectionId) {
        self.entries += 1;
        self.queues(homes).busy.push_front(id);
    }

    /// Returns whether a connection stands in the queues of a home or a topic that is not behind.
    pub(super) fn has_next(&self, is_behind: impl Fn(Homes) -> bool) -> bool {
        let has_next = |homes| self.has(homes) && !is_behind(homes);
        self.entries > 0
            && ((0..=self.by_home.len()).any(|at| has_next(self.homes_at(at)))
                || self.topics.iter().any(|&topic| has_next(Homes::Topic(topic))))
    }

    /// Takes the next connection of a home or of a topic that is not behind. The homes are served alternately, and all
    /// topics together like one more home. Returns the connection, and the homes or the topic that it has waited for.
    pub(super) fn pop(&mut self, is_behind: impl Fn(Homes) -> bool) -> Option<(ConnectionId, Homes)> {
        if self.entries == 0 {
            return None;
        }
        let count = self.by_home.len() + 2;
        for step in 0..count {
            let at = (self.next + step) % count;
            let next = if at + 1 == count { self.pop_of_topics(&is_behind) } else { self.pop_of_homes(at, &is_behind) };
            if next.is_some() {
                self.next = at + 1;
                self.entries -= 1;
                return next;
            }
        }
        None
    }

    fn pop_of_homes(&mut self, at: usize, is_behind: &impl Fn(Homes) -> bool) -> Option<(ConnectionId, Homes)> {
        let homes = self.homes_at(at);
        if !self.has(homes) || is_behind(homes) {
            return None;
        }
        let queues = self.queues(homes);
        let next = queues.pop();
        if queues.is_empty() {
            queues.shrink();
        }
        Some((next?, homes))
    }

    fn pop_of_topics(&mut self, is_behind: &impl Fn(Homes) -> bool) -> Option<(ConnectionId, Homes)> {
        if self.are_topics_behind {
            return None;
        }
        // A topic that is passed over goes to the end: it is looked at again only after all others.
        for _ in 0..self.topics.len() {
            let topic = self.topics.pop_front()?;
            if is_behind(Homes::Topic(topic)) {
                self.topics.push_back(topic);
                continue;
            }
            let queues = self.by_topic.get_mut(&topic).expect("a topic in the order has queues");
            let next = queues.pop();
            if queues.is_empty() {
                self.by_topic.remove(&topic);
                if self.by_topic.is_empty() {
                    self.by_topic.shrink_to(KEPT);
                    self.topics.shrink_to(KEPT);
                }
            } else {
                self.topics.push_back(topic);
            }
            return Some((next?, Homes::Topic(topic)));
        }
        self.are_topics_behind = true;
        None
    }

    /// Notes that a connection waits, and whether it has input that is not parsed to its end.
    pub(super) fn enter(&mut self, has_unparsed: bool) {
        self.waiting += 1;
        self.unparsed += usize::from(has_unparsed);
    }

    /// Notes that a connection does not wait any more.
    pub(super) fn leave(&mut self, has_unparsed: bool) {
        self.waiting = self.waiting.checked_sub(1).expect("a connection that waits has been counted");
        self.unparsed = self.unparsed.checked_sub(usize::from(has_unparsed)).expect("unparsed input has been counted");
    }

    /// Removes the ids of connections that do not wait any more, once these ids outnumber those of waiting connections
    /// by more than `SLACK`.
    pub(super) fn compact(&mut self, waits: impl Fn(ConnectionId) -> bool) {
        if self.entries <= 2 * self.waiting + SLACK {
            return;
        }
        self.by_topic
            .values_mut()
            .chain(&mut self.by_home)
            .chain([&mut self.any])
            .for_each(|queues| queues.retain(&waits));
        self.by_topic.retain(|_, queues| !queues.is_empty());
        self.topics.retain(|topic| self.by_topic.contains_key(topic));
        self.entries = self.by_topic.values().chain(&self.by_home).chain([&self.any]).map(Queues::len).sum();
    }

    /// Returns the homes whose queues have this place in the order in which queues are looked at: each single home,
    /// then the queues for any home.
    fn homes_at(&self, at: usize) -> Homes {
        if at < self.by_home.len() { Homes::One(at as u16) } else { Homes::Any }
    }

    /// Returns the queues of these homes. The caller must add a connection if no connection stands there.
    fn queues(&mut self, homes: Homes) -> &mut Queues {
        match homes {
            Homes::One(home) => {
                let home = usize::from(home);
                if self.by_home.len() <= home {
                    self.by_home.resize_with(home + 1, Queues::default);
                }
                &mut self.by_home[home]
            }
            Homes::Any => &mut self.any,
            Homes::Topic(topic) => self.by_topic.entry(topic).or_insert_with(|| {
                self.topics.push_back(topic);
                Queues::default()
            }),
        }
    }
}

/// The connections that wait for one home or topic, in two queues that are served alternately, like those of the shard:
/// a client that sends little need not wait for a crowd of clients that send much to the same home.
#[derive(Debug, Default)]
struct Queues {
    ready: VecDeque<ConnectionId>,
    /// Connections that had more input than their part of the frames.
    busy: VecDeque<ConnectionId>,
    /// Whether the next connection comes from `busy`.
    takes_busy: bool,
}

impl Queues {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.busy.is_empty()
    }

    fn len(&self) -> usize {
        self.ready.len() + self.busy.len()
    }

    fn pop(&mut self) -> Option<ConnectionId> {
        self.takes_busy = !self.takes_busy;
        let (first, second) =
            if self.takes_busy { (&mut self.busy, &mut self.ready) } else { (&mut self.ready, &mut self.busy) };
        first.pop_front().or_else(|| second.pop_front())
    }

    fn retain(&mut self, waits: impl Fn(ConnectionId) -> bool) {
        self.ready.retain(|&id| waits(id));
        self.busy.retain(|&id| waits(id));
    }

    /// Frees the memory of a crowd that has been served.
    fn shrink(&mut self) {
        self.ready.shrink_to(KEPT);
        self.busy.shrink_to(KEPT);
    }
}

/// The ids of connections that do not wait any more are removed once they outnumber the waiting connections by more
/// than this number.
const SLACK: usize = 64;

/// Places that an empty queue, or table, keeps.
const KEPT: usize = 64;

//! Topics: names to ids to subscribers, and the order of each topic's messages.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
};

use super::{ConnectionId, Run, Walk, Wish};

/// The name of a topic: 1 to 255 bytes of UTF-8 without control characters.
///
/// ```
/// use ringhub::TopicName;
/// assert!(TopicName::new("news/today").is_ok());
/// assert!(TopicName::new("").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// See [`TopicNameError`].
    pub fn new(name: &str) -> Result<Self, TopicNameError> {
        if name.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if name.len() > Self::BYTES_MAX {
            return Err(TopicNameError::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(TopicNameError::ControlCharacter);
        }
        Ok(TopicName(name.into()))
    }

    /// The topic of all connections, which nobody can name.
    #[must_use]
    pub(crate) fn everyone() -> Self {
        static EVERYONE: LazyLock<TopicName> = LazyLock::new(|| TopicName("\0everyone".into()));
        EVERYONE.clone()
    }

    /// Is it [`TopicName::everyone`]?
    #[must_use]
    pub(crate) fn is_everyone(&self) -> bool {
        self.0.starts_with('\0')
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicName({:?})", &*self.0)
    }
}

/// What is wrong with a topic's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicNameError {
    /// It has no characters.
    Empty,
    /// It has so many bytes, more than [`TopicName::BYTES_MAX`].
    TooLong(usize),
    /// It has a control character.
    ControlCharacter,
}

impl fmt::Display for TopicNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicNameError::Empty => f.write_str("the topic's name is empty"),
            TopicNameError::TooLong(bytes) => {
                write!(f, "the topic's name has {bytes} bytes, more than {}", TopicName::BYTES_MAX)
            }
            TopicNameError::ControlCharacter => f.write_str("the topic's name has a control character"),
        }
    }
}

impl std::error::Error for TopicNameError {}

/// A topic of one shard. Means something as long as the topic is attached or has messages on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub(crate) u32);

/// One topic as its shard knows it.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    /// Tells this life of the topic from an earlier one whose offsets have been forgotten.
    pub(super) epoch: u64,
    /// The number of the last message; the first is 1.
    pub(super) offset: u64,
    /// The slots of its subscribers, dense, in no order. While a walk is under way nothing moves: who leaves becomes
    /// [`VACANT`].
    pub(super) members: Vec<u32>,
    /// Who joined during the walk.
    pub(super) joiners: Vec<u32>,
    /// How many `members` are [`VACANT`].
    pub(super) vacant: u32,
    /// The pass over its members that is under way.
    pub(super) walk: Option<Box<Walk>>,
    /// What has been gathered and not yet begun to be sent.
    pub(super) run: Option<Box<Run>>,
    /// How many connections name it: once as subscribers, once more if that is where their messages go.
    pub(super) attached: u32,
    /// How many of these are subscriptions, those that wait for the home's word among them.
    pub(super) subscribed: u32,
    /// The shard that orders its messages.
    pub(super) home: u16,
    /// At home: the other shards that its messages are delivered to.
    pub(super) interested: Vec<u16>,
    /// At home: those whose connections only publish to it.
    pub(super) remembering: Vec<u16>,
    /// Elsewhere: whether this shard has the home's messages.
    pub(super) interest: Interest,
    /// Elsewhere: what was last asked of the home, and the number of that.
    pub(super) wish: Wish,
    pub(super) number: u64,
    /// Elsewhere: the home has not been asked yet, for want of room in the lane.
    pub(super) is_due: bool,
    /// Elsewhere: who waits for the home's word. Some have left since, and may have come back.
    pub(super) waiting: Vec<ConnectionId>,
    /// Where the next walk begins, so that no subscriber is always the last.
    pub(super) rotation: u32,
    /// Stands in the queue of topics that nobody is attached to.
    is_idle: bool,
}

/// What a shard that is not a topic's home has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Nothing, and has asked for nothing.
    None,
    /// It has asked, and what comes is not for its subscribers yet.
    Asked,
    /// Every message.
    Live,
}

/// A slot that has left during a walk.
pub(super) const VACANT: u32 = u32::MAX;

impl Topic {
    /// Gives up the memory of a list that nobody is in.
    pub(super) fn forget_members(&mut self) {
        debug_assert!(self.attached == 0 && self.walk.is_none());
        self.members = Vec::new();
        self.joiners = Vec::new();
    }

    /// May it be forgotten as soon as there are too many like it?
    fn is_unused(&self) -> bool {
        self.attached == 0 && self.interested.is_empty() && self.remembering.is_empty()
    }

    /// Would a subscriber who joins this shard's members now be owed every message from here on?
    pub(super) fn is_live(&self, shard: u16) -> bool {
        self.home == shard || self.interest == Interest::Live
    }

    /// Is something of it still on its way?
    fn is_busy(&self) -> bool {
        self.walk.is_some() || self.run.is_some()
    }
}

/// The shard that orders the messages of the topic of that name, of so many shards.
pub(super) fn home(name: &TopicName, shards: u16) -> u16 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() % u64::from(shards)) as u16
}

/// The topics of one shard.
#[derive(Debug)]
pub(super) struct Topics {
    by_name: HashMap<TopicName, TopicId>,
    topics: Vec<Option<Topic>>,
    free: Vec<u32>,
    /// Topics without connections, the longest forgotten first; each at most once.
    idle: VecDeque<TopicId>,
    idle_max: usize,
    epoch_next: u64,
    /// How many shards there are; each is the home of its share of the names.
    shards: u16,
}

impl Topics {
    pub(super) fn new(idle_max: usize, epoch_first: u64, shards: u16) -> Self {
        Topics {
            by_name: HashMap::new(),
            topics: Vec::new(),
            free: Vec::new(),
            idle: VecDeque::new(),
            idle_max,
            epoch_next: epoch_first,
            shards,
        }
    }

    /// The shard that orders the messages of that name.
    pub(super) fn home(&self, name: &TopicName) -> u16 {
        home(name, self.shards)
    }

    /// The topic of that name, made if there is none, with one more connection attached.
    pub(super) fn attach(&mut self, name: &TopicName) -> TopicId {
        let id = self.find_or_add(name);
        self[id].attached += 1;
        id
    }

    /// One connection fewer. [`Topics::notice_unused`] must follow.
    pub(super) fn detach(&mut self, id: TopicId) {
        let topic = &mut self[id];
        topic.attached -= 1;
        if topic.attached == 0 && topic.walk.is_none() {
            topic.forget_members();
        }
    }

    /// The topic of that name, made if there is none. Unless it is put to use, [`Topics::notice_unused`] must follow.
    pub(super) fn find_or_add(&mut self, name: &TopicName) -> TopicId {
        self.find(name).unwrap_or_else(|| self.add(name))
    }

    /// A topic that nobody uses is remembered until there are too many of them. One whose home has not been asked yet
    /// comes here again when it has: no number of them costs anything while a home has no room.
    pub(super) fn notice_unused(&mut self, id: TopicId) {
        let topic = &mut self[id];
        if topic.is_unused() && !topic.is_due && !std::mem::replace(&mut topic.is_idle, true) {
            self.idle.push_back(id);
        }
        self.forget_idle();
    }

    /// Forgets the longest idle topics beyond the limit.
    pub(super) fn forget_idle(&mut self) {
        // Each is looked at once at the most: one that is still being sent goes back to the end of the queue.
        for _ in 0..self.idle.len() {
            if self.idle.len() <= self.idle_max {
                return;
            }
            let Some(id) = self.idle.pop_front() else { return };
            let topic = &mut self[id];
            if !topic.is_unused() || topic.is_due {
                topic.is_idle = false;
            } else if topic.is_busy() {
                self.idle.push_back(id);
            } else {
                let name = topic.name.clone();
                self.by_name.remove(&name);
                self.topics[id.0 as usize] = None;
                self.free.push(id.0);
            }
        }
    }

    pub(super) fn find(&self, name: &TopicName) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_name.len()
    }

    fn add(&mut self, name: &TopicName) -> TopicId {
        let topic = Topic {
            name: name.clone(),
            epoch: self.epoch_next,
            offset: 0,
            members: Vec::new(),
            joiners: Vec::new(),
            vacant: 0,
            walk: None,
            run: None,
            attached: 0,
            subscribed: 0,
            home: self.home(name),
            interested: Vec::new(),
            remembering: Vec::new(),
            wish: Wish::Nothing,
            interest: Interest::None,
            number: 0,
            is_due: false,
            waiting: Vec::new(),
            rotation: 0,
            is_idle: false,
        };
        self.epoch_next += 1;
        let index = match self.free.pop() {
            Some(index) => {
                self.topics[index as usize] = Some(topic);
                index
            }
            None => {
                self.topics.push(Some(topic));
                self.topics.len() as u32 - 1
            }
        };
        self.by_name.insert(name.clone(), TopicId(index));
        TopicId(index)
    }
}

impl std::ops::Index<TopicId> for Topics {
    type Output = Topic;

    fn index(&self, id: TopicId) -> &Topic {
        self.topics[id.0 as usize].as_ref().expect("the topic is attached or has messages on their way")
    }
}

impl std::ops::IndexMut<TopicId> for Topics {
    fn index_mut(&mut self, id: TopicId) -> &mut Topic {
        self.topics[id.0 as usize].as_mut().expect("the topic is attached or has messages on their way")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn names_are_checked() {
        let check = |text: &str, expected: Result<(), TopicNameError>| {
            assert_eq!(TopicName::new(text).map(|_| ()), expected, "{text:?}");
        };
        check("a", Ok(()));
        check("a/b c/ü", Ok(()));
        check("", Err(TopicNameError::Empty));
        check("a\nb", Err(TopicNameError::ControlCharacter));
        check("a\u{7f}", Err(TopicNameError::ControlCharacter));
        check("a\u{85}", Err(TopicNameError::ControlCharacter));
        check(&"x".repeat(255), Ok(()));
        check(&"x".repeat(256), Err(TopicNameError::TooLong(256)));
    }

    #[test]
    fn a_topic_that_is_in_use_is_one_topic() {
        let mut topics = Topics::new(0, 1, 1);
        let first = topics.attach(&name("a"));
        assert_eq!(topics.attach(&name("a")), first);
        assert_ne!(topics.attach(&name("b")), first);
        assert_eq!(topics[first].attached, 2);
    }

    #[test]
    fn idle_topics_are_forgotten_beyond_the_limit_and_come_back_with_a_new_epoch() {
        let mut topics = Topics::new(2, 10, 1);
        for text in ["a", "b", "c"] {
            let id = topics.attach(&name(text));
            topics[id].offset = 5;
            topics.detach(id);
            topics.notice_unused(id);
        }
        assert!(topics.find(&name("a")).is_none());
        assert_eq!(topics[topics.find(&name("b")).unwrap()].offset, 5);
        let again = topics.attach(&name("a"));
        assert_eq!((topics[again].epoch, topics[again].offset), (13, 0));
        assert_eq!(topics.len(), 3);
    }

    #[test]
    fn coming_and_going_does_not_grow_the_queue() {
        let mut topics = Topics::new(2, 0, 1);
        for _ in 0..100 {
            let id = topics.attach(&name("a"));
            topics.detach(id);
            topics.notice_unused(id);
        }
        assert_eq!(topics.idle.len(), 1);
    }

    #[test]
    fn a_topic_with_messages_on_their_way_is_not_forgotten() {
        let mut topics = Topics::new(0, 0, 1);
        let id = topics.attach(&name("a"));
        topics[id].run = Some(Box::default());
        topics.detach(id);
        topics.notice_unused(id);
        assert!(topics.find(&name("a")).is_some());
        topics[id].run = None;
        topics.forget_idle();
        assert!(topics.find(&name("a")).is_none());
    }

    /// It waits for its home's word, which brings it here again: what waits for a home without room is not looked at.
    #[test]
    fn a_topic_that_is_due_does_not_stand_in_the_queue() {
        let mut topics = Topics::new(50, 0, 2);
        for number in 0..100 {
            let id = topics.attach(&name(&number.to_string()));
            topics[id].is_due = number % 2 == 0;
            topics.detach(id);
            topics.notice_unused(id);
        }
        assert_eq!((topics.len(), topics.idle.len()), (100, 50), "no other is forgotten for one that is due");
        // One that has become due since it was put there leaves the queue, and is not forgotten.
        let id = topics.find(&name("1")).expect("it is remembered");
        topics[id].is_due = true;
        topics.idle_max = 0;
        topics.forget_idle();
        assert_eq!((topics.len(), topics.idle.len()), (51, 0));
        for number in (0..100).step_by(2).chain([1]) {
            let id = topics.find(&name(&number.to_string())).expect("it is due");
            topics[id].is_due = false;
            topics.notice_unused(id);
        }
        assert_eq!(topics.len(), 0);
    }

    #[test]
    fn a_topic_that_another_shard_is_interested_in_is_not_forgotten() {
        let mut topics = Topics::new(0, 0, 2);
        let id = topics.find_or_add(&name("a"));
        topics[id].interested.push(1);
        topics.notice_unused(id);
        assert!(topics.find(&name("a")).is_some());
        topics[id].interested.clear();
        topics.notice_unused(id);
        assert!(topics.find(&name("a")).is_none());
    }

    #[test]
    fn every_shard_is_the_home_of_its_share() {
        let topics = Topics::new(0, 0, 4);
        let mut shares = [0; 4];
        for number in 0..4_000 {
            shares[usize::from(topics.home(&name(&number.to_string())))] += 1;
        }
        assert!(shares.iter().all(|share| (800..1_200).contains(share)), "{shares:?}");
    }
}

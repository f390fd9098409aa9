//! The topics of one shard: names, ids, members, and the shard's role for each topic.

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use super::{
    attendance::Attendance,
    audience::{Audience, AudienceId, Audiences},
    connection_id::ConnectionId,
    encoding::DearFormats,
    end_role::EngineTopics,
    entry::Interest,
    history::History,
    publication::OrderEnd,
    roster::Roster,
    run::Run,
    tag::Tags,
    topic_id::TopicId,
    topic_name::{TopicName, home},
    topic_rules::{RulesOfTopics, TopicRules},
};

/// A topic, with the state that one shard keeps of it.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    /// The part of this shard in the topic's order.
    pub(super) role: TopicRole,
    /// The subscribers, by the formats that they want.
    pub(super) audiences: Audiences,
    pub(super) rules: TopicRules,
    /// The number of the replacement by which `rules` are those of the topic.
    rules_generation: u32,
    /// How many connections are attached: each once as a subscriber, and once more if its client publishes here.
    pub(super) attached: u32,
    /// How many of these attachments are subscriptions, pending ones included.
    pub(super) subscribed: u32,
    /// The members among the shard's connections; `None` if the topic's rules keep no presence.
    pub(super) attendance: Option<Box<Attendance>>,
    /// Whether the topic stands in the queue of idle topics.
    is_idle: bool,
}

/// The part of a shard in the order of a topic.
#[derive(Debug)]
pub(super) enum TopicRole {
    /// The shard orders the topic's messages.
    Home(Home),
    /// Another shard orders the topic's messages.
    Remote(Remote),
}

/// The order of a topic, as its home keeps it.
#[derive(Debug)]
pub(super) struct Home {
    /// Distinguishes this life of the topic from an earlier one whose offsets have been forgotten.
    pub(super) epoch: u64,
    /// The offset of the last message; 0 before the first.
    pub(super) offset: u64,
    /// The engine that orders the topic's publications instead of the home. `epoch` and `offset` are then those of the
    /// last place that the engine has given.
    pub(super) engine: Option<u16>,
    /// The other shards whose interest is [`Interest::Messages`], each with its dear formats.
    pub(super) interested: Vec<(u16, DearFormats)>,
    /// The other shards whose interest is [`Interest::Offsets`].
    pub(super) remembering: Vec<u16>,
    /// The messages that are kept; `None` if there are none.
    pub(super) history: Option<Box<History>>,
    /// The members of all shards; `None` if there are none.
    pub(super) roster: Option<Box<Roster>>,
}

/// The state of a topic whose home is another shard.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) home: u16,
    /// The state of the home's messages on their way to this shard.
    pub(super) feed: Feed,
    /// The interest that was announced last, and the number of that announcement.
    pub(super) interest: Interest,
    pub(super) number: u64,
    /// The end of the topic's order on this shard: after the messages that have come. It is known while the home sends
    /// every message.
    pub(super) end: Option<OrderEnd>,
    /// Whether the interest has not been sent yet, because the lane has no room.
    pub(super) is_due: bool,
    /// The connections whose subscriptions go live with the home's acknowledgement. Some of these connections may have
    /// left since, and come back.
    pub(super) pending: Vec<ConnectionId>,
}

/// The state of a topic's messages on their way from its home to another shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// The home sends no messages.
    Off,
    /// The shard has requested the messages. A message that arrives before the acknowledgement is dropped: no
    /// subscriber here is live yet.
    Requested,
    /// The home sends every message.
    Live,
}

impl Topic {
    /// Frees the memory of the lists of members if no connection is attached and no walk is under way.
    pub(super) fn forget_members(&mut self) {
        if self.attached == 0 && self.audiences.iter().all(|audience| audience.walk.is_none()) {
            self.audiences.forget_members();
        }
    }

    /// Returns the end of the topic's order, after which a subscription begins that goes live now.
    pub(super) fn end(&self) -> Option<OrderEnd> {
        match &self.role {
            // The engine has not told this home of any place.
            TopicRole::Home(home) if home.engine.is_some() && home.offset == 0 => None,
            TopicRole::Home(home) => Some(OrderEnd { epoch: home.epoch, offset: home.offset }),
            TopicRole::Remote(remote) => remote.end,
        }
    }

    /// Returns whether a subscriber that joins the members now is owed every message from here on.
    pub(super) fn is_live(&self) -> bool {
        match &self.role {
            TopicRole::Home(_) => true,
            TopicRole::Remote(remote) => remote.feed == Feed::Live,
        }
    }

    /// Returns whether the topic may be forgotten as soon as too many topics are idle: at the topic's home, if no
    /// connection of any shard uses the topic, no message of it is kept and it has no member; on another shard, if no
    /// connection of that shard uses it.
    ///
    /// A topic with an unsent interest, or with news about its members, counts as used; `send_due` or `send_presence`
    /// calls `notice_unused` when they are sent.
    fn is_unused(&self) -> bool {
        let is_wanted = match &self.role {
            TopicRole::Home(home) => {
                let is_used = !home.interested.is_empty() || !home.remembering.is_empty();
                is_used || home.history.is_some() || home.roster.is_some()
            }
            TopicRole::Remote(remote) => remote.is_due,
        };
        self.attached == 0 && !is_wanted && self.attendance.is_none()
    }

    /// Returns whether messages of the topic are still on their way to subscribers.
    fn is_busy(&self) -> bool {
        self.audiences.iter().any(Audience::is_busy)
    }
}

/// The topics of one shard.
#[derive(Debug)]
pub(super) struct Topics {
    by_name: HashMap<TopicName, TopicId>,
    topics: Vec<Option<Topic>>,
    free: Vec<u32>,
    /// How many topics have their home here.
    homes: usize,
    /// Remembered topics, each at most once, in the order in which they first became idle. A topic in use again keeps
    /// its place until it comes to the front.
    idle: VecDeque<TopicId>,
    pub(super) idle_max: usize,
    epochs: Epochs,
    /// The topics that an engine orders.
    pub(super) engine: Option<EngineTopics>,
    rules: RulesOfTopics,
    /// The number of the last replacement of the rules that the shard has noticed.
    rules_generation: u32,
    shard: u16,
    /// How many shards the server has; each is the home of its share of the names.
    shards: u16,
}

impl Topics {
    /// Returns the empty table of a shard.
    pub(super) fn new(idle_max: usize, epoch_seed: u64, shard: u16, shards: u16) -> Self {
        Topics {
            by_name: HashMap::new(),
            topics: Vec::new(),
            free: Vec::new(),
            homes: 0,
            idle: VecDeque::new(),
            idle_max,
            epochs: Epochs(epoch_seed),
            engine: None,
            rules: RulesOfTopics::default(),
            rules_generation: 0,
            shard,
            shards,
        }
    }

    /// Takes the rules of all topics, before there is any topic.
    pub(super) fn set_rules(&mut self, rules: RulesOfTopics) {
        self.rules = rules;
        self.notice_rules();
    }

    /// Returns the rules of all topics.
    pub(super) fn rules(&self) -> &RulesOfTopics {
        &self.rules
    }

    /// Notes the last replacement of the rules. Each topic takes its new rules at its next use.
    #[inline]
    pub(super) fn notice_rules(&mut self) {
        self.rules_generation = self.rules.generation();
    }

    /// Returns the number of that replacement.
    pub(super) fn rules_generation(&self) -> u32 {
        self.rules_generation
    }

    /// Lets the topic take the rules of the last replacement that the shard has noticed.
    #[inline]
    pub(super) fn renew_rules(&mut self, id: TopicId) {
        if self[id].rules_generation != self.rules_generation {
            self.look_up_rules(id);
        }
    }

    #[cold]
    fn look_up_rules(&mut self, id: TopicId) {
        let (rules, generation) = (self.rules.of(&self[id].name), self.rules_generation);
        let topic = &mut self[id];
        (topic.rules, topic.rules_generation) = (rules, generation);
        if topic.rules.tags != Tags::Newest {
            // The runs may have begun under a rule by which they keep only the newest message of each key.
            topic.audiences.for_each(|audience| audience.for_each_run(Run::keep_all));
        }
    }

    /// Returns the shard that orders the messages of the topic of that name.
    pub(super) fn home(&self, name: &TopicName) -> u16 {
        home(name, self.shards)
    }

    /// Attaches one connection to the topic of that name, which is added if it is unknown.
    pub(super) fn attach(&mut self, name: &TopicName) -> TopicId {
        let id = self.find_or_add(name);
        self[id].attached += 1;
        id
    }

    /// Detaches one connection. [`Topics::notice_unused`] must follow.
    pub(super) fn detach(&mut self, id: TopicId) {
        let topic = &mut self[id];
        assert!(topic.attached > 0, "only an attached connection is detached");
        topic.attached -= 1;
        topic.forget_members();
    }

    /// Returns the topic of that name, which is added if it is unknown. Unless a connection is attached to the topic,
    /// [`Topics::notice_unused`] must follow.
    pub(super) fn find_or_add(&mut self, name: &TopicName) -> TopicId {
        self.find(name).unwrap_or_else(|| self.add(name))
    }

    /// Puts the topic into the queue of idle topics if it is unused and not in the queue yet. An unused topic is
    /// remembered until too many topics are idle. Topics with an unsent interest stay out of the queue: `forget_idle`
    /// would scan them again and again while a home's lane is full.
    pub(super) fn notice_unused(&mut self, id: TopicId) {
        let topic = &mut self[id];
        if topic.is_unused() && !mem::replace(&mut topic.is_idle, true) {
            self.idle.push_back(id);
        }
        self.forget_idle();
    }

    /// Forgets idle topics beyond the limit, in the order of the queue; a topic that is in use again leaves the queue.
    pub(super) fn forget_idle(&mut self) {
        // Each topic is looked at once at most: a busy topic goes back to the end of the queue.
        for _ in 0..self.idle.len() {
            if self.idle.len() <= self.idle_max {
                return;
            }
            let Some(id) = self.idle.pop_front() else { return };
            let topic = &mut self[id];
            if !topic.is_unused() {
                topic.is_idle = false;
            } else if topic.is_busy() {
                self.idle.push_back(id);
            } else {
                let name = topic.name.clone();
                self.homes -= usize::from(matches!(topic.role, TopicRole::Home(_)));
                self.by_name.remove(&name);
                self.topics[id.0 as usize] = None;
                self.free.push(id.0);
            }
        }
    }

    /// Returns the topic of that name, if the shard knows it.
    pub(super) fn find(&self, name: &TopicName) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// Returns the topic of that id, unless it was forgotten. The id may belong to another topic by now.
    pub(super) fn get(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(id.0 as usize)?.as_ref()
    }

    /// Returns a number above the indices of all ids.
    pub(super) fn indices(&self) -> u32 {
        self.topics.len() as u32
    }

    /// Returns how many topics have their home on this shard.
    pub(super) fn homes(&self) -> usize {
        self.homes
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_name.len()
    }

    fn add(&mut self, name: &TopicName) -> TopicId {
        let topic = Topic {
            name: name.clone(),
            role: self.role(name),
            audiences: Audiences::default(),
            rules: self.rules.of(name),
            rules_generation: self.rules_generation,
            attached: 0,
            subscribed: 0,
            attendance: None,
            is_idle: false,
        };
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

    /// Returns the role of this shard for a topic that is new to it.
    fn role(&mut self, name: &TopicName) -> TopicRole {
        let home = self.home(name);
        if home == self.shard {
            self.homes += 1;
            let epoch = self.epochs.next();
            let engine = self.engine.filter(|engine| !name.is_hidden() && (engine.has)(name)).map(|engine| engine.end);
            let (interested, remembering) = (Vec::new(), Vec::new());
            let (history, roster) = (None, None);
            return TopicRole::Home(Home { epoch, offset: 0, engine, interested, remembering, history, roster });
        }
        TopicRole::Remote(Remote {
            home,
            feed: Feed::Off,
            interest: Interest::None,
            number: 0,
            end: None,
            is_due: false,
            pending: Vec::new(),
        })
    }
}

/// The source of epochs: the state of a generator of random numbers (SplitMix64).
#[derive(Debug)]
struct Epochs(u64);

impl Epochs {
    /// Returns the next epoch: a number of 53 bits, not 0. No clock takes part, so a clock that is set back brings no
    /// old epoch back.
    fn next(&mut self) -> u64 {
        loop {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let epoch = (mixed ^ (mixed >> 31)) >> (64 - EPOCH_BITS);
            if epoch != 0 {
                return epoch;
            }
        }
    }
}

/// The bits of an epoch: as many as a number of JavaScript, a `double`, holds exactly.
const EPOCH_BITS: u32 = 53;

const UNKNOWN: &str = "the topic is attached, used by other shards, or remembered";

impl std::ops::Index<TopicId> for Topics {
    type Output = Topic;

    fn index(&self, id: TopicId) -> &Topic {
        self.topics[id.0 as usize].as_ref().expect(UNKNOWN)
    }
}

impl std::ops::IndexMut<TopicId> for Topics {
    fn index_mut(&mut self, id: TopicId) -> &mut Topic {
        self.topics[id.0 as usize].as_mut().expect(UNKNOWN)
    }
}

const NO_AUDIENCE: &str = "a subscriber has been in the audience";

impl std::ops::Index<AudienceId> for Topics {
    type Output = Audience;

    #[inline]
    fn index(&self, id: AudienceId) -> &Audience {
        self[id.topic].audiences.get(id.format).expect(NO_AUDIENCE)
    }
}

impl std::ops::IndexMut<AudienceId> for Topics {
    #[inline]
    fn index_mut(&mut self, id: AudienceId) -> &mut Audience {
        self[id.topic].audiences.get_mut(id.format).expect(NO_AUDIENCE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn home(topic: &mut Topic) -> &mut Home {
        match &mut topic.role {
            TopicRole::Home(home) => home,
            TopicRole::Remote(_) => panic!("{} has its home elsewhere", topic.name),
        }
    }

    fn remote(topic: &mut Topic) -> &mut Remote {
        match &mut topic.role {
            TopicRole::Remote(remote) => remote,
            TopicRole::Home(_) => panic!("{} has its home here", topic.name),
        }
    }

    /// The numbers of JavaScript are doubles.
    #[test]
    fn an_epoch_is_a_number_that_a_double_holds() {
        let mut epochs = Epochs(7);
        let drawn: HashSet<u64> = (0..10_000).map(|_| epochs.next()).collect();
        assert_eq!(drawn.len(), 10_000);
        assert!(drawn.iter().all(|&epoch| epoch > 0 && epoch as f64 as u64 == epoch && epoch < 1 << EPOCH_BITS));
        assert!(drawn.iter().any(|&epoch| epoch >= 1 << (EPOCH_BITS - 1)), "all bits are used");
        assert_ne!(Epochs(8).next(), Epochs(7).next(), "another shard has other epochs");
    }

    #[test]
    fn a_topic_that_is_in_use_is_one_topic() {
        let mut topics = Topics::new(0, 1, 0, 1);
        let first = topics.attach(&name("a"));
        assert_eq!(topics.attach(&name("a")), first);
        assert_ne!(topics.attach(&name("b")), first);
        assert_eq!(topics[first].attached, 2);
    }

    #[test]
    fn idle_topics_are_forgotten_beyond_the_limit_and_come_back_with_a_new_epoch() {
        let mut topics = Topics::new(2, 10, 0, 1);
        let mut epochs = HashSet::new();
        for text in ["a", "b", "c"] {
            let id = topics.attach(&name(text));
            epochs.insert(home(&mut topics[id]).epoch);
            home(&mut topics[id]).offset = 5;
            topics.detach(id);
            topics.notice_unused(id);
        }
        assert!(topics.find(&name("a")).is_none());
        let remembered = topics.find(&name("b")).unwrap();
        assert_eq!(home(&mut topics[remembered]).offset, 5);
        let again = topics.attach(&name("a"));
        let again = home(&mut topics[again]);
        assert_eq!((epochs.insert(again.epoch), again.offset), (true, 0));
        assert_eq!((topics.len(), topics.homes()), (3, 3));
    }

    #[test]
    fn coming_and_going_does_not_grow_the_queue() {
        let mut topics = Topics::new(2, 0, 0, 1);
        for _ in 0..100 {
            let id = topics.attach(&name("a"));
            topics.detach(id);
            topics.notice_unused(id);
        }
        assert_eq!(topics.idle.len(), 1);
    }

    #[test]
    fn a_topic_with_messages_on_their_way_is_not_forgotten() {
        let mut topics = Topics::new(0, 0, 0, 1);
        let id = topics.attach(&name("a"));
        topics[id].audiences.raw_mut().run = Some(Box::default());
        topics.detach(id);
        topics.notice_unused(id);
        assert!(topics.find(&name("a")).is_some());
        topics[id].audiences.raw_mut().run = None;
        topics.forget_idle();
        assert!(topics.find(&name("a")).is_none());
    }

    /// A topic whose interest is due enters the queue when the interest is sent, so topics of a home without room are
    /// not looked at.
    #[test]
    fn a_topic_that_is_due_does_not_stand_in_the_queue() {
        let mut topics = Topics::new(50, 0, 0, 2);
        let names: Vec<TopicName> = (0..1_000).map(|number| name(&number.to_string())).collect();
        let names: Vec<&TopicName> = names.iter().filter(|name| topics.home(name) == 1).take(100).collect();
        let set_due = |topics: &mut Topics, index: usize, is_due| {
            let id = topics.find(names[index]).expect("it is remembered");
            remote(&mut topics[id]).is_due = is_due;
            id
        };
        for (index, name) in names.iter().enumerate() {
            let id = topics.attach(name);
            set_due(&mut topics, index, index % 2 == 0);
            topics.detach(id);
            topics.notice_unused(id);
        }
        assert_eq!((topics.len(), topics.idle.len()), (100, 50), "no other is forgotten for one that is due");
        assert_eq!(topics.homes(), 0, "their home is another shard");
        // A topic that has become due since it was put into the queue leaves it, and is not forgotten.
        set_due(&mut topics, 1, true);
        topics.idle_max = 0;
        topics.forget_idle();
        assert_eq!((topics.len(), topics.idle.len()), (51, 0));
        for index in (0..100).step_by(2).chain([1]) {
            let id = set_due(&mut topics, index, false);
            topics.notice_unused(id);
        }
        assert_eq!(topics.len(), 0);
    }

    #[test]
    fn a_topic_that_another_shard_is_interested_in_is_not_forgotten() {
        let mut topics = Topics::new(0, 0, super::home(&name("a"), 2), 2);
        let id = topics.find_or_add(&name("a"));
        home(&mut topics[id]).interested.push((1, DearFormats::default()));
        topics.notice_unused(id);
        assert!(topics.find(&name("a")).is_some());
        home(&mut topics[id]).interested.clear();
        topics.notice_unused(id);
        assert!(topics.find(&name("a")).is_none());
    }
}

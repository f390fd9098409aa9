//! The rules of topics: what each topic asks for, and who may use it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    history_rules::HistoryRules,
    key_pointer::KeyPointer,
    presence_rules::PresenceRules,
    slow::{Overflow, SlowRules},
    tag::Tags,
    topic_name::TopicName,
    topic_pattern::TopicPattern,
};

/// The rules of a topic. A new column is one field here, one key in the settings' file, and one method of
/// [`TopicRule`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicRules {
    /// Whether runs and backlogs keep the place and the time of each message of the topic.
    pub tags: Tags,
    /// What becomes of subscribers that do not keep up.
    pub slow: SlowRules,
    /// The fewest milliseconds between the beginnings of two walks over an audience; `None` for any number.
    pub delivery_interval_ms: Option<u64>,
    /// The limits of the output that the kernel keeps for each subscriber.
    pub kernel: KernelRules,
    /// The part of a message that is its key, if its publisher has not given one. Only [`Overflow::Latest`] needs keys.
    pub key: Option<KeyPointer>,
    /// How much is kept of the messages that were published.
    pub kept: HistoryRules,
    /// How the topic's members are kept; `None` if they are not.
    pub members: Option<PresenceRules>,
    /// Who may subscribe to the topic.
    pub subscribe: Permission,
    /// Who may publish to the topic.
    pub publish: Permission,
    /// Who may see who is subscribed to the topic.
    pub presence: Permission,
    /// Who may read the topic's earlier messages.
    pub history: Permission,
}

/// The limits of the output that the kernel keeps for a subscriber's socket, where no policy can drop it. A limit that
/// is `None` is that of the server. A connection has the smallest limits of its topics and of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelRules {
    /// The socket's send buffer in bytes (`SO_SNDBUF`).
    pub send_buffer_bytes: Option<u64>,
    /// The unsent bytes from which on the socket takes no more (`TCP_NOTSENT_LOWAT`).
    pub unsent_low_water_bytes: Option<u64>,
}

impl KernelRules {
    /// Returns the smaller one of each limit.
    #[must_use]
    pub fn min(self, other: KernelRules) -> KernelRules {
        let min = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        KernelRules {
            send_buffer_bytes: min(self.send_buffer_bytes, other.send_buffer_bytes),
            unsent_low_water_bytes: min(self.unsent_low_water_bytes, other.unsent_low_water_bytes),
        }
    }
}

/// Who may use a topic in one way. Whatever the permission is, the request must be admitted by the routes that lead to
/// the topic, and must show the server's own token where one is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Permission {
    /// Whoever the routes admit. If the sender's identity has grants, the grants must have the topic.
    #[default]
    Admitted,
    /// Only an identity whose grants have the topic.
    Granted,
    /// Whoever the routes admit, whatever grants the identity has.
    Anyone,
    /// Whoever the application admits when it is asked.
    Callback,
    /// Nobody.
    Nobody,
}

/// A rule of topics, for the topics of some patterns. Of several rules that have a topic, the one with the most precise
/// pattern holds alone: it inherits nothing from the others.
///
/// ```
/// use ringhub::{Permission, TopicRule};
/// let rule = TopicRule::new(["orders/*".parse()?]).subscribe(Permission::Granted).publish(Permission::Nobody);
/// assert_eq!(rule.rules().publish, Permission::Nobody);
/// # Ok::<(), ringhub::TopicPatternError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    patterns: Vec<TopicPattern>,
    rules: TopicRules,
}

impl TopicRule {
    /// Returns the rule of the topics of these patterns. Each column has its default.
    pub fn new(patterns: impl IntoIterator<Item = TopicPattern>) -> TopicRule {
        TopicRule { patterns: patterns.into_iter().collect(), rules: TopicRules::default() }
    }

    /// Sets what becomes of subscribers that do not keep up.
    ///
    /// ```
    /// use ringhub::{Overflow, TopicRule};
    /// let rule = TopicRule::new(["prices/*".parse()?]).slow(Overflow::Latest).backlog_messages(1_000);
    /// assert_eq!(rule.rules().slow.messages_max, Some(1_000));
    /// # Ok::<(), ringhub::TopicPatternError>(())
    /// ```
    #[must_use]
    pub fn slow(self, overflow: Overflow) -> TopicRule {
        self.change_slow(|slow| slow.overflow = overflow)
    }

    /// Sets the most bytes that a topic's messages may take while they wait for a subscriber: their frames, and what
    /// the hub keeps about each, some 60 to 250 bytes. One message may always wait. The default is the limit of the
    /// whole connection.
    #[must_use]
    pub fn backlog_bytes(self, bytes: u64) -> TopicRule {
        self.change_slow(|slow| slow.bytes_max = Some(bytes))
    }

    /// Sets the most messages of a topic that may wait for a subscriber. The default is the limit of the whole
    /// connection.
    #[must_use]
    pub fn backlog_messages(self, messages: u64) -> TopicRule {
        self.change_slow(|slow| slow.messages_max = Some(messages))
    }

    /// Sets the longest time, in milliseconds, that the first waiting message of a topic may wait before it begins to
    /// be sent. Each topic has its own age, whatever else waits for the subscriber. The default is any time.
    #[must_use]
    pub fn backlog_age_ms(self, ms: u64) -> TopicRule {
        self.change_slow(|slow| slow.age_max_ms = Some(ms))
    }

    /// Sets the send buffer of subscribers' sockets, in bytes (`SO_SNDBUF`): 0 to 1 GiB. The kernel has a least size. A
    /// connection with several topics gets the smallest of their buffers, and keeps it when it leaves a topic.
    ///
    /// ```
    /// use ringhub::TopicRule;
    /// let rule = TopicRule::new(["prices/*".parse()?]).send_buffer(32 << 10).unsent_low_water(16 << 10);
    /// assert_eq!(rule.rules().kernel.unsent_low_water_bytes, Some(16_384));
    /// # Ok::<(), ringhub::TopicPatternError>(())
    /// ```
    #[must_use]
    pub fn send_buffer(mut self, bytes: u64) -> TopicRule {
        self.rules.kernel.send_buffer_bytes = Some(bytes);
        self
    }

    /// Sets the unsent bytes from which on subscribers' sockets take no more (`TCP_NOTSENT_LOWAT`): 1 byte to 1 GiB. A
    /// connection with several topics gets the smallest of these numbers, and keeps it when it leaves a topic.
    #[must_use]
    pub fn unsent_low_water(mut self, bytes: u64) -> TopicRule {
        self.rules.kernel.unsent_low_water_bytes = Some(bytes);
        self
    }

    /// Sets the part of a message that is its key, for messages whose publishers give no key.
    #[must_use]
    pub fn key(mut self, key: KeyPointer) -> TopicRule {
        self.rules.key = Some(key);
        self
    }

    /// Keeps the newest messages of a topic, at most so many. Limits of a history hold together, see [`HistoryRules`].
    ///
    /// ```
    /// use ringhub::TopicRule;
    /// let rule = TopicRule::new(["chat/*".parse()?]).history_messages(100).history_age_ms(3_600_000).retain(true);
    /// assert_eq!(rule.rules().kept.messages_max, Some(100));
    /// # Ok::<(), ringhub::TopicPatternError>(())
    /// ```
    #[must_use]
    pub fn history_messages(mut self, messages: u64) -> TopicRule {
        self.rules.kept.messages_max = Some(messages);
        self
    }

    /// Keeps the newest messages of a topic, of at most so many bytes of payloads and names.
    #[must_use]
    pub fn history_bytes(mut self, bytes: u64) -> TopicRule {
        self.rules.kept.bytes_max = Some(bytes);
        self
    }

    /// Keeps the messages of a topic for at most so many milliseconds.
    #[must_use]
    pub fn history_age_ms(mut self, ms: u64) -> TopicRule {
        self.rules.kept.age_max_ms = Some(ms);
        self
    }

    /// Sets whether the newest message of a topic is kept beyond its age. Without a limit of the history, only this
    /// message is kept.
    #[must_use]
    pub fn retain(mut self, retains_last: bool) -> TopicRule {
        self.rules.kept.retains_last = retains_last;
        self
    }

    /// Sets the shortest time, in milliseconds, between two deliveries of the topic's messages: those that come in the
    /// meantime are delivered together. With [`Overflow::Latest`] only the newest of each key is. The time is 1 ms to
    /// [`TopicRule::DELIVERY_INTERVAL_MS_MAX`]. The default is no time.
    ///
    /// ```
    /// use ringhub::{Overflow, TopicRule};
    /// let rule = TopicRule::new(["prices/*".parse()?]).slow(Overflow::Latest).delivery_interval_ms(20);
    /// assert_eq!(rule.rules().delivery_interval_ms, Some(20));
    /// # Ok::<(), ringhub::TopicPatternError>(())
    /// ```
    #[must_use]
    pub fn delivery_interval_ms(mut self, ms: u64) -> TopicRule {
        self.rules.delivery_interval_ms = Some(ms);
        self.with_tags()
    }

    /// The longest interval between two deliveries, in milliseconds.
    pub const DELIVERY_INTERVAL_MS_MAX: u64 = 60_000;

    fn change_slow(mut self, change: impl FnOnce(&mut SlowRules)) -> TopicRule {
        change(&mut self.rules.slow);
        self.with_tags()
    }

    /// Sets the tags that the other columns need.
    fn with_tags(mut self) -> TopicRule {
        let TopicRules { slow, delivery_interval_ms, .. } = &self.rules;
        self.rules.tags = match slow.overflow {
            Overflow::Latest if delivery_interval_ms.is_some() => Tags::Newest,
            _ if slow.needs_tags() => Tags::On,
            _ => Tags::Off,
        };
        self
    }

    /// Sets who may subscribe to the topics.
    #[must_use]
    pub fn subscribe(mut self, permission: Permission) -> TopicRule {
        self.rules.subscribe = permission;
        self
    }

    /// Sets who may publish to the topics.
    #[must_use]
    pub fn publish(mut self, permission: Permission) -> TopicRule {
        self.rules.publish = permission;
        self
    }

    /// Keeps who is subscribed to the topics, and sets who may see that.
    ///
    /// ```
    /// use ringhub::{Permission, TopicRule};
    /// let rule = TopicRule::new(["rooms/*".parse()?]).presence(Permission::Admitted).leave_delay_ms(10_000);
    /// assert_eq!(rule.rules().members.map(|members| members.leave_delay_ms), Some(10_000));
    /// # Ok::<(), ringhub::TopicPatternError>(())
    /// ```
    #[must_use]
    pub fn presence(self, permission: Permission) -> TopicRule {
        let mut rule = self.change_members(|_| {});
        rule.rules.presence = permission;
        rule
    }

    /// Sets the milliseconds after which a member has left whose last subscription has ended: 0 to
    /// [`PresenceRules::LEAVE_DELAY_MS_MAX`]. The default is 3 s. Keeps who is subscribed.
    #[must_use]
    pub fn leave_delay_ms(self, ms: u64) -> TopicRule {
        self.change_members(|members| members.leave_delay_ms = ms)
    }

    /// Sets the most members of a topic that are listed, from 1 on; further ones are counted. The default is 10 000.
    /// Keeps who is subscribed.
    #[must_use]
    pub fn presence_max_members(self, members: u64) -> TopicRule {
        self.change_members(|rules| rules.members_max = members)
    }

    /// Sets the most members of a topic for which joins and leaves are told by name; of more members only the counts
    /// are told. The default is 1 000. Keeps who is subscribed.
    #[must_use]
    pub fn presence_events_max_members(self, members: u64) -> TopicRule {
        self.change_members(|rules| rules.events_members_max = members)
    }

    fn change_members(mut self, change: impl FnOnce(&mut PresenceRules)) -> TopicRule {
        change(self.rules.members.get_or_insert_default());
        self
    }

    /// Sets who may read earlier messages of the topics.
    #[must_use]
    pub fn history(mut self, permission: Permission) -> TopicRule {
        self.rules.history = permission;
        self
    }

    /// Returns the patterns of the topics.
    #[must_use]
    pub fn patterns(&self) -> &[TopicPattern] {
        &self.patterns
    }

    /// Returns the rules of the topics.
    #[must_use]
    pub fn rules(&self) -> &TopicRules {
        &self.rules
    }

    /// Returns whether the application is asked about the topics.
    #[must_use]
    pub fn asks(&self) -> bool {
        let TopicRules { subscribe, publish, presence, history, .. } = self.rules;
        [subscribe, publish, presence, history].contains(&Permission::Callback)
    }
}

/// The rules of topics by their patterns.
///
/// ```
/// use ringhub::{Permission, TopicName, TopicRule, TopicTable};
/// let all = TopicRule::new(["**".parse()?]).publish(Permission::Nobody);
/// let news = TopicRule::new(["news/*".parse()?]);
/// let table = TopicTable::new([&all, &news]).expect("no two have one pattern");
/// assert_eq!(table.of(&TopicName::new("news/today")?).publish, Permission::Admitted);
/// assert_eq!(table.of(&TopicName::new("news/today/first")?).publish, Permission::Nobody);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct TopicTable {
    /// The rules of single names.
    names: HashMap<Box<str>, TopicRules>,
    /// The other rules, those of the most precise patterns first.
    others: Vec<(TopicPattern, TopicRules)>,
    /// Whether a rule has a pointer to keys.
    has_keys: bool,
}

impl TopicTable {
    /// Makes a table.
    ///
    /// # Errors
    ///
    /// The first pattern that two rules have, or one rule has twice.
    pub fn new<'a>(rules: impl IntoIterator<Item = &'a TopicRule>) -> Result<TopicTable, TopicPattern> {
        let mut table = TopicTable::default();
        for rule in rules {
            table.has_keys |= rule.rules.key.is_some();
            for pattern in &rule.patterns {
                let is_there = match pattern.as_name() {
                    Some(name) => table.names.insert(name.into(), rule.rules.clone()).is_some(),
                    None => {
                        let is_there = table.others.iter().any(|(other, _)| other == pattern);
                        table.others.push((pattern.clone(), rule.rules.clone()));
                        is_there
                    }
                };
                if is_there {
                    return Err(pattern.clone());
                }
            }
        }
        table.others.sort_by(|(first, _), (second, _)| second.cmp_precision(first));
        Ok(table)
    }

    /// Returns whether every topic has the default rules, which let everybody use the topic in every way.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.others.is_empty()
    }

    /// Returns the rules of the topic of a name.
    #[must_use]
    pub fn of(&self, name: &TopicName) -> TopicRules {
        self.find(name).cloned().unwrap_or_default()
    }

    /// Returns the pointer to the keys of a topic's messages.
    pub(crate) fn key_of(&self, name: &TopicName) -> Option<&KeyPointer> {
        if self.has_keys { self.find(name)?.key.as_ref() } else { None }
    }

    /// Returns the most precise rules that a topic has.
    fn find(&self, name: &TopicName) -> Option<&TopicRules> {
        let most_precise = || self.others.iter().find(|(pattern, _)| pattern.matches(name)).map(|(_, rules)| rules);
        self.names.get(name.as_str()).or_else(most_precise)
    }
}

/// The rules of all topics, which may be replaced as a whole. A clone is another handle to the same rules.
///
/// A shard looks up the rules of a topic when it begins to know the topic, and again at the topic's first use after a
/// replacement.
#[derive(Clone)]
pub struct RulesOfTopics(Arc<Cell>);

struct Cell {
    look_up: RwLock<Arc<LookUp>>,
    /// The number of replacements, which wraps around.
    generation: AtomicU32,
}

/// Returns the rules of the topic of a name.
type LookUp = dyn Fn(&TopicName) -> TopicRules + Send + Sync;

impl RulesOfTopics {
    /// Returns the rules that `look_up` has for each name.
    #[must_use]
    pub fn new(look_up: impl Fn(&TopicName) -> TopicRules + Send + Sync + 'static) -> Self {
        RulesOfTopics(Arc::new(Cell { look_up: RwLock::new(Arc::new(look_up)), generation: AtomicU32::new(0) }))
    }

    /// Returns the rules of a table.
    #[must_use]
    pub fn of_table(table: TopicTable) -> Self {
        RulesOfTopics::new(move |name| table.of(name))
    }

    /// Replaces the rules by those of a table.
    pub fn replace(&self, table: impl Into<Arc<TopicTable>>) {
        let table = table.into();
        self.replace_by(move |name| table.of(name));
    }

    /// Replaces the rules by those that `look_up` has for each name.
    pub fn replace_by(&self, look_up: impl Fn(&TopicName) -> TopicRules + Send + Sync + 'static) {
        let look_up: Arc<LookUp> = Arc::new(look_up);
        // A panic cannot leave half a value: the lock is held for the exchange of a pointer.
        *self.0.look_up.write().unwrap_or_else(PoisonError::into_inner) = look_up;
        // Pairs with the load in `generation`: whoever sees the number finds the rules of this number, or later ones.
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// Returns the rules of the topic of a name.
    #[must_use]
    pub fn of(&self, name: &TopicName) -> TopicRules {
        let look_up = Arc::clone(&self.0.look_up.read().unwrap_or_else(PoisonError::into_inner));
        look_up(name)
    }

    /// Returns the number of replacements so far, by which a reader notices that there was one.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.0.generation.load(Ordering::Acquire)
    }
}

/// Every topic has the default rules.
impl Default for RulesOfTopics {
    fn default() -> Self {
        RulesOfTopics::new(|_| TopicRules::default())
    }
}

impl fmt::Debug for RulesOfTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RulesOfTopics").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a rule that is recognised by the permission to publish.
    fn rule(patterns: &[&str], publish: Permission) -> TopicRule {
        TopicRule::new(patterns.iter().map(|pattern| pattern.parse().unwrap())).publish(publish)
    }

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    /// The order in which rules are given makes no difference.
    #[test]
    fn the_most_precise_pattern_holds() {
        use Permission::{Admitted, Anyone, Callback, Granted, Nobody};
        let mut rules = vec![
            rule(&["**"], Nobody),
            rule(&["news/**", "old"], Granted),
            rule(&["news/*"], Anyone),
            rule(&["news/today"], Callback),
        ];
        for _ in 0..2 {
            let table = TopicTable::new(&rules).unwrap();
            for (topic, expected) in [
                ("news/today", Callback),
                ("news/other", Anyone),
                ("news/other/deep", Granted),
                ("news/", Nobody),
                ("old", Granted),
                ("older", Nobody),
            ] {
                assert_eq!(table.of(&name(topic)).publish, expected, "{topic}");
            }
            rules.reverse();
        }
        let few = TopicTable::new(&rules[2..]).unwrap();
        assert_eq!(few.of(&name("elsewhere")).publish, Admitted);
        assert_eq!(TopicTable::default().of(&name("a")), TopicRules::default());
        assert_eq!(TopicTable::new(&rules).unwrap().of(&TopicName::everyone()), TopicRules::default());
    }

    #[test]
    fn no_two_rules_have_one_pattern() {
        let clash = |rules: &[TopicRule]| TopicTable::new(rules).map(drop).unwrap_err().to_string();
        let of = |patterns: &[&str]| rule(patterns, Permission::Nobody);
        assert_eq!(clash(&[of(&["a/*", "b"]), of(&["c", "b"])]), "b");
        assert_eq!(clash(&[of(&["a/*", "b"]), of(&["a/*"])]), "a/*");
        assert_eq!(clash(&[of(&["**", "**"])]), "**");
        assert!(TopicTable::new(&[of(&["a/*", "a/**"]), of(&["a", "a/b"])]).is_ok());
    }

    #[test]
    fn a_rule_may_ask() {
        let none = TopicRule::new([]);
        assert!(!none.asks());
        let columns = [TopicRule::subscribe, TopicRule::publish, TopicRule::presence, TopicRule::history].map(|set| {
            assert!(!set(none.clone(), Permission::Granted).asks());
            set(none.clone(), Permission::Callback)
        });
        assert!(columns.iter().all(TopicRule::asks));
    }

    #[test]
    fn all_handles_see_a_replacement() {
        let rules = RulesOfTopics::of_table(TopicTable::new(&[rule(&["a"], Permission::Nobody)]).unwrap());
        let other = rules.clone();
        assert_eq!((other.generation(), other.of(&name("a")).publish), (0, Permission::Nobody));
        rules.replace(TopicTable::new(&[rule(&["a"], Permission::Granted)]).unwrap());
        assert_eq!((other.generation(), other.of(&name("a")).publish), (1, Permission::Granted));
    }
}

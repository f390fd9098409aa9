//! Keeping: the histories of the topics whose home is this shard, within the shard's part of the server's budget.
//!
//! A topic whose rules ask for no history pays one comparison for each publication. While the histories of a shard are
//! beyond the budget, the histories that have not been used for the longest time are forgotten first. A use is a
//! publication or a reading. The history that grows is the last to give way, and gives way segment by segment.

use super::{
    connection_id::ConnectionId,
    connections::Attachment,
    histories::Entry,
    history::{History, Wanted},
    history_page::{HistoryFrom, HistoryPage, HistoryQuery},
    hub::ShardHub,
    publication::{OrderEnd, Place, Publication},
    topic_id::TopicId,
    topic_name::TopicName,
    topics::{Home, TopicRole, Topics},
};
use crate::proto::Millis;

impl<T: Attachment> ShardHub<T> {
    /// Keeps a publication that has got its place, if the rules of its topic ask for a history.
    #[inline]
    pub(super) fn keep(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        publication: &Publication,
        place: Place,
    ) {
        if self.topics[topic].rules.kept.keeps_messages() {
            self.keep_in_history(topic, source, publication, place);
        }
    }

    fn keep_in_history(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        publication: &Publication,
        place: Place,
    ) {
        let (now, rules) = (self.now(), self.topics[topic].rules.kept);
        let before_it = OrderEnd { epoch: place.epoch, offset: place.previous };
        // A message that was not kept lies between, since the rules have changed: a reader must see the gap.
        if self.home_of(topic).history.as_ref().is_some_and(|history| !history.goes_on_after(before_it)) {
            self.end_history(topic);
        }
        let used = self.histories.next_use();
        let home = self.home_of(topic);
        let is_new = home.history.is_none();
        let history = home.history.get_or_insert_with(|| Box::new(History::new(before_it, used)));
        let before = if is_new { (0, 0) } else { (history.memory(), history.messages()) };
        history.used = used;
        history.keep(place.offset, source, publication);
        history.trim(&rules, now);
        let (after, expiry) = ((history.memory(), history.messages()), history.expiry(&rules));
        self.histories.note_change(before, after);
        self.histories.note_expiry(expiry);
        if is_new {
            self.histories.add(Entry { used, number: used, topic });
        }
        if self.histories.weight() > self.limits.history_bytes_max {
            self.make_room_for_history(self.limits.history_bytes_max, Some(topic));
        }
    }

    /// Forgets messages until the histories weigh no more than `weight_max`.
    #[cold]
    fn make_room_for_history(&mut self, weight_max: usize, growing: Option<TopicId>) {
        while self.histories.weight() > weight_max {
            let topics = &self.topics;
            let Some(entry) = self.histories.oldest(|entry| history_of(topics, entry).map(|history| history.used))
            else {
                return;
            };
            let topic = entry.topic;
            let Some(history) = &mut self.home_of(topic).history else { return };
            let before = (history.memory(), history.messages());
            history.drop_segment();
            // The history that grows gives way last: there is no other one.
            while Some(topic) != growing && history.messages() > 0 {
                history.drop_segment();
            }
            let after = (history.memory(), history.messages());
            self.histories.note_evicted(before.1 - after.1);
            self.histories.note_change(before, after);
            if after.1 == 0 {
                self.end_history(topic);
            }
        }
    }

    /// Reads a part of the history of a topic. A topic that the shard does not know gets its epoch now, so that a
    /// reader may go on from here.
    ///
    /// # Panics
    ///
    /// If the topic's home is another shard.
    pub fn read_history(&mut self, name: &TopicName, query: &HistoryQuery) -> HistoryPage {
        self.with_topic(name, |hub, topic| hub.read_page(topic, query))
    }

    /// Reads a part of the history of a topic whose home is this shard.
    pub(super) fn read_page(&mut self, topic: TopicId, query: &HistoryQuery) -> HistoryPage {
        self.topics.renew_rules(topic);
        self.trim_history(topic);
        self.history_page(topic, query)
    }

    fn history_page(&mut self, topic: TopicId, query: &HistoryQuery) -> HistoryPage {
        let (end, used) = (self.topics[topic].end(), self.histories.next_use());
        let home = self.home_of(topic);
        let (epoch, offset) = (home.epoch, home.offset);
        let floor = home.history.as_ref().map_or(offset, |history| history.floor());
        let is_known = |position: OrderEnd| position.epoch == epoch && position.offset <= offset;
        let (wanted, has_gap) = match query.from {
            HistoryFrom::Earliest => (Wanted::After(floor), false),
            HistoryFrom::After(position) if is_known(position) => {
                (Wanted::After(position.offset), position.offset < floor)
            }
            HistoryFrom::After(_) => (Wanted::After(floor), true),
            HistoryFrom::Newest => (Wanted::Before(u64::MAX), false),
            HistoryFrom::Before(position) if is_known(position) => (Wanted::Before(position.offset), false),
            HistoryFrom::Before(_) => (Wanted::Before(u64::MAX), true),
            HistoryFrom::Last(last) => (Wanted::Last(last), false),
        };
        let (messages, has_more) = match &mut home.history {
            Some(history) => {
                history.used = used;
                history.read(wanted, query.messages_max, query.bytes_max)
            }
            None => (Vec::new(), false),
        };
        let is_kept = self.topics[topic].rules.kept.keeps_messages();
        HistoryPage { end, floor, has_gap, messages, has_more, is_kept }
    }

    /// Forgets the history of a topic, and returns how many messages it had. The order of the topic goes on.
    ///
    /// # Panics
    ///
    /// If the topic's home is another shard.
    pub fn forget_history(&mut self, name: &TopicName) -> u64 {
        let Some(topic) = self.topics.find(name) else { return 0 };
        let messages = self.clear_history(topic);
        self.notice_ended_histories();
        messages
    }

    /// Looks at the ages of some histories, and forgets what has become too old, or is not to be kept any more.
    pub fn trim_histories(&mut self) {
        let entries = self.histories.len();
        // Histories that are not looked at now have their turns later.
        self.histories.next_look = (entries > TRIMMED_MAX).then(|| Millis(self.now().0 + LOOK_MS));
        for _ in 0..entries.min(TRIMMED_MAX) {
            let Some(entry) = self.histories.next_to_trim() else { break };
            if history_of(&self.topics, entry).is_some() {
                self.topics.renew_rules(entry.topic);
                self.trim_history(entry.topic);
            }
        }
        self.make_room_for_history(self.limits.history_bytes_max, None);
        let topics = &self.topics;
        self.histories.forget_entries(|entry| history_of(topics, entry).is_none());
        self.notice_ended_histories();
    }

    /// Forgets the histories with the earliest uses, so many bytes or all, since the server is short of memory. Returns
    /// the bytes that were forgotten.
    pub fn give_up_histories(&mut self, bytes: u64) -> u64 {
        let before = self.histories.weight();
        self.make_room_for_history(before.saturating_sub(bytes as usize), None);
        self.notice_ended_histories();
        (before - self.histories.weight()) as u64
    }

    /// Returns when [`ShardHub::trim_histories`] is to be called even if nothing happens: messages become too old.
    #[must_use]
    pub fn next_history_look(&self) -> Option<Millis> {
        self.histories.next_look
    }

    /// Returns the memory of all histories, in bytes.
    #[must_use]
    pub fn history_bytes(&self) -> usize {
        self.histories.bytes()
    }

    /// Returns how many messages all histories have, and how many have been forgotten because of the budget.
    #[must_use]
    pub fn history_messages(&self) -> (u64, u64) {
        self.histories.messages()
    }

    /// Forgets what the rules of a topic do not keep at this time.
    fn trim_history(&mut self, topic: TopicId) {
        let (now, rules) = (self.now(), self.topics[topic].rules.kept);
        if !rules.keeps_messages() {
            self.clear_history(topic);
            return;
        }
        let Some(history) = &mut self.home_of(topic).history else { return };
        let before = (history.memory(), history.messages());
        history.trim(&rules, now);
        let (after, expiry) = ((history.memory(), history.messages()), history.expiry(&rules));
        self.histories.note_change(before, after);
        self.histories.note_expiry(expiry);
        if after.1 == 0 {
            self.end_history(topic);
        }
    }

    /// Forgets all messages of a topic, and returns how many there were.
    fn clear_history(&mut self, topic: TopicId) -> u64 {
        let messages = self.home_of(topic).history.as_ref().map_or(0, |history| history.messages());
        if messages > 0 {
            self.end_history(topic);
        }
        messages
    }

    /// Ends the history of a topic. The next message that is kept begins another one.
    fn end_history(&mut self, topic: TopicId) {
        if let Some(history) = self.home_of(topic).history.take() {
            self.histories.note_change((history.memory(), history.messages()), (0, 0));
            self.histories.note_end(topic);
        }
    }

    /// Lets the topics whose history has ended be forgotten if nobody uses them. Nothing that still works on a topic
    /// calls this.
    fn notice_ended_histories(&mut self) {
        for topic in std::mem::take(&mut self.histories.ended) {
            // The topic may have been forgotten meanwhile, and its id may be that of another one.
            if self.topics.get(topic).is_some() {
                self.topics.notice_unused(topic);
            }
        }
    }

    fn home_of(&mut self, topic: TopicId) -> &mut Home {
        let TopicRole::Home(home) = &mut self.topics[topic].role else {
            unreachable!("only a topic's home keeps its history")
        };
        home
    }
}

/// Returns the history of an entry, unless it has ended.
fn history_of(topics: &Topics, entry: Entry) -> Option<&History> {
    let TopicRole::Home(home) = &topics.get(entry.topic)?.role else { return None };
    home.history.as_deref().filter(|history| history.number == entry.number)
}

/// The most histories whose ages are looked at in a tick.
const TRIMMED_MAX: usize = 256;

/// Milliseconds between two looks of a shard that has nothing else to do, if it has more histories than that.
const LOOK_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{HubLimits, MeshEnd, RulesOfTopics, Scope, TopicRule, TopicTable};

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    /// A hub whose topics `kept/*` keep messages for 100 ms, at most 50 of them.
    fn hub(limits: HubLimits) -> ShardHub {
        let rule = TopicRule::new(["kept/*".parse().unwrap()]).history_messages(50).history_age_ms(100);
        let rules = RulesOfTopics::of_table(TopicTable::new([&rule]).unwrap());
        ShardHub::new(MeshEnd::alone(), limits, 1).with_topic_rules(rules)
    }

    fn publish(hub: &mut ShardHub, topic: &str, text: &str) -> Place {
        hub.publish_by_name(&name(topic), None, Publication::text(text), Scope::Server).expect("the home of the topic")
    }

    fn page(hub: &mut ShardHub, topic: &str, from: HistoryFrom) -> HistoryPage {
        hub.read_history(&name(topic), &HistoryQuery { from, messages_max: 100, bytes_max: u64::MAX })
    }

    fn texts(page: &HistoryPage) -> Vec<String> {
        let text = |publication: &Publication| String::from_utf8(publication.payload().to_vec()).unwrap();
        page.messages.iter().map(|message| text(&message.publication)).collect()
    }

    fn read(hub: &mut ShardHub, topic: &str) -> Vec<String> {
        texts(&page(hub, topic, HistoryFrom::Earliest))
    }

    #[test]
    fn only_topics_with_a_rule_keep_messages() {
        let mut hub = hub(HubLimits::default());
        for topic in ["kept/a", "other"] {
            for text in ["1", "2"] {
                publish(&mut hub, topic, text);
            }
        }
        assert_eq!(read(&mut hub, "kept/a"), ["1", "2"]);
        assert_eq!(read(&mut hub, "other"), [""; 0]);
        assert_eq!(page(&mut hub, "other", HistoryFrom::Earliest).floor, 2);
        hub.publish_by_name(&name("kept/a"), None, Publication::text("local"), Scope::Shard);
        assert_eq!(read(&mut hub, "kept/a"), ["1", "2"], "a message without a place is not kept");
    }

    #[test]
    fn a_position_that_is_not_known_is_a_gap() {
        let mut hub = hub(HubLimits::default());
        let places: Vec<Place> = (1..=60).map(|number| publish(&mut hub, "kept/a", &number.to_string())).collect();
        let epoch = places[0].epoch;
        let mut check = |from: HistoryFrom, first: Option<u64>, has_gap: bool| {
            let page = page(&mut hub, "kept/a", from);
            assert_eq!((page.end, page.floor), (Some(OrderEnd { epoch, offset: 60 }), 10), "{from:?}");
            assert_eq!((page.messages.first().map(|first| first.offset), page.has_gap), (first, has_gap), "{from:?}");
        };
        let at = |offset| OrderEnd { epoch, offset };
        check(HistoryFrom::After(at(9)), Some(11), true);
        check(HistoryFrom::After(at(10)), Some(11), false);
        check(HistoryFrom::After(at(60)), None, false);
        check(HistoryFrom::After(at(61)), Some(11), true);
        check(HistoryFrom::After(OrderEnd { epoch: epoch ^ 1, offset: 20 }), Some(11), true);
        check(HistoryFrom::Before(at(20)), Some(19), false);
        check(HistoryFrom::Before(at(61)), Some(60), true);
        check(HistoryFrom::Newest, Some(60), false);
        check(HistoryFrom::Last(3), Some(58), false);
    }

    /// A topic with a history is not forgotten, however many topics are idle, until its history is empty.
    #[test]
    fn a_history_keeps_its_topic() {
        let mut hub = hub(HubLimits { topics_idle_max: 0, ..HubLimits::default() });
        let place = publish(&mut hub, "kept/a", "1");
        publish(&mut hub, "other", "1");
        assert_eq!(hub.topics(), 1);
        hub.note_time(Millis(99));
        hub.trim_histories();
        assert_eq!(publish(&mut hub, "kept/a", "2").epoch, place.epoch);
        hub.note_time(Millis(150));
        hub.trim_histories();
        assert_eq!(read(&mut hub, "kept/a"), ["2"]);
        hub.note_time(Millis(199));
        hub.trim_histories();
        assert_eq!((hub.topics(), hub.history_bytes(), hub.history_messages().0), (0, 0, 0));
        assert_eq!(hub.histories.len(), 0, "its entry is forgotten too");
    }

    #[test]
    fn a_history_is_forgotten() {
        let mut hub = hub(HubLimits { topics_idle_max: 0, ..HubLimits::default() });
        let place = publish(&mut hub, "kept/a", "1");
        publish(&mut hub, "kept/b", "1");
        assert_eq!(hub.forget_history(&name("kept/a")), 1);
        assert_eq!((hub.forget_history(&name("kept/a")), hub.forget_history(&name("unknown"))), (0, 0));
        assert_eq!((hub.topics(), hub.history_messages().0), (1, 1));
        let position = HistoryFrom::After(OrderEnd { epoch: place.epoch, offset: place.offset });
        assert!(page(&mut hub, "kept/a", position).has_gap, "the topic has come back with another epoch");
    }

    /// The histories that were used first give way, a reading is a use, and the sums stay right.
    #[test]
    fn histories_give_way_in_the_order_of_their_uses() {
        let large = "x".repeat(3_000);
        let mut hub = hub(HubLimits { history_bytes_max: 36_000, ..HubLimits::default() });
        for topic in ["kept/a", "kept/b", "kept/c"] {
            for _ in 0..3 {
                publish(&mut hub, topic, &large);
            }
        }
        assert_eq!(read(&mut hub, "kept/a").len(), 3);
        for _ in 0..3 {
            publish(&mut hub, "kept/d", &large);
        }
        let mut kept = |topic| read(&mut hub, topic).len();
        assert_eq!([kept("kept/a"), kept("kept/b"), kept("kept/c"), kept("kept/d")], [3, 0, 3, 3]);
        assert_eq!(hub.history_messages(), (9, 3));
        for _ in 0..50 {
            publish(&mut hub, "kept/e", &large);
        }
        assert!(hub.history_bytes() <= 36_000);
        let left = read(&mut hub, "kept/e").len();
        assert!((9..13).contains(&left), "the growing history loses its oldest messages alone: {left}");
        assert_eq!(hub.history_messages(), (left as u64, 62 - left as u64));
        hub.set_limits(HubLimits { history_bytes_max: 10, ..hub.limits });
        publish(&mut hub, "kept/e", &large);
        assert_eq!((hub.history_bytes(), hub.history_messages().0), (0, 0), "not even one message has room");
        assert_eq!(read(&mut hub, "kept/e"), [""; 0]);
    }

    /// The rule goes and comes back, and the shard has not looked at the history meanwhile.
    #[test]
    fn a_message_that_was_not_kept_is_a_gap() {
        let mut hub = hub(HubLimits::default());
        let first = publish(&mut hub, "kept/a", "1");
        let rule = TopicRule::new(["kept/*".parse().unwrap()]).history_messages(50);
        hub.topic_rules().replace(TopicTable::default());
        hub.note_time(Millis(1));
        publish(&mut hub, "kept/a", "2");
        hub.topic_rules().replace(TopicTable::new([&rule]).unwrap());
        hub.note_time(Millis(2));
        publish(&mut hub, "kept/a", "3");
        let after = page(&mut hub, "kept/a", HistoryFrom::After(OrderEnd { epoch: first.epoch, offset: 1 }));
        assert_eq!((after.floor, after.has_gap, texts(&after)), (2, true, vec!["3".to_owned()]));
        hub.trim_histories();
        assert_eq!((read(&mut hub, "kept/a"), hub.histories.len()), (vec!["3".to_owned()], 1));
    }

    /// Each history weighs its topic too, which it keeps from being forgotten.
    #[test]
    fn many_small_histories_are_bounded() {
        let mut hub = hub(HubLimits { topics_idle_max: 0, history_bytes_max: 100_000, ..HubLimits::default() });
        for number in 0..1_000 {
            publish(&mut hub, &format!("kept/{number}"), "1");
            hub.trim_histories();
        }
        assert!((50..100).contains(&hub.topics()), "{}", hub.topics());
        let bytes = hub.give_up_histories(10_000);
        assert!((10_000..12_000).contains(&bytes), "{bytes}");
        hub.set_limits(HubLimits { history_bytes_max: 5_000, ..hub.limits });
        hub.trim_histories();
        assert!((1..4).contains(&hub.topics()), "a smaller budget holds at the next look: {}", hub.topics());
    }

    /// A shard that has nothing else to do knows when it must look at its histories again.
    #[test]
    fn the_next_look_is_due_when_a_message_becomes_too_old() {
        let mut hub = hub(HubLimits::default());
        assert_eq!(hub.next_history_look(), None);
        for (now, topic) in [(0, "kept/a"), (30, "kept/b"), (60, "kept/a")] {
            hub.note_time(Millis(now));
            publish(&mut hub, topic, "1");
            assert_eq!(hub.next_history_look(), Some(Millis(100)));
        }
        for (look, left, next) in [(100, 2, Some(130)), (130, 1, Some(160)), (160, 0, None)] {
            hub.note_time(Millis(look));
            hub.trim_histories();
            assert_eq!((hub.history_messages().0, hub.next_history_look()), (left, next.map(Millis)));
        }
        let many = 2 * TRIMMED_MAX as u64;
        (0..many).for_each(|number| _ = publish(&mut hub, &format!("kept/{number}"), "1"));
        hub.note_time(Millis(10_000));
        hub.trim_histories();
        assert_eq!(hub.history_messages().0, many - TRIMMED_MAX as u64);
        assert_eq!(hub.next_history_look(), Some(Millis(10_000 + LOOK_MS)), "the others have their turn later");
    }

    #[test]
    fn a_message_that_is_retained_needs_no_look() {
        let mut hub = hub(HubLimits::default());
        let retains = TopicRule::new(["kept/*".parse().unwrap()]).history_age_ms(100).retain(true);
        hub.topic_rules().replace(TopicTable::new([&retains]).unwrap());
        for (now, expected) in [(1, None), (2, Some(101)), (3, Some(101))] {
            hub.note_time(Millis(now));
            publish(&mut hub, "kept/a", "1");
            assert_eq!(hub.next_history_look(), expected.map(Millis), "a further message lets the one before leave");
        }
        hub.note_time(Millis(103));
        hub.trim_histories();
        assert_eq!((hub.history_messages().0, hub.next_history_look()), (1, None), "the last message stays");
    }

    /// A history whose rule is gone after a reload is forgotten at the next look.
    #[test]
    fn a_history_ends_with_its_rule() {
        let mut hub = hub(HubLimits::default());
        publish(&mut hub, "kept/a", "1");
        hub.topic_rules().replace(TopicTable::default());
        hub.note_time(Millis(1));
        hub.trim_histories();
        assert_eq!((hub.history_bytes(), hub.history_messages().0), (0, 0));
    }
}

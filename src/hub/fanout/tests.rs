//! Tests of the fan-out on one shard.

mod several;

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
};

use proptest::prelude::*;

use super::*;
use crate::hub::{
    HubConnection, HubLimits, MeshEnd, Piece, RulesOfTopics, Scope, SubscribeOptions, Subscribed, TopicName, TopicRule,
    TopicRules, TopicTable,
    testing::{self, FORMATS, REVERSED, Wants, decode, encodings, take_encoded},
};
use crate::proto::Millis;

fn hub() -> ShardHub<Wants> {
    let limits = HubLimits { subscriptions_max: 4, topics_idle_max: 4, ..HubLimits::default() };
    let hub = ShardHub::new(MeshEnd::alone(), limits, 100).with_encodings(encodings());
    let rules = |name: &TopicName| {
        let tags = if has_tags(name) { Tags::On } else { Tags::Off };
        TopicRules { tags, ..TopicRules::default() }
    };
    let mut hub = hub.with_topic_rules(RulesOfTopics::new(rules));
    // Slots are used again within a run.
    hub.connections.let_rest(0);
    hub
}

/// Returns whether the topic of that name asks for tags.
fn has_tags(name: &TopicName) -> bool {
    name.as_str() == TOPICS[1]
}

fn name(topic: &str) -> TopicName {
    TopicName::new(topic).unwrap()
}

fn connect(hub: &mut ShardHub<Wants>) -> ConnectionId {
    connect_for(hub, Format::RAW)
}

fn connect_for(hub: &mut ShardHub<Wants>, format: Format) -> ConnectionId {
    hub.connections.insert(HubConnection::new(Wants(format))).unwrap()
}

fn join(hub: &mut ShardHub<Wants>, topic: &str, echo: bool) -> ConnectionId {
    let id = connect(hub);
    assert_eq!(
        hub.subscribe(id, &name(topic), SubscribeOptions { has_echo: echo, ..SubscribeOptions::default() }),
        Subscribed::Live
    );
    id
}

fn publish(hub: &mut ShardHub<Wants>, source: ConnectionId, topic: &str, text: &str) -> u64 {
    let message = Publication::text(text);
    hub.publish_by_name(&name(topic), Some(source), message, Scope::Server).expect("at home").offset
}

/// Returns a hub whose topic `a` conflates and is paced, and a subscriber of the topic.
fn conflating_hub() -> (ShardHub<Wants>, ConnectionId) {
    let rule = TopicRule::new(["a".parse().unwrap()]).slow(Overflow::Latest).delivery_interval_ms(1_000);
    let rules = RulesOfTopics::of_table(TopicTable::new([&rule]).unwrap());
    let mut hub = ShardHub::new(MeshEnd::alone(), HubLimits::default(), 1).with_topic_rules(rules);
    let id = connect(&mut hub);
    assert_eq!(hub.subscribe(id, &name("a"), SubscribeOptions::default().silent_lags()), Subscribed::Live);
    (hub, id)
}

/// Publishes a message without a key, which has come by a lane if `is_mail`.
fn publish_from(hub: &mut ShardHub<Wants>, is_mail: bool, text: &str) {
    hub.takes_mail = is_mail;
    hub.publish_by_name(&name("a"), None, Publication::text(text), Scope::Server);
    hub.takes_mail = false;
}

/// A message of a client of the shard replaces mail in a run that waits: the mail counts no longer.
#[test]
fn mail_that_input_replaces_keeps_no_mail_waiting() {
    let (mut hub, id) = conflating_hub();
    publish_from(&mut hub, false, "first");
    assert_eq!(flush(&mut hub)[&id.slot()], ["first"]);
    let mail = "x".repeat(8_000);
    for round in 0..300 {
        publish_from(&mut hub, true, &mail);
        assert!(hub.gathered.from_mail >= mail.len());
        // The run conflates at one of the messages that have not come by a lane.
        let mut gathered = 0;
        while hub.gathered.bytes >= gathered {
            gathered = hub.gathered.bytes;
            publish_from(&mut hub, false, "x");
        }
        let RunWeights { bytes, from_mail, .. } = hub.gathered;
        assert!(from_mail <= bytes && bytes < mail.len(), "round {round}: {from_mail} of {bytes} bytes");
        assert!(flush(&mut hub).is_empty() && hub.has_room_for_mail());
    }
    hub.note_time(Millis(1_000));
    assert_eq!(flush(&mut hub)[&id.slot()].len(), 1);
    assert_eq!((hub.gathered.from_mail, hub.gathered.bytes), (0, 0));
}

/// Mail that is replaced when a walk begins does not count while the walk is under way.
#[test]
fn mail_that_a_walk_drops_keeps_no_mail_waiting() {
    let (mut hub, id) = conflating_hub();
    for _ in 0..7 {
        publish_from(&mut hub, true, &"x".repeat(8_000));
    }
    publish_from(&mut hub, false, "last");
    assert!(hub.gathered.from_mail > 7 * 8_000);
    let mut walks = Vec::new();
    hub.take_due(&mut walks);
    assert_eq!(hub.next_member(walks[0]), Some(id.slot()));
    let RunWeights { bytes, from_mail, .. } = hub.gathered;
    assert!(from_mail <= bytes && bytes < 8_000, "{from_mail} of {bytes} bytes");
    assert_eq!(texts(&mut hub, walks[0], id.slot()), ["last"]);
    hub.end_walk(walks[0]);
    assert_eq!((hub.gathered.from_mail, hub.gathered.bytes), (0, 0));
}

/// Mail counts by what a run keeps of it, so a topic that is paced and conflates keeps no other mail waiting.
#[test]
fn a_run_that_conflates_keeps_no_mail_waiting() {
    let (mut hub, id) = conflating_hub();
    let text = "x".repeat(400);
    for now in [0, 1_000] {
        hub.note_time(Millis(now));
        for number in 0..10_000 {
            hub.takes_mail = number % 3 > 0;
            let message = Publication::text(&text).key(&(number % 5).to_string()).unwrap();
            hub.publish_by_name(&name("a"), None, message, Scope::Server);
            assert!(hub.has_room_for_mail() && !hub.is_full(), "{number} messages");
        }
        hub.takes_mail = false;
        assert!(hub.gathered.from_mail > 0 && hub.gathered.bytes < 100_000);
        assert_eq!(hub.next_walk(), None);
        assert_eq!(flush(&mut hub)[&id.slot()].len(), 5);
        assert_eq!((hub.gathered.from_mail, hub.gathered.bytes), (0, 0));
    }
    publish(&mut hub, id, "a", "late");
    assert!(flush(&mut hub).is_empty());
    assert_eq!((hub.next_walk(), hub.is_dirty()), (Some(Millis(2_000)), false));
}

/// Begins and finishes every walk, and returns what each slot got.
fn flush(hub: &mut ShardHub<Wants>) -> BTreeMap<u32, Vec<String>> {
    let mut received = BTreeMap::new();
    let mut walks = Vec::new();
    hub.take_due(&mut walks);
    for walk in walks {
        while let Some(slot) = hub.next_member(walk) {
            received.entry(slot).or_insert_with(Vec::new).extend(texts(hub, walk, slot));
        }
        hub.end_walk(walk);
    }
    received
}

/// Returns the topics whose shares a walk's visit of this member hands out: none if the walk passes the member; else
/// the walk's own, and up to `further_max` of the other walks under way.
fn shares_of_visit(
    hub: &mut ShardHub<Wants>,
    walk: AudienceId,
    slot: u32,
    walks: &[AudienceId],
    further_max: usize,
) -> Vec<AudienceId> {
    let id = hub.connections.id_at(slot).expect("a member is a connection");
    if hub.passes(id, walk) {
        return Vec::new();
    }
    let mut further = Vec::new();
    let looked_at = hub.walks_ahead(id, walks.iter().copied(), &mut further);
    assert!(further.len() <= looked_at && looked_at <= walks.len(), "each is looked at once");
    further.truncate(further_max);
    further.iter().for_each(|&topic| hub.take_share(id, topic));
    [vec![walk], further].concat()
}

fn assert_nothing_is_taken(hub: &ShardHub<Wants>) {
    for id in hub.connections.ids() {
        let connection = hub.connections.get(id).expect("it is connected");
        let subscriptions = connection.subscriptions.as_slice();
        assert!(subscriptions.iter().all(|own| !own.is_taken), "{subscriptions:?}");
        assert_eq!(connection.has_several(), subscriptions.len() > 1, "{subscriptions:?}");
    }
}

fn texts(hub: &mut ShardHub<Wants>, walk: AudienceId, slot: u32) -> Vec<String> {
    plain(walk.format, &hub.owed_by_walk(walk, slot).pieces)
}

fn plain(format: Format, pieces: &[Piece]) -> Vec<String> {
    decode(format, pieces).into_iter().map(|got| got.text).collect()
}

#[test]
fn every_subscriber_but_the_source_gets_a_message() {
    let mut hub = hub();
    let (a, b, c) = (join(&mut hub, "t", false), join(&mut hub, "t", true), join(&mut hub, "other", false));
    assert_eq!(publish(&mut hub, a, "t", "1"), 1);
    assert_eq!(publish(&mut hub, b, "t", "2"), 2);
    assert_eq!(publish(&mut hub, c, "t", "3"), 3);
    let received = flush(&mut hub);
    assert_eq!(received[&a.slot()], ["2", "3"]);
    assert_eq!(received[&b.slot()], ["1", "2", "3"]);
    assert!(!received.contains_key(&c.slot()));
    assert_eq!(hub.gathered_bytes(), 0);
}

/// A shard encodes a publication once for each format, however many subscribers want the format, and not at all if none
/// does.
#[test]
fn a_publication_is_encoded_once_for_each_format_that_somebody_wants() {
    let mut hub = hub();
    let source = join(&mut hub, "t", false);
    take_encoded();
    publish(&mut hub, source, "t", "nobody wants another format");
    assert_eq!(take_encoded(), 0);
    let others: Vec<ConnectionId> = (0..5)
        .map(|_| {
            let id = connect_for(&mut hub, REVERSED);
            assert_eq!(hub.subscribe(id, &name("t"), SubscribeOptions::default()), Subscribed::Live);
            id
        })
        .collect();
    publish(&mut hub, source, "t", "abc");
    // The source is excluded in its own audience.
    publish(&mut hub, others[0], "t", "def");
    assert_eq!(take_encoded(), 2);
    let received = flush(&mut hub);
    assert_eq!(received[&source.slot()], ["def"]);
    assert_eq!(received[&others[0].slot()], ["abc"]);
    assert!(others[1..].iter().all(|id| received[&id.slot()] == ["abc", "def"]));
    others.iter().for_each(|&id| drop(hub.remove(id)));
    publish(&mut hub, source, "t", "nobody wants it any more");
    assert_eq!(take_encoded(), 0);
}

/// Messages of two epochs are in two runs, in order; a subscriber that joins in between gets no message of either, and
/// a subscriber that leaves gets both runs.
#[test]
fn an_epoch_begins_a_run() {
    let mut hub = hub();
    let (stays, leaves) = (join(&mut hub, "t", false), join(&mut hub, "t", false));
    let topic = hub.topics.find(&name("t")).unwrap();
    let place = |epoch, offset| Some(Place { epoch, offset, previous: offset - 1 });
    for (text, place) in [("1", place(7, 1)), ("local", None), ("2", place(7, 2)), ("3", place(8, 1))] {
        hub.gather(topic, None, &Publication::text(text), place);
    }
    let joins = join(&mut hub, "t", false);
    hub.gather(topic, None, &Publication::text("4"), place(7, 3));
    assert_eq!(hub.owed_messages(leaves, hub.connections.get(leaves).unwrap().subscriptions.as_slice()), 5);
    assert_eq!(testing::texts(&testing::pieces(hub.leave(leaves))), ["1", "local", "2", "3", "4"]);
    for expected in [&["1", "local", "2"][..], &["3"], &["4"]] {
        let received = flush(&mut hub);
        assert_eq!(received[&stays.slot()], expected);
        assert_eq!(received[&joins.slot()], if expected == ["4"] { expected } else { &[] });
    }
    assert_eq!((hub.gathered_bytes(), hub.is_dirty()), (0, false));
}

/// A large encoded frame is a piece of its own, as a large raw frame is.
#[test]
fn a_large_encoded_frame_is_not_copied() {
    let mut hub = hub();
    let (source, other) = (connect(&mut hub), connect_for(&mut hub, REVERSED));
    assert_eq!(hub.subscribe(other, &name("t"), SubscribeOptions::default()), Subscribed::Live);
    let large = "ab".repeat(LARGE_FRAME);
    for text in ["small", &large, "small again"] {
        publish(&mut hub, source, "t", text);
    }
    let mut walks = Vec::new();
    hub.take_due(&mut walks);
    let [walk] = walks[..] else { panic!("{walks:?}") };
    assert_eq!(hub.next_member(walk), Some(other.slot()));
    let lengths: Vec<bool> = hub.run(walk).pieces().iter().map(|piece| piece.bytes.len() > LARGE_FRAME).collect();
    assert_eq!(lengths, [false, true, false]);
    assert_eq!(texts(&mut hub, walk, other.slot()), ["small", &large, "small again"]);
}

#[test]
fn the_echo_is_for_each_subscription() {
    let mut hub = hub();
    let a = join(&mut hub, "quiet", false);
    assert_eq!(hub.subscribe(a, &name("echoing"), ECHO), Subscribed::Live);
    publish(&mut hub, a, "quiet", "1");
    publish(&mut hub, a, "echoing", "2");
    assert_eq!(flush(&mut hub)[&a.slot()], ["2"]);
}

#[test]
fn subscribing_has_an_outcome_for_each_state() {
    let mut hub = hub();
    let id = join(&mut hub, "0", false);
    let mut check = |topic: &str, expected| assert_eq!(hub.subscribe(id, &name(topic), ECHO), expected, "{topic}");
    check("0", Subscribed::Already);
    check("1", Subscribed::Live);
    check("2", Subscribed::Live);
    check("3", Subscribed::Live);
    check("4", Subscribed::TooMany);
    check("3", Subscribed::Already);
    assert_eq!(hub.subscribers(&name("4")), 0);
    hub.unsubscribe(id, &name("1"));
    assert_eq!(hub.subscribe(id, &name("4"), ECHO), Subscribed::Live);
    let connection = hub.connections.get_mut(id).unwrap();
    connection.is_lost = true;
    assert_eq!(hub.subscribe(id, &name("5"), ECHO), Subscribed::Closed);
    hub.remove(id);
    assert_eq!(hub.subscribe(id, &name("5"), ECHO), Subscribed::Closed);
    assert!((0..6).all(|topic| hub.subscribers(&name(&topic.to_string())) == 0));
}

#[test]
fn without_subscribers_only_the_offset_moves() {
    let mut hub = hub();
    let a = join(&mut hub, "t", false);
    hub.unsubscribe(a, &name("t"));
    assert_eq!(publish(&mut hub, a, "t", "1"), 1);
    assert_eq!(publish(&mut hub, a, "t", "2"), 2);
    assert!(!hub.is_dirty());
    assert_eq!(hub.gathered_bytes(), 0);
}

/// A topic that nobody subscribes to is forgotten, however often it is published to.
#[test]
fn topics_that_are_only_published_to_are_forgotten() {
    let mut hub = hub();
    let a = connect(&mut hub);
    for topic in 0..100 {
        assert_eq!(publish(&mut hub, a, &topic.to_string(), "1"), 1);
    }
    assert_eq!((hub.offset(&name("95")), hub.offset(&name("96"))), (0, 1));
    hub.publish_by_name(&name("local"), Some(a), Publication::text("1"), Scope::Shard);
    assert_eq!(hub.offset(&name("96")), 1, "a message without receivers makes no topic");
}

/// A subscriber that comes and goes all through a walk takes no more room than one that came once.
#[test]
fn coming_and_going_during_a_walk_takes_no_room() {
    let mut hub = hub();
    let (a, b) = (join(&mut hub, "t", true), join(&mut hub, "t", true));
    publish(&mut hub, a, "t", "1");
    let mut walks = Vec::new();
    hub.take_due(&mut walks);
    assert!(hub.next_member(walks[0]).is_some());
    for _ in 0..1_000 {
        hub.unsubscribe(b, &name("t"));
        hub.subscribe(b, &name("t"), ECHO);
    }
    let topic = &hub.topics[walks[0]];
    assert_eq!((topic.members.len(), topic.joining.len()), (2, 1));
    hub.end_walk(walks.pop().unwrap());
    assert_eq!(hub.subscribers(&name("t")), 2);
}

/// A walk that is due gathers until its first visit, and its members come and go as if it was not due.
#[test]
fn a_walk_gathers_until_its_first_visit() {
    let mut hub = hub();
    let (stays, leaves) = (join(&mut hub, "t", true), join(&mut hub, "t", true));
    publish(&mut hub, stays, "t", "1");
    let mut walks = Vec::new();
    hub.take_due(&mut walks);
    publish(&mut hub, stays, "t", "2");
    assert_eq!(testing::texts(&testing::pieces(hub.leave(leaves))), ["1", "2"]);
    let joins = join(&mut hub, "t", true);
    publish(&mut hub, stays, "t", "3");
    assert!(!hub.is_dirty(), "an audience is due once");
    let walk = walks.pop().unwrap();
    let mut received = BTreeMap::new();
    while let Some(slot) = hub.next_member(walk) {
        received.insert(slot, texts(&mut hub, walk, slot));
        publish(&mut hub, stays, "t", "4");
    }
    assert_eq!(
        received,
        BTreeMap::from([(stays.slot(), vec!["1".into(), "2".into(), "3".into()]), (joins.slot(), vec!["3".into()])])
    );
    hub.end_walk(walk);
    assert_eq!(flush(&mut hub)[&joins.slot()], ["4", "4"]);
}

#[test]
fn walks_begin_at_different_members() {
    let mut hub = hub();
    let all: Vec<_> = (0..10).map(|_| join(&mut hub, "t", true)).collect();
    let mut firsts = BTreeSet::new();
    for _ in 0..40 {
        publish(&mut hub, all[0], "t", "x");
        let mut walks = Vec::new();
        hub.take_due(&mut walks);
        let walk = walks.pop().unwrap();
        let first = hub.next_member(walk).unwrap();
        hub.step_back(walk);
        assert_eq!(hub.next_member(walk), Some(first));
        firsts.insert(first);
        hub.end_walk(walk);
    }
    assert!(firsts.len() >= 8, "{firsts:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Connect(usize),
    Subscribe(usize, usize, bool),
    Unsubscribe(usize, usize),
    Leave(usize),
    Publish(usize, usize),
    TakeDue,
    /// The number of a walk, how many visits it makes, and how many further shares a visit hands out at most.
    Walk(usize, usize, usize),
    EndWalks,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..FORMATS.len()).prop_map(Step::Connect),
        4 => (0..64_usize, 0..TOPICS.len(), any::<bool>()).prop_map(|(a, b, c)| Step::Subscribe(a, b, c)),
        2 => (0..64_usize, 0..TOPICS.len()).prop_map(|(a, b)| Step::Unsubscribe(a, b)),
        1 => (0..64_usize).prop_map(Step::Leave),
        5 => (0..64_usize, 0..TOPICS.len()).prop_map(|(a, b)| Step::Publish(a, b)),
        2 => Just(Step::TakeDue),
        4 => (0..4_usize, 1..4_usize, 0..3_usize).prop_map(|(a, b, c)| Step::Walk(a, b, c)),
        1 => Just(Step::EndWalks),
    ];
    prop::collection::vec(step, 0..160)
}

const ECHO: SubscribeOptions = SubscribeOptions {
    has_echo: true,
    has_silent_lags: false,
    has_presence: false,
    resume: None,
    accepts_unrecovered: false,
};

const TOPICS: [&str; 3] = ["a", "b", "c"];

/// What each subscription is owed, and has seen, by slot and topic: the obvious way, with which the hub is compared.
#[derive(Default)]
struct Model {
    live: Vec<ConnectionId>,
    owed: BTreeMap<(u32, usize), Vec<String>>,
    seen: BTreeMap<(u32, usize), Vec<String>>,
    echoes: BTreeMap<(u32, usize), bool>,
    walks: Vec<AudienceId>,
    /// The tag of each message.
    tags: BTreeMap<String, Tag>,
    count: u64,
}

impl Model {
    /// Notes the messages that a connection has seen; each message names its topic.
    fn see(&mut self, slot: u32, texts: Vec<String>) {
        for text in texts {
            let topic = TOPICS.iter().position(|topic| text.starts_with(topic)).unwrap();
            self.seen.get_mut(&(slot, topic)).expect("nothing of what it is not subscribed to").push(text);
        }
    }

    /// Ends a subscription, and checks that it has brought every message.
    fn end(&mut self, slot: u32, topic: usize) {
        assert_eq!(self.owed.remove(&(slot, topic)), self.seen.remove(&(slot, topic)));
        self.echoes.remove(&(slot, topic));
    }

    fn take(&mut self, slot: u32, format: Format, last: Vec<Owed>) {
        for Owed { topic, pieces, .. } in last {
            let texts = self.tagged(&topic, format, &pieces);
            assert!(texts.iter().all(|text| text.starts_with(topic.as_str())), "{texts:?} of {topic}");
            assert_eq!(texts.len(), pieces.iter().map(|piece| piece.messages as usize).sum::<usize>());
            self.see(slot, texts);
        }
    }

    /// Returns the texts of these messages of a topic, after a check of their tags.
    fn tagged(&self, topic: &TopicName, format: Format, pieces: &[Piece]) -> Vec<String> {
        for piece in pieces {
            let texts = plain(format, slice::from_ref(piece));
            let tags = piece.tags.as_ref().map(|tags| tags.messages().iter().map(|message| message.tag.clone()));
            let expected =
                has_tags(topic).then(|| texts.iter().map(|text| self.tags[text].clone()).collect::<Vec<_>>());
            assert_eq!(tags.map(Iterator::collect), expected, "{texts:?} of {topic}");
        }
        plain(format, pieces)
    }

    fn visit(&mut self, hub: &mut ShardHub<Wants>, which: usize, most: usize, further_max: usize) {
        for _ in 0..most {
            if self.walks.is_empty() {
                return;
            }
            let which = which % self.walks.len();
            let walk = self.walks[which];
            let Some(slot) = hub.next_member(walk) else {
                hub.end_walk(self.walks.swap_remove(which));
                continue;
            };
            for walk in shares_of_visit(hub, walk, slot, &self.walks, further_max) {
                let Owed { topic, pieces, .. } = hub.owed_by_walk(walk, slot);
                let texts = self.tagged(&topic, walk.format, &pieces);
                self.see(slot, texts);
            }
        }
    }

    fn step(&mut self, hub: &mut ShardHub<Wants>, step: Step) {
        let some = |which: usize| self.live.get(which % self.live.len().max(1)).copied();
        match step {
            Step::Connect(format) => self.live.push(connect_for(hub, FORMATS[format])),
            Step::Subscribe(which, topic, echo) => {
                let Some(id) = some(which) else { return };
                let is_new = hub.subscribe(
                    id,
                    &name(TOPICS[topic]),
                    SubscribeOptions { has_echo: echo, ..SubscribeOptions::default() },
                ) == Subscribed::Live;
                assert_eq!(is_new, !self.owed.contains_key(&(id.slot(), topic)));
                if is_new {
                    self.owed.insert((id.slot(), topic), Vec::new());
                    self.seen.insert((id.slot(), topic), Vec::new());
                    self.echoes.insert((id.slot(), topic), echo);
                }
            }
            Step::Unsubscribe(which, topic) => {
                let Some(id) = some(which) else { return };
                let format = format_of(hub, id);
                let last = hub.unsubscribe(id, &name(TOPICS[topic]));
                self.take(id.slot(), format, last);
                self.end(id.slot(), topic);
            }
            Step::Leave(which) => {
                let Some(id) = some(which) else { return };
                self.live.retain(|&other| other != id);
                let format = format_of(hub, id);
                let last = hub.leave(id);
                hub.remove(id);
                self.take(id.slot(), format, last);
                (0..TOPICS.len()).for_each(|topic| self.end(id.slot(), topic));
            }
            Step::Publish(which, topic) => {
                let Some(id) = some(which) else { return };
                self.count += 1;
                let text = format!("{}{}", TOPICS[topic], self.count);
                hub.note_time(Millis(self.count));
                let place =
                    hub.publish_by_name(&name(TOPICS[topic]), Some(id), Publication::text(&text), Scope::Server);
                self.tags.insert(text.clone(), Tag { place, time: Millis(self.count), key: None });
                for (&(slot, of), owed) in &mut self.owed {
                    if of == topic && (slot != id.slot() || self.echoes[&(slot, of)]) {
                        owed.push(text.clone());
                    }
                }
            }
            Step::TakeDue => hub.take_due(&mut self.walks),
            Step::Walk(which, most, further_max) => self.visit(hub, which, most, further_max),
            Step::EndWalks => self.visit(hub, 0, 1_000, 0),
        }
    }
}

fn format_of(hub: &ShardHub<Wants>, id: ConnectionId) -> Format {
    hub.connections.get(id).expect("it is connected").io.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Connections subscribe, leave and publish in the middle of walks: each subscription brings every message
    /// between its two ends once and in order, without its connection's own. The messages of the topic that asks for
    /// tags have theirs, and those of other topics have none.
    #[test]
    fn every_subscriber_sees_every_message_once(steps in steps()) {
        let mut hub = hub();
        let mut model = Model::default();
        for step in steps {
            model.step(&mut hub, step);
        }
        while !model.walks.is_empty() || hub.is_dirty() {
            hub.take_due(&mut model.walks);
            model.visit(&mut hub, 0, 1_000, 0);
        }
        prop_assert_eq!(&model.owed, &model.seen);
        prop_assert_eq!(hub.gathered_bytes(), 0);
        assert_nothing_is_taken(&hub);
        for (number, topic) in TOPICS.iter().enumerate() {
            let subscribers = model.owed.keys().filter(|&&(_, of)| of == number).count();
            prop_assert_eq!(hub.subscribers(&name(topic)), subscribers);
            for id in &model.live {
                let expected = model.owed.contains_key(&(id.slot(), number));
                prop_assert_eq!(hub.is_subscribed(*id, &name(topic)), expected);
            }
        }
        for id in model.live {
            hub.remove(id);
        }
        for id in TOPICS.iter().filter_map(|topic| hub.topics.find(&name(topic))) {
            let topic = &hub.topics[id];
            prop_assert!(topic.attached == 0 && !topic.audiences.iter().any(Audience::has_places));
            prop_assert!(!topic.audiences.has_others(), "an audience without subscribers is forgotten");
        }
    }
}

/// A replacement of the rules reaches a topic at its first use in a later turn.
#[test]
fn a_topic_in_use_takes_new_rules() {
    let rule = |tags| move |_: &TopicName| TopicRules { tags, ..TopicRules::default() };
    let rules = RulesOfTopics::new(rule(Tags::Off));
    let hub = ShardHub::new(MeshEnd::alone(), HubLimits::default(), 100).with_encodings(encodings());
    let mut hub = hub.with_topic_rules(rules.clone());
    hub.note_time(Millis(1));
    let subscriber = join(&mut hub, "a", true);
    let tags = |hub: &ShardHub<Wants>| hub.topics[hub.topics.find(&name("a")).unwrap()].rules.tags;
    publish(&mut hub, subscriber, "a", "one");
    assert_eq!(tags(&hub), Tags::Off);
    rules.replace_by(rule(Tags::On));
    // The rules stay the same for all messages of a turn.
    publish(&mut hub, subscriber, "a", "two");
    assert_eq!(tags(&hub), Tags::Off);
    hub.note_time(Millis(2));
    publish(&mut hub, subscriber, "a", "three");
    assert_eq!(tags(&hub), Tags::On);
}

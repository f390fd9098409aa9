//! The history of a topic: keeping messages while the oldest leave, and pages of a history.
//!
//! The hub copies small messages into segments, and makes a frame of each message of a page. The references keep each
//! frame as it is: in a queue that is searched for an offset, and in the ordered map of the standard library.

use super::{Case, OURS, REFERENCE, add};
use bytes::Bytes;
use ringhub::hub::{
    HistoryFrom, HistoryQuery, HubLimits, MeshEnd, OrderEnd, RulesOfTopics, ShardHub, TopicRule, TopicTable,
};
use ringhub::{PreparedMessage, Publication, Scope, TopicName};
use std::collections::{BTreeMap, VecDeque};

pub(super) fn cases() -> Vec<Case> {
    let keep = Case::new("history, keep with 10 000", NEW, "messages")
        .side(OURS, keeping(Kept::new()))
        .side(REFERENCE, keeping(VecDeque::new()))
        .side("BTreeMap", keeping(BTreeMap::new()));
    let page = |name: &str, part| {
        Case::new(format!("history, {name} 10 000"), PAGE, "messages")
            .side(OURS, reading(Kept::new(), part))
            .side(REFERENCE, reading(VecDeque::new(), part))
            .side("BTreeMap", reading(BTreeMap::new(), part))
    };
    vec![keep, page("page amid", Part::After(KEPT / 2)), page("last of", Part::Last)]
}

/// [`PAGE`] messages of a history.
#[derive(Clone, Copy)]
enum Part {
    /// The first ones after this offset.
    After(u64),
    /// The newest ones, the oldest first.
    Last,
}

/// A history of at most [`KEPT`] messages, whose offsets begin with 1.
trait History {
    fn keep(&mut self);

    /// Calls `take` with the offset and the frame of each message of a part.
    fn read(&mut self, part: Part, take: impl FnMut(u64, &[u8]));
}

/// Keeps messages. The digest is that of the newest ones.
fn keeping(mut history: impl History) -> impl FnMut() -> u64 {
    (0..KEPT).for_each(|_| history.keep());
    move || {
        (0..NEW).for_each(|_| history.keep());
        digest(&mut history, Part::Last)
    }
}

fn reading(mut history: impl History, part: Part) -> impl FnMut() -> u64 {
    (0..KEPT).for_each(|_| history.keep());
    move || digest(&mut history, part)
}

fn digest(history: &mut impl History, part: Part) -> u64 {
    let mut digest = 0;
    history.read(part, |offset, frame| {
        add(&mut digest, frame);
        digest = digest.wrapping_add(offset);
    });
    digest
}

/// The hub's history of one topic.
struct Kept {
    hub: ShardHub<()>,
    topic: TopicName,
    epoch: u64,
}

impl Kept {
    fn new() -> Kept {
        let topic = TopicName::new("bench").expect("a name of a topic");
        let rule = TopicRule::new(["bench".parse().expect("a pattern")]).history_messages(KEPT);
        let table = TopicTable::new([&rule]).expect("one rule");
        let hub = ShardHub::new(MeshEnd::alone(), HubLimits::default(), 1);
        Kept { hub: hub.with_topic_rules(RulesOfTopics::of_table(table)), topic, epoch: 0 }
    }
}

impl History for Kept {
    fn keep(&mut self) {
        let place = self.hub.publish_by_name(&self.topic, None, Publication::binary(&PAYLOAD), Scope::Server);
        self.epoch = place.expect("the shard is the home of the topic").epoch;
    }

    fn read(&mut self, part: Part, mut take: impl FnMut(u64, &[u8])) {
        let from = match part {
            Part::After(offset) => HistoryFrom::After(OrderEnd { epoch: self.epoch, offset }),
            Part::Last => HistoryFrom::Last(PAGE as u64),
        };
        let query = HistoryQuery { from, messages_max: PAGE, bytes_max: u64::MAX };
        for message in &self.hub.read_history(&self.topic, &query).messages {
            take(message.offset, message.publication.frame());
        }
    }
}

impl History for VecDeque<(u64, Bytes)> {
    fn keep(&mut self) {
        self.push_back((self.back().map_or(1, |(offset, _)| offset + 1), frame()));
        if self.len() as u64 > KEPT {
            self.pop_front();
        }
    }

    fn read(&mut self, part: Part, mut take: impl FnMut(u64, &[u8])) {
        let begin = match part {
            Part::After(offset) => self.partition_point(|(kept, _)| *kept <= offset),
            Part::Last => self.len() - PAGE,
        };
        let page: Vec<(u64, Bytes)> = self.range(begin..).take(PAGE).cloned().collect();
        page.iter().for_each(|(offset, frame)| take(*offset, frame));
    }
}

impl History for BTreeMap<u64, Bytes> {
    fn keep(&mut self) {
        self.insert(self.last_key_value().map_or(1, |(offset, _)| offset + 1), frame());
        if self.len() as u64 > KEPT {
            self.pop_first();
        }
    }

    fn read(&mut self, part: Part, mut take: impl FnMut(u64, &[u8])) {
        let after = match part {
            Part::After(offset) => offset,
            Part::Last => self.last_key_value().map_or(0, |(offset, _)| offset - PAGE as u64),
        };
        let messages = self.range(after + 1..).take(PAGE);
        let page: Vec<(u64, Bytes)> = messages.map(|(offset, frame)| (*offset, frame.clone())).collect();
        page.iter().for_each(|(offset, frame)| take(*offset, frame));
    }
}

fn frame() -> Bytes {
    PreparedMessage::binary(&PAYLOAD).into_frame()
}

const KEPT: u64 = 10_000;

/// The messages that one call keeps.
const NEW: usize = 1_000;

/// The messages of a page.
const PAGE: usize = 100;

const PAYLOAD: [u8; 128] = [7; 128];

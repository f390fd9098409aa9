//! What policies drop and tell: a client that reads the bytes knows exactly what it has lost.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::super::*;
use crate::hub::{
    Dropped, Lag, OutputLimits, Overflow, Place, Shedding, SlowRules, Tag, TaggedMessage, tag::PieceTags,
    waiting::Amount,
};

/// The first byte of a frame: the number of a topic, or one of these.
const ALONE: u8 = 200;
pub(super) const NOTICE: u8 = 201;
/// A frame for the connection alone that says that its subscription to a topic has ended.
const END: u8 = 202;
const MARK: u8 = 0xfe;

pub(super) fn topic(number: u8) -> TopicName {
    TopicName::new(&format!("t{number}")).unwrap()
}

/// The rules of four topics. The last has no tags.
fn rules(number: u8) -> SlowRules {
    let slow = |overflow, messages_max, bytes_max| SlowRules { overflow, messages_max, bytes_max, age_max_ms: None };
    match number {
        0 => slow(Overflow::DropOldest, Some(7), None),
        1 => slow(Overflow::DropNewest, Some(5), Some(9_000)),
        2 => slow(Overflow::Latest, None, None),
        _ => SlowRules::default(),
    }
}

const TOPICS: u8 = 4;
const KEYS: u64 = 5;

pub(super) fn encode(lag: &Lag, out: &mut BytesMut) {
    out.put_slice(&[NOTICE, lag.topic.as_str().as_bytes()[1] - b'0']);
    [lag.epoch, lag.from, lag.to, lag.count].into_iter().for_each(|number| out.put_u64(number));
    // Larger counts make longer notices.
    let rest = (lag.count as usize * 3).min(200);
    out.put_u8(rest as u8);
    out.put_bytes(MARK, rest);
}

/// A message or a notice, as the client has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Message { topic: u8, epoch: u64, offset: u64 },
    Lag { topic: u8, epoch: u64, from: u64, to: u64, count: u64 },
    End { topic: u8 },
}

#[derive(Debug, Clone)]
enum Step {
    /// Publishes messages of these lengths to a topic.
    Publish(u8, Vec<usize>),
    /// Publishes so many messages to a topic whose run has lost all of them.
    Lose(u8, u64),
    Alone(usize),
    /// Sends so many bytes, and the socket refuses the rest.
    Send(usize),
    Shed,
    /// The topic's next messages have another epoch.
    Epoch(u8),
    /// The client leaves the topic, and subscribes again.
    End(u8),
    /// The topic has other rules from now on.
    Swap,
    /// The backlog is given up, which ends the run.
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![12 => 0..60_usize, 2 => 0..COPIED_BELOW, 1 => 0..70_000_usize];
    prop_oneof![
        12 => (0..TOPICS, prop::collection::vec(length, 1..9)).prop_map(|(topic, of)| Step::Publish(topic, of)),
        2 => (0..TOPICS, 1..9_u64).prop_map(|(topic, count)| Step::Lose(topic, count)),
        2 => (0..40_usize).prop_map(Step::Alone),
        3 => (0..90_usize).prop_map(Step::Send),
        2 => (0..3 * COPIED_BELOW).prop_map(Step::Send),
        1 => (0..90_000_usize).prop_map(Step::Send),
        8 => Just(Step::Shed),
        1 => (0..TOPICS).prop_map(Step::Epoch),
        1 => (0..TOPICS).prop_map(Step::End),
        1 => Just(Step::Swap),
        1 => prop::bool::weighted(0.2).prop_map(|closes| if closes { Step::Close } else { Step::Shed }),
    ]
}

#[derive(Default)]
struct World {
    backlog: Backlog,
    mark: usize,
    /// The messages published to each topic: epoch and offset.
    published: BTreeMap<u8, Vec<(u64, u64)>>,
    epochs: [u64; TOPICS as usize],
    /// How many messages each topic had when each subscription to it ended.
    ends: [Vec<usize>; TOPICS as usize],
    is_swapped: bool,
    received: Vec<u8>,
    told: Vec<Lag>,
    dropped: u64,
    alone: usize,
    is_closed: bool,
}

impl World {
    fn publish(&mut self, number: u8, lengths: &[usize]) {
        let (mut bytes, mut tags) = (BytesMut::new(), Vec::new());
        let all = self.published.entry(number).or_default();
        for &length in lengths {
            let epoch = 1 + self.epochs[usize::from(number)];
            let offset = all.last().filter(|last| last.0 == epoch).map_or(1, |last| last.1 + 1);
            all.push((epoch, offset));
            bytes.put_u8(number);
            [epoch, offset].into_iter().for_each(|number| bytes.put_u64(number));
            bytes.put_u32(length as u32);
            bytes.put_bytes(MARK, length);
            let place = Some(Place { epoch, offset, previous: offset - 1 });
            let key = Some((offset % KEYS).to_string().into());
            tags.push(TaggedMessage { end: bytes.len(), tag: Tag { place, time: Millis(0), key } });
        }
        let slow = rules(if self.is_swapped && number < 3 { (number + 1) % 3 } else { number });
        let tags = slow.needs_tags().then(|| PieceTags::new(tags));
        let piece = Piece { tags, ..Piece::new(bytes.freeze(), lengths.len() as u32) };
        self.backlog.owe(piece, &topic(number), slow);
    }

    fn lose(&mut self, number: u8, count: u64) {
        let all = self.published.entry(number).or_default();
        let epoch = 1 + self.epochs[usize::from(number)];
        let from = all.last().filter(|last| last.0 == epoch).map_or(1, |last| last.1 + 1);
        let to = from + count - 1;
        all.extend((from..=to).map(|offset| (epoch, offset)));
        self.dropped += count;
        let lag = Lag { topic: topic(number), epoch, from, to, count, policy: Overflow::Latest };
        let mut notice = BytesMut::new();
        encode(&lag, &mut notice);
        self.backlog.owe_lag(OwedLag { lag, notice: notice.freeze() }, rules(number));
    }

    fn alone(&mut self, length: usize) {
        let mut bytes = BytesMut::new();
        bytes.put_u8(ALONE);
        bytes.put_u32(length as u32);
        bytes.put_bytes(MARK, length);
        self.alone += 1;
        self.backlog.push(Piece::new(bytes.freeze(), 0), None);
    }

    fn end(&mut self, number: u8) {
        self.ends[usize::from(number)].push(self.published.get(&number).map_or(0, Vec::len));
        self.backlog.end_subscription(&topic(number));
        self.backlog.push(Piece::new(vec![END, number].into(), 0), None);
    }

    fn shed(&mut self, messages_max: u64) {
        let limits = OutputLimits { bytes_max: 4 << 20, messages_max, age_max_ms: None };
        let mark = &mut self.mark;
        let shed = self.backlog.shed(&mut Shedding { outbox_bytes: 0, limits: &limits, now: Millis(0), mark });
        self.count(shed.dropped);
    }

    fn count(&mut self, Dropped { oldest, newest, outdated, replayed }: Dropped) {
        self.dropped += oldest + newest + outdated + replayed;
        self.check();
    }

    fn send(&mut self, count: usize) {
        let dropped = self.backlog.prepare(Some(encode), 20_000, Millis(0), &mut self.mark);
        self.count(dropped);
        let unsent: Vec<u8> = self.backlog.unsent(usize::MAX, usize::MAX).flatten().copied().collect();
        let count = count.min(unsent.len());
        // The notices before the window's end are encoded.
        let count = count.min(20_000);
        self.received.extend_from_slice(&unsent[..count]);
        self.backlog.advance(count);
        self.mark = self.mark.saturating_sub(count);
        if !self.backlog.is_empty() {
            self.backlog.refuse();
        }
        self.told.extend(self.backlog.take_told());
        self.check();
    }

    /// Gives up the backlog.
    fn close(&mut self) {
        let given_up = self.backlog.truncate();
        (self.mark, self.is_closed) = (0, true);
        self.dropped += given_up.iter().map(|label| u64::from(label.messages())).sum::<u64>();
        self.check();
    }

    /// Checks that the parts of the backlog agree.
    fn check(&self) {
        let labelled: usize = self.backlog.labels().map(Label::bytes).sum();
        let unsent: usize = self.backlog.unsent(usize::MAX, usize::MAX).map(<[u8]>::len).sum();
        assert_eq!((labelled, unsent), (self.backlog.length(), self.backlog.length()));
        let messages: u64 = self.backlog.labels().map(|label| u64::from(label.messages())).sum();
        assert!(messages <= self.backlog.messages(), "{messages} {}", self.backlog.messages());
        assert!(self.backlog.bytes() >= unsent && self.mark <= unsent);
        let charged: usize = self.backlog.pieces.iter().map(|piece| piece.charge).sum();
        assert_eq!(charged, self.backlog.charged);
        let mut end = 0;
        let ends: BTreeSet<usize> = (self.backlog.unsent(usize::MAX, usize::MAX))
            .map(|piece| {
                end += piece.len();
                end
            })
            .collect();
        let mut begin = 0;
        for label in self.backlog.labels() {
            let end = begin + label.bytes();
            let is_one = label.tags.is_none() || ends.iter().all(|of| !(begin + 1..end).contains(of));
            assert!(is_one, "a label with tags is of one piece");
            begin = end;
        }
        let memory: usize = self.backlog.labels.labels.iter().map(Label::memory).sum();
        assert_eq!(memory, self.backlog.labels.memory);
        for (name, waiting) in self.backlog.labels.waiting.iter() {
            let own = self.backlog.labels().filter(|label| label.topic() == Some(name) && label.tags.is_some());
            let amounts: Vec<Amount> = own.map(Label::amount).collect();
            assert_eq!(amounts.iter().map(|amount| amount.bytes).sum::<usize>(), waiting.amount.bytes, "{name:?}");
            assert_eq!(amounts.iter().map(|amount| amount.messages).sum::<u64>(), waiting.amount.messages);
            assert_eq!(amounts.iter().map(|amount| amount.memory).sum::<usize>(), waiting.amount.memory);
        }
        // What has been dropped keeps no more memory than what is left. The first piece may have been sent in part.
        for piece in self.backlog.pieces.iter().skip(1) {
            assert!(piece.charge <= 2 * piece.bytes.len() + BUFFER, "{} of {}", piece.bytes.len(), piece.charge);
        }
        let mut begin = 0;
        for label in self.backlog.labels() {
            let tags = label.tags.as_ref().map_or(0, |tags| tags.messages().len());
            assert!(begin == 0 || tags <= 2 * label.messages() as usize, "{} of {tags}", label.messages());
            begin += label.bytes();
        }
    }

    /// Reads what the client has received.
    fn read(&self) -> Vec<Read> {
        let number = |at: usize| u64::from_be_bytes(self.received[at..at + 8].try_into().unwrap());
        let length = |at: usize| u32::from_be_bytes(self.received[at..at + 4].try_into().unwrap()) as usize;
        let (mut read, mut at, mut alone) = (Vec::new(), 0, 0);
        while at < self.received.len() {
            let kind = self.received[at];
            let body = match kind {
                ALONE => {
                    alone += 1;
                    at + 5..at + 5 + length(at + 1)
                }
                NOTICE => {
                    let [epoch, from, to, count] = [2, 10, 18, 26].map(|of| number(at + of));
                    read.push(Read::Lag { topic: self.received[at + 1], epoch, from, to, count });
                    at + 35..at + 35 + usize::from(self.received[at + 34])
                }
                END => {
                    read.push(Read::End { topic: self.received[at + 1] });
                    at + 2..at + 2
                }
                topic => {
                    assert!(topic < TOPICS, "no frame is torn");
                    read.push(Read::Message { topic, epoch: number(at + 1), offset: number(at + 9) });
                    at + 21..at + 21 + length(at + 17)
                }
            };
            at = body.end;
            assert!(self.received[body].iter().all(|&byte| byte == MARK), "no frame is torn");
        }
        assert_eq!(at, self.received.len(), "no frame is torn");
        assert!(self.is_closed || alone == self.alone, "each frame for the connection alone has come");
        read
    }

    /// Checks what the client has received and was told of one topic.
    fn check_topic(&self, number: u8, read: &[Read]) {
        let published = self.published.get(&number).cloned().unwrap_or_default();
        let own = |item: &&Read| match item {
            Read::Message { topic, .. } | Read::Lag { topic, .. } | Read::End { topic } => *topic == number,
        };
        // The number of the subscription that a message was of.
        let ends = &self.ends[usize::from(number)];
        let subscription = |place: (u64, u64)| {
            let index = published.iter().position(|of| *of == place).expect("it was published");
            ends.iter().filter(|end| **end <= index).count()
        };
        let mut ended = 0;
        let (mut last, mut received, mut lags) = ((0, 0), BTreeSet::new(), Vec::new());
        for item in read.iter().filter(own) {
            match *item {
                Read::End { .. } => ended += 1,
                Read::Message { epoch, offset, .. } => {
                    assert_eq!(subscription((epoch, offset)), ended);
                    assert!(last < (epoch, offset), "messages come in their order");
                    last = (epoch, offset);
                    assert!(received.insert(last));
                }
                Read::Lag { epoch, from, to, count, .. } => {
                    assert!(
                        last < (epoch, from),
                        "a notice stands before the messages after the first that is missing"
                    );
                    let of = [from, to].map(|offset| subscription((epoch, offset)));
                    assert_eq!(of, [ended; 2], "a notice is of one subscription, and stands within it");
                    lags.push((epoch, from, to, count));
                }
            }
        }
        // A client that was closed has lost the end, too, and is not told of the end.
        let is_known = |place: &&(u64, u64)| !self.is_closed || **place < last;
        let is_told = |&(epoch, offset): &(u64, u64)| {
            lags.iter().any(|&(of, from, to, _)| of == epoch && (from..=to).contains(&offset))
        };
        let lost: BTreeSet<(u64, u64)> = published.iter().filter(|place| !received.contains(place)).copied().collect();
        for &(epoch, from, to, count) in &lags {
            assert!(lost.contains(&(epoch, from)) && lost.contains(&(epoch, to)), "{lags:?} {lost:?}");
            assert!(lost.range((epoch, from)..=(epoch, to)).count() as u64 >= count, "{lags:?} {lost:?}");
        }
        assert!(lost.iter().filter(is_known).all(is_told), "{lags:?} {lost:?} {last:?}");
        let told: u64 = lags.iter().map(|lag| lag.3).sum();
        assert!(!self.is_closed || told <= lost.len() as u64, "{lags:?} {lost:?}");
        assert!(
            self.is_closed || told == lost.len() as u64,
            "each message is received or told of, once: {lags:?} {lost:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// What the client has received, and what it was told that it lost, is exactly the order of each topic. No frame is
    /// torn, and no frame for the connection alone is dropped.
    #[test]
    fn the_client_knows_what_it_has_lost(steps in prop::collection::vec(step(), 1..60), small in any::<bool>()) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Publish(topic, lengths) => world.publish(topic, &lengths),
                Step::Lose(topic, count) => world.lose(topic, count),
                Step::Alone(length) => world.alone(length),
                Step::Send(count) => world.send(count),
                Step::Shed => world.shed(if small { 12 } else { u64::MAX }),
                Step::End(topic) => world.end(topic),
                Step::Epoch(topic) => world.epochs[usize::from(topic)] += 1,
                Step::Swap => world.is_swapped = !world.is_swapped,
                Step::Close => {
                    world.close();
                    break;
                }
            }
            if world.mark == 0 {
                world.mark = world.backlog.length();
            }
            world.check();
        }
        while !world.backlog.is_empty() {
            world.send(usize::MAX);
        }
        prop_assert!(!world.backlog.has_lags() && !world.backlog.has_tagged());
        let read = world.read();
        (0..TOPICS).for_each(|topic| world.check_topic(topic, &read));
        let messages = read.iter().filter(|item| matches!(item, Read::Message { .. })).count() as u64;
        let published: usize = world.published.values().map(Vec::len).sum();
        prop_assert_eq!(messages + world.dropped, published as u64);
        let told: Vec<u64> = world.told.iter().map(|lag| lag.count).collect();
        let count = |item: &Read| if let Read::Lag { count, .. } = item { Some(*count) } else { None };
        let notices: Vec<u64> = read.iter().filter_map(count).collect();
        prop_assert_eq!(told, notices, "the handler hears of the notices that were sent");
    }

    /// However the socket takes the bytes, the last message of each key is the last that is published.
    #[test]
    fn each_key_ends_at_its_last_value(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Publish(_, lengths) => world.publish(2, &lengths),
                Step::Send(count) => world.send(count),
                Step::Shed => world.shed(u64::MAX),
                _ => {}
            }
        }
        while !world.backlog.is_empty() {
            world.send(usize::MAX);
        }
        let last = |offsets: &mut dyn Iterator<Item = u64>| -> BTreeMap<u64, u64> {
            offsets.map(|offset| (offset % KEYS, offset)).collect()
        };
        let mut received = world.read().into_iter().filter_map(|item| match item {
            Read::Message { offset, .. } => Some(offset),
            Read::Lag { .. } | Read::End { .. } => None,
        });
        let mut published = world.published.get(&2).into_iter().flatten().map(|place| place.1);
        prop_assert_eq!(last(&mut received), last(&mut published));
    }
}

/// Returns the offsets that a stalled client gets of 20 messages, and its lags, if the topic has these rules.
pub(super) fn outcome(slow: SlowRules, limits: OutputLimits) -> (Vec<u64>, Vec<(u64, u64, u64)>, bool) {
    let mut world = World::default();
    let mut is_beyond = false;
    for offset in 1..=20_u64 {
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        [1, offset].into_iter().for_each(|number| bytes.put_u64(number));
        bytes.put_u32(79);
        bytes.put_bytes(MARK, 79);
        let place = Some(Place { epoch: 1, offset, previous: offset - 1 });
        let tag = Tag { place, time: Millis(10 * offset), key: Some((offset % 3).to_string().into()) };
        let tags = Some(PieceTags::new(vec![TaggedMessage { end: 100, tag }]));
        world.backlog.owe(Piece { tags, ..Piece::new(bytes.freeze(), 1) }, &topic(0), slow);
        world.backlog.refuse();
        let (now, mark) = (Millis(10 * offset), &mut 0);
        is_beyond |= world.backlog.shed(&mut Shedding { outbox_bytes: 0, limits: &limits, now, mark }).is_beyond;
    }
    world.backlog.prepare(Some(encode), usize::MAX, Millis(200), &mut 0);
    world.received = world.backlog.unsent(usize::MAX, usize::MAX).flatten().copied().collect();
    let (mut offsets, mut lags) = (Vec::new(), Vec::new());
    for item in world.read() {
        match item {
            Read::Message { offset, .. } => offsets.push(offset),
            Read::Lag { from, to, count, .. } => lags.push((from, to, count)),
            Read::End { .. } => {}
        }
    }
    (offsets, lags, is_beyond)
}

/// What a message of [`outcome`] adds to what waits of its topic: 100 bytes of frame, the label, the name, the tag and
/// the key.
const WEIGHT: u64 = 100 + 40 + 34 + 72 + 64 + 33;

pub(super) const WIDE: OutputLimits = OutputLimits { bytes_max: 1 << 20, messages_max: 1_000, age_max_ms: None };

#[test]
fn each_policy_keeps_what_it_says() {
    let slow = |overflow| SlowRules { overflow, ..SlowRules::default() };
    let all: Vec<u64> = (1..=20).collect();
    for (slow, kept, lags, is_beyond) in [
        (slow(Overflow::DropOldest), all.clone(), vec![], false),
        (
            SlowRules { messages_max: Some(4), ..slow(Overflow::DropOldest) },
            vec![17, 18, 19, 20],
            vec![(1, 16, 16)],
            false,
        ),
        (
            SlowRules { bytes_max: Some(5 * WEIGHT - 1), ..slow(Overflow::DropOldest) },
            vec![17, 18, 19, 20],
            vec![(1, 16, 16)],
            false,
        ),
        (
            SlowRules { age_max_ms: Some(30), ..slow(Overflow::DropOldest) },
            vec![17, 18, 19, 20],
            vec![(1, 16, 16)],
            false,
        ),
        (SlowRules { messages_max: Some(4), ..slow(Overflow::DropNewest) }, vec![1, 2, 3, 4], vec![(5, 20, 16)], false),
        (
            SlowRules { bytes_max: Some(4 * WEIGHT), ..slow(Overflow::DropNewest) },
            vec![1, 2, 3, 4],
            vec![(5, 20, 16)],
            false,
        ),
        (SlowRules { age_max_ms: Some(30), ..slow(Overflow::DropNewest) }, vec![1, 2, 3, 4], vec![(5, 20, 16)], false),
        (slow(Overflow::Latest), vec![18, 19, 20], vec![(1, 17, 17)], false),
        (SlowRules { messages_max: Some(3), ..slow(Overflow::Latest) }, vec![18, 19, 20], vec![(1, 17, 17)], false),
        (SlowRules { messages_max: Some(2), ..slow(Overflow::Latest) }, vec![18, 19, 20], vec![(1, 17, 17)], true),
        (SlowRules { messages_max: Some(19), ..slow(Overflow::Close) }, all, vec![], true),
    ] {
        assert_eq!(outcome(slow, WIDE), (kept, lags, is_beyond), "{slow:?}");
    }
}

/// The limits of the connection are kept to by the policies of its topics, if these may drop messages.
#[test]
fn a_policy_acts_at_the_limit_of_the_connection() {
    let limits = OutputLimits { messages_max: 4, ..WIDE };
    let slow = |overflow| SlowRules { overflow, age_max_ms: Some(1_000_000), ..SlowRules::default() };
    assert_eq!(outcome(slow(Overflow::DropOldest), limits), (vec![17, 18, 19, 20], vec![(1, 16, 16)], false));
    assert_eq!(outcome(slow(Overflow::DropNewest), limits), (vec![1, 2, 3, 4], vec![(5, 20, 16)], false));
    assert!(outcome(slow(Overflow::Close), limits).2);
    let few = OutputLimits { messages_max: 0, ..WIDE };
    let (kept, lags, is_beyond) = outcome(slow(Overflow::DropOldest), few);
    assert_eq!((kept, lags, is_beyond), (vec![20], vec![(1, 19, 19)], true), "the newest message stays");
}

/// Dropping frees memory, although all pieces are parts of one buffer.
#[test]
fn what_is_dropped_frees_memory() {
    let mut backlog = Backlog::default();
    let slow = SlowRules { overflow: Overflow::DropOldest, messages_max: Some(600), ..SlowRules::default() };
    let mut tags = Vec::new();
    for offset in 1..=1_000_u64 {
        let place = Some(Place { epoch: 1, offset, previous: offset - 1 });
        tags.push(TaggedMessage { end: 200 * offset as usize, tag: Tag { place, time: Millis(0), key: None } });
    }
    let piece = Piece { tags: Some(PieceTags::new(tags)), ..Piece::new(vec![0; 200_000].into(), 1_000) };
    backlog.owe(piece, &topic(0), slow);
    backlog.refuse();
    let shed = |backlog: &mut Backlog| {
        backlog.shed(&mut Shedding { outbox_bytes: 0, limits: &WIDE, now: Millis(0), mark: &mut 0 })
    };
    shed(&mut backlog);
    assert_eq!((backlog.messages(), backlog.pieces[0].charge >= 200_000), (600, true), "less than half is dead");
    let tags = |backlog: &Backlog| backlog.labels.memory;
    let before = tags(&backlog);
    assert!(before >= 1_000 * size_of::<TaggedMessage>(), "the tags are shared");
    let more = Piece::new(vec![0; 200].into(), 1);
    let tag = Tag { place: None, time: Millis(0), key: None };
    let one = || Some(PieceTags::new(vec![TaggedMessage { end: 200, tag: tag.clone() }]));
    for _ in 0..120 {
        backlog.owe(Piece { tags: one(), ..more.clone() }, &topic(0), slow);
        shed(&mut backlog);
    }
    assert_eq!(backlog.messages(), 600);
    assert!(backlog.pieces[0].charge < 110_000, "{}", backlog.pieces[0].charge);
    let first = backlog.labels().find(|label| !label.is_notice()).and_then(|label| label.tags.as_ref()).unwrap();
    assert!(first.messages().len() < 510, "the tags of messages that were dropped are gone");
}

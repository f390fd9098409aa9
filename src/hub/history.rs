//! The history of a topic: the messages that its home keeps, in segments.
//!
//! A small message is copied into the last segment, behind its names, so that it keeps no receive buffer alive and
//! costs no allocation of its own. A large message is a segment of its own, which shares the bytes of the publication.
//! Messages leave at the front. A segment is freed when its last message has left.

use std::collections::VecDeque;

use super::{
    connection_id::ConnectionId,
    history_page::KeptMessage,
    history_rules::HistoryRules,
    memory::{ALLOCATION, pinned},
    publication::{OrderEnd, Publication},
};
use crate::proto::{MessageType, Millis};

/// The messages that are kept of a topic.
#[derive(Debug)]
pub(super) struct History {
    segments: VecDeque<Segment>,
    /// How many records of the first segment have left.
    left: usize,
    messages: u64,
    /// Bytes of the payloads and names of the messages.
    bytes: u64,
    /// Bytes of memory, see [`History::memory`].
    memory: usize,
    /// The offset of the last message that is not kept; 0 if there is none.
    floor: u64,
    /// The epoch of the messages, and the offset of the last one.
    end: OrderEnd,
    /// The number of the history, which no other history of the shard has.
    pub(super) number: u64,
    /// The number of the last use, by which histories that are not used give way first.
    pub(super) used: u64,
}

/// Messages that are neighbours in the order of the topic.
#[derive(Debug)]
enum Segment {
    Copied {
        records: Vec<Record>,
        /// For each record its names, and then its payload.
        bytes: Vec<u8>,
    },
    Shared(KeptMessage),
}

/// A place between the messages of a history: before the message of this index in a segment.
#[derive(Debug, Clone, Copy)]
struct Position {
    segment: usize,
    index: usize,
}

/// What a segment notes about a message that is copied into it.
#[derive(Debug, Clone, Copy)]
struct Record {
    offset: u64,
    time: Millis,
    /// The connection that has published the message. The id means nothing without [`marks::SOURCE`].
    source: ConnectionId,
    /// The end of the message in the segment's bytes.
    end: u32,
    marks: u8,
}

/// The part of a history that a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The messages after this offset, the oldest first.
    After(u64),
    /// The messages before this offset, the newest first.
    Before(u64),
    /// The newest messages, so many, the oldest first.
    Last(u64),
}

/// The bits of [`Record::marks`].
mod marks {
    pub(super) const BINARY: u8 = 1;
    pub(super) const JSON: u8 = 1 << 1;
    pub(super) const EVENT: u8 = 1 << 2;
    pub(super) const KEY: u8 = 1 << 3;
    pub(super) const ID: u8 = 1 << 4;
    pub(super) const SOURCE: u8 = 1 << 5;
}

impl History {
    /// Returns an empty history, whose topic has had its last message at this end of its order.
    pub(super) fn new(end: OrderEnd, number: u64) -> History {
        History {
            segments: VecDeque::new(),
            left: 0,
            messages: 0,
            bytes: 0,
            memory: EMPTY,
            floor: end.offset,
            end,
            number,
            used: number,
        }
    }

    /// Keeps a message, whose offset is above those of all earlier ones.
    pub(super) fn keep(&mut self, offset: u64, source: Option<ConnectionId>, publication: &Publication) {
        self.end.offset = offset;
        self.messages += 1;
        self.bytes += kept_bytes(publication);
        let length = publication.payload().len() + names_length(publication);
        if length >= SHARED_MIN || !names_fit(publication) {
            let segment = Segment::Shared(KeptMessage { offset, source, publication: publication.clone() });
            self.memory += segment.memory();
            return self.segments.push_back(segment);
        }
        // An empty message takes no bytes, but a record. A segment with all records of a history would never be freed.
        let records_max = (self.messages as usize / SEGMENTS).clamp(1, RECORDS_MAX);
        let has_room = |segment: &Segment| match segment {
            Segment::Copied { records, bytes } => {
                bytes.capacity() - bytes.len() >= length && records.len() < records_max
            }
            Segment::Shared(_) => false,
        };
        if !self.segments.back().is_some_and(has_room) {
            // A segment is a small part of the history, since its dead messages keep their memory until all are dead.
            let room = (self.bytes as usize / SEGMENTS).clamp(length, SEGMENT_MAX.max(length));
            let segment = Segment::Copied { records: Vec::new(), bytes: Vec::with_capacity(room) };
            self.memory += segment.memory();
            self.segments.push_back(segment);
        }
        let segment = self.segments.back_mut().expect("a segment with room");
        self.memory -= segment.memory();
        segment.copy(offset, source, publication);
        self.memory += segment.memory();
    }

    /// Lets the messages leave that the rules do not keep at this time.
    pub(super) fn trim(&mut self, rules: &HistoryRules, now: Millis) {
        let (messages_max, bytes_max) = (rules.most_messages(), rules.bytes_max.unwrap_or(u64::MAX));
        while let Some((offset, time, bytes)) = self.front() {
            let is_last = self.messages == 1;
            let is_beyond = self.messages > messages_max || self.bytes > bytes_max && !is_last;
            let is_old = rules.has_expired(time, now) && !(is_last && rules.retains_last);
            if !is_beyond && !is_old {
                return;
            }
            self.leave(offset, bytes);
        }
    }

    /// Returns when the first message becomes too old; `None` if it never does.
    pub(super) fn expiry(&self, rules: &HistoryRules) -> Option<Millis> {
        let (_, time, _) = self.front().filter(|_| self.messages > 1 || !rules.retains_last)?;
        rules.expiry(time)
    }

    /// Lets the messages of the first segment leave. Returns how many there were.
    pub(super) fn drop_segment(&mut self) -> u64 {
        let before = self.messages;
        let count = self.segments.front().map_or(0, |segment| segment.len() - self.left);
        for _ in 0..count {
            let (offset, _, bytes) = self.front().expect("the segment has so many messages");
            self.leave(offset, bytes);
        }
        before - self.messages
    }

    /// Returns how many messages are kept.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Returns the memory that the history takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Returns whether a message after this position is the next one of the history.
    pub(super) fn goes_on_after(&self, position: OrderEnd) -> bool {
        self.end == position
    }

    /// Returns the offset of the last message that is not kept, after which the history has every message.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Returns the wanted messages, at most so many, and of at most so many bytes but at least one; and whether others
    /// that are wanted follow them.
    pub(super) fn read(&self, wanted: Wanted, messages_max: usize, bytes_max: u64) -> (Vec<KeptMessage>, bool) {
        let messages: Box<dyn Iterator<Item = KeptMessage>> = match wanted {
            Wanted::After(offset) => Box::new(self.from(self.after(offset))),
            Wanted::Last(last) => Box::new(self.from(self.last(last))),
            Wanted::Before(offset) => Box::new(self.before(self.after(offset.saturating_sub(1)))),
        };
        let (mut found, mut bytes) = (Vec::new(), 0);
        for message in messages {
            bytes += kept_bytes(&message.publication);
            if found.len() == messages_max || bytes > bytes_max && !found.is_empty() {
                return (found, true);
            }
            found.push(message);
        }
        (found, false)
    }

    /// Returns the position of the first kept message after this offset.
    fn after(&self, offset: u64) -> Position {
        let segment = self.segments.partition_point(|segment| segment.last_offset() <= offset);
        let index = match self.segments.get(segment) {
            Some(Segment::Copied { records, .. }) => records.partition_point(|record| record.offset <= offset),
            Some(Segment::Shared(_)) | None => 0,
        };
        Position { segment, index: index.max(self.left_of(segment)) }
    }

    /// Returns the position of the first of the newest messages, of so many.
    fn last(&self, messages: u64) -> Position {
        let (mut segment, mut rest) = (self.segments.len(), messages.min(self.messages) as usize);
        while rest > 0 {
            segment -= 1;
            let length = self.segments[segment].len();
            let kept = length - self.left_of(segment);
            if rest <= kept {
                return Position { segment, index: length - rest };
            }
            rest -= kept;
        }
        Position { segment, index: 0 }
    }

    /// Returns how many messages of a segment have left.
    fn left_of(&self, segment: usize) -> usize {
        if segment == 0 { self.left } else { 0 }
    }

    /// Returns the messages from a position on.
    fn from(&self, Position { segment, index }: Position) -> impl Iterator<Item = KeptMessage> + '_ {
        self.segments.iter().enumerate().skip(segment).flat_map(move |(number, found)| {
            let begin = if number == segment { index } else { 0 };
            (begin..found.len()).map(|index| found.message(index))
        })
    }

    /// Returns the messages before a position, the newest first.
    fn before(&self, Position { segment, index }: Position) -> impl Iterator<Item = KeptMessage> + '_ {
        let count = self.segments.len().min(segment + 1);
        self.segments.iter().enumerate().take(count).rev().flat_map(move |(number, found)| {
            let end = if number == segment { index } else { found.len() };
            (self.left_of(number)..end).rev().map(|index| found.message(index))
        })
    }

    /// Returns the offset, the time and the bytes of the first message.
    fn front(&self) -> Option<(u64, Millis, u64)> {
        match self.segments.front()? {
            Segment::Copied { records, .. } => {
                let record = records[self.left];
                let begin = self.left.checked_sub(1).map_or(0, |before| records[before].end);
                Some((record.offset, record.time, u64::from(record.end - begin) - record.lengths()))
            }
            Segment::Shared(KeptMessage { offset, publication, .. }) => {
                Some((*offset, publication.time(), kept_bytes(publication)))
            }
        }
    }

    /// Lets the first message leave, which has this offset and so many bytes.
    fn leave(&mut self, offset: u64, bytes: u64) {
        self.floor = offset;
        self.messages -= 1;
        self.bytes -= bytes;
        self.left += 1;
        let segment = self.segments.front().expect("the first message has a segment");
        if self.left == segment.len() {
            self.memory -= segment.memory();
            self.segments.pop_front();
            self.left = 0;
        }
    }
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Segment::Copied { records, .. } => records.len(),
            Segment::Shared(_) => 1,
        }
    }

    fn last_offset(&self) -> u64 {
        match self {
            Segment::Copied { records, .. } => records.last().map_or(0, |record| record.offset),
            Segment::Shared(message) => message.offset,
        }
    }

    fn memory(&self) -> usize {
        let own = match self {
            Segment::Copied { records, bytes } => {
                records.capacity() * size_of::<Record>() + bytes.capacity() + 2 * ALLOCATION
            }
            Segment::Shared(KeptMessage { publication, .. }) => {
                pinned(publication.frame()) + publication.names_bytes() + publication.prepared_bytes()
            }
        };
        own + size_of::<Segment>()
    }

    /// Copies a message that is small enough to the end of the segment.
    fn copy(&mut self, offset: u64, source: Option<ConnectionId>, publication: &Publication) {
        let Segment::Copied { records, bytes } = self else { unreachable!("only a copied segment has room") };
        let mut marks = 0;
        if publication.kind() == MessageType::Binary {
            marks |= marks::BINARY;
        }
        if publication.is_json() {
            marks |= marks::JSON;
        }
        if source.is_some() {
            marks |= marks::SOURCE;
        }
        for (mark, name) in names(publication) {
            if let Some(name) = name {
                marks |= mark;
                bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
                bytes.extend_from_slice(name.as_bytes());
            }
        }
        bytes.extend_from_slice(publication.payload());
        let source = source.unwrap_or_else(|| ConnectionId::new(0, 0, 0));
        records.push(Record { offset, time: publication.time(), source, end: bytes.len() as u32, marks });
    }

    fn message(&self, index: usize) -> KeptMessage {
        let (records, bytes) = match self {
            Segment::Copied { records, bytes } => (records, bytes),
            Segment::Shared(message) => return message.clone(),
        };
        let record = records[index];
        let begin = index.checked_sub(1).map_or(0, |before| records[before].end as usize);
        let mut rest = &bytes[begin..record.end as usize];
        let found = NAMES.map(|mark| (record.marks & mark != 0).then(|| take_name(&mut rest)));
        let mut publication = Publication::kept(rest, record.kind(), record.is_json());
        publication.stamp(record.time);
        let [event, key, id] = found;
        if let Some(event) = event {
            publication = publication.event(event);
        }
        if let Some(key) = key {
            publication = publication.key(key).expect("it was the key of a publication");
        }
        if let Some(id) = id {
            publication = publication.id(id);
        }
        KeptMessage { offset: record.offset, source: record.source(), publication }
    }
}

impl Record {
    fn kind(self) -> MessageType {
        if self.marks & marks::BINARY != 0 { MessageType::Binary } else { MessageType::Text }
    }

    fn is_json(self) -> bool {
        self.marks & marks::JSON != 0
    }

    fn source(self) -> Option<ConnectionId> {
        (self.marks & marks::SOURCE != 0).then_some(self.source)
    }

    /// Returns the bytes of the lengths in front of the names.
    fn lengths(self) -> u64 {
        NAMES.iter().filter(|mark| self.marks & **mark != 0).count() as u64 * LENGTH as u64
    }
}

/// Takes a name, and its length in front of it, from the beginning of a message.
fn take_name<'a>(rest: &mut &'a [u8]) -> &'a str {
    let (length, after) = rest.split_at(LENGTH);
    let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    let (name, after) = after.split_at(length);
    *rest = after;
    str::from_utf8(name).expect("a name was copied from a text")
}

/// Returns the names of a publication, each with its mark.
fn names(publication: &Publication) -> [(u8, Option<&str>); 3] {
    let [event, key, id] = NAMES;
    [(event, publication.event_name()), (key, publication.key_name()), (id, publication.id_name())]
}

/// Returns whether each name is short enough for a segment.
fn names_fit(publication: &Publication) -> bool {
    names(publication).iter().all(|(_, name)| name.is_none_or(|name| name.len() <= usize::from(u16::MAX)))
}

/// Returns the bytes that the names take in a segment.
fn names_length(publication: &Publication) -> usize {
    names(publication).iter().filter_map(|(_, name)| Some(name.as_ref()?.len() + LENGTH)).sum()
}

/// Returns the bytes of a message that count towards the limits of a history: its payload and its names.
fn kept_bytes(publication: &Publication) -> u64 {
    let names = names(publication).iter().filter_map(|(_, name)| *name).map(str::len).sum::<usize>();
    (publication.payload().len() + names) as u64
}

/// The marks of names, in the order in which a segment has them.
const NAMES: [u8; 3] = [marks::EVENT, marks::KEY, marks::ID];

/// Bytes of the length in front of a name.
const LENGTH: usize = size_of::<u16>();

/// A message of so many bytes is not copied.
const SHARED_MIN: usize = 4 * 1_024;

/// The most messages that are copied into one segment.
const RECORDS_MAX: usize = 512;

/// The largest segment of copied messages.
const SEGMENT_MAX: usize = 16 * 1_024;

/// The number of segments that a history of equal messages tends to.
const SEGMENTS: usize = 8;

/// Bytes of a history without messages, and of its entry in the list of all histories.
const EMPTY: usize = size_of::<History>() + 2 * ALLOCATION + 3 * size_of::<u64>();

const _: () = assert!(SHARED_MIN <= SEGMENT_MAX && SEGMENT_MAX <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Fin, OpCode, PreparedMessage};

    fn history(rules: &HistoryRules, messages: impl IntoIterator<Item = (u64, Publication)>) -> History {
        let mut history = History::new(OrderEnd { epoch: 1, offset: 0 }, 1);
        for (offset, publication) in messages {
            let now = publication.time();
            history.keep(offset, None, &publication);
            history.trim(rules, now);
        }
        history
    }

    fn text(length: usize, time: u64) -> Publication {
        let mut publication = Publication::text(&"x".repeat(length));
        publication.stamp(Millis(time));
        publication
    }

    fn offsets(history: &History, wanted: Wanted) -> Vec<u64> {
        history.read(wanted, usize::MAX, u64::MAX).0.iter().map(|message| message.offset).collect()
    }

    const ALL: HistoryRules =
        HistoryRules { messages_max: Some(u64::MAX), bytes_max: None, age_max_ms: None, retains_last: false };

    #[test]
    fn messages_come_back_as_they_were() {
        let publications = [
            Publication::text(""),
            Publication::binary(&[0, 255, 7]).key("k").unwrap(),
            Publication::json(r#"{"a":1}"#).unwrap().event("e").id("i"),
            Publication::text(&"long".repeat(2_000)).event("large"),
            Publication::text("names").event(&"e".repeat(70_000)),
            // A text of a route that does not check it.
            Publication::try_from(PreparedMessage::one(OpCode::Text, Fin::Set, b"\xff")).unwrap(),
        ];
        let history = history(&ALL, (1..).zip(publications.clone()));
        let (found, more) = history.read(Wanted::After(0), usize::MAX, u64::MAX);
        assert!(!more && found.len() == publications.len());
        for (kept, sent) in found.iter().zip(&publications) {
            let of = |publication: &Publication| {
                let names = [publication.event_name(), publication.key_name(), publication.id_name()];
                (
                    publication.frame().clone(),
                    publication.kind(),
                    publication.is_json(),
                    names.map(|n| n.map(String::from)),
                )
            };
            assert_eq!(of(&kept.publication), of(sent));
        }
    }

    /// Offsets have gaps, and segments of both kinds alternate.
    #[test]
    fn parts_are_found_by_their_offsets() {
        let lengths = [10, 5_000, 10, 10, 6_000, 9_000, 300, 3_000, 3_000, 3_000, 3_000, 3_000, 3_000, 1];
        let history = history(&ALL, lengths.iter().zip(1..).map(|(&length, number)| (number * 3, text(length, 0))));
        let all: Vec<u64> = (1..=lengths.len() as u64).map(|number| number * 3).collect();
        for offset in 0..50 {
            let after: Vec<u64> = all.iter().copied().filter(|other| *other > offset).collect();
            assert_eq!(offsets(&history, Wanted::After(offset)), after, "{offset}");
            let mut before: Vec<u64> = all.iter().copied().filter(|other| *other < offset).collect();
            before.reverse();
            assert_eq!(offsets(&history, Wanted::Before(offset)), before, "{offset}");
            let last = all[all.len().saturating_sub(offset as usize)..].to_vec();
            assert_eq!(offsets(&history, Wanted::Last(offset)), last, "{offset}");
        }
    }

    #[test]
    fn a_page_ends_at_its_limits() {
        let history = history(&ALL, (1..=10).map(|offset| (offset, text(100, 0))));
        let page = |messages_max, bytes_max| {
            let (found, more) = history.read(Wanted::After(2), messages_max, bytes_max);
            (found.len(), more)
        };
        assert_eq!(page(8, 800), (8, false));
        assert_eq!(page(7, 800), (7, true));
        assert_eq!(page(8, 799), (7, true));
        assert_eq!(page(8, 5), (1, true), "one message always comes");
        assert_eq!(page(0, 800), (0, true));
    }

    #[test]
    fn each_limit_trims() {
        let ten = |rules: &HistoryRules| history(rules, (1..=10).map(|offset| (offset, text(100, offset * 10))));
        let check = |rules: HistoryRules, expected: &[u64]| {
            let history = ten(&rules);
            assert_eq!(offsets(&history, Wanted::After(0)), expected, "{rules:?}");
            assert_eq!(history.floor(), expected[0] - 1);
        };
        let none = HistoryRules::default();
        check(HistoryRules { messages_max: Some(3), ..none }, &[8, 9, 10]);
        check(HistoryRules { bytes_max: Some(299), ..none }, &[9, 10]);
        check(HistoryRules { bytes_max: Some(1), ..none }, &[10]);
        check(HistoryRules { age_max_ms: Some(21), ..none }, &[8, 9, 10]);
        check(HistoryRules { retains_last: true, ..none }, &[10]);
        let mut history = ten(&HistoryRules { age_max_ms: Some(21), ..none });
        history.trim(&HistoryRules { age_max_ms: Some(21), retains_last: true, ..none }, Millis(1_000));
        assert_eq!(offsets(&history, Wanted::After(0)), [10], "the last message outlives its age");
        history.trim(&HistoryRules { age_max_ms: Some(21), ..none }, Millis(1_000));
        assert_eq!((history.messages(), history.floor()), (0, 10));
    }

    /// The sum is that of all segments at each step, and trimming gives memory back.
    #[test]
    fn memory_is_counted() {
        let rules = HistoryRules { messages_max: Some(100), ..HistoryRules::default() };
        let mut history = History::new(OrderEnd { epoch: 1, offset: 0 }, 1);
        for number in 1..=1_000_u64 {
            history.keep(number, None, &text(if number % 50 == 0 { 5_000 } else { 128 }, 0));
            history.trim(&rules, Millis(0));
            let sum: usize = history.segments.iter().map(Segment::memory).sum();
            assert_eq!(history.memory(), sum + EMPTY);
        }
        assert!(history.memory() < 100 * 300 + 4 * 80_000, "{}", history.memory());
        let mut empty = History::new(OrderEnd { epoch: 1, offset: 0 }, 1);
        for number in 1..=100_000_u64 {
            empty.keep(number, None, &text(0, 0));
            empty.trim(&rules, Millis(0));
        }
        assert!(empty.messages() == 100 && empty.memory() < 20_000, "empty messages leave too: {}", empty.memory());
        let mut dropped = 0;
        while history.messages() > 0 {
            dropped += history.drop_segment();
        }
        assert_eq!((dropped, history.memory(), history.bytes), (100, EMPTY, 0));
    }

    #[test]
    fn a_small_message_takes_at_most_twice_its_size() {
        let history = history(&ALL, (1..=1_000).map(|offset| (offset, text(128, 0))));
        assert!(history.memory() <= 1_000 * 256, "{}", history.memory());
    }
}

//! Shedding: a backlog drops messages by the policies of their topics, and gets the notices of lags.

use std::{collections::HashMap, mem};

use bytes::{Bytes, BytesMut};

use super::{
    backlog::{Backlog, TAIL_MAX},
    cut::{Cut, Judged, Verdict},
    lag::{EncodeLag, Lag},
    memory::BUFFER,
    overflow::{OutputLimits, OwedOutput},
    piece::Piece,
    publication::Place,
    slow::Overflow,
    tag::Tag,
    topic_name::TopicName,
    waiting::Waiting,
};
use crate::proto::Millis;

/// How many messages were dropped, by policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// By [`Overflow::DropOldest`].
    pub oldest: u64,
    /// By [`Overflow::DropNewest`].
    pub newest: u64,
    /// By [`Overflow::Latest`].
    pub outdated: u64,
    /// By [`Overflow::Replay`].
    pub replayed: u64,
}

/// The outcome of [`Backlog::shed`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shed {
    /// The messages that were dropped.
    pub dropped: Dropped,
    /// The topics whose messages were taken out, to be read from their histories, and the first of these messages. By
    /// [`Overflow::Replay`].
    pub replayed: Vec<(TopicName, Place)>,
    /// Whether the output is still beyond a limit, so that the connection must be closed.
    pub is_beyond: bool,
}

/// The backlog of a connection beside its outbox, and the mark that moves with the bytes of the backlog.
pub struct Shedding<'a> {
    /// Bytes of memory that the frames for the connection alone take outside the backlog.
    pub outbox_bytes: usize,
    /// The limits of the connection's output.
    pub limits: &'a OutputLimits,
    /// The time.
    pub now: Millis,
    /// The number of unsent bytes up to a byte that is watched. The number becomes smaller if some of these bytes are
    /// dropped, and larger if a notice is put among them.
    pub mark: &'a mut usize,
}

impl Backlog {
    /// Drops messages until the topics and the whole output are within their limits. The messages that the policy of a
    /// topic would drop last stay: the newest, or with [`Overflow::DropNewest`] the oldest; and so does a message that
    /// has been sent in part.
    pub fn shed(&mut self, shedding: &mut Shedding<'_>) -> Shed {
        let now = shedding.now;
        let mut shed = Shed::default();
        for topic in self.labels.over(now) {
            self.shed_topic(&topic, now, shedding.mark, &mut shed);
            let is_overdue = self.labels.is_overdue(&topic, now);
            let Some(waiting) = self.labels.waiting.get(&topic) else { continue };
            let closes = matches!(waiting.slow.overflow, Overflow::Close | Overflow::Latest);
            shed.is_beyond |= closes && (is_overdue || !waiting.is_allowed());
        }
        let mut exhausted: Vec<TopicName> = Vec::new();
        while !self.is_within(shedding) {
            let Some(topic) = self.heaviest(&exhausted) else {
                shed.is_beyond = true;
                break;
            };
            if !self.shed_excess(&topic, shedding, &mut shed) {
                exhausted.push(topic);
            }
        }
        self.labels.waiting.note_due();
        shed
    }

    /// Prepares the backlog for being offered to the socket, which has room. If the socket has refused a part of the
    /// backlog before, drops the messages that have waited too long, and those that are not the newest of their keys.
    /// Then encodes the notices among the first `window` bytes. Without `encode` a notice has no bytes.
    pub fn prepare(&mut self, encode: Option<EncodeLag>, window: usize, now: Millis, mark: &mut usize) -> Dropped {
        let mut dropped = Dropped::default();
        if self.labels.waiting.is_empty() {
            return dropped;
        }
        if self.was_refused {
            let may_be_old =
                |waiting: &Waiting| waiting.slow.overflow == Overflow::DropOldest && waiting.is_overdue(now);
            if self.labels.waiting.iter().any(|(_, waiting)| may_be_old(waiting)) {
                self.labels.find_oldest();
            }
            let topics = self.labels.waiting.names(|waiting| match waiting.slow.overflow {
                Overflow::Latest => waiting.may_drop(),
                Overflow::DropOldest => may_be_old(waiting),
                Overflow::Close | Overflow::DropNewest | Overflow::Replay => false,
            });
            for topic in topics {
                let is_latest = self.labels.waiting.get(&topic).is_some_and(|w| w.slow.overflow == Overflow::Latest);
                if is_latest {
                    dropped.outdated += self.conflate(&topic, mark);
                } else {
                    let cuts = self.labels.cut_oldest(&topic, &mut |Judged { waiting, tag, .. }| {
                        if waiting.is_too_old(tag.time, now) { Verdict::Drop } else { Verdict::Stop }
                    });
                    dropped.oldest += self.take_out(&cuts, mark);
                }
            }
        }
        self.encode_notices(encode, window, mark);
        if self.length == 0 {
            // Only notices without bytes are left.
            self.labels.advance(0, (0, 0));
            self.was_refused = false;
        }
        dropped
    }

    /// Takes the lags whose notices have been sent since the last call.
    pub fn take_told(&mut self) -> Vec<Lag> {
        self.labels.take_told()
    }

    /// Returns whether the backlog has messages with tags, or lags.
    #[must_use]
    pub fn has_tagged(&self) -> bool {
        !self.labels.waiting.is_empty()
    }

    /// Returns whether the backlog has a lag whose notice has not begun to be sent.
    #[must_use]
    pub fn has_lags(&self) -> bool {
        self.labels.waiting.gaps > 0
    }

    /// Returns whether a topic may be beyond one of its own limits; [`Backlog::shed`] looks at each.
    #[must_use]
    pub(super) fn is_over(&self, now: Millis) -> bool {
        self.labels.waiting.is_over || self.labels.waiting.is_due(now)
    }

    /// Returns whether a policy may drop messages.
    #[must_use]
    pub(super) fn may_shed(&self) -> bool {
        self.labels.waiting.iter().any(|(_, waiting)| waiting.may_drop())
    }

    /// Returns how much of the output no policy may drop: the memory, in bytes, and the messages. The memory is shared
    /// out by the bytes of frames.
    #[must_use]
    pub fn undroppable(&self) -> (usize, u64) {
        let dropping = self.labels.waiting.iter().filter(|(_, waiting)| waiting.slow.overflow != Overflow::Close);
        let add = |(bytes, messages): (usize, u64), (_, waiting): (_, &Waiting)| {
            (bytes + waiting.amount.bytes, messages + waiting.amount.messages)
        };
        let (bytes, messages) = dropping.fold((0, 0), add);
        let share = self.bytes() as u128 * (self.length - bytes) as u128 / self.length.max(1) as u128;
        (share as usize, self.messages - messages)
    }

    fn is_within(&self, Shedding { outbox_bytes, limits, now, .. }: &Shedding<'_>) -> bool {
        OwedOutput { backlog: self, outbox_bytes: *outbox_bytes, is_held: false }.is_within(limits, *now)
    }

    /// Returns the topic whose policy may drop messages: one that keeps the newest of each key if there is one, else
    /// the one with the most bytes.
    fn heaviest(&self, exhausted: &[TopicName]) -> Option<TopicName> {
        let topics = self.labels.waiting.iter().filter(|(_, waiting)| waiting.may_drop());
        let topics = topics.filter(|(topic, _)| !exhausted.contains(topic));
        let heaviest = topics
            .max_by_key(|(topic, waiting)| (waiting.slow.overflow == Overflow::Latest, waiting.amount.bytes, *topic));
        heaviest.map(|(topic, _)| topic.clone())
    }

    /// Drops the messages by which a topic is beyond its own limits.
    fn shed_topic(&mut self, topic: &TopicName, now: Millis, mark: &mut usize, shed: &mut Shed) {
        let Some(waiting) = self.labels.waiting.get(topic) else { return };
        let dropped = &mut shed.dropped;
        match waiting.slow.overflow {
            Overflow::Close => {}
            Overflow::Replay => _ = self.take_replayed(topic, mark, shed),
            Overflow::Latest if waiting.may_drop() => dropped.outdated += self.conflate(topic, mark),
            Overflow::Latest => {}
            Overflow::DropOldest => {
                let cuts = self.labels.cut_oldest(
                    topic,
                    &mut while_over(|waiting, tag| !waiting.is_allowed() || waiting.is_too_old(tag.time, now)),
                );
                dropped.oldest += self.take_out(&cuts, mark);
            }
            Overflow::DropNewest => {
                // The messages that have come after the oldest had waited for too long.
                let cuts = self.labels.cut_newest(
                    topic,
                    self.length,
                    &mut while_over(|waiting, tag| {
                        !waiting.is_allowed() || waiting.too_late().is_some_and(|time| tag.time > time)
                    }),
                );
                dropped.newest += self.take_out(&cuts, mark);
            }
        }
    }

    /// Drops messages of a topic because the whole output is beyond its limits: about as many as have to be dropped.
    /// Returns whether something was dropped.
    fn shed_excess(&mut self, topic: &TopicName, shedding: &mut Shedding<'_>, shed: &mut Shed) -> bool {
        let Some(waiting) = self.labels.waiting.get(topic) else { return false };
        let (overflow, limits) = (waiting.slow.overflow, shedding.limits);
        let memory = self.bytes().saturating_add(shedding.outbox_bytes);
        let excess = memory.saturating_sub(limits.bytes_max.saturating_add(Backlog::BESIDES));
        // A byte of a frame takes more than a byte of memory.
        let bytes = (excess as u128 * self.length as u128 / memory.max(1) as u128) as usize;
        let messages = self.messages.saturating_sub(limits.messages_max);
        let before = waiting.amount;
        let (bytes, messages) = (before.bytes.saturating_sub(bytes.max(1)), before.messages.saturating_sub(messages));
        let mut judge = while_over(|Waiting { amount, .. }, _| amount.bytes > bytes || amount.messages > messages);
        let dropped = &mut shed.dropped;
        let count = match overflow {
            Overflow::Close => return false,
            Overflow::Replay => self.take_replayed(topic, shedding.mark, shed),
            Overflow::Latest => {
                dropped.outdated += self.conflate(topic, shedding.mark);
                return true;
            }
            Overflow::DropOldest => {
                let cuts = self.labels.cut_oldest(topic, &mut judge);
                let count = self.take_out(&cuts, shedding.mark);
                dropped.oldest += count;
                count
            }
            Overflow::DropNewest => {
                let cuts = self.labels.cut_newest(topic, self.length, &mut judge);
                let count = self.take_out(&cuts, shedding.mark);
                dropped.newest += count;
                count
            }
        };
        count > 0
    }

    /// Takes out the messages of a topic that have not begun to be sent, except the first, as far as the history of the
    /// topic may have them: the last ones that have a place in one epoch. Returns how many there were.
    fn take_replayed(&mut self, topic: &TopicName, mark: &mut usize, shed: &mut Shed) -> u64 {
        let mut epoch = None;
        let (cuts, first) =
            self.labels.cut_back(topic, self.length, &mut |Judged { waiting, tag, .. }| match tag.place {
                Some(place) if waiting.amount.messages > 1 && *epoch.get_or_insert(place.epoch) == place.epoch => {
                    Verdict::Drop
                }
                _ => Verdict::Stop,
            });
        let count = self.take_out(&cuts, mark);
        shed.dropped.replayed += count;
        shed.replayed.extend(first.map(|first| (topic.clone(), first)));
        count
    }

    /// Keeps only the newest message of each key of a topic. Returns how many messages were dropped.
    fn conflate(&mut self, topic: &TopicName, mark: &mut usize) -> u64 {
        let mut are_newest = self.labels.newest_of_keys(topic);
        let cuts = self.labels.cut_oldest(topic, &mut |_| match are_newest.pop_front() {
            Some(false) => Verdict::Drop,
            Some(true) | None => Verdict::Keep,
        });
        let count = self.take_out(&cuts, mark);
        if let Some(waiting) = self.labels.waiting.get_mut(topic) {
            waiting.note_conflated();
        }
        count
    }

    /// Takes parts out of the pieces. Returns how many messages the parts had.
    fn take_out(&mut self, cuts: &[Cut], mark: &mut usize) -> u64 {
        let (Some(first), Some(last)) = (cuts.first(), cuts.last()) else { return 0 };
        *mark -= cuts.iter().map(|cut| (*mark).clamp(cut.at, cut.at + cut.bytes) - cut.at).sum::<usize>();
        if self.awaited.as_mut().is_some_and(|awaited| awaited.cut(cuts)) {
            self.awaited = None;
        }
        if last.at + last.bytes > self.length - self.tail_unsent() {
            self.seal_tail();
        }
        let messages = cuts.iter().map(|cut| u64::from(cut.messages)).sum();
        self.part_first(first.at, messages);
        let (mut index, mut begin) = self.piece_at(first.at);
        let (mut cuts_left, mut emptied, mut last_emptied) = (cuts, 0, 0);
        while !cuts_left.is_empty() {
            let skip = if index == 0 { self.sent } else { 0 };
            let piece = &mut self.pieces[index];
            let end = begin + piece.bytes.len() - skip;
            let (own, others) = cuts_left.split_at(cuts_left.partition_point(|cut| cut.at < end));
            if !own.is_empty() {
                let dropped = own.iter().map(|cut| cut.messages).sum::<u32>();
                self.charged -= piece.charge;
                if let Some(left) = without(piece, own, begin, skip) {
                    self.messages -= u64::from(dropped);
                    self.charged += left.charge;
                    *piece = Piece { messages: piece.messages - dropped, ..left };
                } else {
                    self.messages -= u64::from(piece.messages);
                    piece.bytes = Bytes::new();
                    (emptied, last_emptied) = (emptied + 1, index);
                }
                if index == 0 {
                    self.sent = 0;
                }
            }
            (index, begin, cuts_left) = (index + 1, end, others);
        }
        match emptied {
            0 => {}
            1 => _ = self.pieces.remove(last_emptied),
            _ => self.pieces.retain(|piece| !piece.bytes.is_empty()),
        }
        self.length -= cuts.iter().map(|cut| cut.bytes).sum::<usize>();
        self.give_back_places();
        messages
    }

    /// Parts a piece before the first cut, so that later cuts there need not copy what stands before them: the first
    /// piece, and a large one. `cut` is the number of messages that the pieces still have and the labels have not.
    fn part_first(&mut self, at: usize, cut: u64) {
        let (index, begin) = self.piece_at(at);
        if at > begin && (index == 0 || self.pieces[index].bytes.len() > TAIL_MAX) {
            self.boundary(at, cut);
        }
    }

    /// Returns the index of the piece that has the byte after so many unsent bytes, and how many unsent bytes come
    /// before the piece.
    fn piece_at(&self, at: usize) -> (usize, usize) {
        let (mut begin, mut skip) = (0, self.sent);
        for (index, piece) in self.pieces.iter().enumerate() {
            let end = begin + piece.bytes.len() - mem::take(&mut skip);
            if at < end {
                return (index, begin);
            }
            begin = end;
        }
        panic!("no piece has byte {at}");
    }

    /// Returns the index of the piece that begins after so many unsent bytes, which end at a label's end. A piece that
    /// goes on there is parted.
    fn boundary(&mut self, at: usize, cut: u64) -> usize {
        let is_sent_in_part = self.pieces.is_empty() && self.sent > 0;
        if is_sent_in_part || at > self.length - self.tail_unsent() {
            self.seal_tail();
        }
        let sent_whole = self.messages - self.labels.messages() - cut;
        let (mut begin, mut skip, mut counted) = (0, self.sent, 0);
        for index in 0..self.pieces.len() {
            let piece = &mut self.pieces[index];
            if at == begin {
                if skip > 0 {
                    // The bytes that have been sent, and their messages, are gone.
                    piece.bytes = piece.bytes.slice(skip..);
                    piece.messages -= sent_whole as u32;
                    self.messages -= sent_whole;
                    self.sent = 0;
                }
                return index;
            }
            let end = begin + piece.bytes.len() - skip;
            if at < end {
                let messages = (self.labels.messages_within(at) + sent_whole - counted) as u32;
                let middle = skip + at - begin;
                let (first, second) = parted(piece, middle, messages);
                self.charged = self.charged - piece.charge + first.charge + second.charge;
                *piece = first;
                self.pieces.insert(index + 1, second);
                return index + 1;
            }
            counted += u64::from(piece.messages);
            (begin, skip) = (end, 0);
        }
        self.pieces.len()
    }

    /// Returns how many bytes of the tail have not been sent.
    fn tail_unsent(&self) -> usize {
        self.tail.len() - if self.pieces.is_empty() { self.sent } else { 0 }
    }

    /// Encodes the notices before the first `window` bytes end.
    fn encode_notices(&mut self, encode: Option<EncodeLag>, window: usize, mark: &mut usize) {
        let Some(encode) = encode.filter(|_| self.has_lags()) else { return };
        let mut passed: HashMap<TopicName, usize> = HashMap::new();
        let (mut at, mut index) = (0, 0);
        while at <= window
            && let Some(label) = self.labels.labels.get(index)
        {
            if let Some(topic) = label.topic().filter(|_| label.is_unsent_notice()).cloned() {
                let number = passed.get(&topic).copied().unwrap_or_default();
                let gap = self.labels.waiting.get_mut(&topic).and_then(|waiting| waiting.gaps.get_mut(number));
                let gap = gap.expect("a notice is of a lag");
                if mem::take(&mut gap.is_stale) {
                    let mut frame = BytesMut::new();
                    encode(&gap.lag, &mut frame);
                    self.replace_notice(index, at, frame.freeze(), mark);
                }
                passed.insert(topic, number + 1);
            }
            at += self.labels.labels[index].bytes;
            index += 1;
        }
    }

    /// Puts the frame of a notice, whose label has this index, after `at` unsent bytes, in the place of its last frame.
    fn replace_notice(&mut self, index: usize, at: usize, frame: Bytes, mark: &mut usize) {
        assert!(!frame.is_empty(), "a notice has at least one byte");
        let label = &mut self.labels.labels[index];
        let before = mem::replace(&mut label.bytes, frame.len());
        let length = frame.len();
        let piece = self.boundary(at, 0);
        let new = Piece::new(frame, 0);
        self.charged += new.charge;
        if before > 0 {
            self.charged -= self.pieces[piece].charge;
            self.pieces[piece] = new;
        } else {
            self.pieces.insert(piece, new);
        }
        if at < *mark {
            *mark = *mark + length - before;
        }
        if let Some(awaited) = &mut self.awaited {
            awaited.replace(at, before, length);
        }
        self.length = self.length + length - before;
    }
}

/// Returns a judge that drops messages while `is_over` says so, and keeps the last. If the pass has come by many
/// labels, the judge drops a few messages more, so that such passes are seldom: a dropped message pays for
/// [`LABELS_PER_MESSAGE`] labels.
fn while_over(is_over: impl Fn(&Waiting, &Tag) -> bool) -> impl FnMut(Judged<'_>) -> Verdict {
    let (mut has_dropped, mut more) = (false, 0);
    move |Judged { waiting, tag, passed }| {
        let is_over = is_over(waiting, tag);
        more += usize::from(!is_over);
        let drops = waiting.amount.messages > 1 && (is_over || has_dropped && more <= passed / LABELS_PER_MESSAGE);
        has_dropped |= drops;
        if drops { Verdict::Drop } else { Verdict::Stop }
    }
}

/// Returns what cuts leave of a piece that begins after `begin` unsent bytes, and of which `skip` bytes have been sent;
/// `None` if nothing is left.
fn without(piece: &Piece, cuts: &[Cut], begin: usize, skip: usize) -> Option<Piece> {
    let mut left: Vec<&[u8]> = Vec::new();
    let mut from = skip;
    let ends = cuts.iter().map(|cut| (cut.at - begin + skip, cut.bytes)).chain([(piece.bytes.len(), 0)]);
    for (to, bytes) in ends {
        if from < to {
            left.push(&piece.bytes[from..to]);
        }
        from = to + bytes;
    }
    match left[..] {
        [] => None,
        [only] => Some(part(piece, piece.bytes.slice_ref(only), 0)),
        _ => Some(Piece::new(left.concat().into(), 0)),
    }
}

/// Parts a piece at a byte. The first part has `messages` messages. The shorter part is copied, so that only the other
/// keeps the memory of the piece.
fn parted(piece: &Piece, at: usize, messages: u32) -> (Piece, Piece) {
    let (first, second) = (piece.bytes.slice(..at), piece.bytes.slice(at..));
    let rest = piece.messages - messages;
    if first.len() < second.len() {
        (Piece::new(Bytes::copy_from_slice(&first), messages), part(piece, second, rest))
    } else {
        (part(piece, first, messages), Piece::new(Bytes::copy_from_slice(&second), rest))
    }
}

/// Returns a part of a piece, which keeps the memory of the piece unless more than half of the memory is dead.
fn part(piece: &Piece, bytes: Bytes, messages: u32) -> Piece {
    if piece.charge > 2 * bytes.len() + BUFFER {
        return Piece::new(Bytes::copy_from_slice(&bytes), messages);
    }
    Piece { bytes, messages, charge: piece.charge, tags: None }
}

/// How many labels of other messages are looked at for each message that is dropped. So a topic whose messages stand
/// behind 6 400 others drops 100 more than it must.
const LABELS_PER_MESSAGE: usize = 64;

//! The labels of a backlog, against a plain list of its messages.

use proptest::prelude::*;

use super::super::*;
use crate::hub::{
    publication::Place,
    tag::{PieceTags, Tag, TaggedMessage},
};

/// The sources of pieces: the connection itself, and topics of which two ask for tags.
const SOURCES: [(Option<&str>, bool); 5] =
    [(None, false), (Some("a"), false), (Some("b"), false), (Some("tagged"), true), (Some("tagged too"), true)];

/// A message that has not been sent whole, or the frames of an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unsent {
    source: usize,
    number: u64,
    /// The bytes that have not been sent.
    left: usize,
}

#[derive(Debug, Clone)]
enum Step {
    /// Pushes a piece with messages of these lengths.
    Push(usize, Vec<usize>),
    /// Sends so many bytes, or all if there are fewer.
    Send(usize),
    Truncate,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![6 => 1..40_usize, 1 => 1..2 * COPIED_BELOW];
    prop_oneof![
        8 => (0..SOURCES.len(), prop::collection::vec(length, 1..5)).prop_map(|(source, of)| Step::Push(source, of)),
        2 => (1..60_usize).prop_map(Step::Send),
        2 => (1..3 * COPIED_BELOW).prop_map(Step::Send),
        1 => Just(Step::Truncate),
    ]
}

fn topic(source: usize) -> Option<TopicName> {
    SOURCES[source].0.map(|name| TopicName::new(name).unwrap())
}

/// A backlog, and the list of what it holds.
#[derive(Default)]
struct Pair {
    backlog: Backlog,
    list: Vec<Unsent>,
    pushed: u64,
}

impl Pair {
    fn push(&mut self, source: usize, lengths: &[usize]) {
        let (name, is_tagged) = SOURCES[source];
        let mut tags = Vec::new();
        let mut end = 0;
        for &left in lengths {
            self.pushed += 1;
            end += left;
            self.list.push(Unsent { source, number: self.pushed, left });
            tags.push(TaggedMessage { end, tag: tag(source, self.pushed) });
        }
        let messages = if name.is_some() { lengths.len() as u32 } else { 0 };
        let piece = Piece::new(vec![source as u8; end].into(), messages);
        let piece = Piece { tags: is_tagged.then(|| PieceTags::new(tags)), ..piece };
        self.backlog.push(piece, topic(source).as_ref());
    }

    fn send(&mut self, count: usize) {
        let count = count.min(self.list.iter().map(|message| message.left).sum());
        let mut rest = count;
        self.list.retain_mut(|message| {
            let sent = rest.min(message.left);
            (message.left, rest) = (message.left - sent, rest - sent);
            message.left > 0
        });
        self.backlog.advance(count);
    }

    fn truncate(&mut self) {
        let mut kept: usize = match self.backlog.pieces.front() {
            Some(first) => first.bytes.len() - self.backlog.sent,
            None => usize::MAX,
        };
        let at = self.list.iter().position(|message| {
            let is_kept = kept >= message.left;
            assert!(is_kept || kept == 0, "a piece ends with a message");
            kept = kept.saturating_sub(message.left);
            !is_kept
        });
        let given_up = self.list.split_off(at.unwrap_or(self.list.len()));
        let messages = given_up.iter().filter(|message| topic(message.source).is_some()).count() as u64;
        let before = self.backlog.messages();
        let labels = self.backlog.truncate();
        assert_eq!(before - self.backlog.messages(), messages);
        check(&labels, &given_up, None);
    }
}

fn tag(source: usize, number: u64) -> Tag {
    Tag { place: Some(Place { previous: 0, epoch: source as u64, offset: number }), time: Millis(number), key: None }
}

/// Checks that the labels name these messages. The first label may count `counted_max` messages if it has no tags: a
/// part of its piece may have been sent.
fn check(labels: &[Label], messages: &[Unsent], counted_max: Option<u64>) {
    let mut messages = messages.iter();
    for (at, label) in labels.iter().enumerate() {
        let mut of_label: Vec<&Unsent> = Vec::new();
        let mut left = label.bytes();
        while left > 0 {
            let message = messages.next().expect("labels have no more bytes than the messages");
            assert_eq!(label.topic(), topic(message.source).as_ref());
            assert!(message.left <= left, "a label ends with a message");
            left -= message.left;
            of_label.push(message);
        }
        let source = of_label.first().expect("a label has bytes").source;
        let (name, is_tagged) = SOURCES[source];
        let count = if name.is_some() { of_label.len() as u64 } else { 0 };
        let most = counted_max.filter(|_| at == 0 && name.is_some() && !is_tagged).unwrap_or(count);
        assert!((count..=most).contains(&u64::from(label.messages())), "{label:?} has {count} messages");
        let ends = of_label.iter().scan(0, |end, message| {
            *end += message.left;
            Some((*end, tag(source, message.number)))
        });
        let ends: Vec<_> = ends.filter(|_| is_tagged).collect();
        assert_eq!(label.tags().map(|(end, tag)| (end, tag.clone())).collect::<Vec<_>>(), ends);
    }
    assert_eq!(messages.next(), None, "each message has a label");
    for two in labels.windows(2) {
        let is_tagged = two[1].tags().next().is_some();
        assert!(two[0].topic() != two[1].topic() || is_tagged, "neighbours of one topic have one label");
    }
}

proptest! {
    /// After any steps the labels name the messages that have not been sent, and each label ends with a message. A
    /// message that was sent in part is still the first of its label.
    #[test]
    fn labels_name_what_is_unsent(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::default();
        for step in steps {
            match step {
                Step::Push(source, lengths) => pair.push(source, &lengths),
                Step::Send(count) => pair.send(count),
                Step::Truncate => pair.truncate(),
            }
            let labels: Vec<Label> = pair.backlog.labels().cloned().collect();
            check(&labels, &pair.list, Some(pair.backlog.messages()));
            let counted: u64 = labels.iter().map(|label| u64::from(label.messages())).sum();
            prop_assert!(counted <= pair.backlog.messages());
            let tags = labels.iter().map(|label| label.tags().count() * size_of::<TaggedMessage>()).sum::<usize>();
            let unsent: usize = pair.list.iter().map(|message| message.left).sum();
            prop_assert!(pair.backlog.bytes() >= unsent + size_of_val(&labels[..]) + tags);
        }
        pair.send(usize::MAX);
        prop_assert_eq!((pair.backlog.labels().count(), pair.backlog.bytes()), (0, 0));
    }
}

/// A slow consumer of one topic has one label, which counts the messages of the pieces that have not been sent whole.
#[test]
fn a_label_counts_piece_by_piece() {
    let mut pair = Pair::default();
    for _ in 0..3 {
        pair.push(1, &[COPIED_BELOW, COPIED_BELOW]);
    }
    pair.push(1, &[1, 1]);
    let counted =
        |pair: &Pair| pair.backlog.labels().map(|label| (label.bytes(), label.messages())).collect::<Vec<_>>();
    let (piece, all) = (2 * COPIED_BELOW, 6 * COPIED_BELOW + 2);
    assert_eq!(counted(&pair), [(all, 8)]);
    for (sent, messages) in
        [(piece - 1, 8), (piece, 6), (piece + 1, 6), (3 * piece - 1, 4), (3 * piece, 2), (all - 1, 2)]
    {
        pair.send(sent + counted(&pair)[0].0 - all);
        assert_eq!(counted(&pair), [(all - sent, messages)], "{sent}");
    }
}

/// A label with tags counts message by message, wherever pieces end.
#[test]
fn a_label_with_tags_counts_message_by_message() {
    let mut pair = Pair::default();
    pair.push(3, &[10, 20, 30]);
    pair.push(3, &[40]);
    for (sent, messages) in [(9, [3, 1]), (1, [2, 1]), (19, [2, 1]), (1, [1, 1]), (29, [1, 1])] {
        pair.send(sent);
        assert_eq!(pair.backlog.labels().map(Label::messages).collect::<Vec<_>>(), messages);
    }
    assert_eq!(pair.backlog.oldest(), Some(Millis(3)), "it has been sent in part only");
    pair.send(1);
    assert_eq!(pair.backlog.oldest(), Some(Millis(4)));
    pair.send(40);
    assert_eq!(pair.backlog.oldest(), None);
}

/// A label counts its place in the queue, its topic's name, and its tags; neighbours of one topic count once.
#[test]
fn labels_have_a_weight() {
    let weight = |sources: &[usize]| {
        let mut pair = Pair::default();
        // The buffer for little pieces has its least size.
        sources.iter().for_each(|&source| pair.push(source, &[1]));
        pair.backlog.bytes()
    };
    let label = size_of::<Label>();
    let own = weight(&[0]);
    assert_eq!(weight(&[0, 0, 0]), own);
    let of_topic = weight(&[1]);
    assert!((own + 1..own + 64).contains(&of_topic), "{own} {of_topic}");
    assert_eq!(weight(&[1, 1, 1]), of_topic);
    assert_eq!(weight(&[1, 2, 1]), of_topic + 2 * (label + of_topic - own));
    let tagged = weight(&[3]);
    assert!(tagged >= of_topic + size_of::<TaggedMessage>());
    let more = weight(&[3, 3]) - tagged;
    assert!(more >= label + size_of::<TaggedMessage>());
    assert_eq!(weight(&[3, 3, 3]), tagged + 2 * more, "the table of topics counts once");
    assert!(tagged - own > more, "{tagged} {own} {more}");
}

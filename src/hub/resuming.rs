//! Resuming: a subscription that begins in the history of its topic reads the history part by part, as its
//! connection's socket takes the parts, and becomes a member at the end of the topic's order.
//!
//! Until then the subscription is a *cursor*: nothing is gathered for it. The topic's home answers each question for a
//! part in the delivery lane, in which the topic's messages come too. So the part that reaches the end of the order
//! stands behind every message up to that end, and before every later one: the subscriber that joins when this part is
//! taken gets each message once, in order. If this shard is the home, reading and joining are one step.
//!
//! A slow subscriber of a topic with the policy [`Overflow::Replay`] becomes a cursor again.
//!
//! A position that is not in the history is told of: first by [`Joined::recovered`], later by a lag. Who can neither be
//! told nor has agreed to that is closed, see [`HistoryPart::is_unrecovered`].

use bytes::BytesMut;

use super::{
    chunk::{Chunk, ReadOn},
    connection_id::ConnectionId,
    connections::Attachment,
    cursors::Cursor,
    encoding::Encodable,
    entry::Request,
    fanout::encoded,
    format::Format,
    history_page::{HistoryFrom, HistoryPage, HistoryQuery},
    hub::ShardHub,
    joined::{HistoryPart, Joined},
    lag::{Lag, OwedLag},
    piece::{Owed, Piece},
    publication::{OrderEnd, Place},
    run::Run,
    slow::Overflow,
    subscriptions::{Membership, Subscription},
    tag::{Tag, TaggedMessage, Tags},
    topic_name::TopicName,
    topics::TopicRole,
};

/// The room of a connection for messages of histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The most bytes. One message comes whatever its size.
    pub bytes: usize,
    /// The most messages.
    pub messages: u64,
}

/// The messages of a part, in the form that their subscriber wants.
#[derive(Debug)]
struct Encoded {
    pieces: Vec<Piece>,
    /// The offset of the last message that was looked at; `None` if the part has no message.
    last: Option<u64>,
    /// Whether all messages of the part found room.
    is_whole: bool,
}

impl<T: Attachment> ShardHub<T> {
    /// Returns whether a connection has a subscription that reads the history of its topic.
    #[inline]
    #[must_use]
    pub fn has_readers(&self) -> bool {
        !self.cursors.is_empty()
    }

    /// Returns whether [`ShardHub::next_reader`] returns a connection.
    #[must_use]
    pub fn may_read_on(&self) -> bool {
        self.cursors.next().is_some() && self.cursors.asked() < ASKED_MAX
    }

    /// Returns the next connection that may read on; `None` if there is none, or if the homes have yet to answer as
    /// many questions as the shard may ask. [`ShardHub::read_on`] or, later, [`ShardHub::let_read_on`] must follow.
    pub fn next_reader(&mut self) -> Option<ConnectionId> {
        if self.may_read_on() { self.cursors.take_next() } else { None }
    }

    /// Lets a connection read on, whose socket has taken what it was owed.
    pub fn let_read_on(&mut self, id: ConnectionId) {
        self.cursors.let_read_on(id);
    }

    /// Reads the next part of a history for a connection with so much room, or asks the topic's home for it. The part
    /// is added to those of [`ShardHub::take_resumed`].
    pub fn read_on(&mut self, id: ConnectionId, room: Room) {
        let Some(&mut Cursor { topic, from, .. }) = self.cursors.first(id) else { return };
        let Some(own) = self.connections.get(id).and_then(|connection| connection.subscriptions.get(topic)).copied()
        else {
            return;
        };
        let room = self.within_topic(&own, room);
        // Most messages are larger in other formats, and what finds no room is read again.
        let payloads = if own.format == Format::RAW { room.bytes } else { room.bytes / 2 };
        let query = HistoryQuery { from, messages_max: room.messages as usize, bytes_max: payloads as u64 };
        match &self.topics[topic].role {
            TopicRole::Home(_) => {
                let page = self.read_page(topic, &query);
                self.take_page(id, &page, room.bytes);
            }
            TopicRole::Remote(remote) => {
                let (home, topic) = (remote.home, self.topics[topic].name.clone());
                let number = self.cursors.ask(id, room.bytes);
                self.mesh.request(home, Request::ReadOn(Box::new(ReadOn { topic, query, id, number })));
            }
        }
    }

    /// Lets a subscriber read the topic's history from this message on, which was taken out of its backlog with all
    /// later ones: the subscriber is no member any more.
    pub fn replay(&mut self, id: ConnectionId, name: &TopicName, first: Place) {
        let Some(topic) = self.topics.find(name) else { return };
        let Some(own) = self.connections.get(id).and_then(|connection| connection.subscriptions.get(topic)).copied()
        else {
            return;
        };
        let from = HistoryFrom::After(OrderEnd { epoch: first.epoch, offset: first.previous });
        if own.membership == Membership::Pending {
            return self.cursors.go_back(id, topic, from);
        }
        self.give_up(id, &[own]);
        self.remove_member(id, &own);
        if let Some(own) = self.connections.get_mut(id).and_then(|connection| connection.subscriptions.get_mut(topic)) {
            (own.membership, own.is_taken) = (Membership::Pending, false);
        }
        self.cursors.add(id, Cursor { topic, from, is_live: true, is_placed: true, accepts_unrecovered: false });
    }

    /// Takes the part of a history that a home has sent.
    pub(super) fn take_chunk(&mut self, Chunk { id, number, page }: &Chunk) {
        if let Some(asked) = self.cursors.take_asked(*id, *number) {
            self.take_page(*id, page, asked.bytes_max);
        }
    }

    /// Takes the next of the parts that have come.
    pub fn take_resumed(&mut self) -> Option<HistoryPart> {
        self.resumed.pop_front()
    }

    /// Returns whether [`ShardHub::take_resumed`] returns a part.
    #[inline]
    #[must_use]
    pub fn has_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// Returns how many connections read histories.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.cursors.readers()
    }

    /// Returns the room of a connection, within what may wait of the topic.
    fn within_topic(&self, own: &Subscription, room: Room) -> Room {
        let slow = self.slow_rules(own);
        // A half, since tags take memory too.
        let bytes = slow.bytes_max.map_or(room.bytes, |most| room.bytes.min(most as usize / 2));
        let messages = slow.messages_max.map_or(room.messages, |most| room.messages.min(most));
        Room { bytes, messages: messages.clamp(1, MESSAGES_MAX) }
    }

    /// Takes a part of the history of the topic that the connection's first cursor reads.
    fn take_page(&mut self, id: ConnectionId, page: &HistoryPage, bytes_max: usize) {
        let Some(&mut cursor) = self.cursors.first(id) else { return };
        let subscription = self.connections.get(id).and_then(|reader| reader.subscriptions.get(cursor.topic));
        let Some(own) = subscription.copied() else { return };
        let topic = self.topics[cursor.topic].name.clone();
        let slow = self.slow_rules(&own);
        let mut owed = Owed { topic: topic.clone(), lag: None, pieces: Vec::new(), slow, tickets: Vec::new() };
        let is_whole = !page.has_gap && (page.is_kept || cursor.is_placed);
        let may_miss = if cursor.is_placed { !self.is_lossless(&own) } else { cursor.accepts_unrecovered };
        if !is_whole && !may_miss {
            // The connection ends, and has no use for its subscription any more.
            self.cursors.remove(id, cursor.topic);
            self.resumed.push_back(HistoryPart { id, topic, joined: None, owed, is_unrecovered: true });
            return;
        }
        let start = start(page, cursor.from);
        if cursor.is_placed && page.has_gap {
            owed.lag = Some(self.missed(own.format, &topic, (cursor.from, start)));
        }
        let joined =
            (!cursor.is_placed).then(|| Joined { id, topic: topic.clone(), end: start, recovered: Some(is_whole) });
        let encoded = self.encode_page(id, &own, (page, start), bytes_max);
        owed.pieces = encoded.pieces;
        if encoded.is_whole && !page.has_more {
            self.cursors.remove(id, cursor.topic);
            self.join(id, cursor.topic);
        } else if let (Some(reading), Some(OrderEnd { epoch, .. }), Some(offset)) =
            (self.cursors.first(id), page.end, encoded.last)
        {
            (reading.from, reading.is_placed) = (HistoryFrom::After(OrderEnd { epoch, offset }), true);
            self.cursors.give_way(id);
        }
        self.resumed.push_back(HistoryPart { id, topic, joined, owed, is_unrecovered: false });
    }

    /// Encodes the messages of a part, which come after `start`, as long as they have no more than so many bytes, but
    /// at least one. A subscriber without echo gets none of its own messages.
    fn encode_page(
        &mut self,
        id: ConnectionId,
        own: &Subscription,
        (page, start): (&HistoryPage, Option<OrderEnd>),
        bytes_max: usize,
    ) -> Encoded {
        let now = self.now();
        let ShardHub { topics, encodings, encoded: buffer, .. } = self;
        let topic = &topics[own.topic];
        let tags = match topic.rules.tags {
            Tags::Newest => Tags::On,
            tags => encodings.tags(own.format, tags),
        };
        let tag_bytes = if tags == Tags::Off { 0 } else { size_of::<TaggedMessage>() };
        let besides = encodings.own_bytes(own.format).unwrap_or(0) + tag_bytes;
        let (mut run, mut bytes) = (Run::new(BytesMut::new(), tags), 0);
        let (epoch, mut previous) = start.map_or((0, 0), |start| (start.epoch, start.offset));
        let mut result = Encoded { pieces: Vec::new(), last: None, is_whole: true };
        for message in &page.messages {
            let (offset, publication) = (message.offset, &message.publication);
            if own.echo || message.source != Some(id) {
                let place = Some(Place { epoch, offset, previous });
                let frame = if own.format == Format::RAW {
                    publication.frame().clone()
                } else {
                    let prepared = publication.prepared(own.format);
                    let encodable = Encodable { topic: &topic.name, publication, place, prepared };
                    encoded(encodings.get(own.format), &encodable, buffer)
                };
                bytes += frame.len() + besides;
                if bytes > bytes_max && !run.is_empty() {
                    result.is_whole = false;
                    break;
                }
                // The message begins to wait now.
                let tag = Tag { place, time: now, key: publication.shared_key() };
                run.append(&frame, None, Some(&tag));
            }
            (result.last, previous) = (Some(offset), offset);
        }
        result.pieces = run.owed(id.slot());
        result
    }

    /// Returns the lag of a cursor that goes on behind its position, since the messages between are not kept any more.
    fn missed(&self, format: Format, topic: &TopicName, (from, to): (HistoryFrom, Option<OrderEnd>)) -> OwedLag {
        // Offsets of different epochs have no difference: then it is unknown how many are missing.
        let mut lag = Lag { topic: topic.clone(), epoch: 0, from: 0, to: 0, count: 0, policy: Overflow::Replay };
        if let (HistoryFrom::After(from), Some(to)) = (from, to)
            && from.epoch == to.epoch
            && from.offset < to.offset
        {
            (lag.epoch, lag.from, lag.to, lag.count) = (to.epoch, from.offset + 1, to.offset, to.offset - from.offset);
        }
        let mut notice = BytesMut::new();
        if let Some(encode) = self.encodings.lag(format) {
            encode(&lag, &mut notice);
        }
        OwedLag { lag, notice: notice.freeze() }
    }
}

/// Returns the position after which the messages of a part follow.
fn start(page: &HistoryPage, from: HistoryFrom) -> Option<OrderEnd> {
    let end = page.end?;
    let offset = match (from, page.messages.first()) {
        (HistoryFrom::After(position), _) if !page.has_gap => position.offset,
        (HistoryFrom::Last(_), Some(first)) => first.offset - 1,
        (HistoryFrom::Last(_), None) => end.offset,
        _ => page.floor,
    };
    Some(OrderEnd { epoch: end.epoch, offset })
}

/// The most parts of histories that a shard asks homes for at the same time.
const ASKED_MAX: usize = 32;

/// The most messages of a part.
const MESSAGES_MAX: u64 = 1_024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::{
        HubConnection, HubLimits, MeshEnd, MeshLimits, Publication, Resume, RulesOfTopics, Scope, SubscribeOptions,
        Subscribed, TopicRule, TopicTable, Wake, home,
        testing::{REVERSED, Wants, telling_encodings, texts},
    };

    /// Hubs whose topics keep messages.
    fn hubs(count: usize) -> Vec<ShardHub<Wants>> {
        hubs_with(count, TopicRule::new(["**".parse().unwrap()]).history_messages(1_000))
    }

    fn hubs_with(count: usize, rule: TopicRule) -> Vec<ShardHub<Wants>> {
        let rules = RulesOfTopics::of_table(TopicTable::new([&rule]).unwrap());
        let wake = (0..count).map(|_| Arc::new(|| {}) as Wake).collect();
        let hub = |mesh| {
            let hub = ShardHub::new(mesh, HubLimits::default(), 7).with_encodings(telling_encodings());
            hub.with_topic_rules(rules.clone())
        };
        MeshEnd::connect(wake, &MeshLimits::default()).into_iter().map(hub).collect()
    }

    fn subscribe(hub: &mut ShardHub<Wants>, topic: &TopicName, format: Format) -> ConnectionId {
        let id = hub.connections.insert(HubConnection::new(Wants(format))).unwrap();
        let options = SubscribeOptions::default().resume(Resume::Earliest);
        assert_eq!(hub.subscribe(id, topic, options), Subscribed::Pending);
        id
    }

    /// Lets the second shard tell the first, the home, what it wants, and take the answers. Adds the subscriptions that
    /// have gone live to `joined`.
    fn exchange(hubs: &mut [ShardHub<Wants>], joined: &mut Vec<Joined>) {
        hubs[1].send_out();
        while hubs[0].take_request(&mut Vec::new()) {}
        hubs[0].send_out();
        while hubs[1].take_delivery(joined) {}
    }

    /// Returns topics whose home is the first of two shards.
    fn topics_of_the_first() -> impl Iterator<Item = TopicName> {
        let names = (0..).map(|number| TopicName::new(&format!("topic {number}")).unwrap());
        names.filter(|name| home(name, 2) == 0)
    }

    fn publish(hub: &mut ShardHub<Wants>, topic: &TopicName, count: u64) {
        for number in 1..=count {
            let text = format!("{number:0100}");
            assert!(hub.publish_by_name(topic, None, Publication::text(&text), Scope::Server).is_some());
        }
    }

    /// Frames have 102 bytes. One message always comes.
    #[test]
    fn a_part_has_a_limit_in_its_subscribers_form() {
        let topic = TopicName::new("t").unwrap();
        for (format, bytes, messages, expected) in [
            (Format::RAW, 310, 9, 3),
            (Format::RAW, 10_000, 2, 2),
            (Format::RAW, 1, 9, 1),
            // Of messages without frames, half as many bytes are asked for.
            (REVERSED, 820, 9, 4),
        ] {
            let mut hub = hubs(1).remove(0);
            publish(&mut hub, &topic, 10);
            let id = subscribe(&mut hub, &topic, format);
            let (mut parts, mut all) = (Vec::new(), 0);
            while let Some(next) = hub.next_reader() {
                hub.read_on(next, Room { bytes, messages });
                let resumed = hub.take_resumed().expect("this hub is the home");
                assert_eq!((resumed.id, resumed.joined.is_some()), (id, parts.is_empty()));
                all += texts(&resumed.owed.pieces).len();
                parts.push(texts(&resumed.owed.pieces).len());
                hub.let_read_on(id);
            }
            assert_eq!((all, parts[0]), (10, expected), "{format:?}: {parts:?}");
            assert!(hub.is_subscribed(id, &topic) && !hub.has_readers());
        }
    }

    /// A message that is published behind a subscription comes, though the topic keeps none.
    #[test]
    fn a_topic_that_keeps_nothing_is_joined_at_once() {
        let mut hubs = hubs_with(2, TopicRule::new(["**".parse().unwrap()]));
        let topic = topics_of_the_first().next().unwrap();
        let resumes = SubscribeOptions::default().resume(Resume::After { epoch: 7, offset: 9 }).accept_unrecovered();
        for shard in [0, 1] {
            let hub = &mut hubs[shard];
            let id = hub.connections.insert(HubConnection::new(Wants(Format::RAW))).unwrap();
            let subscribed = hub.subscribe(id, &topic, resumes);
            hub.publish_by_name(&topic, None, Publication::text("behind"), Scope::Server);
            if shard == 0 {
                assert_eq!(subscribed, Subscribed::Live);
            } else {
                assert_eq!(subscribed, Subscribed::Pending);
                let mut joined = Vec::new();
                exchange(&mut hubs, &mut joined);
                assert_eq!(
                    joined.iter().map(|joined| (joined.id, joined.recovered)).collect::<Vec<_>>(),
                    [(id, Some(false))]
                );
            }
            let hub = &mut hubs[shard];
            assert!(hub.is_subscribed(id, &topic) && !hub.has_readers());
            assert_eq!(hub.leave_unsent(id), 1, "the message that was published behind the subscription");
        }
        let refuses = SubscribeOptions::default().resume(Resume::Earliest);
        let hub = &mut hubs[0];
        let id = hub.connections.insert(HubConnection::new(Wants(Format::RAW))).unwrap();
        assert_eq!(hub.subscribe(id, &topic, refuses), Subscribed::Pending);
        assert_eq!(hub.next_reader(), Some(id));
        hub.read_on(id, Room { bytes: 1_000, messages: 10 });
        assert!(hub.take_resumed().is_some_and(|part| part.is_unrecovered));
    }

    /// A subscription that ends while its part is under way does not stop the others of its connection.
    #[test]
    fn the_other_cursors_of_a_connection_read_on() {
        let mut hubs = hubs(2);
        let topics: Vec<TopicName> = topics_of_the_first().take(2).collect();
        topics.iter().for_each(|topic| publish(&mut hubs[0], topic, 3));
        let id = subscribe(&mut hubs[1], &topics[0], Format::RAW);
        let options = SubscribeOptions::default().resume(Resume::Earliest);
        assert_eq!(hubs[1].subscribe(id, &topics[1], options), Subscribed::Pending);
        exchange(&mut hubs, &mut Vec::new());
        let room = Room { bytes: 1_000, messages: 10 };
        assert_eq!(hubs[1].next_reader(), Some(id));
        hubs[1].read_on(id, room);
        hubs[1].unsubscribe(id, &topics[0]);
        exchange(&mut hubs, &mut Vec::new());
        assert!(hubs[1].take_resumed().is_none());
        assert_eq!(hubs[1].next_reader(), Some(id));
        hubs[1].read_on(id, room);
        exchange(&mut hubs, &mut Vec::new());
        let part = hubs[1].take_resumed().expect("the part of the other topic");
        assert_eq!((&part.topic, texts(&part.owed.pieces).len()), (&topics[1], 3));
        assert!(hubs[1].is_subscribed(id, &topics[1]));
    }

    /// Whoever accepts messages that are missing at the beginning has not accepted a hole in the middle.
    #[test]
    fn a_hole_behind_the_beginning_is_not_accepted() {
        let mut hub = hubs_with(1, TopicRule::new(["**".parse().unwrap()]).history_messages(5)).remove(0);
        let topic = TopicName::new("t").unwrap();
        publish(&mut hub, &topic, 5);
        let id = hub.connections.insert(HubConnection::new(Wants(Format::RAW))).unwrap();
        let options = SubscribeOptions::default().resume(Resume::Earliest).accept_unrecovered();
        assert_eq!(hub.subscribe(id, &topic, options), Subscribed::Pending);
        let read = |hub: &mut ShardHub<Wants>| {
            assert_eq!(hub.next_reader(), Some(id));
            hub.read_on(id, Room { bytes: 1_000, messages: 2 });
            let part = hub.take_resumed().expect("this hub is the home");
            hub.let_read_on(id);
            part
        };
        let first = read(&mut hub);
        assert_eq!((first.is_unrecovered, texts(&first.owed.pieces).len()), (false, 2));
        publish(&mut hub, &topic, 10);
        assert!(read(&mut hub).is_unrecovered);
    }

    #[test]
    fn a_shard_asks_for_a_bounded_number_of_parts() {
        let mut hubs = hubs(2);
        let topic = topics_of_the_first().next().unwrap();
        publish(&mut hubs[0], &topic, 3);
        let crowd: Vec<ConnectionId> = (0..80).map(|_| subscribe(&mut hubs[1], &topic, Format::RAW)).collect();
        exchange(&mut hubs, &mut Vec::new());
        let mut asked = Vec::new();
        for _ in 0..3 {
            let mut count = 0;
            while let Some(id) = hubs[1].next_reader() {
                hubs[1].read_on(id, Room { bytes: 1_000, messages: 10 });
                count += 1;
            }
            asked.push(count);
            // Who leaves meanwhile is not waited for, and gets nothing.
            hubs[1].unsubscribe(crowd[0], &topic);
            exchange(&mut hubs, &mut Vec::new());
        }
        assert_eq!(asked, [ASKED_MAX, ASKED_MAX, 80 - 2 * ASKED_MAX]);
        let resumed: Vec<ConnectionId> =
            std::iter::from_fn(|| hubs[1].take_resumed()).map(|resumed| resumed.id).collect();
        assert_eq!(resumed, crowd[1..], "in the order in which they came");
        assert!(!hubs[1].has_readers() && crowd[1..].iter().all(|&id| hubs[1].is_subscribed(id, &topic)));
    }
}

//! Fan-out: the runs that gather publications for the audiences of a topic, and the walks that hand each member its
//! share.

use std::{iter, mem, rc::Rc};

use bytes::{Bytes, BytesMut};

use super::{
    audience::{Audience, AudienceId, Filled},
    connection_id::ConnectionId,
    connections::{Attachment, Connections},
    encoding::{Encodable, Encode, Encodings},
    format::Format,
    hub::ShardHub,
    lag::{EncodeLag, Lost, OwedLag},
    piece::Owed,
    publication::{Place, Publication},
    receipt::Watch,
    run::{FrozenRun, Run, RunWeights},
    slow::{Overflow, SlowRules},
    subscriptions::{Membership, Subscription},
    tag::{Tag, Tags},
    topic_id::TopicId,
    topic_name::TopicName,
    topics::{Topic, TopicRole},
    walk::{VACANT, Walk},
};
use crate::proto::{LARGE_FRAME, Millis};

/// A walk, as measures see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The messages of the walk's run.
    pub messages: u32,
    /// The length of the run in bytes.
    pub bytes: usize,
    /// The members that the audience had when the walk began.
    pub members: u32,
    /// The time of the turn in which the first message was gathered, see [`ShardHub::note_turn`].
    pub gathered_at_us: u64,
}

impl<T: Attachment> ShardHub<T> {
    /// Gathers the publication for the topic's subscribers on this shard, for each audience in the audience's format.
    pub(super) fn gather(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        publication: &Publication,
        place: Option<Place>,
    ) {
        let excluded = source.and_then(|id| self.excluded(topic, id));
        let except = |format| excluded.filter(|(own, _)| *own == format).map(|(_, slot)| slot);
        let tag = Tag { place, time: publication.time(), key: publication.shared_key() };
        let watch = publication.receipt_number().map(|number| self.begin_watch(topic, number));
        let (entry, mut gathering) = self.gathering(topic, &tag);
        gathering.watch = watch.as_ref();
        let raw = entry.audiences.raw_mut();
        if raw.has_members() {
            gathering.append(Format::RAW, raw, publication.frame(), except(Format::RAW));
        }
        if entry.audiences.has_others() {
            let Topic { name, audiences, .. } = entry;
            for (format, audience) in audiences.others_mut() {
                if audience.has_members() {
                    let prepared = publication.prepared(format);
                    let encodable = Encodable { topic: name, publication, place, prepared };
                    let frame = encoded(gathering.encodings.get(format), &encodable, gathering.encoded);
                    gathering.append(format, audience, &frame, except(format));
                }
            }
        }
        if let Some(watch) = watch.filter(|watch| watch.has_ended()) {
            // The publication is for no subscriber of this shard.
            self.receipts.ended.push(watch);
        }
    }

    /// Returns the count of this shard for a receipt.
    #[cold]
    fn begin_watch(&self, topic: TopicId, number: u64) -> Rc<Watch> {
        let home = match &self.topics[topic].role {
            TopicRole::Home(_) => self.mesh.number(),
            TopicRole::Remote(remote) => remote.home,
        };
        Watch::new(home, number)
    }

    /// Gathers a copy of a raw frame for the topic's subscribers on this shard, all of which want raw frames.
    pub(super) fn gather_copy(&mut self, topic: TopicId, source: ConnectionId, frame: &[u8], tag: Tag) {
        let excluded = self.excluded(topic, source).filter(|(own, _)| *own == Format::RAW).map(|(_, slot)| slot);
        let (entry, mut gathering) = self.gathering(topic, &tag);
        let raw = entry.audiences.raw_mut();
        if raw.has_members() {
            gathering.add(Format::RAW, raw, |run, tag| run.append_copy(frame, excluded, tag));
        }
    }

    /// Returns the format and the slot of a publisher that is to get none of its own publications.
    #[inline]
    fn excluded(&self, topic: TopicId, source: ConnectionId) -> Option<(Format, u32)> {
        let own = self.connections.get(source)?.subscriptions.get(topic)?;
        (!own.echo && own.membership != Membership::Pending).then_some((own.format, source.slot()))
    }

    /// Returns a topic, and the parts of the hub that gathering for its audiences changes.
    #[inline]
    fn gathering<'a>(&'a mut self, topic: TopicId, tag: &'a Tag) -> (&'a mut Topic, Gathering<'a>) {
        self.topics.renew_rules(topic);
        let entry = &mut self.topics[topic];
        let gathering = Gathering {
            topic,
            tags: entry.rules.tags,
            tag,
            gathered: &mut self.gathered,
            takes_mail: self.takes_mail,
            spare: &mut self.spare,
            dirty: &mut self.dirty,
            last_gathered: &mut self.last_gathered,
            turn_us: self.turn_us,
            encodings: &self.encodings,
            encoded: &mut self.encoded,
            watch: None,
        };
        (entry, gathering)
    }

    /// Adds to `walks` every audience that has a run and no walk. Its walk begins at the first
    /// [`ShardHub::next_member`], and gathers until then. The audiences of a topic with an interval between deliveries
    /// wait for its end.
    pub fn take_due(&mut self, walks: &mut impl Extend<AudienceId>) {
        self.pace_walks();
        walks.extend(self.dirty.drain(..));
    }

    /// Lets the audiences whose walks are not due yet wait, and takes those whose walks have come due. If the runs that
    /// wait are too much memory together, walks begin early, the first ones that are due first. In a drain none waits,
    /// since publishers wait for the receipts of what was published.
    fn pace_walks(&mut self) {
        let now = if self.barriers.has_begun { Millis(u64::MAX) } else { self.now() };
        let (topics, paced) = (&self.topics, &mut self.paced);
        self.dirty.retain(|&id| {
            let audience = &topics[id];
            // The visit of a connection with several topics may have begun the walk already.
            let waits = audience.walk.is_none() && audience.next_walk > now;
            if waits {
                paced.insert(audience.next_walk, id, audience.weight());
            }
            !waits
        });
        if paced.is_empty() {
            return;
        }
        while let Some(id) = paced.take_due(now) {
            self.dirty.push(id);
        }
        let most = self.limits.gathered_bytes_max / PACED_PART;
        let grown = self.gathered.grown;
        // All audiences that wait are added up only when they may be too much by what has been gathered since.
        if self.gathered.bytes > most && paced.weighs_at_most(grown) > most {
            let mut waiting = paced.iter().map(|id| topics[id].weight()).sum::<usize>();
            while waiting > most
                && let Some(id) = paced.take_first()
            {
                waiting -= topics[id].weight();
                self.dirty.push(id);
            }
            paced.note_weight(waiting, grown);
        }
    }

    /// Returns the run that the audience's walk hands out.
    ///
    /// # Panics
    ///
    /// If the audience has no walk. The methods below, up to [`ShardHub::step_back`], panic in the same case.
    #[inline]
    #[must_use]
    pub fn run(&self, audience: AudienceId) -> &FrozenRun {
        &self.topics[audience].walk.as_ref().expect(WALKING).run
    }

    /// Returns the facts about the audience's walk that measures need.
    #[inline]
    #[must_use]
    pub fn walked(&self, audience: AudienceId) -> Walked<'_> {
        let walk = self.topics[audience].walk.as_ref().expect(WALKING);
        Walked {
            topic: &self.topics[audience.topic].name,
            messages: walk.run.messages(),
            bytes: walk.run.bytes(),
            members: walk.length(),
            gathered_at_us: walk.run.gathered_at_us(),
        }
    }

    /// Returns the share of the subscriber at `slot` in the run of the audience's walk, as pieces that a backlog may
    /// keep.
    #[must_use]
    pub fn owed_by_walk(&mut self, audience: AudienceId, slot: u32) -> Owed {
        let lag = self.lag_of_walk(audience, slot);
        let run = &mut self.topics[audience].walk.as_mut().expect(WALKING).run;
        let (pieces, tickets) = (run.owed(slot), run.tickets(slot));
        let member = self.connections.at_mut(slot).and_then(|member| member.subscriptions.get(audience.topic).copied());
        let slow = member.map(|own| self.slow_rules(&own)).unwrap_or_default();
        Owed { topic: self.topics[audience.topic].name.clone(), lag, pieces, slow, tickets }
    }

    /// Returns the lag of the subscriber at `slot` that is told of with its share of the audience's walk: messages that
    /// were replaced by newer ones while the run gathered.
    #[must_use]
    pub fn lag_of_walk(&self, audience: AudienceId, slot: u32) -> Option<OwedLag> {
        let run = &self.topics[audience].walk.as_ref().expect(WALKING).run;
        let lost = run.lost(slot)?;
        let topic = &self.topics[audience.topic].name;
        let notice = run.notice(slot).unwrap_or_else(|| notice(self.encodings.lag(audience.format), &lost, topic));
        Some(OwedLag { lag: lost.lag(topic), notice })
    }

    /// Returns the rules of a topic for a subscriber that may be slow. No message of a subscriber is dropped that can
    /// neither be told of it nor has agreed to that: its connection is closed instead.
    pub(super) fn slow_rules(&self, own: &Subscription) -> SlowRules {
        let slow = self.topics[own.topic].rules.slow;
        let closes = match slow.overflow {
            // The ids of messages that wait name what would be taken out. The client comes back with its last id.
            Overflow::Replay => self.encodings.is_body(own.format),
            // A policy that replays drops nothing that the history has, and any other one may.
            _ => self.is_lossless(own),
        };
        SlowRules { overflow: if closes { Overflow::Close } else { slow.overflow }, ..slow }
    }

    /// Returns whether a subscriber can neither be told of a lag nor has agreed to one.
    pub(super) fn is_lossless(&self, own: &Subscription) -> bool {
        !own.has_silent_lags && self.encodings.lag(own.format).is_none()
    }

    /// Returns the function that makes the frames about lags in a format; `None` if the format has no such frames.
    #[must_use]
    pub fn lag_encoding(&self, format: Format) -> Option<EncodeLag> {
        self.encodings.lag(format)
    }

    /// Returns the slot of the next subscriber that the audience's walk visits. Begins the walk if it has not begun.
    ///
    /// # Panics
    ///
    /// If the audience has neither a walk nor a run.
    #[inline]
    pub fn next_member(&mut self, id: AudienceId) -> Option<u32> {
        let audience = &mut self.topics[id];
        match &mut audience.walk {
            Some(walk) => walk.next(&audience.members),
            None => self.first_member(id),
        }
    }

    /// Begins a walk of an audience, and returns the slot of its first member.
    #[cold]
    #[inline(never)]
    fn first_member(&mut self, id: AudienceId) -> Option<u32> {
        let now = self.now();
        begin_walk(&mut self.topics[id.topic], id.format, now, &self.encodings, &mut self.gathered);
        let Audience { members, walk, .. } = &mut self.topics[id];
        walk.as_mut().expect(WALKING).next(members)
    }

    /// Undoes the last [`ShardHub::next_member`]: the next call returns the same member once more.
    pub fn step_back(&mut self, audience: AudienceId) {
        self.topics[audience].walk.as_mut().expect(WALKING).step_back();
    }

    /// Adds to `ahead` the audiences whose walks still owe the connection a share: such a walk has yet to come to the
    /// connection, and no other visit has handed out the share. `walks` are the audiences of [`ShardHub::take_due`]
    /// whose walks have not ended. The walks of the connection's topics begin. Returns how many walks or subscriptions
    /// were looked at.
    pub fn walks_ahead(
        &mut self,
        id: ConnectionId,
        walks: impl ExactSizeIterator<Item = AudienceId>,
        ahead: &mut Vec<AudienceId>,
    ) -> usize {
        let now = self.now();
        let ShardHub { connections, topics, gathered, encodings, .. } = self;
        let Some(connection) = connections.get(id) else { return 0 };
        let subscriptions = &connection.subscriptions;
        let mut is_owed = |own: &&Subscription| {
            let audience = &topics[own.audience()];
            let is_due = audience.walk.is_none() && audience.run.is_some() && audience.next_walk <= now;
            if is_due && matches!(own.membership, Membership::Member(_)) {
                begin_walk(&mut topics[own.topic], own.format, now, encodings, gathered);
            }
            walk_owing(&topics[own.audience()], own).is_some()
        };
        // The shorter list is searched: either list may have two entries while the other has a thousand.
        if walks.len() < subscriptions.len() {
            let looked_at = walks.len();
            let own_of = |walk: AudienceId| subscriptions.get(walk.topic).filter(|own| own.format == walk.format);
            ahead.extend(walks.filter_map(own_of).filter(is_owed).map(Subscription::audience));
            return looked_at;
        }
        ahead.extend(subscriptions.as_slice().iter().filter(&mut is_owed).map(Subscription::audience));
        subscriptions.len()
    }

    /// Notes that the connection has got its share of a walk before that walk has come to the connection. When the walk
    /// comes, [`ShardHub::passes`] returns `true`.
    ///
    /// # Panics
    ///
    /// If the connection has one subscription only, or is not owed that share.
    pub fn take_share(&mut self, id: ConnectionId, AudienceId { topic, .. }: AudienceId) {
        let connection = self.connections.get(id).filter(|connection| connection.has_several());
        let own = connection.and_then(|connection| connection.subscriptions.get(topic));
        assert!(own.is_some_and(|own| self.walk_owing(own).is_some()), "a share is handed out once");
        if let Some(own) = self.connections.get_mut(id).and_then(|connection| connection.subscriptions.get_mut(topic)) {
            own.is_taken = true;
        }
    }

    /// Returns whether the connection, to which the audience's walk comes now, has already got its share. Clears the
    /// note of [`ShardHub::take_share`].
    pub fn passes(&mut self, id: ConnectionId, walk: AudienceId) -> bool {
        self.connections.get_mut(id).is_some_and(|connection| connection.subscriptions.pass(walk.topic))
    }

    /// Returns the audience's walk if it still owes this subscription its share.
    fn walk_owing(&self, own: &Subscription) -> Option<&Walk> {
        walk_owing(&self.topics[own.audience()], own)
    }

    /// Ends the audience's walk: vacant places of members are filled, joining subscribers become members, and the
    /// audience becomes dirty if it has a further run.
    pub fn end_walk(&mut self, id: AudienceId) {
        let audience = &mut self.topics[id];
        let mut run = audience.walk.take().expect(WALKING).run;
        for watch in run.take_watches() {
            if watch.end_run() {
                self.receipts.ended.push(watch);
            }
        }
        let mut from = 0;
        while let Some(Filled { index, moved }) = audience.fill_vacant(from) {
            from = index;
            if let Some(moved) = moved {
                note_membership(&mut self.connections, moved, id.topic, Membership::Member(index as u32));
            }
        }
        for slot in mem::take(&mut audience.joining) {
            let index = audience.members.len() as u32;
            audience.members.push(slot);
            note_membership(&mut self.connections, slot, id.topic, Membership::Member(index));
        }
        if audience.run.is_some() {
            self.dirty.push(id);
        }
        self.topics[id.topic].forget_members();
        self.gathered.remove(&run);
        if let Some(buffer) = run.into_buffer()
            && self.spare.len() < SPARE_BUFFERS_MAX
            && buffer.capacity() <= SPARE_BYTES_MAX
        {
            self.spare.push(buffer);
        }
        self.topics.forget_idle();
    }

    /// Makes a pending subscription live: from here on the connection is owed every message of the topic.
    pub(super) fn join(&mut self, id: ConnectionId, topic_id: TopicId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(subscription) = connection.subscriptions.get_mut(topic_id) else { return };
        assert_eq!(subscription.membership, Membership::Pending, "a subscription joins once");
        let audience = &mut self.topics[subscription.audience()];
        audience.for_each_run(|run| self.gathered.change(run, |run| run.join(id.slot())));
        if audience.lossless > 0 {
            audience.for_each_run(Run::keep_all);
        }
        let list = if audience.walk.is_some() { &mut audience.joining } else { &mut audience.members };
        let index = list.len() as u32;
        list.push(id.slot());
        subscription.membership =
            if audience.walk.is_some() { Membership::Joining(index) } else { Membership::Member(index) };
    }

    /// Removes the connection from the members of its audience. The subscription has ended before.
    pub(super) fn remove_member(&mut self, id: ConnectionId, subscription: &Subscription) {
        let membership = subscription.membership;
        let audience = &mut self.topics[subscription.audience()];
        let (list, index) = match membership {
            Membership::Pending => return,
            Membership::Joining(index) => (&mut audience.joining, index),
            Membership::Member(index) => (&mut audience.members, index),
        };
        let place = &mut list[index as usize];
        assert_eq!(*place, id.slot(), "a member stands where its subscription says");
        if matches!(membership, Membership::Member(_)) && audience.walk.is_some() {
            *place = VACANT;
            audience.vacant += 1;
            return;
        }
        list.swap_remove(index as usize);
        if let Some(&moved) = list.get(index as usize) {
            note_membership(&mut self.connections, moved, subscription.topic, membership);
        }
    }

    /// Returns the messages that the connection is owed for these subscriptions, from walks under way and from runs.
    pub(super) fn owed(&mut self, id: ConnectionId, subscriptions: &[Subscription]) -> Vec<Owed> {
        let mut owed = Vec::new();
        for subscription in subscriptions {
            let is_owed_by_walk = self.walk_owing(subscription).is_some();
            let topic = self.topics[subscription.topic].name.clone();
            let slow = self.slow_rules(subscription);
            if is_owed_by_walk {
                owed.push(Owed { slow, ..self.owed_by_walk(subscription.audience(), id.slot()) });
            }
            if subscription.membership != Membership::Pending {
                let begin = owed.len();
                let encode = self.encodings.lag(subscription.format);
                self.topics[subscription.audience()].for_each_run(|run| {
                    let lost = run.lost(id.slot());
                    let lag = lost.map(|lost| OwedLag { lag: lost.lag(&topic), notice: notice(encode, &lost, &topic) });
                    let pieces = self.gathered.change(run, |run| run.owed(id.slot()));
                    let tickets = run.tickets(id.slot());
                    owed.insert(begin, Owed { topic: topic.clone(), lag, pieces, slow, tickets });
                });
            }
        }
        owed.retain(|owed| !owed.pieces.is_empty() || owed.lag.is_some());
        owed
    }

    /// Notes for receipts that the connection does not get what [`ShardHub::owed`] would return.
    pub(super) fn give_up(&mut self, id: ConnectionId, subscriptions: &[Subscription]) {
        for subscription in subscriptions {
            let is_owed_by_walk = self.walk_owing(subscription).is_some();
            let audience = &mut self.topics[subscription.audience()];
            // A ticket that is dropped tells that the connection has ended.
            if is_owed_by_walk && let Some(walk) = &audience.walk {
                drop(walk.run.tickets(id.slot()));
            }
            if subscription.membership != Membership::Pending {
                audience.for_each_run(|run| drop(run.tickets(id.slot())));
            }
        }
    }

    /// Returns the number of messages that [`ShardHub::owed`] would return.
    pub(super) fn owed_messages(&self, id: ConnectionId, subscriptions: &[Subscription]) -> u64 {
        let of_topic = |subscription: &Subscription| {
            let audience = &self.topics[subscription.audience()];
            let walk = self.walk_owing(subscription).map_or(0, |walk| walk.run.owed_messages(id.slot()));
            let latest = audience.run.as_ref().filter(|_| subscription.membership != Membership::Pending);
            let runs = iter::successors(latest, |run| run.earlier.as_ref());
            u64::from(walk) + runs.map(|run| u64::from(run.owed_messages(id.slot()))).sum::<u64>()
        };
        subscriptions.iter().map(of_topic).sum()
    }
}

/// The parts of a hub that gathering for an audience changes.
struct Gathering<'a> {
    topic: TopicId,
    /// Whether the topic's runs keep tags.
    tags: Tags,
    tag: &'a Tag,
    gathered: &'a mut RunWeights,
    /// Whether the message has come by a lane.
    takes_mail: bool,
    spare: &'a mut Vec<BytesMut>,
    dirty: &'a mut Vec<AudienceId>,
    last_gathered: &'a mut Option<TopicId>,
    /// The time of the turn.
    turn_us: u64,
    encodings: &'a Encodings,
    encoded: &'a mut BytesMut,
    /// The count of this shard, if the publisher waits for a receipt.
    watch: Option<&'a Rc<Watch>>,
}

impl Gathering<'_> {
    /// Appends a frame to the run of an audience. The frame is not owed to the subscriber at slot `except`.
    #[inline]
    fn append(&mut self, format: Format, audience: &mut Audience, frame: &Bytes, except: Option<u32>) {
        self.add(format, audience, |run, tag| run.append(frame, except, tag));
        if let Some(watch) = self.watch {
            self.note_watched(watch, audience, except.is_some());
        }
    }

    /// Notes that the publisher of the message that was appended last waits for a receipt.
    #[cold]
    fn note_watched(&mut self, watch: &Rc<Watch>, audience: &mut Audience, has_exception: bool) {
        let members = audience.members.len() - audience.vacant as usize + audience.joining.len();
        let members = members as u32 - u32::from(has_exception);
        if let Some(run) = &mut audience.run {
            self.gathered.change(run, |run| run.watch(watch, members));
        }
    }

    /// Lets `append` append a frame to the run of an audience.
    // Each publication comes here, and a call would cost as much as the body of this function.
    #[inline(always)]
    fn add(&mut self, format: Format, audience: &mut Audience, append: impl FnOnce(&mut Run, Option<&Tag>)) {
        let epoch = self.tag.place.map(|place| place.epoch);
        if !audience.run.as_ref().is_some_and(|run| run.takes_epoch(epoch)) {
            let tags = match self.tags {
                Tags::Newest if audience.lossless > 0 => Tags::On,
                tags => self.encodings.tags(format, tags),
            };
            let mut run = Box::new(Run::new(self.spare.pop().unwrap_or_default(), tags));
            run.note_begin(self.turn_us);
            run.earlier = audience.run.take();
            if run.earlier.is_none() && audience.walk.is_none() {
                self.dirty.push(AudienceId { topic: self.topic, format });
            }
            audience.run = Some(run);
        }
        if let Some(run) = &mut audience.run {
            run.note_epoch(epoch);
            let before = self.gathered.bytes;
            self.gathered.change(run, |run| append(run, Some(self.tag)));
            *self.last_gathered = Some(self.topic);
            if self.takes_mail {
                let weight = self.gathered.bytes.saturating_sub(before);
                run.note_from_mail(weight);
                self.gathered.from_mail += weight;
            }
        }
    }
}

/// Begins a walk of an audience that has none: freezes its earliest run. The function is not inlined, so that the
/// visits after the first pay nothing for it.
#[inline(never)]
fn begin_walk(topic: &mut Topic, format: Format, now: Millis, encodings: &Encodings, gathered: &mut RunWeights) {
    let Topic { name, audiences, rules, .. } = topic;
    let audience = audiences.get_mut(format).expect("an audience whose walk is due is there");
    let run = audience.take_run().expect("an audience whose walk is due has a run");
    let mut run = gathered.freeze(*run);
    run.encode_notice(|lost| notice(encodings.lag(format), lost, name));
    if encodings.is_body(format) {
        run.note_bodies();
    }
    audience.next_walk = rules.delivery_interval_ms.map_or(Millis(0), |ms| Millis(now.0.saturating_add(ms)));
    // The step shares no divisor with most numbers of members, so over many walks every subscriber is early and late.
    audience.rotation = audience.rotation.wrapping_add(ROTATION_STEP);
    audience.walk = Some(Box::new(Walk::new(run, audience.members.len() as u32, audience.rotation)));
}

/// Returns the audience's walk if it still owes the subscription its share.
fn walk_owing<'a>(audience: &'a Audience, own: &Subscription) -> Option<&'a Walk> {
    let Membership::Member(index) = own.membership else { return None };
    audience.walk.as_deref().filter(|walk| walk.has_yet_to_visit(index) && !own.is_taken)
}

/// Returns the notice of what a subscriber has lost; empty if its format has no notices.
fn notice(encode: Option<EncodeLag>, lost: &Lost, topic: &TopicName) -> Bytes {
    let mut notice = BytesMut::new();
    if let Some(encode) = encode {
        encode(&lost.lag(topic), &mut notice);
    }
    notice.freeze()
}

/// Returns the form that `encode` gives to a publication. `buffer` keeps its memory unless the frame is large.
pub(super) fn encoded(encode: Option<Encode>, encodable: &Encodable<'_>, buffer: &mut BytesMut) -> Bytes {
    let encode = encode.expect("every format but the raw one has a function");
    buffer.reserve(encodable.publication.frame().len());
    encode(encodable, buffer);
    assert!(!buffer.is_empty(), "an encoded publication has at least one byte");
    if buffer.len() < LARGE_FRAME { buffer.split().freeze() } else { mem::take(buffer).freeze() }
}

/// Notes, in a subscription of the connection at `slot`, its new place among the members of the audience.
fn note_membership<T: Attachment>(connections: &mut Connections<T>, slot: u32, topic: TopicId, membership: Membership) {
    let connection = connections.at_mut(slot).expect("a member is a connection");
    connection.subscriptions.get_mut(topic).expect("a member has a subscription").membership = membership;
}

const WALKING: &str = "the audience has a walk";

/// About 2³² divided by the golden ratio, and odd.
const ROTATION_STEP: u32 = 0x9e37_79b1;

const _: () = assert!(!ROTATION_STEP.is_multiple_of(2), "walks over 2ⁿ members begin at each of them");

/// The runs of audiences that wait for the end of an interval may take this part of the gathered memory, together.
const PACED_PART: usize = 8;

/// The memory that is kept for later runs: a few buffers, and the most bytes of each.
const SPARE_BUFFERS_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 256 * 1_024;

/// The most bytes, in all, of the buffers that are kept for later runs.
pub const SPARE_RUN_BYTES_MAX: usize = SPARE_BUFFERS_MAX * SPARE_BYTES_MAX;

#[cfg(test)]
mod tests;

//! Compares the hub's operations with a model, a map of sets.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ringhub::{
    ConnectionId, Place, Publication, Scope, SubscribeOptions, TopicName,
    hub::{
        AudienceId, HubConnection, HubLimits, Joined, MeshEnd, MeshLimits, Piece, ShardHub, Share, Subscribed, Wake,
    },
    proto::FrameHeader,
};

/// Checks that every subscription receives exactly the messages of its topic from its beginning to its end, once and in
/// the order of their publishing. Without echo the connection's own messages are left out. This holds for any division
/// of walks.
///
/// The first byte chooses the number of hubs, 1 to 3. The second is the length of the lanes between them. Then every
/// three bytes are an operation. The mesh is quiet between two operations, so the order of all messages is known;
/// `hub::simulator` tests operations while messages are on their way.
///
/// Returns how many messages were received.
pub(crate) fn hub(bytes: &[u8]) -> usize {
    let [hubs, lanes, operations @ ..] = bytes else { return 0 };
    let mut world = World::new(1 + usize::from(hubs % 3), usize::from(*lanes));
    for operation in operations.chunks_exact(3) {
        let [action, who, what] = *operation else { unreachable!("chunks of three") };
        world.step(action, who.into(), what.into());
        world.settle();
        world.check();
    }
    world.drain();
    world.received
}

/// Hubs, and the messages that each subscription must receive.
struct World {
    hubs: Vec<ShardHub>,
    /// The walks under way of each hub.
    walks: Vec<Vec<AudienceId>>,
    connections: Vec<ConnectionId>,
    /// The model: the members of each topic.
    members: [BTreeMap<ConnectionId, Member>; TOPICS],
    /// The place of the last message of each topic.
    places: [Option<Place>; TOPICS],
    /// Subscriptions that are not live yet.
    pending: HashMap<(ConnectionId, usize), bool>,
    published: usize,
    received: usize,
}

/// A live subscription.
struct Member {
    echo: bool,
    /// The messages that the subscription is owed; `seen` of them have been received.
    owed: Vec<Arc<str>>,
    seen: usize,
}

impl World {
    fn new(count: usize, lanes: usize) -> Self {
        let wakes = (0..count).map(|_| Arc::new(|| ()) as Wake).collect();
        let limits = MeshLimits { lane_entries_max: lanes, ..MeshLimits::default() };
        let limits_of_hub =
            HubLimits { subscriptions_max: SUBSCRIPTIONS_MAX, topics_idle_max: lanes % 3, ..HubLimits::default() };
        let hubs =
            MeshEnd::connect(wakes, &limits).into_iter().map(|end| ShardHub::new(end, limits_of_hub, 1)).collect();
        World {
            hubs,
            walks: vec![Vec::new(); count],
            connections: Vec::new(),
            members: Default::default(),
            places: [None; TOPICS],
            pending: HashMap::new(),
            published: 0,
            received: 0,
        }
    }

    fn step(&mut self, action: u8, who: usize, what: usize) {
        let (hub, number) = (who % self.hubs.len(), what % TOPICS);
        let someone = self.connections.get(who % self.connections.len().max(1)).copied();
        match (action % 16, someone) {
            (0, _) | (_, None) => self.connect(hub, what),
            (1, Some(id)) => self.leave(id, what.is_multiple_of(2)),
            (2..=4, Some(id)) => self.subscribe(id, number, what >= 128),
            (5, Some(id)) => self.unsubscribe(id, number),
            (6..=9, Some(id)) => self.publish(usize::from(id.shard()), Some(id), number, what),
            (10, _) => self.publish(hub, None, number, what),
            (11, _) => self.hubs[hub].take_due(&mut self.walks[hub]),
            (12, _) => self.finish_walk(hub, what),
            _ => _ = self.visit(hub, what),
        }
    }

    /// Adds a connection that subscribes to the topics in the bits of `what`. If `what` has its highest bit, the
    /// connection is held until these topics are live.
    fn connect(&mut self, hub: usize, what: usize) {
        if self.connections.len() == CONNECTIONS_MAX {
            return;
        }
        let mut connection = HubConnection::new(());
        connection.is_held = what >= 128;
        let id = self.hubs[hub].connections.insert(connection).expect("there is room");
        self.connections.push(id);
        for number in (0..TOPICS).filter(|number| what >> number & 1 == 1) {
            self.subscribe(id, number, what & 64 != 0);
        }
        let mut joined = Vec::new();
        self.hubs[hub].release(id, &mut joined);
        self.join(joined);
    }

    fn subscribe(&mut self, id: ConnectionId, number: usize, echo: bool) {
        let is_known = self.members[number].contains_key(&id) || self.pending.contains_key(&(id, number));
        let count = self.topics_of(id).len();
        let is_held = self.hub(id).connections.get(id).is_some_and(|connection| connection.is_held);
        let options = SubscribeOptions::default();
        let options = if echo { options.echo() } else { options };
        let outcome = self.hub(id).subscribe(id, &topic(number), options);
        match outcome {
            Subscribed::Already => assert!(is_known),
            Subscribed::TooMany => assert!(!is_known && count == SUBSCRIPTIONS_MAX),
            Subscribed::Live => {
                assert!(!is_known && !is_held && count < SUBSCRIPTIONS_MAX);
                self.members[number].insert(id, Member { echo, owed: Vec::new(), seen: 0 });
            }
            Subscribed::Pending => {
                assert!(!is_known && count < SUBSCRIPTIONS_MAX);
                self.pending.insert((id, number), echo);
            }
            Subscribed::Closed => panic!("{id} is open"),
        }
    }

    fn join(&mut self, joined: Vec<Joined>) {
        for Joined { id, topic: name, .. } in joined {
            let number = (0..TOPICS).find(|&number| topic(number) == name).expect("a topic of these");
            let echo = self.pending.remove(&(id, number)).expect("a pending subscription joins, once");
            self.members[number].insert(id, Member { echo, owed: Vec::new(), seen: 0 });
        }
    }

    fn unsubscribe(&mut self, id: ConnectionId, number: usize) {
        let owed = self.hub(id).unsubscribe(id, &topic(number));
        owed.iter().for_each(|owed| self.see(id, &owed.pieces));
        if let Some(member) = self.members[number].remove(&id) {
            assert_eq!(member.seen, member.owed.len(), "{id} gets all messages up to its end");
        }
    }

    fn leave(&mut self, id: ConnectionId, is_owed: bool) {
        if is_owed {
            let owed = self.hub(id).leave(id);
            owed.iter().for_each(|owed| self.see(id, &owed.pieces));
        }
        assert!(self.hub(id).remove(id).is_some());
        self.connections.retain(|&other| other != id);
        for members in &mut self.members {
            let member = members.remove(&id);
            assert!(!is_owed || member.is_none_or(|member| member.seen == member.owed.len()));
        }
    }

    fn publish(&mut self, hub: usize, source: Option<ConnectionId>, number: usize, what: usize) {
        // The largest size makes a frame that is a separate piece.
        let padding = [0, 1, 3, 100, 200, 300, 0, 16 << 10][what >> 2 & 7];
        let scope = if what >> 5 == 0 { Scope::Shard } else { Scope::Server };
        self.published += 1;
        let text: Arc<str> = format!("{number} {} {}", self.published, "x".repeat(padding)).into();
        let place = self.hubs[hub].publish_by_name(&topic(number), source, Publication::text(&text), scope);
        let is_home = usize::from(self.hubs[hub].home(&topic(number))) == hub;
        assert_eq!(place.is_some(), is_home && scope == Scope::Server, "the home knows its place at once");
        if scope == Scope::Server {
            self.note_place(number, place);
        }
        for (id, member) in &mut self.members[number] {
            let is_reached = scope == Scope::Server || usize::from(id.shard()) == hub;
            if is_reached && (member.echo || source != Some(*id)) {
                member.owed.push(Arc::clone(&text));
            }
        }
    }

    /// Checks that a message has the next place of its topic. `place` is unknown if the topic's home is another hub.
    fn note_place(&mut self, number: usize, place: Option<Place>) {
        let last = &mut self.places[number];
        match (place, &last) {
            (Some(place), Some(last)) if place.epoch == last.epoch => {
                assert_eq!((place.offset, place.previous), (last.offset + 1, last.offset));
            }
            // The home has forgotten the topic meanwhile, or a message has a known place for the first time.
            (Some(_), _) => {}
            (None, _) => {
                last.iter_mut().for_each(|last| last.offset += 1);
                return;
            }
        }
        *last = place;
    }

    /// Lets one walk of a hub hand out one share. Returns whether there was a member to visit.
    fn visit(&mut self, hub: usize, what: usize) -> bool {
        let Some(&walk) = self.walks[hub].get(what % self.walks[hub].len().max(1)) else { return false };
        let one = &mut self.hubs[hub];
        let Some(slot) = one.next_member(walk) else { return false };
        if what >= 128 {
            one.step_back(walk);
            assert_eq!(one.next_member(walk), Some(slot));
        }
        let kept = one.owed_by_walk(walk, slot).pieces;
        let share = match one.run(walk).share(slot) {
            Share::Whole => one.run(walk).pieces().to_vec(),
            Share::Part(pieces) => pieces,
            Share::Nothing => Vec::new(),
        };
        assert_eq!(joined(&kept), joined(&share), "what is sent now and what is kept are the same");
        let id = one.connections.id_at(slot).expect("a member has a connection");
        self.see(id, &share);
        true
    }

    /// Lets a walk of a hub visit the rest of its members.
    fn finish_walk(&mut self, hub: usize, what: usize) {
        let count = self.walks[hub].len();
        if count == 0 {
            return;
        }
        while self.visit(hub, what % count) {}
        let walk = self.walks[hub].remove(what % count);
        self.hubs[hub].end_walk(walk);
    }

    /// Checks that a connection receives the next messages that its subscriptions are owed.
    fn see(&mut self, id: ConnectionId, pieces: &[Piece]) {
        let bytes = joined(pieces);
        let (mut rest, mut messages) = (&bytes[..], 0);
        while let Some((header, header_len)) = FrameHeader::decode(rest).expect("whole frames") {
            let (frame, after) = rest.split_at(header_len + header.payload_len as usize);
            let text = std::str::from_utf8(&frame[header_len..]).expect("text");
            let number: usize = text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
            let member = self.members[number].get_mut(&id).expect("the receiver is a member");
            assert_eq!(Some(text), member.owed.get(member.seen).map(|text| &**text), "{id}");
            member.seen += 1;
            rest = after;
            messages += 1;
        }
        assert_eq!(pieces.iter().map(|piece| piece.messages as usize).sum::<usize>(), messages);
        self.received += messages;
    }

    /// Runs the mesh until no message is on its way.
    fn settle(&mut self) {
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            for at in 0..self.hubs.len() {
                let (hub, mut joined) = (&mut self.hubs[at], Vec::new());
                while hub.take_delivery(&mut joined) || hub.take_request(&mut Vec::new()) {
                    is_quiet = false;
                }
                hub.send_out();
                self.join(joined);
            }
            is_quiet &= !self.hubs.iter().any(ShardHub::has_mail);
        }
        assert!(self.pending.is_empty(), "the home has acknowledged every interest");
    }

    /// Checks the tables of the hubs against the model.
    fn check(&self) {
        for (number, members) in self.members.iter().enumerate() {
            for (at, hub) in self.hubs.iter().enumerate() {
                let here = members.keys().filter(|id| usize::from(id.shard()) == at);
                assert_eq!(hub.subscribers(&topic(number)), here.count());
            }
        }
        for &id in &self.connections {
            let hub = &self.hubs[usize::from(id.shard())];
            let mut topics = hub.subscriptions(id);
            topics.sort();
            assert_eq!(topics, self.topics_of(id));
            assert!(topics.iter().all(|name| hub.is_subscribed(id, name)));
        }
    }

    /// Lets all walks end, and checks that every message has been received and nothing is kept.
    fn drain(&mut self) {
        for hub in 0..self.hubs.len() {
            while self.hubs[hub].is_dirty() || !self.walks[hub].is_empty() {
                self.hubs[hub].take_due(&mut self.walks[hub]);
                self.finish_walk(hub, 0);
            }
            assert_eq!(self.hubs[hub].gathered_bytes(), 0);
        }
        for (id, member) in self.members.iter().flatten() {
            assert_eq!(member.seen, member.owed.len(), "{id}");
        }
    }

    fn hub(&mut self, id: ConnectionId) -> &mut ShardHub {
        &mut self.hubs[usize::from(id.shard())]
    }

    /// Returns the topics of a connection, in order, including pending ones.
    fn topics_of(&self, id: ConnectionId) -> Vec<TopicName> {
        let is_subscribed =
            |&number: &usize| self.members[number].contains_key(&id) || self.pending.contains_key(&(id, number));
        (0..TOPICS).filter(is_subscribed).map(topic).collect()
    }
}

fn joined(pieces: &[Piece]) -> Vec<u8> {
    pieces.iter().map(|piece| &piece.bytes[..]).collect::<Vec<_>>().concat()
}

fn topic(number: usize) -> TopicName {
    TopicName::new(&format!("topic {number}")).expect("a name")
}

const TOPICS: usize = 5;
const CONNECTIONS_MAX: usize = 10;
const SUBSCRIPTIONS_MAX: usize = 3;

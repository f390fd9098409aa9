//! A run of the simulator of policies: two shards and the control thread's end, their clients, and the order of each
//! topic.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::{
    super::{
        random::Random,
        simulation::arrival,
        socket::SimulatedSocket,
        world::{ANSWER, World, take_sent},
    },
    CLIENTS_MAX, KEYS, PLAIN, TOPICS,
    client::{Client, Item, Manner, item_of},
    name, rules,
};
use crate::{
    handler::ShardApi,
    hub::{
        Arrival as Mail, ConnectionId, EndRole, ExternalEnd, Format, MeshEnd, MeshLimits, Overflow, Publication,
        Receipt, RulesOfTopics, Scope, SubscribeOptions, Wake,
        testing::{REVERSED, telling_encodings},
    },
    proto::Millis,
    shard::arrival::Arrival,
    surface::SURFACES,
};

/// The order of a topic, as the control thread's end has read it.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The number and the source of each message.
    pub(super) messages: Vec<(u64, Option<ConnectionId>)>,
    /// The offset of each message, by its number.
    pub(super) offsets: BTreeMap<u64, u64>,
    /// How many messages were published, some of which may be under way.
    pub(super) published: u64,
    /// Whether the policy was to keep the newest message of each key all the time.
    pub(super) is_latest: bool,
}

/// A run of two shards and the control thread's end.
pub(super) struct Run {
    pub(super) worlds: Vec<World>,
    pub(super) control: ExternalEnd,
    pub(super) rules: RulesOfTopics,
    /// The number by which the rules were drawn first.
    pub(super) draw: u64,
    /// The format of `ringhub.v1`.
    pub(super) json: Format,
    pub(super) random: Random,
    pub(super) now: Millis,
    pub(super) clients: Vec<Client>,
    pub(super) orders: Vec<Order>,
    /// By topic and offset: the sums of the shards' counts for receipts, and the answers to those who have asked.
    pub(super) counted: BTreeMap<(usize, u64), Receipt>,
    pub(super) answered: BTreeMap<(usize, u64), Receipt>,
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let draw = random.next();
        let topic_rules = RulesOfTopics::new(move |topic| rules(topic, draw, None));
        let messages_max = random.pick(&[12, 40, 1_000]);
        let bytes_max = random.pick(&[20_000, 100_000, 4 << 20]);
        let change = |config: &mut crate::config::Config| {
            (config.limits.backlog_messages_max, config.limits.backlog_bytes_max) = (messages_max, bytes_max);
        };
        let mut encodings = Arc::unwrap_or_clone(telling_encodings());
        let v1 = SURFACES.iter().find(|surface| surface.name == "ringhub.v1").expect("the surface");
        let json = encodings.add_new(&v1.encodings[0]);
        let encodings = Arc::new(encodings);
        let roles = EndRole::shards_and_control(2);
        let wake = roles.iter().map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, &roles, &MeshLimits::default());
        let mut control = ExternalEnd::new(ends.pop().expect("the control thread's end"));
        let backlog_bytes = random.pick(&[100, 3_000, 256 << 10]);
        let world = |mesh| {
            let mut world = World::at(mesh, change, |shard| {
                shard.with_encodings(Arc::clone(&encodings)).with_topic_rules(topic_rules.clone())
            });
            world.shard.pace.backlog_bytes = backlog_bytes;
            world.shard.hub.journal = Some(Box::default());
            world
        };
        let worlds: Vec<World> = ends.into_iter().map(world).collect();
        let homes: BTreeSet<u16> = (0..TOPICS.len()).map(|topic| worlds[0].shard.hub.home(&name(topic))).collect();
        assert_eq!(homes.len(), 2, "both shards are homes");
        (0..TOPICS.len()).for_each(|topic| _ = control.read(&name(topic), topic as u64));
        let is_latest = |topic| rules(&name(topic), draw, None).slow.overflow == Overflow::Latest;
        let orders = (0..TOPICS.len()).map(|topic| Order { is_latest: is_latest(topic), ..Order::default() }).collect();
        let mut run = Run {
            worlds,
            control,
            rules: topic_rules,
            draw,
            json,
            random,
            now: Millis(0),
            clients: Vec::new(),
            orders,
            counted: BTreeMap::new(),
            answered: BTreeMap::new(),
        };
        run.turns();
        run
    }

    /// Replaces the rules of all topics.
    fn reload(&mut self) {
        let (draw, reload) = (self.draw, Some(self.random.next()));
        self.rules.replace_by(move |topic| rules(topic, draw, reload));
        for (topic, order) in self.orders.iter_mut().enumerate() {
            order.is_latest &= rules(&name(topic), draw, reload).slow.overflow == Overflow::Latest;
        }
    }

    pub(super) fn connect(&mut self, manner: Manner) {
        // All that was published has its place now, so that the client's part of each order is known.
        self.turns();
        let topics = match self.random.within(0..=2) {
            0 => vec![self.random.within(0..=TOPICS.len() - 1)],
            1 => (0..TOPICS.len()).collect(),
            _ => (0..self.random.within(1..=TOPICS.len() - 1)).collect(),
        };
        let room = self.random.within(100..=4_000);
        let side = self.random.within(0..=1);
        let line = self.worlds[side].network.borrow().lines.len();
        let socket = SimulatedSocket::connect(&self.worlds[side].network, ANSWER, room);
        let arrival = arrival(socket, Vec::new(), None, Bytes::from_static(ANSWER), BytesMut::new());
        let options = SubscribeOptions { has_silent_lags: manner == Manner::Silent, ..SubscribeOptions::default() };
        let arrival = Arrival {
            subscriptions: topics.iter().map(|&topic| (name(topic), options)).collect(),
            format: match manner {
                Manner::Told => REVERSED,
                Manner::Json => self.json,
                Manner::Silent | Manner::Raw => Format::RAW,
            },
            ..arrival
        };
        let id = self.worlds[side].shard.adopt(self.now, arrival).expect("there is room");
        let topics = topics.into_iter().map(|topic| (topic, self.orders[topic].messages.len())).collect();
        let (at, texts, taken) = ((side, line), Vec::new(), BTreeSet::new());
        self.clients.push(Client { id, at, manner, topics, texts, taken, looked_at: ANSWER.len() });
        self.turns();
    }

    /// Runs the turns of all ends until they leave no work, also for each other.
    fn turns(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let now = self.now;
            let mut has_work = false;
            for side in 0..self.worlds.len() {
                let world = &mut self.worlds[side];
                has_work |= world.shard.turn(now) || world.network.borrow().has_reports();
                has_work |= self.read();
                self.check_counts(side);
            }
            self.control.send_out();
            quiet = if has_work { 0 } else { quiet + 1 };
        }
    }

    /// Notes the messages that the control thread's end has read, and the answers. Returns whether there were any.
    fn read(&mut self) -> bool {
        let mut has_read = false;
        while let Some(mail) = self.control.next_arrival() {
            has_read = true;
            if let Mail::Answer { ticket, reply } = &mail {
                let published = reply.published().expect("an answer to a message").expect("the message has no id");
                let receipt = published.receipt.map(|receipt| receipt.expect("it was not given up"));
                self.answered.extend(receipt.map(|receipt| ((*ticket as usize, published.place.offset), receipt)));
            }
            let Mail::Message { posted, place } = mail else { continue };
            let payload = str::from_utf8(posted.publication.payload()).expect("text");
            let Item::Message { topic, number } = item_of(payload) else { panic!("{payload} is no message") };
            let order = &mut self.orders[topic];
            order.messages.push((number, posted.source));
            assert_eq!(place.offset, order.messages.len() as u64);
            order.offsets.insert(number, place.offset);
        }
        has_read
    }

    /// Publishes a message by the control thread, by a shard's handler, or by a client.
    fn publish(&mut self, topic: usize) {
        self.orders[topic].published += 1;
        let number = self.orders[topic].published;
        let length = if self.random.chance(30) { 30_000 } else { self.random.within(0..=600) };
        let (text, key) = (TOPICS[topic], number % KEYS);
        let text = format!(r#"{{"n":{number},"t":"{text}","k":"{key}","x":"{}"}}"#, "x".repeat(length));
        let has_pointer = rules(&name(topic), self.draw, None).key.is_some();
        let publication = match has_pointer || self.random.chance(500) {
            true => Publication::json(&text).expect("JSON"),
            false => Publication::text(&text),
        };
        let publication = match has_pointer && self.random.chance(700) {
            true => publication,
            false => publication.key(&key.to_string()).expect("a key"),
        };
        let (side, source) = match self.random.within(0..=3) {
            0 => {
                let asks = self.random.chance(700);
                let publication = if asks { publication.ask_receipt() } else { publication };
                return self.control.submit(name(topic), None, publication, topic as u64);
            }
            1 => (self.random.within(0..=1), None),
            _ => {
                let client = &self.clients[self.random.within(0..=self.clients.len() - 1)];
                (client.at.0, Some(client.id))
            }
        };
        ShardApi::publish(&mut self.worlds[side].shard, source, &name(topic), publication, Scope::Server);
    }

    pub(super) fn step(&mut self) {
        match self.random.within(0..=99) {
            0..=39 => {
                let topic = self.random.within(0..=TOPICS.len() - 1);
                let most = if topic == PLAIN { 1 } else { 12 };
                (0..self.random.within(1..=most)).for_each(|_| self.publish(topic));
            }
            40..=69 => {
                let client = self.random.within(0..=self.clients.len() - 1);
                let bytes = self.random.within(1..=2_500);
                let (side, line) = self.clients[client].at;
                self.worlds[side].network.borrow_mut().fetch(line, bytes);
            }
            70..=79 => self.now = Millis(self.now.0 + self.random.within(1..=30) as u64),
            80 => self.reload(),
            81 | 82 if self.clients.len() < CLIENTS_MAX => {
                let manner = self.random.pick(&[Manner::Told, Manner::Json, Manner::Silent, Manner::Raw]);
                self.connect(manner);
            }
            _ => {}
        }
        if self.random.chance(700) {
            self.turns();
        }
    }

    /// Lets every client take all that it is owed.
    pub(super) fn drain(&mut self) {
        self.turns();
        for _ in 0..20_000 {
            let mut is_quiet = true;
            for client in &self.clients {
                let (side, line) = client.at;
                let mut network = self.worlds[side].network.borrow_mut();
                is_quiet &= network.lines[line].sent.is_empty();
                network.fetch(line, usize::MAX);
            }
            let due = self.worlds.iter().filter_map(|world| world.shard.hub.next_walk()).max();
            self.now = self.now.max(due.unwrap_or_default());
            self.turns();
            is_quiet &= self.worlds.iter().all(|world| world.shard.hub.next_walk().is_none());
            if is_quiet && self.clients.iter().all(|client| !self.owes(client)) {
                for client in &mut self.clients {
                    client.texts = take_sent(&self.worlds[client.at.0].network, client.at.1);
                }
                return;
            }
        }
        panic!("the clients are still owed something");
    }

    fn owes(&self, client: &Client) -> bool {
        let connection = self.worlds[client.at.0].shard.hub.connections.get(client.id);
        connection.is_some_and(|connection| connection.io.owes_output())
    }
}

//! One CPU's connections and topics. Other files of this folder add methods to [`Shard`]. Each of these files stands on
//! a floor above this file, and calls only files on lower floors.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use tracing::field::{DisplayValue, display};

use super::{
    access_lines::AccessLines,
    incoming::Incoming,
    io_state::IoHub,
    joining::Joining,
    lag::BacklogSize,
    leaving::Drain,
    marks::Marks,
    memory::Memory,
    outgoing::Flush,
    pace::{Mail, MailLeft, Pace},
    people::People,
    rates::Rates,
    seats::Handlers,
    timers::Wheel,
    walk_samples::WalkSamples,
    warnings::Warnings,
};
use crate::{
    access_log::AccessLog,
    auth::Revocations,
    budget::Budget,
    config::{Config, Limits},
    handler::Seat,
    handover::AddressPermit,
    hub::{
        Commanded, ConnectionId, Encodings, EngineTopics, Homes, HubLimits, IdLimits, Joined, MeshEnd, RECEIPTS_MAX,
        RulesOfTopics,
    },
    metrics::{Counter, Counters},
    proto::{Millis, Tick},
    sys::{Io, Key, Readiness, SendLimits},
};

/// One CPU's connections and topics, and the turn that serves them.
///
/// A turn takes the input that has arrived, handles it, and sends the output that is due. Nothing recurses, and only
/// the flush sends. The shard is generic over [`Io`], so that the same code runs on the hot ring and on a simulated
/// network.
///
/// - getters: [`Shard::next_deadline`], [`Shard::is_empty`], [`Shard::open`]
/// - inputs: [`Shard::adopt`], [`Shard::turn`], [`Shard::call_back`]
/// - commands: [`Shard::close`], [`Shard::unsubscribe`], [`Shard::drain`]
#[derive(Debug)]
pub(crate) struct Shard<I: Io> {
    pub(super) io: I,
    pub(super) hub: IoHub,
    /// By slot.
    pub(super) sockets: Vec<Option<I::Socket>>,
    /// By slot, and empty unless the number of an address' sockets is limited.
    pub(super) of_address: Vec<Option<AddressPermit>>,
    /// By slot: when the connection was adopted.
    pub(super) opened: Vec<Tick>,
    /// The connections with identities.
    pub(super) people: People,
    /// The identities and tokens that are refused.
    pub(super) revocations: Revocations,
    /// The external ends that wait for subscriptions.
    pub(super) joining: Joining,
    /// The addresses of clients whose sockets have a trusted proxy as their peer; by slot, and empty without proxies.
    pub(super) named: Vec<Option<SocketAddr>>,
    pub(super) limits: Limits,
    /// The limits of the output that the kernel keeps for each socket, as the server's settings have them.
    pub(super) send_limits: SendLimits,
    pub(super) handlers: Handlers,
    pub(super) counters: Arc<Counters>,
    pub(super) warnings: Arc<Warnings>,
    pub(super) now: Tick,
    pub(super) flush: Flush,
    /// Connections whose goodbye waits.
    pub(super) marks: Marks,
    pub(super) drain: Option<Drain>,
    pub(super) pace: Pace,
    pub(super) incoming: Incoming,
    /// This shard's part of [`Limits::unfinished_bytes_max`].
    pub(super) unfinished_bytes_max: usize,
    /// Exists only where a route's input has a rate.
    pub(super) rates: Option<Box<Rates>>,
    pub(super) memory: Memory,
    pub(super) wheel: Wheel,
    /// Scratch memory: this field and the next two are empty between uses.
    pub(super) readiness: Vec<Readiness>,
    pub(super) replies: Vec<u8>,
    pub(super) due: Vec<(Tick, ConnectionId)>,
    /// Subscriptions that have gone live and have not been reported to their handlers.
    pub(super) joined: Vec<Joined>,
    pub(super) commands: Vec<Commanded>,
    /// The beginnings of the opening handshakes whose answers wait until all subscriptions are live.
    pub(super) opening: HashMap<ConnectionId, Instant>,
    /// The connections that have a backlog.
    pub(super) laggards: HashSet<ConnectionId>,
    /// The lines of the connections in the access log.
    pub(super) access: AccessLines,
    /// The size of all backlogs.
    pub(super) backlogs: BacklogSize,
    pub(super) walk_samples: WalkSamples,
    /// The kinds of mail in the order in which they are taken.
    pub(super) mail_order: [Mail; 2],
    /// The rest of this turn's part of the mail. An adoption before the next turn takes mail too, up to this rest.
    pub(super) mail_left: MailLeft,
    /// A random number, from which the retry hints of a drain follow.
    pub(super) seed: u64,
}

/// Returns the limits of a shard's hub.
pub(super) fn hub_limits(config: &Config) -> HubLimits {
    let Limits { subscriptions_max, topics_idle_max, gathered_bytes_max, .. } = config.limits;
    let Limits { ids_window, ids_bytes_max, receipt_timeout, .. } = config.limits;
    let ids = IdLimits { window_ms: ids_window.as_millis() as u64, bytes_max: ids_bytes_max / config.shards };
    let history_bytes_max = config.history_bytes_max_of_shard();
    let presence_bytes_max = config.presence_bytes_max_of_shard();
    let receipt_ms = receipt_timeout.as_millis() as u64;
    let receipts_max = RECEIPTS_MAX;
    HubLimits {
        subscriptions_max,
        topics_idle_max,
        gathered_bytes_max,
        ids,
        history_bytes_max,
        presence_bytes_max,
        receipt_ms,
        receipts_max,
    }
}

impl<I: Io> Shard<I> {
    pub(crate) fn new(
        mesh: MeshEnd,
        config: &Config,
        io: I,
        handlers: Handlers,
        counters: Arc<Counters>,
        epoch_seed: u64,
        now: Millis,
    ) -> Self {
        let mut hub = IoHub::new(mesh, hub_limits(config), epoch_seed);
        hub.note_time(now);
        let has_rates = handlers.routes.iter().any(|route| route.rules.rates.has_any());
        Shard {
            io,
            hub,
            sockets: Vec::new(),
            of_address: Vec::new(),
            opened: Vec::new(),
            people: People::default(),
            revocations: Revocations::default(),
            joining: Joining::default(),
            named: Vec::new(),
            limits: config.limits.clone(),
            send_limits: send_limits(config),
            handlers,
            counters,
            warnings: Arc::default(),
            now: now.tick(),
            flush: Flush::default(),
            marks: Marks::default(),
            drain: None,
            pace: Pace::DEFAULT,
            incoming: Incoming::default(),
            unfinished_bytes_max: config.limits.unfinished_bytes_max / config.shards,
            rates: has_rates.then(Box::default),
            memory: Memory::default(),
            wheel: Wheel::new(now.tick()),
            readiness: Vec::new(),
            replies: Vec::new(),
            due: Vec::new(),
            joined: Vec::new(),
            commands: Vec::new(),
            opening: HashMap::new(),
            laggards: HashSet::new(),
            access: AccessLines::new(AccessLog::off()),
            backlogs: BacklogSize::default(),
            walk_samples: WalkSamples::new(epoch_seed),
            mail_order: [Mail::Deliveries, Mail::Requests],
            mail_left: MailLeft::default(),
            seed: epoch_seed.rotate_left(32),
        }
    }

    /// Takes the encodings of the formats that connections may want.
    pub(crate) fn with_encodings(mut self, encodings: Arc<Encodings>) -> Self {
        self.hub = self.hub.with_encodings(encodings);
        self
    }

    /// Takes the rules of all topics.
    pub(crate) fn with_topic_rules(mut self, rules: RulesOfTopics) -> Self {
        self.hub = self.hub.with_topic_rules(rules);
        self
    }

    /// Takes the revocations that all threads of the server share.
    pub(crate) fn with_revocations(mut self, revocations: Revocations) -> Self {
        self.revocations = revocations;
        self
    }

    /// Lets an engine order the topics that are its own.
    pub(crate) fn with_engine(mut self, engine: EngineTopics) -> Self {
        self.hub = self.hub.with_engine(engine);
        self
    }

    /// Takes the access log.
    pub(crate) fn with_access_log(mut self, log: AccessLog) -> Self {
        self.access = AccessLines::new(log);
        self
    }

    /// Takes the budget of the server's memory, and the number of this shard.
    pub(crate) fn with_budget(mut self, budget: Option<Arc<Budget>>, number: u16) -> Self {
        self.memory.budget = budget.map(|budget| (budget, usize::from(number)));
        self
    }

    /// Notes the time, which the driver reads from the server's clock. Keep-alives count in ticks; the hub gets the
    /// exact time.
    pub(super) fn note_time(&mut self, now: Millis) {
        self.now = now.tick();
        self.hub.note_time(now);
    }

    /// Notes the beginning of a turn, or of a call between two turns, for measures.
    pub(crate) fn note_begin(&mut self, begun: Instant) {
        let micros = self.walk_samples.micros_at(begun);
        self.hub.note_turn(micros);
    }

    /// Sets the gauges that would cost too much in each turn.
    pub(crate) fn set_gauges(&self) {
        let set = |gauge, number: usize| self.counters.set(gauge, number as u64);
        set(Counter::Subscriptions, self.hub.subscribed());
        set(Counter::GatheredBytes, self.hub.gathered_bytes());
        set(Counter::LaneEntries, self.hub.fullest_lane());
        set(Counter::LaneWaitingBytes, self.hub.waiting_bytes());
        self.counters.set(Counter::BacklogBytes, self.backlogs.bytes);
        self.counters.set(Counter::BacklogMessages, self.backlogs.messages);
        self.counters.set(Counter::Lagging, self.backlogs.lagging);
    }

    /// Returns when the next turn is due even if nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Millis> {
        let drain = self.drain.as_ref().map(|drain| drain.next_step(self.now, self.is_empty()));
        let look = self.memory.next_look(self.counters.get(Counter::SlowConsumers) > 0, self.now);
        // The first tick that begins at these times or after them.
        let after = |time: Option<Millis>| time.map(|time| time.tick().after(1));
        let (receipt, history) = (after(self.hub.next_receipt_end()), after(self.hub.next_history_look()));
        let others = drain.into_iter().chain(self.flush.next_try()).chain(look).chain(receipt).chain(history);
        let tick = self.wheel.next().into_iter().chain(others).min();
        tick.map(Tick::begin).into_iter().chain(self.hub.next_walk()).chain(self.hub.next_presence()).min()
    }

    /// Returns whether there are no connections.
    pub(crate) fn is_empty(&self) -> bool {
        self.hub.connections.is_empty()
    }

    /// Returns whether a drain has left no connection, and no request that the homes of topics have yet to get.
    pub(crate) fn has_left(&self) -> bool {
        self.is_empty() && self.hub.has_sent_requests()
    }

    /// Returns whether the control thread, or an engine, has yet to get messages from this shard: readers in the
    /// process of the server get all messages that were published.
    pub(crate) fn owes_external_ends(&self) -> bool {
        self.hub.owes_external_ends()
    }

    /// Returns how many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.hub.connections.len()
    }

    pub(crate) fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// Returns whether the input of clients has gathered so much that nothing is received from any connection.
    pub(super) fn is_full(&self) -> bool {
        self.hub.is_full()
    }

    /// Returns whether nothing is received from any connection: the shard is full, or waits in a drain for messages
    /// that may stand in its lanes.
    pub(super) fn receives_nothing(&self) -> bool {
        self.is_full() || self.drain.as_ref().is_some_and(Drain::is_gathering) && self.hub.has_mail()
    }

    /// Returns whether the shard makes calls of handles now. These calls may publish to topics of any home, so they
    /// wait for room, like clients.
    pub(crate) fn takes_calls(&self) -> bool {
        !self.is_full() && !self.hub.is_behind(Homes::Any)
    }

    /// Returns how much of a portion this turn takes, see [`Pace::part`].
    pub(super) fn part_of_turn(&self, portion: usize) -> usize {
        self.pace.part(portion, self.flush.has_walks(), self.flush.last_walked)
    }

    /// Notes that the shard is about to sleep. Returns whether it may: a message may have come down a lane just now.
    pub(crate) fn may_sleep(&self) -> bool {
        self.hub.about_to_sleep();
        !self.hub.has_mail()
    }

    /// Notes that the shard is awake.
    pub(crate) fn awake(&self) {
        self.hub.awake();
    }

    /// Returns the client's address, for log lines about its connection.
    pub(super) fn peer(&self, id: ConnectionId) -> Option<DisplayValue<SocketAddr>> {
        // A connection that has ended has no seat: its slot may have another owner.
        self.hub.connections.get(id)?;
        let (route, key) = self.handlers.seats[id.slot() as usize];
        let kept = self.handlers.routes[usize::from(route)].handler.peer(Seat { id, key });
        kept.or_else(|| self.addresses_of(id).0).map(display)
    }

    /// Returns the addresses of both sides of a connection: the client's, and ours.
    pub(super) fn addresses_of(&self, id: ConnectionId) -> (Option<SocketAddr>, Option<SocketAddr>) {
        if self.hub.connections.get(id).is_none() {
            return (None, None);
        }
        let socket = self.sockets[id.slot() as usize].as_ref();
        let (peer, local) = socket.map_or((None, None), |socket| self.io.addresses(socket));
        (self.named.get(id.slot() as usize).copied().flatten().or(peer), local)
    }

    /// Shows how many connections are throttled.
    pub(super) fn note_throttled(&self) {
        self.counters.set(Counter::ConnectionsThrottled, self.incoming.throttled() as u64);
    }

    pub(super) fn count(&self, counter: Counter, count: u64) {
        self.counters.add(counter, count);
    }
}

/// Returns the limits of the output that the kernel keeps for each socket.
pub(super) fn send_limits(config: &Config) -> SendLimits {
    let Config { send_buffer_bytes, unsent_low_water_bytes, .. } = *config;
    SendLimits { send_buffer_bytes, unsent_low_water_bytes }
}

/// Returns the key by which the ring names a connection.
pub(super) fn key(id: ConnectionId) -> Key {
    Key { slot: id.slot(), generation: id.generation() }
}

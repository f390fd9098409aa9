//! The state of a simulated run: shards with their networks, the control thread's end, clients, and the clock of all of
//! them.

use std::{cell::RefCell, collections::HashMap, fmt::Arguments, rc::Rc, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{
    super::{
        arrival::Arrival,
        seats::Handlers,
        session::{Session, client_end::Protocol},
        state::Shard,
    },
    answering::{Answering, Desk, topic_name, topic_number},
    client::{Client, Leaving},
    control::Control,
    driver::{SimulatedDriver, Woken},
    engine::Engine,
    events::Events,
    names::topic_of,
    network::Network,
    plan::{Plan, TOPICS_MAX},
    random::Random,
    socket::SimulatedIo,
};
use crate::{
    config::{Config, Sources, settle},
    handler::{Handler, Pattern, Route, RouteOptions, Tasks, Typed},
    hub::{
        ConnectionId, EndRole, ExternalEnd, Format, HubLimits, MeshEnd, Place, RulesOfTopics, Scope, SubscribeOptions,
        Tags, TopicName, TopicRules,
        testing::{Journal, Ordered, TestEngine, encodings},
    },
    metrics::Counters,
    proto::{KeepAlive, Tick},
    surface::raw::TOPIC_PATTERN,
};

/// A simulated run. Its files stand on floors, and call only files on lower floors. The floors are, from below: the
/// state, the notes, the checks, the actions, the turns and the time between them, and the run from its beginning to
/// its end.
pub(super) struct Simulation {
    pub(super) drivers: Vec<SimulatedDriver>,
    pub(super) control: Control,
    /// The engine, in a run that has one.
    pub(super) engine: Option<Engine>,
    pub(super) desk: Desk,
    pub(super) random: Random,
    /// Clients by number; the first ones observe a topic each.
    pub(super) clients: Vec<Client>,
    pub(super) numbers: HashMap<ConnectionId, usize>,
    pub(super) topics: Vec<TopicName>,
    /// The home of each topic.
    pub(super) homes: Vec<usize>,
    pub(super) plan: Plan,
    pub(super) keep_alive: KeepAlive,
    pub(super) now: Tick,
    /// Ticks since the observers were last brought up to date.
    pub(super) ticks_restless: u32,
    pub(super) is_draining: bool,
    /// The shards may end when none has connections any more.
    pub(super) may_end: bool,
    /// The number of messages that were taken before the drain, by topic and shard.
    pub(super) taken_before_drain: Vec<Vec<u64>>,
    /// The number of messages that handlers have published because a subscription went live or a connection ended. Such
    /// messages wait for no room.
    pub(super) unasked: usize,
    pub(super) events: Events,
    pub(super) is_logged: bool,
}

impl Simulation {
    /// Returns a run without clients.
    pub(super) fn without_clients(mut random: Random, plan: Plan, is_logged: bool, config: &Config) -> Self {
        let mut config = config.clone();
        config.shards = plan.shards;
        let desk = Desk::default();
        let mut roles = EndRole::shards_and_control(plan.shards);
        roles.extend(plan.has_engine.then_some(EndRole::Engine));
        let woken: Vec<Woken> = roles.iter().map(|_| Woken::default()).collect();
        let mut ends = MeshEnd::connect_with(woken.iter().map(Woken::wake).collect(), &roles, &plan.mesh);
        let engine_end = plan.shards as u16 + 1;
        let engine = plan.has_engine.then(|| {
            let mesh = ends.pop().expect("the engine has an end");
            Engine::new(mesh, woken[usize::from(engine_end)].clone())
        });
        let external = ExternalEnd::new(ends.pop().expect("the control thread has an end"));
        let start = |(mesh, woken): (MeshEnd, &Woken)| {
            let network = Rc::new(RefCell::new(Network::new(Random::new(random.next()), plan.weather)));
            let counters = Arc::new(Counters::default());
            let io = SimulatedIo::new(&network);
            let handlers = handlers_of(&config, RouteOptions::new(), Answering { desk: desk.clone() });
            let now = plan.start.begin();
            let shard = Shard::new(mesh, &config, io, handlers, Arc::clone(&counters), 1, now);
            let mut shard = shard.with_encodings(encodings());
            shard.hub = shard.hub.with_topic_rules(rules_of_topics(plan.tagged));
            if plan.has_engine {
                shard = shard.with_engine(TestEngine::topics(engine_end));
            }
            shard.pace = plan.pace;
            let (subscriptions_max, receipts_max) = (plan.subscriptions_max, plan.receipts_max);
            shard.hub.set_limits(HubLimits { subscriptions_max, receipts_max, ..shard.hub.limits });
            shard.hub.connections.let_rest(plan.slots_resting);
            shard.hub.journal = Some(Box::new(Journal::default()));
            SimulatedDriver::new(shard, counters, network, woken.clone(), plan.start)
        };
        let drivers: Vec<SimulatedDriver> = ends.into_iter().zip(&woken).map(start).collect();
        let topics: Vec<TopicName> = (0..plan.topics).map(topic_name).collect();
        Simulation {
            homes: topics.iter().map(|name| usize::from(drivers[0].shard.hub.home(name))).collect(),
            drivers,
            control: Control::new(external, woken[plan.shards].clone()),
            engine,
            desk,
            random,
            clients: Vec::new(),
            numbers: HashMap::new(),
            topics,
            plan,
            keep_alive: config.keep_alive,
            now: plan.start,
            ticks_restless: 0,
            is_draining: false,
            may_end: false,
            taken_before_drain: vec![vec![0; plan.shards]; plan.topics],
            unasked: 0,
            events: Events::default(),
            is_logged,
        }
    }

    /// Returns a client on whose line something can still happen.
    pub(super) fn any_client(&mut self) -> Option<usize> {
        let counts: Vec<usize> = self.drivers.iter().map(|driver| driver.network.borrow().active.len()).collect();
        let mut at = self.random.next() as usize % counts.iter().sum::<usize>().max(1);
        for (driver, count) in self.drivers.iter().zip(counts) {
            if at < count {
                return Some(driver.clients[driver.network.borrow().active[at]]);
            }
            at -= count;
        }
        None
    }

    /// Returns the network of a client's connection.
    pub(super) fn network_of(&self, client: usize) -> Rc<RefCell<Network>> {
        Rc::clone(&self.drivers[self.clients[client].shard].network)
    }

    /// Returns the journal of a shard.
    pub(super) fn journal(&self, shard: usize) -> &Journal {
        self.drivers[shard].shard.hub.journal.as_ref().expect("a simulated shard has a journal")
    }

    /// Returns the messages that the topic's home has distributed, in order.
    pub(super) fn order(&self, topic: usize) -> &[Ordered] {
        self.journal(self.homes[topic]).ordered.get(&self.topics[topic]).map_or(&[], Vec::as_slice)
    }

    /// Returns whether the engine orders the topic.
    pub(super) fn is_of_engine(&self, topic: usize) -> bool {
        self.engine.is_some() && TestEngine::has(&self.topics[topic])
    }

    /// Returns how many messages of the topic have a place.
    pub(super) fn ordered(&self, topic: usize) -> u64 {
        self.order(topic).len() as u64
    }

    /// Returns how far a shard has come in each topic's order: how many of its messages have come there.
    pub(super) fn places(&self, shard: usize) -> Vec<u64> {
        let taken = &self.journal(shard).taken;
        let place = |topic: usize| match self.homes[topic] == shard {
            true => self.ordered(topic),
            false => taken.get(&self.topics[topic]).map_or(0, |&place| count_up_to(self.order(topic), place)),
        };
        (0..self.topics.len()).map(place).collect()
    }

    /// Returns the events of the run so far.
    pub(super) fn events(&self) -> Events {
        Events {
            several_shards: u64::from(self.drivers.len() > 1),
            slept: self.drivers.iter().map(|driver| driver.sleeps).sum(),
            woken: self.drivers.iter().map(|driver| driver.wakes).sum(),
            control_waited: self.control.overflowed(),
            commands: self.control.commands,
            engine_orders: self.engine.as_ref().map_or(0, Engine::orders),
            engine_epochs: self.engine.as_ref().map_or(0, Engine::epochs),
            engine_waited: self.engine.as_ref().map_or(0, Engine::overflowed),
            mixed_topics: (0..self.topics.len()).filter(|&topic| self.is_mixed(topic)).count() as u64,
            second_goodbyes: self.goodbyes(|_| true),
            second_answers: self.goodbyes(|client| client.leaving == Some(Leaving::Goodbye)),
            ..self.events
        }
    }

    /// Returns whether clients of both protocols have received messages of the topic.
    fn is_mixed(&self, topic: usize) -> bool {
        let receives = |client: &Client| client.received.iter().any(|&name| topic_of(name) == topic);
        let of = |protocol| self.clients.iter().any(|client| client.end.protocol() == protocol && receives(client));
        of(Protocol::WebSocket) && of(Protocol::LengthPrefixed)
    }

    /// Returns how many of these clients of the second protocol were told goodbye.
    fn goodbyes(&self, is_counted: impl Fn(&Client) -> bool) -> u64 {
        let is_second = |client: &Client| client.end.protocol() == Protocol::LengthPrefixed && client.close.is_some();
        self.clients.iter().filter(|client| is_second(client) && is_counted(client)).count() as u64
    }

    /// Prints what happens, if one run is replayed.
    pub(super) fn log(&self, what: Arguments<'_>) {
        if self.is_logged {
            println!("{what}");
        }
    }

    /// Notes that the run is over: sockets may now be dropped in any state.
    pub(super) fn end(&mut self) {
        self.drivers.iter().for_each(|driver| driver.network.borrow_mut().is_over = true);
    }
}

/// Returns how many messages of an order stand at this place or before it: of two epochs the larger is the later.
pub(super) fn count_up_to(order: &[Ordered], place: Place) -> u64 {
    let key = |place: Place| (place.epoch, place.offset);
    let is_before = |ordered: &Ordered| ordered.tag.place.is_some_and(|own| key(own) <= key(place));
    order.partition_point(is_before) as u64
}

/// Returns the rules of topics of which some ask for tags.
fn rules_of_topics(tagged: [bool; TOPICS_MAX]) -> RulesOfTopics {
    RulesOfTopics::new(move |name| {
        let tags = if tagged[topic_number(name)] { Tags::On } else { Tags::Off };
        TopicRules { tags, ..TopicRules::default() }
    })
}

/// Returns the only route: topics as they are, and answers to clients whose messages go to no topic.
pub(super) fn handlers(config: &Config) -> Handlers {
    handlers_with(config, RouteOptions::new())
}

pub(super) fn handlers_with(config: &Config, options: RouteOptions) -> Handlers {
    handlers_of(config, options, Answering::default())
}

pub(super) fn handlers_of(config: &Config, options: RouteOptions, handler: impl Handler) -> Handlers {
    let options = options.forget_request().no_broadcast();
    let rules = settle(&options, Sources::WebSockets, &config.base_of_routes()).expect("rules that can be");
    let pattern = Pattern::new(TOPIC_PATTERN).expect("a pattern");
    let factory = Arc::new(Typed(Arc::new(handler)));
    let routes = [Route { pattern, rules, topics: Some(Default::default()), factory }];
    let handlers: Vec<_> = routes.iter().map(|route| route.factory.on_shard()).collect();
    Handlers::new(&routes, &handlers, Tasks::default())
}

/// Returns an opening request for a WebSocket that the route has accepted.
pub(super) fn arrival<S>(
    socket: S,
    subscriptions: Vec<(TopicName, bool)>,
    forwards: Option<(TopicName, Scope)>,
    answer: Bytes,
    leftover: BytesMut,
) -> Arrival<S> {
    let subscriptions = subscriptions
        .into_iter()
        .map(|(topic, echo)| (topic, SubscribeOptions { has_echo: echo, ..SubscribeOptions::default() }))
        .collect();
    Arrival {
        begun: Instant::now(),
        access: None,
        socket,
        of_address: None,
        named: None,
        session: Session::web_socket(),
        route: 0,
        state: Box::new(()),
        profile: None,
        limits: None,
        subscriptions,
        forwards,
        format: Format::RAW,
        answer,
        leftover,
    }
}

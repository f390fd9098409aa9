//! The state of a simulated run: a shard, its network, its clients, and the clock of all of them.

use std::{cell::RefCell, fmt::Arguments, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    super::{arrival::Arrival, seats::Handlers, state::Shard},
    answering::Answering,
    client::Client,
    network::Network,
    plan::Plan,
    random::Random,
    socket::SimulatedIo,
};
use crate::{
    config::{Config, Sources, settle},
    handler::{Pattern, Route, RouteOptions, Tasks, Typed},
    hub::{MeshEnd, Scope, SubscribeOptions, TopicName},
    metrics::Counters,
    proto::{KeepAlive, Millis, Tick},
    surface::raw::TOPIC_PATTERN,
};

/// A simulated run. Its methods stand on floors, each of which calls only those below: the checks, the actions, the
/// turns and the time between them, and the run from its beginning to its end.
pub(super) struct Simulation {
    pub(super) shard: Shard<SimulatedIo>,
    pub(super) counters: Arc<Counters>,
    pub(super) network: Rc<RefCell<Network>>,
    pub(super) random: Random,
    /// Clients by number; the first ones observe a topic each.
    pub(super) clients: Vec<Client>,
    pub(super) topics: Vec<TopicName>,
    pub(super) plan: Plan,
    pub(super) keep_alive: KeepAlive,
    pub(super) now: Tick,
    /// The time that the shard was given last.
    moment: Millis,
    /// Ticks since the observers were last brought up to date.
    pub(super) ticks_restless: u32,
    /// The last turn has left work, or a connection has arrived since.
    pub(super) more: bool,
    pub(super) is_draining: bool,
    pub(super) is_logged: bool,
}

impl Simulation {
    /// Returns a run without clients.
    pub(super) fn without_clients(mut random: Random, plan: Plan, is_logged: bool, config: &Config) -> Self {
        let network = Rc::new(RefCell::new(Network::new(Random::new(random.next()), plan.weather)));
        let counters = Arc::new(Counters::default());
        let io = SimulatedIo(Rc::clone(&network));
        let mut shard =
            Shard::new(MeshEnd::alone(), config, io, handlers(config), Arc::clone(&counters), 1, plan.start.begin());
        shard.pace = plan.pace;
        shard.hub.limits.subscriptions_max = plan.subscriptions_max;
        shard.hub.connections.let_rest(plan.slots_resting);
        let name = |number| TopicName::new(&format!("topic {number}")).expect("a name");
        Simulation {
            keep_alive: config.keep_alive,
            shard,
            counters,
            network,
            random,
            clients: Vec::new(),
            topics: (0..plan.topics).map(name).collect(),
            plan,
            now: plan.start,
            moment: plan.start.begin(),
            ticks_restless: 0,
            more: false,
            is_draining: false,
            is_logged,
        }
    }

    /// Returns the time for a call of the shard: a millisecond later than for the call before, as long as the tick
    /// lasts.
    pub(super) fn moment(&mut self) -> Millis {
        let last_of_tick = Millis(self.now.after(1).begin().0 - 1);
        self.moment = Millis(self.moment.0 + 1).clamp(self.now.begin(), last_of_tick);
        self.moment
    }

    /// Returns one of the clients with anything left to happen.
    pub(super) fn any_client(&mut self) -> Option<usize> {
        let network = self.network.borrow();
        (!network.active.is_empty()).then(|| self.random.pick(&network.active))
    }

    /// Returns the offset of each topic's last message.
    pub(super) fn offsets(&self) -> Vec<u64> {
        self.topics.iter().map(|name| self.shard.hub.offset(name)).collect()
    }

    /// Prints what happens, where one run is replayed.
    pub(super) fn log(&self, what: Arguments<'_>) {
        if self.is_logged {
            println!("{what}");
        }
    }
}

/// Returns the only route: topics as they are, and answers to clients whose messages go to no topic.
pub(super) fn handlers(config: &Config) -> Handlers {
    handlers_with(config, RouteOptions::new())
}

pub(super) fn handlers_with(config: &Config, options: RouteOptions) -> Handlers {
    let options = options.forget_request().no_broadcast();
    let rules = settle(&options, Sources::WebSockets, &config.base_of_routes()).expect("rules that can be");
    let pattern = Pattern::new(TOPIC_PATTERN).expect("a pattern");
    let factory = Arc::new(Typed(Arc::new(Answering)));
    let routes = [Route { pattern, rules, topics: Some(Default::default()), factory }];
    let handlers: Vec<_> = routes.iter().map(|route| route.factory.on_shard()).collect();
    Handlers::new(&routes, &handlers, Tasks::default())
}

/// Returns an opening request that the route has accepted.
pub(super) fn arrival<S>(
    socket: S,
    subscriptions: Vec<(TopicName, bool)>,
    forwards: Option<(TopicName, Scope)>,
    answer: Bytes,
    leftover: BytesMut,
) -> Arrival<S> {
    let subscriptions =
        subscriptions.into_iter().map(|(topic, echo)| (topic, SubscribeOptions { has_echo: echo })).collect();
    Arrival {
        socket,
        of_address: None,
        route: 0,
        state: Box::new(()),
        profile: None,
        limits: None,
        subscriptions,
        forwards,
        answer,
        leftover,
    }
}

//! A shard on a network made of one seed.
//!
//! The real [`Shard`] runs its turns over a simulated [`Io`](crate::sys::Io) under a clock of its own, driven just as
//! the shard's thread drives it: after a turn that says there is more, when the ring has a report, at the next
//! deadline, and after an arrival. Its clients speak through the client role of `proto`. The seed draws everything:
//! what they do, what the network does to it ([`network`]), the limits, and the size of each portion of work
//! ([`Pace`]), so that a handful of subscribers meets the interleavings of many thousand.
//!
//! What is checked:
//!
//! - of every byte as a socket takes it ([`stream`]): the answer of the opening handshake first, then whole frames,
//!   nothing behind a close frame, no end before it;
//! - of every client as it reads ([`client`]): no protocol error, payloads intact, pings answered in order;
//! - after every turn ([`Simulation::check_turn`]): limits kept, gauges true, nobody waits for what will not come;
//! - at the end ([`Simulation::check_end`]): on each topic an observer, which has all the room it needs and never
//!   leaves, has seen the one order. What any other client has seen of a topic are pieces of it without gap or
//!   repetition, each from the message after it subscribed, less its own if it asked for no echo, to where it gave the
//!   topic up or left; each client's messages stand in it in the order it sent them; and the counters agree with what
//!   happened.
//!
//! `RINGHUB_SEED=n cargo test simulator -- --nocapture` replays one run and tells what happens in it; `RINGHUB_SEEDS`
//! says how many to run.

mod answering;
mod checks;
mod client;
mod crowds;
mod network;
mod plan;
mod random;
mod seen;
mod signs_of_life;
mod stream;
mod topics;

use std::{cell::RefCell, env, fmt::Arguments, panic, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use self::{
    answering::Answering,
    client::{Client, Leaving, Subscription},
    network::{End, Network, SimulatedIo, Weather},
    plan::Plan,
    random::Random,
    seen::Seen,
};
use super::{
    arrival::Arrival,
    driver::{AfterTurn, Next, decide},
    io_state::Reading,
    pace::Pace,
    seats::Handlers,
    state::Shard,
};
use crate::{
    config::{Config, Settings, settle},
    handler::{Pattern, Route, RouteOptions, Tasks, Typed},
    hub::{MeshEnd, Scope, SubscribeOptions, Subscribed, TopicName},
    metrics::{Counter, Counters},
    proto::{CloseCode, KeepAlive, State, Tick},
    surface::raw::TOPIC_PATTERN,
};

struct Simulation {
    shard: Shard<SimulatedIo>,
    counters: Arc<Counters>,
    network: Rc<RefCell<Network>>,
    random: Random,
    /// By number; the first ones observe a topic each.
    clients: Vec<Client>,
    topics: Vec<TopicName>,
    plan: Plan,
    keep_alive: KeepAlive,
    now: Tick,
    /// Ticks since the observers were last brought up to date.
    ticks_restless: u32,
    /// The shard said that there is more to do, or something has arrived.
    more: bool,
    is_draining: bool,
    is_told: bool,
}

/// The only route: topics as they are, and answers to those who forward to none.
fn handlers(config: &Config) -> Handlers {
    handlers_with(config, RouteOptions::new())
}

fn handlers_with(config: &Config, options: RouteOptions) -> Handlers {
    let options = options.forget_request().no_broadcast();
    let rules = settle(&options, &config.base_of_routes()).expect("rules that can be");
    let pattern = Pattern::new(TOPIC_PATTERN).expect("a pattern");
    let factory = Arc::new(Typed(Arc::new(Answering)));
    let routes = [Route { pattern, rules, topics: Some(Default::default()), factory }];
    let handlers: Vec<_> = routes.iter().map(|route| route.factory.on_shard()).collect();
    Handlers::new(&routes, &handlers, Tasks::default())
}

/// An opening request that the route has accepted.
fn arrival<S>(
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

impl Simulation {
    /// `config` becomes what the seed draws.
    fn of_seed(seed: u64, is_told: bool, config: &Config) -> Self {
        let mut random = Random::new(seed);
        let mut config = config.clone();
        let plan = Plan::draw(&mut random, &mut config);
        Self::new(random, plan, is_told, &config)
    }

    fn new(mut random: Random, plan: Plan, is_told: bool, config: &Config) -> Self {
        let network = Rc::new(RefCell::new(Network::new(Random::new(random.next()), plan.weather)));
        let counters = Arc::new(Counters::default());
        let io = SimulatedIo(Rc::clone(&network));
        let mut shard =
            Shard::new(MeshEnd::alone(), config, io, handlers(config), Arc::clone(&counters), 1, plan.start);
        shard.pace = plan.pace;
        shard.hub.limits.subscriptions_max = plan.subscriptions_max;
        shard.hub.connections.let_rest(plan.slots_resting);
        let name = |number| TopicName::new(&format!("topic {number}")).expect("a name");
        let mut simulation = Simulation {
            keep_alive: config.keep_alive,
            shard,
            counters,
            network,
            random,
            clients: Vec::new(),
            topics: (0..plan.topics).map(name).collect(),
            plan,
            now: plan.start,
            ticks_restless: 0,
            more: false,
            is_draining: false,
            is_told,
        };
        simulation.tell(format_args!("{plan:#?} {:#?}", config.limits));
        for topic in 0..plan.topics {
            simulation.join(Some(topic));
        }
        simulation
    }

    fn run(&mut self) {
        for _ in 0..self.plan.steps {
            self.step();
        }
        if self.plan.settles {
            self.settle();
            self.check_settled();
            if self.keep_alive.ping_interval > 0 {
                self.let_time_pass();
            }
        }
        self.drain();
        self.check_end();
        self.network.borrow_mut().is_over = true;
    }

    /// One thing happens.
    fn step(&mut self) {
        match self.random.within(0..=99) {
            0..=4 => self.join(None),
            5..=34 => self.act(),
            35..=59 => self.move_bytes(),
            60..=69 => self.look(),
            70 => self.pass(1),
            72..=79 => self.embed(),
            71 if self.keep_alive.ping_interval > 0 && self.random.chance(300) => self.jump(),
            _ => drop(self.serve()),
        }
    }

    /// A client establishes a connection. An observer of a topic, if one is named.
    fn join(&mut self, observes: Option<usize>) {
        let alive = self.clients.iter().skip(self.topics.len()).filter(|client| !client.gone).count();
        if observes.is_none() && alive >= self.plan.clients_max {
            return;
        }
        let random = &mut self.random;
        let number = self.clients.len();
        let topic = observes.unwrap_or_else(|| random.within(0..=self.topics.len() - 1));
        let answer = format!("HTTP/1.1 101 {number}\r\n{}\r\n", "x".repeat(random.within(0..=60)));
        let mut client = Client::new(number, topic, answer.as_bytes(), random);
        let mut room = usize::MAX;
        let subscribes = observes.is_some() || !random.chance(100);
        let has_more = observes.is_none() && random.chance(400);
        if observes.is_some() {
            client.publishes = false;
        } else {
            room = random.within(8..=self.plan.room_max);
            client.echo = random.chance(400);
            let only_receives = subscribes && random.chance(150);
            client.publishes = !self.is_draining && !only_receives;
            client.deaf = random.chance(30);
            client.mute = random.chance(50);
        }
        let socket = Network::connect(&self.network, answer.as_bytes(), room);
        let leftover = self.speak_early(&mut client);
        let offsets: Vec<u64> = self.topics.iter().map(|name| self.shard.hub.offset(name)).collect();
        let mut subscribe = |topic, echo| {
            client.subscriptions.push(Subscription { topic, echo, from: offsets[topic], until: None });
        };
        if subscribes {
            subscribe(topic, client.echo);
        }
        if has_more {
            let others = (0..self.topics.len()).filter(|&other| other != topic);
            for other in others.take(self.plan.subscriptions_max - 1) {
                if self.random.chance(700) {
                    subscribe(other, self.random.chance(500));
                }
            }
        }
        client.open_until = offsets;
        client.spoken = vec![0; self.topics.len()];
        let told = format!(
            "client {number} of topic {topic} joins {:?} (publishes {}, deaf {}, mute {}), room {room}, \
             {} bytes left over",
            client.subscriptions,
            client.publishes,
            client.deaf,
            client.mute,
            leftover.len()
        );
        let name = |topic: usize| self.topics[topic].clone();
        let answer = Bytes::from(answer.into_bytes());
        self.clients.push(client);
        self.tell(format_args!("{told}"));
        let client = &self.clients[number];
        let subscriptions = if has_more {
            client.subscriptions.iter().map(|own| (name(own.topic), own.echo)).collect()
        } else if subscribes {
            vec![(name(topic), client.echo)]
        } else {
            Vec::new()
        };
        let forwards = client.publishes.then(|| (name(topic), Scope::Server));
        let id = self.shard.adopt(self.now, arrival(socket, subscriptions, forwards, answer, leftover));
        self.tell(format_args!("client {number} is {id:?}"));
        self.clients[number].id = id;
        self.more = true;
    }

    /// Some speak before they have read the answer. Returns what arrives together with the opening request.
    fn speak_early(&mut self, client: &mut Client) -> BytesMut {
        let network = &mut *self.network.borrow_mut();
        network.lines[client.number].stalled = client.mute;
        if client.publishes && !client.mute && self.random.chance(300) {
            client.compose(self.random.within(0..=100), &mut self.random);
            client.put(10, network);
        }
        let line = &mut network.lines[client.number];
        let count = self.random.within(0..=line.on_the_way.len());
        line.on_the_way.drain(..count).collect()
    }

    /// A client does something.
    fn act(&mut self) {
        let Some(number) = self.any_client() else { return };
        let network = &mut *self.network.borrow_mut();
        let (client, random) = (&mut self.clients[number], &mut self.random);
        if number < self.topics.len() || client.mute {
            return;
        }
        if !client.can_send() {
            return;
        }
        let what = match random.within(0..=99) {
            0..=44 if client.publishes => {
                let most = random.pick(&[0, 20, 150, self.plan.message_max]).min(self.plan.message_max);
                let name = client.compose(random.within(0..=most), random);
                format!("composes {name:x}")
            }
            45..=74 => {
                let count = random.within(1..=6);
                client.put(count, network);
                "sends".into()
            }
            75..=81 => {
                client.ping(network);
                "pings".into()
            }
            // Nothing goes elsewhere, so its handler takes it.
            0..=44 if client.has_sent_all() => {
                client.ask(network);
                "asks".into()
            }
            82..=89 => {
                let line = &mut network.lines[number];
                line.stalled = !line.stalled;
                format!("stalls: {}", line.stalled)
            }
            90..=95 => {
                let how = match random.within(0..=9) {
                    0..=3 => Leaving::Handshake,
                    4 | 5 => Leaving::Cut(End::Finished),
                    6 => Leaving::Cut(End::Closed),
                    7 => Leaving::Cut(End::Reset),
                    8 if !client.publishes => random.pick(&[Leaving::Trespass, Leaving::Asking]),
                    _ => Leaving::Breach,
                };
                client.leave(how, random, network);
                format!("leaves: {how:?}")
            }
            _ => return,
        };
        self.tell(format_args!("client {number} {what}"));
    }

    /// What a handler may do: a connection subscribes, gives a topic up, or publishes, in mid-life.
    fn embed(&mut self) {
        let Some(number) = self.any_client().filter(|&number| number >= self.topics.len()) else { return };
        let topic = self.random.within(0..=self.topics.len() - 1);
        let (client, name) = (&mut self.clients[number], &self.topics[topic]);
        let Some(id) = client.id else { return };
        let offset = self.shard.hub.offset(name);
        let count = client.subscriptions.iter().filter(|subscription| subscription.until.is_none()).count();
        let connection = self.shard.hub.connections.get(id);
        let is_open = connection.is_some_and(|connection| connection.websocket.state() == State::Open);
        let told = match self.random.within(0..=9) {
            0..=3 => {
                let echo = if topic == client.topic { client.echo } else { self.random.chance(500) };
                let outcome = self.shard.hub.subscribe(id, name, SubscribeOptions { has_echo: echo });
                let expected = match client.subscription(topic) {
                    _ if !is_open => Subscribed::Closed,
                    Some(_) => Subscribed::Already,
                    None if count >= self.plan.subscriptions_max => Subscribed::TooMany,
                    None => Subscribed::Live,
                };
                assert_eq!(outcome, expected, "client {number} and topic {topic}");
                if outcome == Subscribed::Live {
                    client.subscriptions.push(Subscription { topic, echo, from: offset, until: None });
                }
                format!("subscribes to topic {topic} behind {offset} (echo {echo}): {outcome:?}")
            }
            4 | 5 => {
                self.shard.unsubscribe(id, name);
                if is_open && let Some(subscription) = client.subscription(topic) {
                    subscription.until = Some(offset);
                    // What it is still owed may make a backlog of any size: it had kept up.
                    client.backlog = None;
                    // Or it had not, and that was too much.
                    let connection = self.shard.hub.connections.get(id);
                    if connection.is_none_or(|connection| connection.websocket.state() != State::Open) {
                        let offsets = self.topics.iter().map(|name| self.shard.hub.offset(name));
                        client.closed_at = Some(offsets.collect());
                    }
                }
                format!("gives up topic {topic} at {offset}")
            }
            _ if topic != client.topic && connection.is_some() && !self.is_draining => {
                let most = self.random.pick(&[0, 20, 150, self.plan.message_max]).min(self.plan.message_max);
                let (message_name, message) = client.speak(topic, self.random.within(0..=most));
                self.shard.hub.publish_by_name(name, Some(id), &message, Scope::Server);
                format!("publishes {message_name:x} to topic {topic}")
            }
            _ => return,
        };
        self.more = true;
        self.tell(format_args!("client {number} {told}"));
    }

    /// The network carries something.
    fn move_bytes(&mut self) {
        let Some(number) = self.any_client() else { return };
        let network = &mut *self.network.borrow_mut();
        let most = self.random.pick(&[1, 7, 50, 1_000, 1_000_000]);
        if self.random.chance(500) {
            network.arrive(number, most);
        } else if !network.lines[number].stalled {
            network.fetch(number, most);
        }
    }

    fn look(&mut self) {
        let Some(number) = self.any_client() else { return };
        let network = &mut *self.network.borrow_mut();
        self.clients[number].look(self.now, network);
        if self.random.chance(500) {
            self.clients[number].follow_the_end(network);
        }
    }

    fn any_client(&mut self) -> Option<usize> {
        let network = self.network.borrow();
        (!network.active.is_empty()).then(|| self.random.pick(&network.active))
    }

    /// The shard's thread, once around: a turn if one is due. Returns whether one was.
    fn serve(&mut self) -> bool {
        let has_work = self.more || self.network.borrow().has_reports();
        let is_due = match decide(AfterTurn { has_work, is_drained: false }, || self.shard.next_deadline()) {
            Next::Again => true,
            Next::Sleep(until) => until.is_some_and(|until| until <= self.now),
            Next::End => unreachable!("it is not drained"),
        };
        if is_due {
            let before = (self.counters.get(Counter::CloseTimeout), self.network.borrow().tally.cut_off);
            self.more = self.shard.turn(self.now);
            self.tell(format_args!(
                "turn at {:?}: {} pings sent, {} bytes in, {} bytes out",
                self.now,
                self.counters.get(Counter::PingsSent),
                self.counters.get(Counter::BytesIn),
                self.counters.get(Counter::BytesOut)
            ));
            self.check_turn(before);
        }
        is_due
    }

    fn pass(&mut self, ticks: u32) {
        self.ticks_restless += ticks;
        if self.ticks_restless > self.keep_alive.pong_timeout / 2 {
            self.calm_observers();
        }
        self.now = self.now.after(ticks);
        self.tell(format_args!("it is {:?}", self.now));
    }

    /// Much time passes at once.
    fn jump(&mut self) {
        let KeepAlive { ping_interval, pong_timeout, close_timeout } = self.keep_alive;
        let ticks = self.random.pick(&[ping_interval, ping_interval + 1, pong_timeout, close_timeout, 600]);
        self.calm_observers();
        self.now = self.now.after(ticks);
        self.tell(format_args!("it is {:?}", self.now));
        self.calm_observers();
    }

    /// Lets the observers answer their pings, so that they never have to leave.
    fn calm_observers(&mut self) {
        self.ticks_restless = 0;
        for _ in 0..ROUNDS_MAX {
            let mut something = self.serve();
            let network = &mut *self.network.borrow_mut();
            for observer in &mut self.clients[..self.topics.len()] {
                network.fetch(observer.number, usize::MAX);
                let line = &network.lines[observer.number];
                something |= !line.fetched.is_empty() || !line.on_the_way.is_empty();
                observer.look(self.now, network);
                network.arrive(observer.number, usize::MAX);
            }
            if !something {
                let left = self.clients[..self.topics.len()].iter().find(|observer| observer.close.is_some());
                assert!(left.is_none(), "an observer was sent away: {left:x?}");
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    /// Nothing new happens, and everybody but the mute reads until nothing comes any more.
    fn settle(&mut self) {
        self.tell(format_args!("settles"));
        {
            let network = &mut *self.network.borrow_mut();
            network.weather = Weather::FAIR;
            for client in self.clients.iter_mut().filter(|client| !client.mute) {
                client.put(usize::MAX, network);
                let line = &mut network.lines[client.number];
                line.stalled = false;
                line.room = line.room.max(1 << 20);
            }
        }
        for _ in 0..ROUNDS_MAX {
            let served = self.serve();
            let network = &mut *self.network.borrow_mut();
            for number in network.active.clone() {
                let client = &mut self.clients[number];
                network.arrive(number, usize::MAX);
                if !client.mute {
                    network.fetch(number, usize::MAX);
                    client.look(self.now, network);
                    client.follow_the_end(network);
                }
            }
            if !served && !self.more && network.is_quiet() {
                if self.shard.flush.next_try().is_none() {
                    return;
                }
                // Who was refused in spite of room tries again.
                self.now = self.now.after(1);
            }
        }
        panic!("the shard does not come to rest");
    }

    /// Time passes, with nothing but the keep-alive happening.
    fn let_time_pass(&mut self) {
        let KeepAlive { ping_interval, pong_timeout, close_timeout } = self.keep_alive;
        let end = self.now.after(3 * (ping_interval + pong_timeout + close_timeout));
        let open: Vec<usize> =
            self.open_clients().filter(|client| !client.mute && !client.deaf).map(|c| c.number).collect();
        while self.now < end {
            let due = self.shard.next_deadline().unwrap_or(end).max(self.now.after(1));
            self.now = due.min(end);
            self.settle();
        }
        for number in open {
            assert!(!self.clients[number].gone, "client {number} answers its pings and was dropped");
        }
        if pong_timeout > 0 {
            let dead = self.clients.iter().find(|client| (client.mute || client.deaf) && !client.gone);
            assert!(dead.is_none(), "a dead client is still there: {dead:?}");
        }
    }

    /// The shard is told to leave, and does.
    fn drain(&mut self) {
        let ticks = self.random.within(1..=40) as u32;
        self.tell(format_args!("drains in {ticks} ticks"));
        self.is_draining = true;
        self.calm_observers();
        self.shard.drain(self.now, ticks);
        self.more = true;
        if !self.plan.settles {
            for _ in 0..self.random.within(0..=20) {
                self.serve();
                self.move_bytes();
                self.look();
            }
            self.plan.clients_max += 1;
            self.join(None);
        }
        self.settle();
        let end = self.now.after(ticks + self.keep_alive.close_timeout + 2);
        while self.now < end && !self.shard.is_empty() {
            let due = self.shard.next_deadline().unwrap_or(end);
            self.now = due.max(self.now.after(1)).min(end);
            self.settle();
        }
        assert!(self.shard.is_empty(), "{} connections do not leave", self.shard.open());
    }

    fn tell(&self, what: Arguments<'_>) {
        if self.is_told {
            println!("{what}");
        }
    }
}

/// While receiving pauses, what a client has sent waits in its socket: that is not the client's silence.
#[test]
fn a_client_that_waits_to_be_read_is_not_silent() {
    let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    config.limits.gathered_bytes_max = 1;
    config.keep_alive = KeepAlive { ping_interval: 50, pong_timeout: 20, close_timeout: 50 };
    let pace = Pace {
        receive_batch: 1,
        receive_batches: 1,
        frames: 1,
        send_batch: 1,
        entry_pieces: 1,
        flush_entries: 1,
        flush_bytes: 1,
        batch_bytes: 1,
        backlog_pieces: 1,
        backlog_bytes: 1,
        mail: 1,
    };
    let mut simulation = Simulation::new(Random::new(0), Plan { pace, ..Plan::CALM }, false, &config);
    for _ in 0..10 {
        simulation.join(None);
    }
    simulation.settle();
    let is_plain =
        |client: &&Client| client.publishes && !client.subscriptions.is_empty() && !client.mute && !client.deaf;
    let plain: Vec<usize> = simulation.clients.iter().filter(is_plain).map(|client| client.number).collect();
    let [first, second, ..] = plain[..] else { panic!("chance made too few plain clients") };
    let speak = |simulation: &mut Simulation, number: usize| {
        let network = &mut *simulation.network.borrow_mut();
        let client = &mut simulation.clients[number];
        client.compose(5, &mut simulation.random);
        client.put(usize::MAX, network);
        network.arrive(number, usize::MAX);
    };
    // The walk over the subscribers of the first message takes many turns, and the second waits for it.
    speak(&mut simulation, first);
    simulation.serve();
    speak(&mut simulation, second);
    for _ in 0..2 {
        simulation.now = simulation.now.after(60);
        simulation.serve();
    }
    let id = simulation.clients[second].id.expect("it has joined");
    let waiting = simulation.shard.hub.connections.get(id).expect("it is still there");
    assert!(waiting.io.reading == Reading::Queued && waiting.websocket.state() == State::Open);
    assert!(simulation.counters.get(Counter::PongTimeout) > 0, "the others were silent");
    simulation.network.borrow_mut().is_over = true;
}

/// A kernel that is short of memory refuses a send although it says that there is room. That is tried once a tick, not
/// turn after turn.
#[test]
fn a_shortage_of_memory_is_waited_out() {
    let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    let mut simulation = Simulation::new(Random::new(0), Plan::CALM, false, &config);
    for _ in 0..10 {
        simulation.join(None);
    }
    simulation.settle();
    let speaks = |client: &&Client| client.publishes && !client.mute && !client.deaf;
    let number = simulation.clients.iter().find(speaks).expect("chance made none that speaks").number;
    simulation.network.borrow_mut().is_short_of_memory = true;
    {
        let network = &mut *simulation.network.borrow_mut();
        let client = &mut simulation.clients[number];
        client.compose(5, &mut simulation.random);
        client.put(usize::MAX, network);
        network.arrive(number, usize::MAX);
    }
    for tick in 0..20 {
        let mut turns = 0;
        while simulation.serve() {
            turns += 1;
            assert!(turns < 10, "the shard does not come to rest at tick {tick}");
        }
        assert!(turns > 0, "nobody tries again at tick {tick}");
        assert!(simulation.counters.get(Counter::SlowConsumers) > 0, "somebody was sent to");
        assert_eq!(simulation.shard.next_deadline(), Some(simulation.now.after(1)));
        simulation.now = simulation.now.after(1);
    }
    simulation.network.borrow_mut().is_short_of_memory = false;
    simulation.settle();
    simulation.check_settled();
    assert_eq!(simulation.counters.get(Counter::SlowConsumers), 0);
    simulation.network.borrow_mut().is_over = true;
}

/// Whoever has begun to send a message that is too big is told when the rest has come, or half of the close timeout has
/// passed; whoever breaks the protocol at once.
#[test]
fn a_close_for_a_size_waits_for_the_rest() {
    let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    config.keep_alive.close_timeout = 50;
    // A frame of 2^63 - 1 bytes; one with a reserved bit.
    let too_big: &[u8] = b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0 and so on";
    let (broken, rest): (&[u8], &[u8]) = (b"\xc1\x80\0\0\0\0", b"more");
    for (first, ticks_of_rest, told_at) in [(too_big, 0, 3), (too_big, 10, 13), (too_big, 100, 25), (broken, 10, 0)] {
        let mut simulation = Simulation::new(Random::new(0), Plan::CALM, false, &config);
        simulation.join(None);
        simulation.settle();
        let number = simulation.clients.len() - 1;
        simulation.clients[number].mute = true;
        let begin = simulation.now;
        let mut told = None;
        for tick in 0..=40 {
            let bytes = if tick == 0 { first } else { rest };
            if tick <= ticks_of_rest {
                let network = &mut *simulation.network.borrow_mut();
                network.lines[number].on_the_way.extend(bytes);
                network.arrive(number, usize::MAX);
            }
            while simulation.serve() {}
            if told.is_none() && simulation.network.borrow().lines[number].stream.has_ended() {
                told = Some(simulation.now.since(begin));
                assert!(simulation.network.borrow().lines[number].finished, "its end follows at once");
            }
            simulation.now = simulation.now.after(1);
        }
        assert_eq!(told, Some(told_at), "{ticks_of_rest} ticks of more");
        assert_eq!(simulation.counters.get(Counter::ProtocolErrors), 1);
        simulation.network.borrow_mut().is_over = true;
    }
}

/// A client that answers a close at the last moment, and then does not end its side, gets no second close timeout.
#[test]
fn a_close_takes_one_close_timeout_in_all() {
    let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    config.keep_alive.close_timeout = 50;
    let mut simulation = Simulation::new(Random::new(0), Plan::CALM, false, &config);
    simulation.join(None);
    simulation.settle();
    let number = simulation.clients.len() - 1;
    simulation.clients[number].mute = true;
    let id = simulation.clients[number].id.expect("it has joined");
    simulation.shard.close(id, CloseCode::GOING_AWAY, "");
    simulation.more = true;
    for tick in 0..50 {
        if tick == 45 {
            let network = &mut *simulation.network.borrow_mut();
            network.lines[number].on_the_way.extend(b"\x88\x80\0\0\0\0");
            network.arrive(number, usize::MAX);
        }
        while simulation.serve() {}
        let state = simulation.shard.hub.connections.get(id).map(|connection| connection.websocket.state());
        assert_eq!(state, Some(if tick < 45 { State::Closing } else { State::Closed }), "tick {tick}");
        simulation.now = simulation.now.after(1);
    }
    while simulation.serve() {}
    assert!(simulation.shard.hub.connections.get(id).is_none());
    assert_eq!(simulation.counters.get(Counter::CloseTimeout), 1);
    simulation.network.borrow_mut().is_over = true;
}

/// Rounds in which a shard must come to rest when nothing new happens.
const ROUNDS_MAX: usize = 100_000;

fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn seeds() {
    let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    if let Some(seed) = number_of("RINGHUB_SEED") {
        return Simulation::of_seed(seed, true, &config).run();
    }
    let count = number_of("RINGHUB_SEEDS").unwrap_or(SEEDS);
    let mut seen = Seen::default();
    for seed in 0..count {
        let run = panic::AssertUnwindSafe(|| {
            let mut simulation = Simulation::of_seed(seed, false, &config);
            simulation.run();
            simulation
        });
        match panic::catch_unwind(run) {
            Ok(simulation) => seen.add(&simulation),
            Err(cause) => {
                println!("replay with RINGHUB_SEED={seed} cargo test simulator -- --nocapture");
                panic::resume_unwind(cause);
            }
        }
    }
    println!("{seen}");
    if count >= SEEDS {
        seen.check();
    }
}

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1_500;

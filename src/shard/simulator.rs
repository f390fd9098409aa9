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
//!   leaves, has seen the one order. What any other client has seen is a piece of it without gap or repetition, from
//!   the message after its joining, less its own if it asked for no echo, to its leaving; each client's messages stand
//!   in it in the order it sent them; and the counters agree with what happened.
//!
//! `RINGHUB_SEED=n cargo test simulator -- --nocapture` replays one run and tells what happens in it; `RINGHUB_SEEDS`
//! says how many to run.

mod client;
mod network;
mod random;
mod stream;

use std::{cell::RefCell, env, fmt::Arguments, panic, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};
use clap::Parser;

use self::{
    client::{Client, EMPTY, Leaving, Name, sender},
    network::{End, Network, SimulatedIo, Tally, Weather},
    random::Random,
};
use super::{
    pace::Pace,
    turn::{Arrival, Shard},
};
use crate::{
    config::{Config, Settings},
    hub::{Scope, TopicName},
    metrics::{Counter, Counters},
    proto::{CloseCode, KeepAlive, State, Tick},
    surface::raw::RawRequest,
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
    now: Tick,
    /// Ticks since the observers were last brought up to date.
    ticks_restless: u32,
    /// The shard said that there is more to do, or something has arrived.
    more: bool,
    is_draining: bool,
    is_told: bool,
}

/// What the seed has drawn for the whole run.
#[derive(Debug, Clone, Copy)]
struct Plan {
    steps: usize,
    clients_max: usize,
    /// Largest message; few runs have large ones.
    message_max: usize,
    /// Largest room of a socket.
    room_max: usize,
    backlog_is_limited: bool,
    keep_alive: KeepAlive,
    /// Clients get what they are owed before the end begins.
    settles: bool,
}

impl Simulation {
    fn new(seed: u64, is_told: bool, config: &Config) -> Self {
        let mut random = Random::new(seed);
        let mut config = config.clone();
        let keep_alive = KeepAlive {
            ping_interval: if random.chance(500) { 0 } else { random.within(20..=80) as u32 },
            pong_timeout: if random.chance(300) { 0 } else { random.within(10..=40) as u32 },
            close_timeout: random.within(10..=50) as u32,
        };
        let huge = 1 << 30;
        let backlog_is_limited = random.chance(500);
        config.keep_alive = keep_alive;
        config.limits.gathered_bytes_max = random.pick(&[1, 100, 5_000, huge, huge]);
        config.limits.backlog_bytes_max = huge;
        config.limits.backlog_messages_max = huge as u64;
        if backlog_is_limited {
            config.limits.backlog_bytes_max = random.pick(&[200, 1_000, 5_000, 60_000]);
            config.limits.backlog_messages_max = random.pick(&[1, 3, 10, huge as u64]);
        }
        let mut often = |per_mille: &[u32]| random.pick(per_mille);
        let weather = Weather {
            late: often(&[0, 100, 500, 900]),
            repeated: often(&[0, 0, 100]),
            ended: often(&[0, 50, 300]),
            short_receive: often(&[0, 100, 400]),
            short_send: often(&[0, 50, 300]),
            busy: often(&[0, 300, 900]),
        };
        let plan = Plan {
            steps: random.within(100..=1_500),
            clients_max: random.within(2..=14),
            message_max: if random.chance(60) { 200_000 } else { random.pick(&[30, 300, 3_000]) },
            room_max: random.pick(&[30, 300, 3_000, 100_000]),
            backlog_is_limited,
            keep_alive,
            settles: random.chance(500),
        };
        let topics = random.within(1..=3);
        let network = Rc::new(RefCell::new(Network::new(Random::new(random.next()), weather)));
        let counters = Arc::new(Counters::default());
        let io = SimulatedIo(Rc::clone(&network));
        let now = Tick(random.within(0..=2_000) as u32);
        let mut shard = Shard::new(0, &config, io, Arc::clone(&counters), 1, now);
        if random.chance(900) {
            let mut portion = || random.pick(&[1, 1, 2, 3, 8, 64]);
            shard.pace = Pace {
                receive_batch: portion(),
                receive_batches: portion(),
                send_batch: portion(),
                flush_entries: portion(),
                backlog_pieces: portion(),
            };
        }
        let topics = (0..topics).map(|number| TopicName::new(&format!("topic {number}")).expect("a name")).collect();
        let mut simulation = Simulation {
            shard,
            counters,
            network,
            random,
            clients: Vec::new(),
            topics,
            plan,
            now,
            ticks_restless: 0,
            more: false,
            is_draining: false,
            is_told,
        };
        simulation.tell(format_args!("{plan:?} {weather:?} {:?} {:?}", simulation.shard.pace, config.limits));
        for topic in 0..simulation.topics.len() {
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
            if self.plan.keep_alive.ping_interval > 0 {
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
            71 if self.plan.keep_alive.ping_interval > 0 && self.random.chance(300) => self.jump(),
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
        if observes.is_some() {
            client.publishes = false;
        } else {
            room = random.within(8..=self.plan.room_max);
            client.echo = random.chance(400);
            client.subscribes = !random.chance(100);
            let only_receives = client.subscribes && random.chance(150);
            client.publishes = !self.is_draining && !only_receives;
            client.deaf = random.chance(30);
            client.mute = random.chance(50);
        }
        let socket = Network::connect(&self.network, answer.as_bytes(), room);
        let leftover = self.speak_early(&mut client);
        client.joined_at = self.shard.hub.offset(&self.topics[topic]);
        client.open_until = client.joined_at;
        let request = RawRequest {
            topic: self.topics[topic].clone(),
            subscribes: client.subscribes,
            publishes: client.publishes,
            echo: client.echo,
            scope: Scope::Global,
        };
        let told = format!(
            "client {number} joins topic {topic} behind {} (echo {}, subscribes {}, publishes {}, deaf {}, mute {}), \
             room {room}, {} bytes left over",
            client.joined_at,
            client.echo,
            client.subscribes,
            client.publishes,
            client.deaf,
            client.mute,
            leftover.len()
        );
        self.clients.push(client);
        self.tell(format_args!("{told}"));
        let answer = Bytes::from(answer.into_bytes());
        let arrival = Arrival { socket, request, answer, leftover };
        let id = self.shard.adopt(self.now, arrival);
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
                    8 if !client.publishes => Leaving::Trespass,
                    _ => Leaving::Breach,
                };
                client.leave(how, random, network);
                format!("leaves: {how:?}")
            }
            _ => return,
        };
        self.tell(format_args!("client {number} {what}"));
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
        let is_due = self.more
            || self.network.borrow().has_reports()
            || self.shard.next_deadline().is_some_and(|deadline| deadline <= self.now);
        if is_due {
            let before = (self.counters.get(Counter::CloseOverdue), self.network.borrow().tally.cut_off);
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
        if self.ticks_restless > self.plan.keep_alive.pong_timeout / 2 {
            self.calm_observers();
        }
        self.now = self.now.after(ticks);
        self.tell(format_args!("it is {:?}", self.now));
    }

    /// Much time passes at once.
    fn jump(&mut self) {
        let KeepAlive { ping_interval, pong_timeout, close_timeout } = self.plan.keep_alive;
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
            network.weather = Weather::default();
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
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    /// Time passes, with nothing but the keep-alive happening.
    fn let_time_pass(&mut self) {
        let KeepAlive { ping_interval, pong_timeout, close_timeout } = self.plan.keep_alive;
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
        let end = self.now.after(ticks + self.plan.keep_alive.close_timeout + 2);
        while self.now < end && !self.shard.is_empty() {
            let due = self.shard.next_deadline().unwrap_or(end);
            self.now = due.max(self.now.after(1)).min(end);
            self.settle();
        }
        assert!(self.shard.is_empty(), "{} connections do not leave", self.shard.open());
    }

    fn open_clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.closed_at.is_none())
    }

    /// What holds between any two turns.
    fn check_turn(&mut self, (close_overdue, cut_off): (u64, u64)) {
        let network = &mut *self.network.borrow_mut();
        let limits = &self.shard.limits;
        let (mut alive, mut laggards) = (0, 0);
        for &number in &network.active {
            let (client, line) = (&mut self.clients[number], &network.lines[number]);
            let offset = self.shard.hub.offset(&self.topics[client.topic]);
            let connection = client.id.and_then(|id| self.shard.hub.connections.get(id));
            let Some(connection) = connection else {
                client.gone = true;
                client.closed_at.get_or_insert(offset);
                assert!(line.dropped, "client {number} is gone and its socket is not");
                continue;
            };
            alive += 1;
            laggards += u64::from(connection.is_laggard());
            let is_open = connection.websocket.state() == State::Open;
            if is_open {
                client.open_until = offset;
            } else {
                client.closed_at.get_or_insert(offset);
            }
            assert_eq!(connection.is_subscribed(), is_open && client.subscribes, "the subscription of client {number}");
            match &connection.output {
                None => assert!(is_open || line.stream.has_ended(), "client {number} is closed without a word"),
                Some(output) => {
                    let backlog = &output.backlog;
                    let unsent: usize = backlog.unsent(usize::MAX).map(<[u8]>::len).sum();
                    assert!(unsent <= backlog.bytes(), "the backlog of client {number} keeps more than it says");
                    // One run may make a backlog of any size; what comes on top of that may not.
                    let most = limits.backlog_bytes_max + limits.gathered_bytes_max + RUN_BEYOND;
                    assert!(backlog.bytes() <= most || !is_open, "the backlog of client {number} is beyond its limit");
                    let is_waiting = connection.awaits_room || connection.is_dirty;
                    assert!(is_waiting || backlog.is_empty(), "the backlog of client {number} waits for nothing");
                }
            }
            assert!(!connection.awaits_room || connection.is_laggard(), "client {number} needs no room");
        }
        assert_eq!(self.shard.open(), alive, "connections");
        let counted = |counter| self.counters.get(counter);
        assert_eq!(counted(Counter::ConnectionsOpen), alive as u64);
        assert_eq!(counted(Counter::Opened) - counted(Counter::Ended), alive as u64);
        assert_eq!(counted(Counter::Laggards), laggards, "laggards");
        let overdue = counted(Counter::CloseOverdue) - close_overdue;
        assert!(network.tally.cut_off - cut_off <= overdue, "a connection is cut off before its time");
        let (clients, lines) = (&self.clients, &network.lines);
        network.active.retain(|&number| {
            let line = &lines[number];
            let can_read = !clients[number].has_no_reader() && !clients[number].mute;
            !line.dropped || can_read && !(line.sent.is_empty() && line.fetched.is_empty())
        });
    }

    /// Everybody who is open has everything.
    fn check_settled(&self) {
        assert_eq!(self.shard.hub.gathered_bytes(), 0, "everything was sent");
        for client in self.open_clients() {
            let number = client.number;
            if client.mute {
                continue;
            }
            let expected: Vec<Name> = self.expected(client, u64::MAX).collect();
            assert_eq!(client.received.len(), expected.len(), "client {number} has everything");
            assert!(client.has_sent_all() && client.has_all_pongs(), "client {number} was answered");
            let order = &self.clients[client.topic].received;
            let published = order.iter().filter(|&&name| sender(name) == Some(number)).count();
            if client.leaving.is_none() {
                assert_eq!(published, client.sent as usize, "messages of client {number}");
            }
        }
    }

    /// The messages that a client is owed of its topic's first `until`.
    fn expected(&self, client: &Client, until: u64) -> impl Iterator<Item = Name> {
        let order = &self.clients[client.topic].received;
        let end = until.min(order.len() as u64);
        let begin = if client.subscribes { client.joined_at.min(end) } else { end };
        let (own, echo) = (client.number, client.echo);
        order[begin as usize..end as usize].iter().copied().filter(move |&name| echo || sender(name) != Some(own))
    }

    /// What holds when everybody has left.
    fn check_end(&self) {
        let counted = |counter| self.counters.get(counter);
        let network = self.network.borrow();
        let tally = &network.tally;
        assert_eq!(self.shard.hub.gathered_bytes(), 0);
        assert!(network.lines.iter().all(|line| line.dropped), "every socket is dropped");
        for (counter, expected) in [
            (Counter::Opened, self.clients.len() as u64),
            (Counter::Ended, self.clients.len() as u64),
            (Counter::ConnectionsOpen, 0),
            (Counter::Laggards, 0),
            (Counter::BytesIn, tally.bytes_received),
            (Counter::BytesOut, tally.bytes_sent),
            (Counter::Sends, tally.sends),
            (Counter::ShortSends, tally.short_sends),
        ] {
            assert_eq!(counted(counter), expected, "{counter:?}");
        }
        let mut published = 0;
        for (topic, name) in self.topics.iter().enumerate() {
            let order = &self.clients[topic].received;
            assert_eq!(order.len() as u64, self.shard.hub.offset(name), "the observer of {name} has seen everything");
            published += order.len() as u64;
            self.check_order(topic, order);
        }
        assert_eq!(counted(Counter::MessagesIn), published, "messages in");
        if !self.plan.backlog_is_limited {
            assert_eq!(counted(Counter::SlowClosed), 0, "slow consumers below the limit");
        }
        let mut received = 0;
        let mut is_exact = true;
        for client in &self.clients {
            received += client.received.len() as u64;
            is_exact &= self.check_client(client, network.lines[client.number].was_short);
        }
        let deliveries = counted(Counter::Deliveries);
        assert!(received <= deliveries, "{received} messages were received and {deliveries} delivered");
        assert!(received == deliveries || !is_exact, "{received} messages were received of {deliveries} delivered");
    }

    /// Each client's messages stand in the order in which it sent them, without a gap.
    fn check_order(&self, topic: usize, order: &[Name]) {
        let mut next = vec![0_u32; self.clients.len()];
        for &name in order.iter().filter(|&&name| name != EMPTY) {
            let number = sender(name).expect("a named message has a sender");
            assert_eq!(name as u32, next[number], "the messages of client {number} in their order");
            assert_eq!(self.clients[number].topic, topic, "messages stay in their topic");
            next[number] += 1;
        }
        for (client, next) in self.clients.iter().zip(next).filter(|(client, _)| client.topic == topic) {
            assert!(next <= client.sent, "client {} did not send so many", client.number);
            let said_goodbye = client.leaving == Some(Leaving::Handshake)
                && client.close.as_ref().is_some_and(|(code, _)| *code == CloseCode::NORMAL);
            if said_goodbye {
                assert_eq!(next, client.sent, "what client {} sent before its close frame", client.number);
            }
        }
        let empty = order.iter().filter(|&&name| name == EMPTY).count();
        let sent: u32 = self.clients.iter().filter(|client| client.topic == topic).map(|c| c.sent_empty).sum();
        assert!(empty <= sent as usize, "empty messages");
    }

    /// Returns whether the client must have seen all that was delivered to it.
    fn check_client(&self, client: &Client, was_short: bool) -> bool {
        let number = client.number;
        let until = client.closed_at.expect("everybody has left");
        let mut expected = self.expected(client, until);
        for (index, &name) in client.received.iter().enumerate() {
            let owed = expected.next();
            assert_eq!(Some(name), owed, "message {index} of client {number}, which joined at {}", client.joined_at);
        }
        let Some((code, reason)) = &client.close else { return false };
        let KeepAlive { ping_interval, pong_timeout, .. } = self.plan.keep_alive;
        let is_slow = *code == CloseCode::POLICY_VIOLATION && reason == "slow consumer";
        let is_explained = match *code {
            _ if is_slow => self.plan.backlog_is_limited && was_short,
            CloseCode::NORMAL => client.leaving == Some(Leaving::Handshake),
            CloseCode::POLICY_VIOLATION => client.leaving == Some(Leaving::Trespass),
            CloseCode::PROTOCOL_ERROR => client.leaving == Some(Leaving::Breach),
            CloseCode::INTERNAL_ERROR => ping_interval > 0 && pong_timeout > 0,
            CloseCode::GOING_AWAY => self.is_draining,
            _ => false,
        };
        assert!(is_explained, "client {number} is closed with {code} {reason:?}");
        let (owed, received) = (self.expected(client, client.open_until).count(), client.received.len());
        assert!(
            is_slow || received >= owed,
            "client {number} was closed after {received} messages of {owed}: {client:x?}"
        );
        !is_slow
    }

    fn tell(&self, what: Arguments<'_>) {
        if self.is_told {
            println!("{what}");
        }
    }
}

/// Rounds in which a shard must come to rest when nothing new happens.
const ROUNDS_MAX: usize = 100_000;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
}

fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn seeds() {
    let config = Config::new(&Flags::parse_from(["ringhub"]).settings, 20_000).expect("the defaults");
    if let Some(seed) = number_of("RINGHUB_SEED") {
        return Simulation::new(seed, true, &config).run();
    }
    let count = number_of("RINGHUB_SEEDS").unwrap_or(SEEDS);
    let mut seen = Seen::default();
    for seed in 0..count {
        let run = panic::AssertUnwindSafe(|| {
            let mut simulation = Simulation::new(seed, false, &config);
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

/// What all runs together have met: a simulator that never meets a trap proves nothing about it.
#[derive(Default)]
struct Seen {
    counters: Counters,
    tally: Tally,
}

impl Seen {
    fn add(&mut self, simulation: &Simulation) {
        for &counter in Counter::ALL {
            self.counters.add(counter, simulation.counters.get(counter));
        }
        self.tally.add(&simulation.network.borrow().tally);
    }

    fn check(&self) {
        // What happens before a connection is established, and what is back at 0 when all have left.
        let elsewhere = [
            Counter::ConnectionsOpen,
            Counter::Laggards,
            Counter::Accepted,
            Counter::RefusedRequest,
            Counter::RefusedLimit,
            Counter::HandshakeOverdue,
            Counter::AcceptPaused,
        ];
        for counter in Counter::ALL.iter().filter(|counter| !elsewhere.contains(counter)) {
            assert!(self.counters.get(*counter) > 0, "{counter:?} was never counted");
        }
        let Tally { stale, stale_reused, polls_ended, cut_off, .. } = self.tally;
        for count in [stale, stale_reused, polls_ended, cut_off] {
            assert!(count > 0, "{:?}", self.tally);
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.counters, self.tally)
    }
}

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1_500;

/// What one turn may gather beyond the limit, in memory: everything it receives at once.
const RUN_BEYOND: usize = 4 << 20;

//! The actions of clients and of the network between two turns.

use bytes::{Bytes, BytesMut};

use super::{
    answering::{Act, Speech, Then},
    client::{Client, Leaving, Subscription},
    line::{End, take_front},
    names::{Stream, name},
    simulation::{Simulation, arrival},
    socket::{SimulatedSocket, Socket},
};
use crate::{
    hub::Scope,
    shard::{arrival::Arrival, session::client_end::Protocol},
};

impl Simulation {
    /// Establishes a connection of a new client on a shard, which observes a topic if one is named.
    pub(super) fn join(&mut self, shard: usize, observes: Option<usize>) {
        let random = &mut self.random;
        let number = self.clients.len();
        let topic = observes.unwrap_or_else(|| random.within(0..=self.topics.len() - 1));
        let answer = format!("HTTP/1.1 101 {number}\r\n{}\r\n", "x".repeat(random.within(0..=60)));
        let line = self.drivers[shard].clients.len();
        let is_second = self.plan.second_protocol > 0 && random.chance(self.plan.second_protocol);
        let protocol = if is_second { Protocol::LengthPrefixed } else { Protocol::WebSocket };
        let mut client = Client::new(number, (shard, line), topic, protocol, answer.as_bytes(), random);
        client.observes = observes.is_some();
        let subscribes = client.observes || !random.chance(100);
        let has_more = !client.observes && random.chance(400);
        let room = if client.observes {
            client.publishes = false;
            usize::MAX
        } else {
            self.draw_habits(&mut client, subscribes)
        };
        let is_sealed = self.plan.sealed > 0 && self.random.chance(self.plan.sealed);
        let connect = if is_sealed { SimulatedSocket::connect_sealed } else { SimulatedSocket::connect };
        let socket = connect(&self.drivers[shard].network, answer.as_bytes(), room);
        self.drivers[shard].network.borrow_mut().lines[line].stream.expect(protocol);
        let leftover = self.send_early(&mut client);
        self.draw_subscriptions(&mut client, subscribes, has_more);
        let Client { publishes, deaf, mute, subscriptions, .. } = &client;
        self.log(format_args!(
            "client {number} ({protocol:?}) of topic {topic} joins shard {shard}: {subscriptions:?} \
             (publishes {publishes}, deaf {deaf}, mute {mute}), room {room}, in records {is_sealed}, \
             {} bytes left over",
            leftover.len()
        ));
        self.drivers[shard].clients.push(number);
        self.clients.push(client);
        self.establish(number, socket, Bytes::from(answer.into_bytes()), leftover);
    }

    /// Draws how a client that observes no topic behaves. Returns how much room its socket has.
    fn draw_habits(&mut self, client: &mut Client, subscribes: bool) -> usize {
        let random = &mut self.random;
        let room = random.within(8..=self.plan.room_max);
        client.echo = random.chance(400);
        client.publishes = !(subscribes && random.chance(250));
        client.deaf = random.chance(30);
        client.mute = random.chance(50);
        room
    }

    /// Draws the topics that a client subscribes to from the beginning.
    fn draw_subscriptions(&mut self, client: &mut Client, subscribes: bool, has_more: bool) {
        let mut subscribe = |topic, echo| client.subscriptions.push(Subscription::new(topic, echo, 0));
        if subscribes {
            subscribe(client.topic, client.echo);
        }
        if has_more {
            let others = (0..self.topics.len()).filter(|&other| other != client.topic);
            for other in others.take(self.plan.subscriptions_max - 1) {
                if self.random.chance(700) {
                    subscribe(other, self.random.chance(500));
                }
            }
        }
        client.called = vec![0; self.topics.len()];
        client.asked_to_publish = vec![0; self.topics.len()];
    }

    /// Lets the shard adopt the client's connection.
    fn establish(&mut self, number: usize, socket: Socket, answer: Bytes, leftover: BytesMut) {
        let client = &self.clients[number];
        let name = |topic: usize| self.topics[topic].clone();
        let subscriptions = client.subscriptions.iter().map(|own| (name(own.topic), own.echo)).collect();
        let forwards = client.publishes.then(|| (name(client.topic), Scope::Server));
        let shard = client.shard;
        let before = self.places(shard);
        let driver = &mut self.drivers[shard];
        driver.rouse();
        let now = driver.moment(self.now);
        let session = client.end.protocol().session();
        let format = client.format;
        let arrival = Arrival { session, format, ..arrival(socket, subscriptions, forwards, answer, leftover) };
        let id = driver.shard.adopt(now, arrival);
        self.log(format_args!("client {number} is {id:?}"));
        let id = id.expect("there is a slot");
        // The shard has taken its mail before it subscribed the connection.
        let places = self.places(shard);
        let client = &mut self.clients[number];
        client.subscriptions.iter_mut().for_each(|own| own.asked_at = places[own.topic]);
        client.id = Some(id);
        client.open_until = places;
        self.numbers.insert(id, number);
        self.read_notes(shard, &before);
    }

    /// Lets some clients send before they have read the answer. Returns the bytes that arrive with the opening request.
    fn send_early(&mut self, client: &mut Client) -> BytesMut {
        let network = &mut *self.drivers[client.shard].network.borrow_mut();
        network.lines[client.line].stalled = client.mute;
        if client.publishes && !client.mute && self.random.chance(300) {
            client.compose(self.random.within(0..=100), &mut self.random);
            client.put(10, network);
        }
        let line = &mut network.lines[client.line];
        let count = self.random.within(0..=line.on_the_way.len());
        BytesMut::from(&take_front(&mut line.on_the_way, count)[..])
    }

    /// Lets a client act.
    pub(super) fn act(&mut self) {
        let Some(number) = self.any_client() else { return };
        let network = self.network_of(number);
        let network = &mut *network.borrow_mut();
        let client = &self.clients[number];
        if client.observes || client.mute || !client.can_send() {
            return;
        }
        let orders = !client.publishes && client.has_sent_all();
        let (client, random) = (&mut self.clients[number], &mut self.random);
        let what = match random.within(0..=99) {
            0..=44 if client.publishes => {
                let most = random.pick(&[0, 20, 150, self.plan.message_max]).min(self.plan.message_max);
                let name = client.compose(random.within(0..=most), random);
                format!("composes {name:x}")
            }
            // The client's messages go to no topic, so its handler takes them.
            0..=19 if orders => {
                client.ask(network);
                "asks".into()
            }
            20..=44 if orders => {
                let act = self.draw_order(number);
                let papers = &mut *self.desk.papers();
                papers.acts.push(act);
                self.clients[number].order(papers.acts.len() - 1, network);
                format!("orders {act:x?}")
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
                let line = &mut network.lines[client.line];
                line.stalled = !line.stalled;
                format!("stalls: {}", line.stalled)
            }
            90..=95 => {
                let how = match random.within(0..=9) {
                    0..=3 => Leaving::Goodbye,
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
        self.log(format_args!("client {number} {what}"));
    }

    /// Draws an act that a client orders from its handler.
    fn draw_order(&mut self, number: usize) -> Act {
        let random = &mut self.random;
        let client = &mut self.clients[number];
        let topic = random.within(0..=self.topics.len() - 1);
        let most = random.pick(&[0, 20, 150]).min(self.plan.message_max);
        let size = random.within(0..=most);
        match random.within(0..=11) {
            0..=2 => {
                let then = match random.within(0..=9) {
                    0..=4 => Then::Nothing,
                    5 => Then::Unsubscribe { topic },
                    6 => Then::Unsubscribe { topic: random.within(0..=self.topics.len() - 1) },
                    7 | 8 => {
                        let name = name(number, topic, Stream::Live, client.live_messages);
                        client.live_messages += 1;
                        Then::Publish(Speech { topic, name, size })
                    }
                    _ => {
                        client.asks_for_close = true;
                        Then::Close
                    }
                };
                Act::Subscribe { topic, echo: random.chance(500), then }
            }
            3..=5 => Act::Unsubscribe { topic },
            6..=9 => {
                let name = name(number, topic, Stream::Asked, client.asked_to_publish[topic]);
                client.asked_to_publish[topic] += 1;
                Act::Publish(Speech { topic, name, size })
            }
            10 => {
                let name = name(number, topic, Stream::Farewell, client.farewells);
                client.farewells += 1;
                Act::Farewell(Speech { topic, name, size })
            }
            _ => {
                client.asks_for_close = true;
                Act::Close
            }
        }
    }

    /// Lets the network carry bytes of a client.
    pub(super) fn move_bytes(&mut self) {
        let Some(number) = self.any_client() else { return };
        let network = self.network_of(number);
        let network = &mut *network.borrow_mut();
        let line = self.clients[number].line;
        let most = self.random.pick(&[1, 7, 50, 1_000, 1_000_000]);
        if self.random.chance(500) {
            network.arrive(line, most);
        } else if !network.lines[line].stalled {
            network.fetch(line, most);
        }
    }

    /// Lets a client look at the bytes that it has fetched.
    pub(super) fn look(&mut self) {
        let Some(number) = self.any_client() else { return };
        let network = self.network_of(number);
        let network = &mut *network.borrow_mut();
        self.clients[number].look(self.now, network);
        if self.random.chance(500) {
            self.clients[number].follow_the_end(network);
        }
    }
}

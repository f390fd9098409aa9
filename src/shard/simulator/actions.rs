//! The actions between two turns: those of clients, of handlers, and of the network.

use bytes::{Bytes, BytesMut};

use super::{
    super::io_state::ShardConnection,
    client::{Client, Leaving, Subscription},
    line::End,
    simulation::{Simulation, arrival},
    socket::SimulatedSocket,
};
use crate::hub::{Scope, SubscribeOptions, Subscribed};

impl Simulation {
    /// Establishes a connection of a new client, which observes a topic if one is named.
    pub(super) fn join(&mut self, observes: Option<usize>) {
        let alive = self.clients.iter().skip(self.topics.len()).filter(|client| !client.gone).count();
        if observes.is_none() && alive >= self.plan.clients_max {
            return;
        }
        let random = &mut self.random;
        let number = self.clients.len();
        let topic = observes.unwrap_or_else(|| random.within(0..=self.topics.len() - 1));
        let answer = format!("HTTP/1.1 101 {number}\r\n{}\r\n", "x".repeat(random.within(0..=60)));
        let mut client = Client::new(number, topic, answer.as_bytes(), random);
        let subscribes = observes.is_some() || !random.chance(100);
        let has_more = observes.is_none() && random.chance(400);
        let room = if observes.is_some() {
            client.publishes = false;
            usize::MAX
        } else {
            self.draw_habits(&mut client, subscribes)
        };
        let socket = SimulatedSocket::connect(&self.network, answer.as_bytes(), room);
        let leftover = self.send_early(&mut client);
        self.draw_subscriptions(&mut client, subscribes, has_more);
        let Client { publishes, deaf, mute, subscriptions, .. } = &client;
        self.log(format_args!(
            "client {number} of topic {topic} joins {subscriptions:?} (publishes {publishes}, deaf {deaf}, \
             mute {mute}), room {room}, {} bytes left over",
            leftover.len()
        ));
        self.clients.push(client);
        self.establish(number, socket, Bytes::from(answer.into_bytes()), leftover);
    }

    /// Draws how a client that observes no topic behaves. Returns how much room its socket has.
    fn draw_habits(&mut self, client: &mut Client, subscribes: bool) -> usize {
        let random = &mut self.random;
        let room = random.within(8..=self.plan.room_max);
        client.echo = random.chance(400);
        let only_receives = subscribes && random.chance(150);
        client.publishes = !self.is_draining && !only_receives;
        client.deaf = random.chance(30);
        client.mute = random.chance(50);
        room
    }

    /// Draws the topics that a client subscribes to from the beginning.
    fn draw_subscriptions(&mut self, client: &mut Client, subscribes: bool, has_more: bool) {
        let offsets = self.offsets();
        let mut subscribe = |topic, echo| {
            client.subscriptions.push(Subscription { topic, echo, from: offsets[topic], until: None });
        };
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
        client.open_until = offsets;
        client.spoken = vec![0; self.topics.len()];
    }

    /// Lets the shard adopt the client's connection.
    fn establish(&mut self, number: usize, socket: SimulatedSocket, answer: Bytes, leftover: BytesMut) {
        let client = &self.clients[number];
        let name = |topic: usize| self.topics[topic].clone();
        let subscriptions = client.subscriptions.iter().map(|own| (name(own.topic), own.echo)).collect();
        let forwards = client.publishes.then(|| (name(client.topic), Scope::Server));
        let now = self.moment();
        let id = self.shard.adopt(now, arrival(socket, subscriptions, forwards, answer, leftover));
        self.log(format_args!("client {number} is {id:?}"));
        self.clients[number].id = id;
        self.more = true;
    }

    /// Lets some clients send before they have read the answer. Returns the bytes that arrive with the opening request.
    fn send_early(&mut self, client: &mut Client) -> BytesMut {
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

    /// Lets a client act.
    pub(super) fn act(&mut self) {
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
            // The client's messages go to no topic, so its handler takes them.
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
        self.log(format_args!("client {number} {what}"));
    }

    /// Lets a handler act: a connection subscribes, gives a topic up, or publishes, in mid-life.
    pub(super) fn embed(&mut self) {
        let Some(number) = self.any_client().filter(|&number| number >= self.topics.len()) else { return };
        let topic = self.random.within(0..=self.topics.len() - 1);
        let (client, name) = (&mut self.clients[number], &self.topics[topic]);
        let Some(id) = client.id else { return };
        let offset = self.shard.hub.offset(name);
        let count = client.subscriptions.iter().filter(|subscription| subscription.until.is_none()).count();
        let connection = self.shard.hub.connections.get(id);
        let is_open = connection.is_some_and(ShardConnection::is_open);
        let what = match self.random.within(0..=9) {
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
                    // Its share of the topic may make a backlog of any size: it had kept up.
                    client.backlog = None;
                    // Or it had not kept up, and the share was too much.
                    let connection = self.shard.hub.connections.get(id);
                    if !connection.is_some_and(ShardConnection::is_open) {
                        let offsets = self.topics.iter().map(|name| self.shard.hub.offset(name));
                        client.closed_at = Some(offsets.collect());
                    }
                }
                format!("gives up topic {topic} at {offset}")
            }
            _ if topic != client.topic && connection.is_some() && !self.is_draining => {
                let most = self.random.pick(&[0, 20, 150, self.plan.message_max]).min(self.plan.message_max);
                let (message_name, message) = client.prepare(topic, self.random.within(0..=most));
                self.shard.hub.publish_by_name(name, Some(id), &message, Scope::Server);
                format!("publishes {message_name:x} to topic {topic}")
            }
            _ => return,
        };
        self.more = true;
        self.log(format_args!("client {number} {what}"));
    }

    /// Lets the network carry bytes of a client.
    pub(super) fn move_bytes(&mut self) {
        let Some(number) = self.any_client() else { return };
        let network = &mut *self.network.borrow_mut();
        let most = self.random.pick(&[1, 7, 50, 1_000, 1_000_000]);
        if self.random.chance(500) {
            network.arrive(number, most);
        } else if !network.lines[number].stalled {
            network.fetch(number, most);
        }
    }

    /// Lets a client look at the bytes that it has fetched.
    pub(super) fn look(&mut self) {
        let Some(number) = self.any_client() else { return };
        let network = &mut *self.network.borrow_mut();
        self.clients[number].look(self.now, network);
        if self.random.chance(500) {
            self.clients[number].follow_the_end(network);
        }
    }
}

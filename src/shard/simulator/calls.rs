//! The actions of the server's own code between two turns: calls on connections, and requests of the control thread.

use super::{
    answering::{Act, Called, Speech, Then},
    names::{Stream, name},
    simulation::Simulation,
};
use crate::handler::ShardApi;

impl Simulation {
    /// Lets a call act on an established connection: the call subscribes it, ends a subscription, publishes, or closes
    /// it.
    pub(super) fn call(&mut self) {
        let Some(number) = self.any_client().filter(|&number| !self.clients[number].observes) else { return };
        let client = &self.clients[number];
        let shard = client.shard;
        let Some(id) = client.id else { return };
        let driver = &self.drivers[shard];
        // A call waits until the shard is not full.
        if driver.has_ended() || !driver.shard.takes_calls() {
            return;
        }
        let is_there = driver.shard.hub.connections.get(id).is_some();
        let Some(act) = self.draw_call(number, is_there) else { return };
        self.log(format_args!("client {number} is called for {act:x?}"));
        let before = self.places(shard);
        let driver = &mut self.drivers[shard];
        driver.rouse();
        let now = driver.moment(self.now);
        let desk = self.desk.clone();
        let perform = move |shard: &mut dyn ShardApi| desk.papers().perform(&mut Called { id, shard }, act);
        driver.shard.call_back(now, id, Box::new(perform));
        self.read_notes(shard, &before);
        self.notice_close(number);
    }

    /// Notes that a call has closed the client's connection, if it has.
    fn notice_close(&mut self, number: usize) {
        let shard = self.clients[number].shard;
        let network = self.network_of(number);
        let places = self.places(shard);
        let line = self.clients[number].line;
        self.check_presence(number, &network.borrow().lines[line], &places);
    }

    /// Draws an act of a call on a client's connection.
    fn draw_call(&mut self, number: usize, is_there: bool) -> Option<Act> {
        let (client, random) = (&mut self.clients[number], &mut self.random);
        let topic = random.within(0..=self.topics.len() - 1);
        match random.within(0..=19) {
            0..=7 => {
                let echo = if topic == client.topic { client.echo } else { random.chance(500) };
                Some(Act::Subscribe { topic, echo, then: Then::Nothing })
            }
            8..=11 => Some(Act::Unsubscribe { topic }),
            12 if random.chance(200) => {
                client.asks_for_close = true;
                Some(Act::Close)
            }
            _ if is_there => {
                let most = random.pick(&[0, 20, 150, self.plan.message_max]).min(self.plan.message_max);
                let name = name(number, topic, Stream::Called, client.called[topic]);
                client.called[topic] += 1;
                Some(Act::Publish(Speech { topic, name, size: random.within(0..=most) }))
            }
            _ => None,
        }
    }

    /// Lets the control thread make a request.
    pub(super) fn request(&mut self) {
        if self.control.is_busy() {
            return;
        }
        let number = self.any_client();
        let target = number.and_then(|number| Some((number, self.clients[number].id?)));
        let random = &mut self.random;
        let what = match (random.within(0..=19), target) {
            (0..=10, _) => {
                let topic = random.within(0..=self.topics.len() - 1);
                let source = target.filter(|_| random.chance(300));
                let most = random.pick(&[0, 20, 150, self.plan.message_max]).min(self.plan.message_max);
                let size = random.within(0..=most);
                let asks = random.chance(self.plan.receipts);
                let name = self.control.publish((topic, self.topics[topic].clone()), source, size, asks);
                format!("publishes {name:x} of {source:?}")
            }
            (11..=14, Some((number, id))) if !self.clients[number].observes => {
                self.clients[number].is_sent_to = true;
                self.control.send(number, id);
                format!("sends to client {number}")
            }
            (15, Some((number, id))) if !self.clients[number].observes => {
                self.clients[number].is_closed_by_command = true;
                self.control.close(id);
                format!("closes client {number}")
            }
            (16, _) => {
                let shard = random.within(0..=self.drivers.len() - 1);
                self.control.list(shard, self.clients.len());
                format!("lists the connections of shard {shard}")
            }
            (17, Some((number, id))) => {
                self.control.set_keep_alive(self.clients[number].shard, Some(id), self.keep_alive);
                format!("sets the keep-alive of client {number}")
            }
            (18, _) if random.chance(100) => {
                let shard = random.within(0..=self.drivers.len() - 1);
                self.control.set_keep_alive(shard, None, self.keep_alive);
                format!("sets the keep-alive of shard {shard}")
            }
            _ => return,
        };
        self.log(format_args!("the control thread {what}"));
    }
}

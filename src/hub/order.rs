//! One order for each topic over all shards: the home's part, and that of those who are interested.
//!
//! Every topic has a home, a shard that its name alone decides. The home gives each message the next offset and delivers
//! it to every shard that has subscribers. A shard announces its interest with its first subscriber and withdraws it with
//! its last; each of these has a number. The home's acknowledgement comes down the same lane as its messages, so:
//!
//! - what comes before the acknowledgement of the *latest* number is not for those who wait, and there is nobody else;
//! - what comes after is everything, until the interest is withdrawn.
//!
//! A subscriber is told that it is one only after the acknowledgement. So "subscribed" means: from here on, all of it.

use super::{
    ConnectionId, Delivery, Hub, Published, Request, TopicId,
    topics::Interest,
};
use crate::proto::PreparedMessage;

impl Hub {
    /// Handles the next delivery of the mesh. Subscribers who may now be told so are added to `joined`. Returns whether
    /// there was one.
    pub fn take_delivery(&mut self, joined: &mut Vec<ConnectionId>) -> bool {
        match self.mesh.next_delivery() {
            None => return false,
            Some(Delivery::Message { topic, source, message, .. }) => {
                // Nobody is interested any more: our withdrawal is on its way.
                if let Some(id) = self.topics.find(&topic) {
                    self.gather(id, source, &message);
                }
            }
            Some(Delivery::Acknowledged { topic, number }) => {
                if let Some(id) = self.topics.find(&topic) {
                    self.go_live(id, number, joined);
                }
            }
        }
        true
    }

    /// Handles the next request of the mesh. Returns whether there was one.
    pub fn take_request(&mut self) -> bool {
        match self.mesh.next_request() {
            None => return false,
            Some((_, Request::Publish { topic, source, message })) => {
                let id = self.topics.find_or_add(&topic);
                self.order(id, source, &message);
                self.topics.notice_unused(id);
            }
            Some((shard, Request::Interest { topic, number, wanted })) => {
                let id = self.topics.find_or_add(&topic);
                let interested = &mut self.topics[id].interested;
                interested.retain(|&other| other != shard);
                if wanted {
                    interested.push(shard);
                    self.mesh.deliver(shard, Delivery::Acknowledged { topic, number });
                }
                self.topics.notice_unused(id);
            }
        }
        true
    }

    /// Sends what has waited for room in a lane, and wakes those who have something to take.
    pub fn send_out(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        due.retain(|&id| !self.ask(id));
        self.due = due;
        self.mesh.send_out();
    }

    /// Must receiving from connections pause, because what they send could not go on?
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.mesh.is_congested()
    }

    /// Is there something in the mesh that [`Hub::take_delivery`] or [`Hub::take_request`] would take?
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.mesh.has_mail()
    }

    /// The shard is about to sleep. It must ask [`Hub::has_mail`] once more after this call.
    pub fn about_to_sleep(&self) {
        self.mesh.about_to_sleep();
    }

    /// The shard is awake.
    pub fn awake(&self) {
        self.mesh.awake();
    }

    /// At home: gives the message its place and hands it to every shard that has subscribers, this one included.
    pub(super) fn order(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        message: &PreparedMessage,
    ) -> Published {
        let entry = &mut self.topics[topic];
        debug_assert_eq!(entry.home, self.mesh.number(), "only a topic's home orders it");
        entry.offset += 1;
        let published = Published { epoch: entry.epoch, offset: entry.offset };
        for &shard in &entry.interested {
            let (topic, message) = (entry.name.clone(), message.clone());
            self.mesh.deliver(shard, Delivery::Message { topic, source, published, message });
        }
        self.gather(topic, source, message);
        published
    }

    /// Tells the home that this shard wants the topic's messages, or no more.
    pub(super) fn announce(&mut self, id: TopicId, interest: Interest) {
        self.interest_number += 1;
        let topic = &mut self.topics[id];
        topic.interest = interest;
        topic.number = self.interest_number;
        if interest == Interest::None {
            topic.waiting = Vec::new();
        }
        // What waits for room is the topic's latest wish, not a queue of wishes.
        if !topic.is_due {
            topic.is_due = true;
            if !self.ask(id) {
                self.due.push(id);
            }
        }
    }

    /// Sends the topic's latest wish if there is room. Returns whether there was.
    fn ask(&mut self, id: TopicId) -> bool {
        let topic = &mut self.topics[id];
        let has_room = self.mesh.has_room_for_requests(topic.home);
        if has_room {
            topic.is_due = false;
            let wanted = topic.interest != Interest::None;
            let request = Request::Interest { topic: topic.name.clone(), number: topic.number, wanted };
            self.mesh.request(topic.home, request);
            self.topics.notice_unused(id);
        }
        has_room
    }

    /// The home has acknowledged; those who wait become subscribers if it answers the latest wish.
    fn go_live(&mut self, id: TopicId, number: u64, joined: &mut Vec<ConnectionId>) {
        let topic = &mut self.topics[id];
        if topic.interest != Interest::Asked || topic.number != number {
            return;
        }
        topic.interest = Interest::Live;
        for waiting in std::mem::take(&mut topic.waiting) {
            if let Some(connection) = self.connections.get_mut(waiting)
                && std::mem::take(&mut connection.is_waiting)
            {
                self.join(waiting);
                joined.push(waiting);
            }
        }
    }
}

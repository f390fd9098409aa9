//! The mail of a hub: requests and deliveries that arrive by the mesh, and those that leave.
//!
//! The home's acknowledgement of an interest comes down the same lane as the topic's messages. So a shard without a
//! live subscriber drops the topic's messages until the acknowledgement of its *latest* number. Then it delivers every
//! message, until it withdraws its interest. A client is told "subscribed" only after the acknowledgement: the word
//! means that the client is owed every later message.

use std::{mem, sync::Arc};

use super::{
    barrier::Barriers,
    chunk::{Chunk, ReadOn},
    command::{Commanded, Reply},
    connection_id::ConnectionId,
    connections::Attachment,
    end_role::EndRole,
    entry::{Counted, Delivery, Interest, Placed, PresenceNews, Request, Unplaced},
    hub::ShardHub,
    ids::Asker,
    joined::Joined,
    publication::{OrderEnd, Posted},
    publish_error::PublishOutcome,
    receipt::{Receipt, Watch},
    receipts::Answered,
    topic_name::TopicName,
    topics::TopicRole,
};

impl<T: Attachment> ShardHub<T> {
    /// Handles the next delivery of the mesh. Subscriptions that have gone live are added to `joined`. Returns whether
    /// there was a delivery.
    pub fn take_delivery(&mut self, joined: &mut Vec<Joined>) -> bool {
        let Some(delivery) = self.mesh.next_delivery() else { return false };
        self.takes_mail = true;
        match delivery {
            Delivery::Publication { posted, place } => {
                #[cfg(test)]
                if let Some(journal) = &mut self.journal {
                    journal.note_taken(&posted.topic, place);
                }
                // A shard that does not know the topic has withdrawn its interest, and the home had not taken the
                // withdrawal yet.
                if let Some(id) = self.topics.find(&posted.topic) {
                    if let TopicRole::Remote(remote) = &mut self.topics[id].role {
                        remote.end = Some(OrderEnd { epoch: place.epoch, offset: place.offset });
                    }
                    self.gather(id, posted.source, &posted.publication, Some(place));
                } else if let Some(number) = posted.publication.receipt_number() {
                    let home = self.home(&posted.topic);
                    self.receipts.ended.push(Watch::new(home, number));
                }
            }
            Delivery::Reply { ticket, reply } => self.note_reply(ticket, reply),
            Delivery::Acknowledged { topic, number, end } => {
                if let Some(id) = self.topics.find(&topic) {
                    self.go_live(id, number, end.map(|end| *end), joined);
                }
            }
            Delivery::Chunk(chunk) => self.take_chunk(&chunk),
            Delivery::Barrier => self.barriers.deliveries += 1,
            Delivery::Mark { id } => self.marks.push(id),
        }
        self.takes_mail = false;
        true
    }

    /// Handles the next request of the mesh. A command is added to `commands`, for the shard to run. Returns whether
    /// there was a request.
    pub fn take_request(&mut self, commands: &mut Vec<Commanded>) -> bool {
        let Some((end, request)) = self.mesh.next_request() else { return false };
        self.takes_mail = true;
        match request {
            Request::Publish(posted) => _ = self.publish_posted(&posted, None),
            Request::Command { command, ticket } => {
                commands.push(Commanded { end, ticket, command: *command });
            }
            Request::Submit { posted, ticket } => {
                if let Some(answer) = self.publish_posted(&posted, Some((end, ticket))) {
                    self.reply(end, ticket, answer.into());
                }
            }
            Request::Interest { topic, number, interest } => self.note_interest(end, topic, number, interest),
            Request::Distribute(placed) => {
                let Placed { unplaced: Unplaced { posted, asker }, place } = *placed;
                let given = |hub: &mut Self, id| hub.distribute_given(id, &posted, place, asker);
                if let Some(answered) = self.with_topic(&posted.topic, given) {
                    self.answer(answered);
                }
            }
            Request::Counted(counted) => self.count(counted.number, counted.receipt),
            Request::Presence(news) => {
                let PresenceNews { topic, changes } = *news;
                self.with_topic(&topic, |hub, id| hub.enroll(id, changes.into()));
            }
            Request::ReadOn(question) => {
                let ReadOn { topic, query, id, number } = *question;
                let page = self.read_history(&topic, &query);
                self.mesh.deliver(end, Delivery::Chunk(Box::new(Chunk { id, number, page })));
            }
            Request::Order(_) => unreachable!("a shard is no engine"),
            Request::Barrier => {
                match self.mesh.role(end) {
                    EndRole::Engine => self.barriers.engines += 1,
                    EndRole::Shard | EndRole::Control => self.barriers.requests += 1,
                }
                self.pass_barrier_on();
            }
            Request::Mark { id } => self.return_mark(end, id),
        }
        self.takes_mail = false;
        true
    }

    /// Takes the marks that have come back since the last call, each by the id of the connection that waits for it.
    pub fn take_marks(&mut self) -> Vec<ConnectionId> {
        mem::take(&mut self.marks)
    }

    /// Takes the answers to publications that were published by [`ShardHub::publish_asking`] since the last call, each
    /// with the ticket of its publication.
    pub fn take_answered(&mut self) -> Vec<(u64, PublishOutcome)> {
        mem::take(&mut self.answered)
    }

    /// Answers a command, or a publication whose publisher has asked for its place.
    pub fn reply(&mut self, end: u16, ticket: u64, reply: Reply) {
        if end == self.mesh.number() {
            return self.note_reply(ticket, reply);
        }
        self.mesh.deliver(end, Delivery::Reply { ticket, reply });
    }

    /// Begins to drain: sends the other shards a barrier after every earlier request.
    ///
    /// # Panics
    ///
    /// If the shard has begun to drain before.
    pub fn send_barrier(&mut self) {
        assert!(!mem::replace(&mut self.barriers.has_begun, true), "a shard drains once");
        for home in self.mesh.other_shards() {
            self.mesh.request(home, Request::Barrier);
        }
        self.pass_barrier_on();
    }

    /// Returns whether the shard has gathered every message from before the drain: all that any end submitted or
    /// published before its own barrier.
    #[must_use]
    pub fn has_passed_barrier(&self) -> bool {
        self.has_all_requests() && self.barriers.deliveries == self.mesh.other_shards().count() as u16
    }

    /// Sends the entries that have waited for room in a lane, and wakes the ends that have something to take.
    pub fn send_out(&mut self) {
        if !self.receipts.ended.is_empty() {
            self.send_counts();
        }
        if !self.send_news_of_topics() {
            // If only interests or news wait, nothing of the mesh waits, and `mesh.send_out` asks for no wake-up, so
            // the hub asks for it. From here on an end that makes room wakes this shard; the second try finds room made
            // just before.
            self.mesh.wants_room();
            self.send_news_of_topics();
        }
        self.mesh.send_out();
    }

    /// Sends the interests in topics and what is new about their members, and then the questions about members. Returns
    /// whether nothing waits any more.
    fn send_news_of_topics(&mut self) -> bool {
        let is_sent = self.send_due() & self.send_presence();
        if is_sent {
            self.send_asks();
        }
        is_sent
    }

    /// Gives up the receipts that have been waited for too long, and answers their publishers.
    pub fn expire_receipts(&mut self) {
        for answered in self.receipts.expire(self.now()) {
            self.answer(answered);
        }
    }

    /// Returns whether [`ShardHub::take_answered`] or [`ShardHub::take_presences`] returns an answer.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        !self.answered.is_empty() || !self.rosters.answers.is_empty()
    }

    /// Sends the counts of walks that have ended to the homes that wait for them.
    #[cold]
    fn send_counts(&mut self) {
        for watch in mem::take(&mut self.receipts.ended) {
            let (home, number, receipt) = (watch.home, watch.number, watch.take());
            #[cfg(test)]
            if let Some(journal) = &mut self.journal {
                journal.counted.push((home, number, receipt));
            }
            if home == self.mesh.number() {
                self.count(number, receipt);
            } else {
                self.mesh.request(home, Request::Counted(Box::new(Counted { number, receipt })));
            }
        }
    }

    /// Adds the count of a shard to a receipt of a topic whose home is this shard, and answers the publisher when all
    /// shards have counted.
    fn count(&mut self, number: u64, receipt: Receipt) {
        if let Some(answered) = self.receipts.add(number, receipt) {
            self.answer(answered);
        }
    }

    /// Answers a publisher, and those that have published the same with the same id.
    fn answer(&mut self, Answered { asker, id, published }: Answered) {
        let now = self.now();
        let others = id.map_or_else(Vec::new, |id| self.ids.note_answer(id, published, now));
        for (end, ticket) in asker.into_iter().chain(others) {
            self.reply(end, ticket, Ok(published).into());
        }
    }

    /// Sends each engine a barrier once the barriers of all other shards and of the control thread have come. This
    /// barrier stands after the messages that the engine is to order. Sends the other shards a barrier, after every
    /// earlier delivery, once the engines have answered too.
    fn pass_barrier_on(&mut self) {
        if self.has_all_messages() && !mem::replace(&mut self.barriers.has_told_engines, true) {
            for engine in self.mesh.engines() {
                self.mesh.request(engine, Request::Barrier);
            }
        }
        if self.has_all_requests() {
            for shard in self.mesh.other_shards() {
                self.mesh.deliver(shard, Delivery::Barrier);
            }
        }
    }

    /// Returns whether every message that another end has sent to this home before its barrier has come.
    fn has_all_messages(&self) -> bool {
        let Barriers { has_begun, requests, .. } = self.barriers;
        has_begun && requests == self.mesh.other_publishers()
    }

    /// Returns whether every message that another end has sent to this home before its barrier has its place in the
    /// order.
    fn has_all_requests(&self) -> bool {
        self.has_all_messages() && self.barriers.engines == self.mesh.engines().count() as u16
    }

    /// Sends a mark back. If there is an engine, the mark goes to the engine first, since the messages before the mark
    /// may wait there for their places. `end` is the end that the mark has come from.
    fn return_mark(&mut self, end: u16, id: ConnectionId) {
        match self.topics.engine.filter(|engine| engine.end != end) {
            Some(engine) => self.mesh.request(engine.end, Request::Mark { id }),
            None if id.shard() == self.mesh.number() => self.marks.push(id),
            None => self.mesh.deliver(id.shard(), Delivery::Mark { id }),
        }
    }

    /// Notes an answer to this shard, which asks for nothing but the places of publications and the members of topics.
    fn note_reply(&mut self, ticket: u64, reply: Reply) {
        if let Reply::Presence(presence) = reply {
            self.rosters.answers.push((ticket, presence.map(|presence| *presence)));
        } else if let Some(answer) = reply.published() {
            self.answered.push((ticket, answer));
        }
    }

    /// Publishes a publication that has come by a lane.
    fn publish_posted(&mut self, posted: &Arc<Posted>, asker: Option<Asker>) -> Option<PublishOutcome> {
        self.with_topic(&posted.topic, |hub, id| hub.publish_at_home(id, posted, asker))
    }

    /// Notes at a topic's home the interest of another shard.
    fn note_interest(&mut self, shard: u16, topic: TopicName, number: u64, interest: Interest) {
        self.with_topic(&topic.clone(), |hub, id| {
            let end = hub.topics[id].end().map(Box::new);
            let TopicRole::Home(home) = &mut hub.topics[id].role else {
                unreachable!("interests go to the topic's home")
            };
            home.interested.retain(|&(other, _)| other != shard);
            home.remembering.retain(|&other| other != shard);
            match interest {
                Interest::None => {}
                Interest::Offsets => home.remembering.push(shard),
                Interest::Messages { dear } => {
                    home.interested.push((shard, dear));
                    hub.mesh.deliver(shard, Delivery::Acknowledged { topic, number, end });
                }
            }
        });
    }
}

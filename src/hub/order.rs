//! Publishing: one order for each topic over all shards.
//!
//! Every topic has a home, a shard that is selected by a hash of the topic's name. A publication of [`Scope::Server`]
//! that is made elsewhere goes to the home by a request lane. The home *sequences* the publication: gives it the next
//! place, unless an engine does. Then the home *distributes* the publication: sends it, with its place, to every shard
//! that has subscribers. A publication of [`Scope::Shard`] goes to the subscribers of its own shard only, and has no
//! place.

use std::sync::Arc;

use super::{
    connection_id::ConnectionId,
    connections::Attachment,
    encoding::DearFormats,
    entry::{Delivery, Request, Unplaced},
    hub::ShardHub,
    ids::{Asker, Begun, Key},
    publication::{Place, Posted, Publication, Scope},
    publish_error::PublishOutcome,
    receipt::{NoReceipt, Published},
    receipts::Answered,
    slow::Overflow,
    tag::Tag,
    topic_id::TopicId,
    topic_name::TopicName,
    topics::TopicRole,
};
use crate::proto::{Message, Millis};

impl<T: Attachment> ShardHub<T> {
    /// Publishes as [`ShardHub::publish`] does, to the topic of that name, which may have neither a subscriber nor a
    /// publisher on this shard.
    pub fn publish_by_name(
        &mut self,
        name: &TopicName,
        source: Option<ConnectionId>,
        publication: impl Into<Publication>,
        scope: Scope,
    ) -> Option<Place> {
        let mut publication = publication.into();
        if let Some(topic) = self.topics.find(name) {
            return self.publish(topic, source, publication, scope);
        }
        // The shard has no subscriber of a topic that it does not know.
        let home = self.home(name);
        match scope {
            Scope::Shard => None,
            Scope::Server if home == self.mesh.number() => {
                self.with_topic(name, |hub, topic| hub.publish(topic, source, publication, scope))
            }
            Scope::Server => {
                publication.stamp(self.now());
                self.send_to_home(home, name.clone(), source, publication);
                None
            }
        }
    }

    /// Publishes for all shards, as [`ShardHub::publish_by_name`] does, for a publisher that wants the answer of the
    /// topic's home. Returns the answer if this shard orders the topic. Otherwise [`ShardHub::take_answered`] returns
    /// the answer with this ticket, once the topic's home or an engine has given it.
    pub fn publish_asking(
        &mut self,
        name: &TopicName,
        source: ConnectionId,
        mut publication: Publication,
        ticket: u64,
    ) -> Option<PublishOutcome> {
        publication.stamp(self.now());
        let (home, own) = (self.home(name), self.mesh.number());
        let posted = Arc::new(Posted { topic: name.clone(), source: Some(source), publication });
        let answer = if home == own {
            self.with_topic(name, |hub, topic| hub.publish_at_home(topic, &posted, Some((own, ticket))))
        } else {
            self.mesh.request(home, Request::Submit { posted, ticket });
            None
        };
        if answer.is_some() {
            return answer;
        }
        if let Some(connection) = self.connections.get_mut(source) {
            connection.has_published_elsewhere = true;
        }
        #[cfg(test)]
        if let Some(journal) = &mut self.journal {
            journal.note_sent(name);
        }
        None
    }

    /// Publishes to a topic that this shard knows. `source` does not receive the publication unless it has subscribed
    /// with [`SubscribeOptions::echo`](super::SubscribeOptions::echo).
    ///
    /// Returns the publication's place if this shard orders the topic; `None` for a publication that is refused for its
    /// id. Otherwise the home or an engine orders the publication. If this shard has subscribers, the publication comes
    /// back in its place. A publication of [`Scope::Shard`] has no place.
    pub fn publish(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        mut publication: Publication,
        scope: Scope,
    ) -> Option<Place> {
        publication.stamp(self.now());
        let entry = &self.topics[topic];
        match (scope, &entry.role) {
            (Scope::Shard, _) => {
                self.find_key(topic, &mut publication);
                self.gather(topic, source, &publication, None);
                None
            }
            (Scope::Server, TopicRole::Home(home)) if home.engine.is_some() => {
                if let Some(connection) = source.and_then(|id| self.connections.get_mut(id)) {
                    connection.has_published_elsewhere = true;
                }
                #[cfg(test)]
                if let Some(journal) = &mut self.journal {
                    journal.note_sent(&entry.name);
                }
                let posted = Arc::new(Posted { topic: entry.name.clone(), source, publication });
                self.publish_at_home(topic, &posted, None)?.ok().map(|published| published.place)
            }
            (Scope::Server, TopicRole::Home(home)) => {
                // Only lanes, dear parts and ids need the publication in an `Arc`.
                let has_id = publication.id_name().is_some();
                if home.interested.is_empty() && !has_id && entry.audiences.dear(&self.encodings).is_empty() {
                    self.find_key(topic, &mut publication);
                    let place = self.sequence(topic, source, publication.payload(), publication.time());
                    self.keep(topic, source, &publication, place);
                    self.gather(topic, source, &publication, Some(place));
                    return Some(place);
                }
                let posted = Arc::new(Posted { topic: entry.name.clone(), source, publication });
                self.publish_at_home(topic, &posted, None)?.ok().map(|published| published.place)
            }
            (Scope::Server, TopicRole::Remote(remote)) => {
                let (home, name) = (remote.home, entry.name.clone());
                if let Some(connection) = source.and_then(|id| self.connections.get_mut(id)) {
                    connection.has_published_elsewhere = true;
                }
                self.send_to_home(home, name, source, publication);
                None
            }
        }
    }

    /// Publishes a message of a client on this shard, as [`ShardHub::publish`] does.
    ///
    /// Makes no [`Publication`] of a message whose frame is copied into one run and goes nowhere else.
    pub fn forward(
        &mut self,
        topic: TopicId,
        source: ConnectionId,
        mut message: Message<'_>,
        scope: Scope,
    ) -> Option<Place> {
        self.topics.renew_rules(topic);
        if scope == Scope::Shard || !self.gathers_raw_alone(topic) || !message.is_small() {
            return self.publish(topic, Some(source), message.into(), scope);
        }
        let place = self.sequence(topic, Some(source), message.payload(), self.now());
        let tag = Tag { place: Some(place), time: self.now(), key: None };
        self.gather_copy(topic, source, message.frame(), tag);
        Some(place)
    }

    /// Returns whether this shard gives the topic's publications their places, gathers them for the audience of raw
    /// frames alone, and needs neither keys nor a history.
    #[inline]
    fn gathers_raw_alone(&self, topic: TopicId) -> bool {
        let entry = &self.topics[topic];
        let TopicRole::Home(home) = &entry.role else { return false };
        let needs_publication = entry.rules.slow.overflow == Overflow::Latest || entry.rules.kept.keeps_messages();
        home.engine.is_none() && home.interested.is_empty() && !entry.audiences.has_others() && !needs_publication
    }

    /// Sequences a publication whose topic has its home here, distributes it, and returns its place. If an engine
    /// orders the topic, sends the publication to the engine instead, and returns `None`;
    /// [`ShardHub::distribute_given`] follows when the engine has given the place. A publication with an id that is
    /// remembered is not published again.
    pub(super) fn publish_at_home(
        &mut self,
        topic: TopicId,
        posted: &Arc<Posted>,
        asker: Option<Asker>,
    ) -> Option<PublishOutcome> {
        if posted.publication.id_name().is_some() {
            return self.publish_once(topic, posted, asker);
        }
        self.order(topic, posted, asker).map(Ok)
    }

    /// Publishes a publication with an id, unless its id is remembered.
    #[cold]
    fn publish_once(&mut self, topic: TopicId, posted: &Arc<Posted>, asker: Option<Asker>) -> Option<PublishOutcome> {
        if self.takes_mail {
            self.hashed_from_mail += posted.publication.payload().len();
        }
        match self.ids.begin(posted, asker, self.now()) {
            Ok(Begun::New) => {
                let published = self.order(topic, posted, asker)?;
                if let Some(key) = Key::of(posted) {
                    let waiting = self.ids.note_answer(key, published, self.now());
                    debug_assert!(waiting.is_empty(), "nobody waits for what is answered at once");
                }
                Some(Ok(published))
            }
            Ok(Begun::Repeated(published)) => Some(Ok(repeated(published, posted))),
            Ok(Begun::Awaited) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Sequences and distributes a publication, or sends it to the engine of its topic. Returns the answer, unless it
    /// follows later.
    fn order(&mut self, topic: TopicId, posted: &Arc<Posted>, asker: Option<Asker>) -> Option<Published> {
        let TopicRole::Home(home) = &self.topics[topic].role else { unreachable!("only a topic's home orders it") };
        if let Some(engine) = home.engine {
            let unplaced = Unplaced { posted: Arc::clone(posted), asker };
            self.mesh.request(engine, Request::Order(Box::new(unplaced)));
            return None;
        }
        let place = self.sequence(topic, posted.source, posted.publication.payload(), posted.publication.time());
        if posted.publication.asks_receipt() {
            return self.distribute_with_receipt(topic, posted, place, asker);
        }
        self.distribute(topic, posted, place);
        Some(Published::at(place))
    }

    /// Distributes a publication whose publisher wants a receipt. Returns the answer if there is no receipt.
    #[cold]
    fn distribute_with_receipt(
        &mut self,
        topic: TopicId,
        posted: &Arc<Posted>,
        place: Place,
        asker: Option<Asker>,
    ) -> Option<Published> {
        let TopicRole::Home(home) = &self.topics[topic].role else { unreachable!("only a topic's home distributes") };
        // An end that is no shard has no subscribers with sockets. This shard counts too.
        let shards = self.mesh.shards();
        let others = home.interested.iter().filter(|(shard, _)| *shard < shards).count() as u16;
        let now = self.now();
        let asker = (asker, posted.publication.owner());
        let number = self.receipts.begin((place, others + 1), asker, Key::of(posted), now);
        #[cfg(test)]
        if let (Some(journal), Ok(number)) = (&mut self.journal, number) {
            journal.receipts.insert(number, (posted.topic.clone(), place.offset));
        }
        let Posted { topic: name, source, publication } = &**posted;
        let publication = publication.clone().number_receipt(number.ok());
        self.distribute(topic, &Arc::new(Posted { topic: name.clone(), source: *source, publication }), place);
        number.err().map(|error| Published { place, receipt: Some(Err(error)) })
    }

    /// Distributes a publication to which an engine has given this place, and answers its publisher.
    ///
    /// # Panics
    ///
    /// If the topic's home is another shard, or no engine orders the topic.
    pub(super) fn distribute_given(
        &mut self,
        topic: TopicId,
        posted: &Arc<Posted>,
        place: Place,
        asker: Option<Asker>,
    ) -> Option<Answered> {
        let entry = &mut self.topics[topic];
        let TopicRole::Home(home) = &mut entry.role else { unreachable!("an engine answers the topic's home") };
        assert!(home.engine.is_some(), "the home of {} gives places itself", entry.name);
        (home.epoch, home.offset) = (place.epoch, place.offset);
        #[cfg(test)]
        if let Some(journal) = &mut self.journal {
            let Posted { source, publication, .. } = &**posted;
            let tag = Tag { place: Some(place), time: publication.time(), key: None };
            journal.note_ordered(&entry.name, *source, publication.payload(), tag);
        }
        let published = if posted.publication.asks_receipt() {
            self.distribute_with_receipt(topic, posted, place, asker)?
        } else {
            self.distribute(topic, posted, place);
            Published::at(place)
        };
        Some(Answered { asker, id: Key::of(posted), published })
    }

    /// Gives a publication the next place in its topic's order.
    #[inline]
    fn sequence(&mut self, topic: TopicId, _source: Option<ConnectionId>, _payload: &[u8], _time: Millis) -> Place {
        let entry = &mut self.topics[topic];
        let TopicRole::Home(home) = &mut entry.role else { unreachable!("only a topic's home orders its messages") };
        let previous = home.offset;
        home.offset += 1;
        let place = Place { epoch: home.epoch, offset: home.offset, previous };
        #[cfg(test)]
        if let Some(journal) = &mut self.journal {
            journal.note_ordered(&entry.name, _source, _payload, Tag { place: Some(place), time: _time, key: None });
        }
        place
    }

    /// Hands a publication that has a place to every shard with subscribers, this one included.
    fn distribute(&mut self, topic: TopicId, posted: &Arc<Posted>, place: Place) {
        let keyed = self.keyed(topic, posted);
        let posted = keyed.as_ref().unwrap_or(posted);
        self.keep(topic, posted.source, &posted.publication, place);
        let TopicRole::Home(home) = &self.topics[topic].role else { unreachable!("only a topic's home distributes") };
        let own = self.topics[topic].audiences.dear(&self.encodings);
        let dear = home.interested.iter().fold(own, |dear, (_, of_shard)| dear.union(*of_shard));
        let prepared = if dear.is_empty() { None } else { Some(self.prepare(posted, dear)) };
        let posted = prepared.as_ref().unwrap_or(posted);
        for &(shard, _) in &home.interested {
            self.mesh.deliver(shard, Delivery::Publication { posted: Arc::clone(posted), place });
        }
        self.gather(topic, posted.source, &posted.publication, Some(place));
    }

    /// Gives a publication the key that the topic's rules find in it, if its publisher has given none.
    #[inline]
    fn find_key(&mut self, topic: TopicId, publication: &mut Publication) {
        self.topics.renew_rules(topic);
        if let Some(pointer) = &self.topics[topic].rules.key
            && publication.key_name().is_none()
            && let Ok(keyed) = pointer.give_key(publication.clone())
        {
            *publication = keyed;
        }
    }

    /// Returns the publication with the key that the topic's rules find in it; `None` if it keeps the key that it has.
    fn keyed(&mut self, topic: TopicId, posted: &Arc<Posted>) -> Option<Arc<Posted>> {
        self.topics.renew_rules(topic);
        if self.topics[topic].rules.key.is_none() || posted.publication.key_name().is_some() {
            return None;
        }
        let mut publication = posted.publication.clone();
        self.find_key(topic, &mut publication);
        Some(Arc::new(Posted { topic: posted.topic.clone(), source: posted.source, publication }))
    }

    /// Returns the publication with the parts that its dear formats need.
    fn prepare(&self, posted: &Posted, dear: DearFormats) -> Arc<Posted> {
        let Posted { topic, source, publication } = posted;
        let prepared = self.encodings.prepare(publication, dear);
        let publication = publication.clone().with_prepared(prepared);
        Arc::new(Posted { topic: topic.clone(), source: *source, publication })
    }

    fn send_to_home(&mut self, home: u16, topic: TopicName, source: Option<ConnectionId>, publication: Publication) {
        #[cfg(test)]
        if let Some(journal) = &mut self.journal {
            journal.note_sent(&topic);
        }
        self.mesh.request(home, Request::Publish(Arc::new(Posted { topic, source, publication })));
    }
}

/// Returns the answer to a repetition of a publication that was published before.
fn repeated(published: Published, posted: &Posted) -> Published {
    let not_asked = posted.publication.asks_receipt().then_some(Err(NoReceipt::NotAsked));
    Published { receipt: published.receipt.or(not_asked), ..published }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hub::{
        EndRole, ExternalEnd, HubConnection, HubLimits, MeshEnd, MeshLimits, Wake, testing::TestEngine,
        topic_name::home,
    };

    /// Publications with ids are hashed, so a turn takes so many bytes of them alone, even if they gather nothing.
    #[test]
    fn ids_take_room_for_mail_within_their_turn() {
        let roles = EndRole::shards_and_control(1);
        let wake = roles.iter().map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, &roles, &MeshLimits::default());
        let mut control = ExternalEnd::new(ends.pop().unwrap());
        let mut hub: ShardHub = ShardHub::new(ends.pop().unwrap(), HubLimits::default(), 7);
        let message = Publication::text(&"x".repeat(hub.limits.gathered_bytes_max / 16)).id("1");
        (0..12).for_each(|ticket| control.submit(TopicName::new("t").unwrap(), None, message.clone(), ticket));
        control.send_out();
        for (now, expected) in [5, 5, 2].into_iter().enumerate() {
            hub.note_time(Millis(now as u64));
            let mut taken = 0;
            while hub.has_room_for_mail() && hub.take_request(&mut Vec::new()) {
                taken += 1;
            }
            assert_eq!(taken, expected, "the turn takes a quarter of the memory, and one message more");
        }
        assert_eq!(hub.id_counts().repeated, 11);
    }

    /// The place comes at once if this shard orders the topic, and else when another shard or an engine has given it.
    #[test]
    fn publishers_get_the_places_that_they_ask_for() {
        let roles = [EndRole::Shard, EndRole::Shard, EndRole::Engine];
        let wake = roles.iter().map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, &roles, &MeshLimits::default());
        let mut engine = TestEngine::new(ends.pop().unwrap());
        let hub =
            |mesh| -> ShardHub { ShardHub::new(mesh, HubLimits::default(), 7).with_engine(TestEngine::topics(2)) };
        let mut hubs: Vec<ShardHub> = ends.into_iter().map(hub).collect();
        let source = hubs[0].connections.insert(HubConnection::new(())).unwrap();
        let names: Vec<TopicName> = (0..8).map(|n| TopicName::new(&format!("topic {n}")).unwrap()).collect();
        let kinds: BTreeMap<_, usize> = names.iter().map(|name| ((home(name, 2), TestEngine::has(name)), 1)).collect();
        assert_eq!(kinds.len(), 4, "topics of both homes, with and without the engine");
        let mut placed = BTreeMap::new();
        for ticket in 0..24 {
            let name = &names[ticket % 8];
            let place = hubs[0].publish_asking(name, source, Publication::text("x"), ticket as u64);
            assert_eq!(place.is_some(), home(name, 2) == 0 && !TestEngine::has(name));
            placed.extend(place.map(|answer| (ticket as u64, answer.unwrap().place)));
        }
        for _ in 0..1_000 {
            for hub in &mut hubs {
                while hub.take_request(&mut Vec::new()) || hub.take_delivery(&mut Vec::new()) {}
                hub.send_out();
            }
            while engine.work(|_| 1) {}
            engine.end.send_out();
            placed.extend(hubs[0].take_answered().into_iter().map(|(ticket, answer)| (ticket, answer.unwrap().place)));
        }
        assert_eq!(placed.len(), 24);
        for (number, name) in names.iter().enumerate() {
            let own: Vec<Place> = (0..3).map(|round| placed[&(number as u64 + 8 * round)]).collect();
            match engine.places.get(name) {
                Some(places) => assert_eq!(own, *places, "{name}"),
                None => assert_eq!(own.iter().map(|place| place.offset).collect::<Vec<_>>(), [1, 2, 3], "{name}"),
            }
        }
    }
}

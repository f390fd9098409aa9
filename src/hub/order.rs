//! Publishing: one order for each topic over all shards.
//!
//! Every topic has a home, a shard that is selected by a hash of the topic's name. A message of [`Scope::Server`] that
//! is published elsewhere goes to the home by a request lane. The home gives each message the next offset and sends it
//! to every shard that has subscribers. A message of [`Scope::Shard`] goes to the subscribers of its own shard only,
//! and has no offset.

use std::sync::Arc;

use super::{
    connection_id::ConnectionId,
    connections::Attachment,
    entry::{Delivery, Request},
    hub::ShardHub,
    publication::{Publication, Published, Scope},
    topic_name::TopicName,
    topics::{TopicId, TopicRole},
};
use crate::proto::PreparedMessage;

impl<T: Attachment> ShardHub<T> {
    /// Publishes as [`ShardHub::publish`] does, to the topic of that name, which may have neither a subscriber nor a
    /// publisher on this shard.
    pub fn publish_by_name(
        &mut self,
        name: &TopicName,
        source: Option<ConnectionId>,
        message: &PreparedMessage,
        scope: Scope,
    ) -> Option<Published> {
        if let Some(topic) = self.topics.find(name) {
            return self.publish(topic, source, message, scope);
        }
        // The shard has no subscriber of a topic that it does not know.
        let home = self.home(name);
        match scope {
            Scope::Shard => None,
            Scope::Server if home == self.mesh.number() => {
                Some(self.with_topic(name, |hub, topic| hub.publish_at_home(topic, source, message, None)))
            }
            Scope::Server => {
                self.send_to_home(home, name.clone(), source, message);
                None
            }
        }
    }

    /// Publishes a message on this shard. `source` does not receive it unless it has subscribed with
    /// [`SubscribeOptions::echo`](super::SubscribeOptions::echo).
    ///
    /// Returns the message's place if this shard is the topic's home. If not, the message is on its way there, and
    /// comes back in the order of all messages if this shard has subscribers. A message of [`Scope::Shard`] has no
    /// place in the order.
    pub fn publish(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        message: &PreparedMessage,
        scope: Scope,
    ) -> Option<Published> {
        let entry = &self.topics[topic];
        match (scope, &entry.role) {
            (Scope::Shard, _) => {
                self.gather(topic, source, message);
                None
            }
            (Scope::Server, TopicRole::Home(_)) => Some(self.publish_at_home(topic, source, message, None)),
            (Scope::Server, TopicRole::Remote(remote)) => {
                let (home, name) = (remote.home, entry.name.clone());
                if let Some(connection) = source.and_then(|id| self.connections.get_mut(id)) {
                    connection.has_published_elsewhere = true;
                }
                self.send_to_home(home, name, source, message);
                None
            }
        }
    }

    /// Publishes a message whose topic has its home here: gives it the next offset and hands it to every shard that has
    /// subscribers, this one included. `shared` is the publication of a message that has come by a lane.
    pub(super) fn publish_at_home(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        message: &PreparedMessage,
        shared: Option<&Arc<Publication>>,
    ) -> Published {
        let entry = &mut self.topics[topic];
        let TopicRole::Home(home) = &mut entry.role else { unreachable!("only a topic's home orders its messages") };
        home.offset += 1;
        let published = Published { epoch: home.epoch, offset: home.offset };
        #[cfg(test)]
        if let Some(journal) = &mut self.journal {
            journal.note_ordered(&entry.name, source, message);
        }
        if !home.interested.is_empty() {
            let publication = shared.cloned().unwrap_or_else(|| {
                Arc::new(Publication { topic: entry.name.clone(), source, message: message.clone() })
            });
            for &shard in &home.interested {
                self.mesh.deliver(shard, Delivery::Message { publication: Arc::clone(&publication), published });
            }
        }
        self.gather(topic, source, message);
        published
    }

    fn send_to_home(&mut self, home: u16, topic: TopicName, source: Option<ConnectionId>, message: &PreparedMessage) {
        #[cfg(test)]
        if let Some(journal) = &mut self.journal {
            journal.note_sent(&topic);
        }
        let publication = Publication { topic, source, message: message.clone() };
        self.mesh.request(home, Request::Publish(Arc::new(publication)));
    }
}

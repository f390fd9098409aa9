//! The interest of this shard in topics whose home is another shard.
//!
//! A shard announces [`Interest::Messages`] when a topic gets its first subscriber on the shard, and withdraws the
//! interest when the last subscriber leaves. Where connections only publish, the shard announces [`Interest::Offsets`].
//! Each announcement has a number. Of each topic only the latest interest waits for room in the lane to the home.

use std::mem;

use super::{
    connections::Attachment,
    entry::{Interest, Request},
    hub::ShardHub,
    topic_id::TopicId,
    topics::{Feed, Topic, TopicRole},
};

impl<T: Attachment> ShardHub<T> {
    /// Detaches one connection from the topic. A topic that is not used any more is forgotten later.
    pub(super) fn detach(&mut self, topic: TopicId) {
        self.topics.detach(topic);
        self.announce(topic);
        self.topics.notice_unused(topic);
    }

    /// Announces the shard's interest in the topic to the home, if the interest has changed. Unless a connection is
    /// attached to the topic, [`Topics::notice_unused`](super::topics::Topics::notice_unused) must follow.
    pub(super) fn announce(&mut self, id: TopicId) {
        let Topic { role, audiences, attached, .. } = &mut self.topics[id];
        let TopicRole::Remote(remote) = role else { return };
        let dear = audiences.dear(&self.encodings);
        let interest = match remote.feed {
            Feed::Requested | Feed::Live => Interest::Messages { dear },
            Feed::Off if *attached > 0 => Interest::Offsets,
            Feed::Off => Interest::None,
        };
        if interest == remote.interest {
            return;
        }
        self.interest_number += 1;
        (remote.interest, remote.number) = (interest, self.interest_number);
        let home = remote.home;
        if !mem::replace(&mut remote.is_due, true) && !self.send_interest(id) {
            self.due.push(home, id);
        }
    }

    /// Sends the interests that wait, to each home that has room. Returns whether no interest waits any more.
    pub(super) fn send_due(&mut self) -> bool {
        let mut due = mem::take(&mut self.due);
        due.retry(|id| {
            let is_sent = self.send_interest(id);
            if is_sent {
                self.topics.notice_unused(id);
            }
            is_sent
        });
        self.due = due;
        self.due.is_empty()
    }

    /// Sends the topic's interest if the lane to its home has room. Returns whether there was room.
    fn send_interest(&mut self, id: TopicId) -> bool {
        let topic = &mut self.topics[id];
        let TopicRole::Remote(remote) = &mut topic.role else { unreachable!("a home has no interest to send") };
        let has_room = self.mesh.has_room_for_requests(remote.home);
        if has_room {
            remote.is_due = false;
            let (number, interest) = (remote.number, remote.interest);
            self.mesh.request(remote.home, Request::Interest { topic: topic.name.clone(), number, interest });
        }
        has_room
    }
}

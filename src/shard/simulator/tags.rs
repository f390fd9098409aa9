//! The check of the tags in backlogs, of topics that ask for tags.

use super::{
    answering::topic_number,
    client::Client,
    names::read_name,
    simulation::{Simulation, count_up_to},
};
use crate::{
    hub::{
        Label,
        testing::{REVERSED, reversed},
    },
    proto::{FrameHeader, MessageType, OpCode},
};

impl Simulation {
    /// Checks now and then that the messages in the connection's backlog have the tags that their topics ask for, and
    /// that each tag is that of its message.
    pub(super) fn check_tags(&mut self, number: usize) {
        if !self.plan.tagged.contains(&true) || !self.random.chance(300) {
            return;
        }
        let client = &self.clients[number];
        let connection = client.id.and_then(|id| self.drivers[client.shard].shard.hub.connections.get(id));
        let Some(output) = connection.and_then(|connection| connection.io.output.as_ref()) else { return };
        // A check reads every byte, so large backlogs have it seldom.
        if output.backlog.bytes() > LARGE && !self.random.chance(20) {
            return;
        }
        let unsent = output.backlog.unsent(usize::MAX, usize::MAX).collect::<Vec<_>>().concat();
        let (mut rest, mut checked) = (&unsent[..], 0);
        for (at, label) in output.backlog.labels().enumerate() {
            let (bytes, behind) = rest.split_at(label.bytes());
            rest = behind;
            // The first message may have been sent in part: its frame has no beginning then.
            checked += self.check_label(client, label, bytes, at == 0);
        }
        self.events.tags += checked;
    }

    /// Checks the tags of one label, whose messages these bytes are. Returns how many messages have a tag.
    fn check_label(&self, client: &Client, label: &Label, bytes: &[u8], may_be_cut: bool) -> u64 {
        let topic = label.topic().map(topic_number);
        let Some(topic) = topic.filter(|&topic| self.plan.tagged[topic]) else {
            assert_eq!(label.tags().count(), 0, "no topic has asked for tags of client {}", client.number);
            return 0;
        };
        assert_eq!(label.tags().count(), label.messages() as usize, "each message of topic {topic} has a tag");
        let (order, mut begin, mut last) = (self.order(topic), 0, 0);
        for (index, (end, tag)) in label.tags().enumerate() {
            let place = tag.place.expect("every message has a place");
            let at = count_up_to(order, place);
            assert!(at > last, "{place:?} comes behind the tag of message {last} in topic {topic}");
            let ordered = &order[at as usize - 1];
            assert_eq!(&ordered.tag, tag, "the tag is that of message {at} in topic {topic}");
            if index > 0 || !may_be_cut {
                let payload = payload(client, &bytes[begin..end]);
                assert_eq!(read_name(&payload), read_name(&ordered.beginning), "message {at} of topic {topic}");
            }
            (begin, last) = (end, at);
        }
        assert_eq!(begin, bytes.len(), "the last message ends with its label");
        u64::from(label.messages())
    }
}

/// The bytes of a backlog that is seldom checked.
const LARGE: usize = 20_000;

/// Returns the payload of a frame that a client gets in its format, as it was published.
fn payload(client: &Client, frame: &[u8]) -> Vec<u8> {
    let (header, length) = FrameHeader::decode(frame).expect("a frame").expect("a whole header");
    let payload = &frame[length..];
    assert_eq!(header.payload_len, payload.len() as u64, "a tag stands at the end of its message");
    let kind = if header.opcode == OpCode::Text { MessageType::Text } else { MessageType::Binary };
    if client.format == REVERSED { reversed(kind, payload) } else { payload.to_vec() }
}

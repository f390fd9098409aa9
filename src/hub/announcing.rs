//! Announcing: batches of joins and leaves, as messages of a topic of their own, whose subscribers want them.

use std::{fmt::Write as _, sync::Arc};

use super::{
    connections::Attachment,
    hub::ShardHub,
    presence::MemberInfo,
    publication::{OrderEnd, Publication, Scope},
    roster::Batch,
    topic_id::TopicId,
};

impl<T: Attachment> ShardHub<T> {
    /// Lets the members leave whose time has come, and publishes the batches of events that are due.
    pub fn advance_presence(&mut self) {
        if self.next_presence().is_none_or(|next| next > self.now()) {
            return;
        }
        self.end_members();
        while let Some(&(_, topic)) = self.rosters.batches.front().filter(|(at, _)| *at <= self.now()) {
            self.rosters.batches.pop_front();
            self.publish_batch(topic);
        }
    }

    fn publish_batch(&mut self, id: TopicId) {
        let rules = self.topics[id].rules.members.unwrap_or_default();
        let (end, name) = (self.topics[id].end(), self.topics[id].name.clone());
        let Some(roster) = self.roster_mut(id) else { return };
        let before = roster.bytes();
        roster.is_scheduled = false;
        let (batch, version) = (roster.take_batch(&rules), roster.version);
        let after = roster.bytes();
        self.rosters.note_bytes(before, after);
        self.rosters.note_batch();
        let text = batch.as_json(name.as_str(), end, version);
        self.publish_by_name(&name.events(), None, Publication::text(&text), Scope::Server);
        self.forget_roster(id);
        self.topics.notice_unused(id);
    }
}

impl Batch {
    /// Returns the frame of `ringhub.v1` that tells of the batch.
    fn as_json(&self, topic: &str, end: Option<OrderEnd>, version: u64) -> String {
        let Batch { count, anonymous, names } = self;
        let mut out = format!("{{\"presence_changed\":{{\"topic\":{}", quoted(topic));
        if let Some(OrderEnd { epoch, offset }) = end {
            write!(out, ",\"epoch\":\"{epoch}\",\"offset\":{offset}").expect(MEMORY);
        }
        write!(out, ",\"version\":{version},\"count\":{count},\"anonymous\":{anonymous}").expect(MEMORY);
        if let Some((joined, left)) = names {
            let joined: Vec<String> = joined.iter().map(MemberInfo::as_json).collect();
            let left: Vec<String> = left.iter().map(|id: &Arc<str>| quoted(id)).collect();
            write!(out, ",\"joined\":[{}],\"left\":[{}]", joined.join(","), left.join(",")).expect(MEMORY);
        }
        out.push_str("}}");
        out
    }
}

impl MemberInfo {
    fn as_json(&self) -> String {
        let info = self.info.as_ref().map_or_else(String::new, |info| format!(",\"info\":{info}"));
        format!("{{\"id\":{}{info}}}", quoted(&self.id))
    }
}

/// Returns a text as a string of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

const MEMORY: &str = "memory takes all texts";

//! The limit of a connection's output, and the close of a slow consumer.

use std::time::Instant;

use super::state::Shard;
use crate::{
    hub::{ConnectionId, Decision, Label, OwedOutput, Reply, SubscribeOutcome, TopicName, messages_by_topic},
    metrics::Counter,
    proto::{CloseCode, State},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Appends the protocol's replies, and keeps their buffer for the next replies.
    pub(super) fn finish_replies(&mut self, id: ConnectionId, mut replies: Vec<u8>) {
        self.reply(id, &replies);
        replies.clear();
        self.replies = replies;
    }

    /// Appends whole frames for this connection alone, and closes a held connection whose output is beyond its limit.
    pub(super) fn reply(&mut self, id: ConnectionId, frames: &[u8]) {
        if frames.is_empty() {
            return;
        }
        self.append(id, frames);
        // The flush checks the backlogs of connections that are not held.
        if self.hub.connections.get(id).is_some_and(|connection| connection.is_held) {
            self.check_backlog(id);
        }
    }

    /// Ends a subscription: the connection gets the messages that were gathered for it before, and no later ones.
    pub(crate) fn unsubscribe(&mut self, id: ConnectionId, topic: &TopicName) {
        let owed = self.hub.unsubscribe(id, topic);
        // If the subscription has just gone live, its handler is not called for it any more.
        self.joined.retain(|joined| joined.id != id || joined.topic != *topic);
        for (end, ticket) in self.joining.take(id, topic) {
            self.hub.reply(end, ticket, Reply::Subscribed(SubscribeOutcome::NotOpen));
        }
        let is_owed = !owed.is_empty();
        self.owe_behind_outbox(id, owed);
        if let Some(output) = self.hub.connections.get_mut(id).and_then(|connection| connection.io.output.as_mut()) {
            output.backlog.end_subscription(topic);
            self.measure_backlog(id);
        }
        if is_owed {
            self.check_backlog(id);
        }
        self.release(id);
    }

    /// Acts on the decision about a connection's backlog. A slow consumer whose goodbye waits for marks is closing
    /// already: its wait ends, and it leaves its topics.
    pub(super) fn check_backlog(&mut self, id: ConnectionId) {
        let is_beyond = match self.decide(id) {
            Decision::Keep => false,
            Decision::Shed => self.shed(id),
            Decision::Close => true,
        };
        if !is_beyond {
            return;
        }
        if self.marks.has(id) {
            return self.end_marks(id);
        }
        let is_within = self.owed_output(id).is_some_and(|owed| owed.is_within(&self.output_limits(), self.hub.now()));
        self.close_slow(id, if is_within { GivenUp::BeyondTopic } else { GivenUp::BeyondLimit });
    }

    /// Returns whether a subscriber is owed more than it may be, has not kept up until now, and no policy may drop
    /// messages instead of closing it.
    pub(super) fn is_too_slow(&self, id: ConnectionId) -> bool {
        self.decide(id) == Decision::Close
    }

    /// Decides what becomes of a connection's output.
    fn decide(&self, id: ConnectionId) -> Decision {
        let Some(connection) = self.hub.connections.get(id) else { return Decision::Keep };
        // The backlog of a connection that has left its topics does not grow, and its goodbye has been appended.
        if connection.io.session.state() != State::Open && !self.marks.has(id) {
            return Decision::Keep;
        }
        let owed = self.owed_output(id);
        owed.map_or(Decision::Keep, |owed| owed.decide(&self.output_limits(), self.hub.now()))
    }

    /// Returns the output that a connection is owed.
    fn owed_output(&self, id: ConnectionId) -> Option<OwedOutput<'_>> {
        let connection = self.hub.connections.get(id)?;
        let output = connection.io.output.as_ref()?;
        let (backlog, outbox_bytes) = (&output.backlog, output.outbox.capacity());
        Some(OwedOutput { backlog, outbox_bytes, is_held: connection.is_held })
    }

    /// Closes an open connection that does not take its output, or gives up its backlog. The first piece of its backlog
    /// stays, even if nothing of it was sent; the messages after it are dropped and counted, and the goodbye follows.
    pub(super) fn close_slow(&mut self, id: ConnectionId, why: GivenUp) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let Some(output) = &mut connection.io.output else { return };
        let (bytes, messages) = (output.bytes(), output.backlog.messages());
        let labels = output.backlog.truncate();
        let marked = output.marked.take();
        if !output.backlog.is_empty() {
            // If there is no backlog, the outbox stays, since it may have the opening answer.
            output.outbox = Vec::new();
        }
        connection.io.session.close(self.now, CloseCode::POLICY_VIOLATION, why.reason(), &mut output.outbox);
        self.count_age(marked);
        self.measure_backlog(id);
        let dropped = labels.iter().map(|label| u64::from(label.messages())).sum::<u64>() + self.hub.leave_unsent(id);
        let peer = self.peer(id);
        let is_beyond_messages = messages > self.limits.backlog_messages_max;
        let (cause, counter) = match why {
            GivenUp::ForMemory => ("it was among the largest while memory was above max_memory", Counter::MemoryClosed),
            GivenUp::BeyondLimit if is_beyond_messages => ("it went beyond max_backlog_messages", Counter::SlowClosed),
            GivenUp::BeyondLimit => ("it went beyond max_backlog", Counter::SlowClosed),
            GivenUp::BeyondTopic => ("it went beyond the backlog of a topic's rule", Counter::SlowClosed),
        };
        if let Some(suppressed) = self.warnings.slow_consumer.allow(Instant::now()) {
            tracing::info!(%id, peer, bytes, messages, suppressed, "slow consumer: its backlog is given up, {cause}");
        } else {
            tracing::debug!(%id, peer, bytes, messages, "slow consumer: its backlog is given up, {cause}");
        }
        log_given_up(id, &labels);
        self.count(counter, 1);
        self.count(Counter::SlowDropped, dropped);
        self.notice_close(id);
    }
}

/// The reason for which a backlog is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// It is beyond one of its own limits.
    BeyondLimit,
    /// It is beyond a limit of one of its topics.
    BeyondTopic,
    /// It is among the largest, and the server is short of memory.
    ForMemory,
}

impl GivenUp {
    /// Returns the reason in the close frame.
    fn reason(self) -> &'static str {
        match self {
            GivenUp::BeyondLimit | GivenUp::BeyondTopic => "slow consumer",
            GivenUp::ForMemory => "slow consumer, and the server is short of memory",
        }
    }
}

/// Logs how many messages of each topic in a backlog were dropped, for the first [`LOGGED_TOPICS_MAX`] topics by name.
fn log_given_up(id: ConnectionId, labels: &[Label]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let topics = messages_by_topic(labels);
    let dropped_topics = topics.len();
    for (topic, messages) in topics.iter().take(LOGGED_TOPICS_MAX) {
        // The topic of all connections has a control character in its name.
        let topic = topic.as_str().escape_debug();
        tracing::debug!(%id, %topic, messages, dropped_topics, "slow consumer: messages of the topic were dropped");
    }
}

/// The most topics that are logged for each slow consumer.
const LOGGED_TOPICS_MAX: usize = 16;

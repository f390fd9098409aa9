//! The checks between any two turns, when the network has settled, and when all clients have left.

use std::{mem, rc::Rc};

use super::{
    super::io_state::{Reading, ShardConnection},
    answering::{CLOSED_AS_ASKED, CLOSED_AS_FULL},
    client::{BacklogSeen, Client, EMPTY, Leaving, Name, sender, topic_of},
    line::Line,
    network::Network,
    simulation::Simulation,
};
use crate::{
    metrics::Counter,
    proto::{CloseCode, KeepAlive, State},
};

impl Simulation {
    /// Returns the clients whose connections are open.
    pub(super) fn open_clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.closed_at.is_none())
    }

    /// Checks what holds between any two turns.
    pub(super) fn check_turn(&mut self, (close_timeout, cut_off): (u64, u64)) {
        let network = Rc::clone(&self.network);
        let network = &mut *network.borrow_mut();
        let offered = mem::take(&mut network.offered);
        assert!(offered.is_within(&self.shard.pace), "{offered:?} in a turn");
        let offsets = self.offsets();
        let (mut alive, mut slow_consumers) = (0, 0);
        for &number in &network.active {
            let line = &network.lines[number];
            let Some(is_open) = self.check_presence(number, line, &offsets) else { continue };
            alive += 1;
            slow_consumers += u64::from(self.check_output(number, line));
            self.check_sides(number, network);
            let client = &mut self.clients[number];
            for (topic, name) in self.topics.iter().enumerate() {
                let is_subscribed = client.id.is_some_and(|id| self.shard.hub.is_subscribed(id, name));
                let expected = is_open && client.subscription(topic).is_some();
                assert_eq!(is_subscribed, expected, "client {number} and topic {topic}");
            }
        }
        assert!(network.has_submitted(), "the shard goes to sleep without having asked");
        assert_eq!(self.shard.open(), alive, "connections");
        let counted = |counter| self.counters.get(counter);
        assert_eq!(counted(Counter::ConnectionsOpen), alive as u64);
        assert_eq!(counted(Counter::Opened) - counted(Counter::Ended), alive as u64);
        assert_eq!(counted(Counter::SlowConsumers), slow_consumers, "slow consumers");
        let timeouts = counted(Counter::CloseTimeout) - close_timeout;
        assert!(network.tally.cut_off - cut_off <= timeouts, "a connection is cut off before its time");
        let (clients, lines) = (&self.clients, &network.lines);
        network.active.retain(|&number| {
            let line = &lines[number];
            let can_read = !clients[number].has_no_reader() && !clients[number].mute;
            !line.dropped || can_read && !(line.sent.is_empty() && line.fetched.is_empty())
        });
    }

    /// Notes whether the client's connection is there and open. Returns whether it is open, if it is there.
    fn check_presence(&mut self, number: usize, line: &Line, offsets: &[u64]) -> Option<bool> {
        let client = &mut self.clients[number];
        let connection = client.id.and_then(|id| self.shard.hub.connections.get(id));
        let is_open = connection.map(ShardConnection::is_open);
        client.gone = is_open.is_none();
        assert!(!client.gone || line.dropped, "client {number} is gone and its socket is not");
        if is_open == Some(true) {
            client.open_until = offsets.to_vec();
        } else {
            client.closed_at.get_or_insert_with(|| offsets.to_vec());
        }
        is_open
    }

    /// Checks the connection's output. Returns whether it has a backlog.
    fn check_output(&mut self, number: usize, line: &Line) -> bool {
        let client = &mut self.clients[number];
        let id = client.id.expect("the connection is there");
        let connection = self.shard.hub.connections.get(id).expect("the connection is there");
        let is_open = connection.is_open();
        let Some(output) = &connection.io.output else {
            client.backlog = None;
            let waits = connection.is_lost || self.shard.marks.has(id);
            let has_reason = line.stream.has_ended() || connection.io.sides.has_peer_ended() || waits;
            assert!(is_open || has_reason, "client {number} is closed without a close frame");
            return false;
        };
        let backlog = &output.backlog;
        let seen = BacklogSeen {
            bytes: backlog.bytes(),
            messages: backlog.messages(),
            unsent: backlog.unsent(usize::MAX, usize::MAX).map(|piece| piece.len() as u64).sum(),
            was_refused: backlog.was_refused(),
            taken: line.stream.taken(),
        };
        assert!(seen.unsent <= seen.bytes as u64, "the backlog of client {number} keeps more than it says");
        // One run may make a backlog of any size: its subscriber had kept up. Later messages may not.
        let is_new = client.backlog.is_none_or(|before| !before.was_refused || before.is_sent(&seen));
        let is_within = seen.is_within(&self.shard.limits, client.backlog.as_ref());
        assert!(is_new || is_within || !is_open, "the backlog of client {number} is beyond its limit");
        client.backlog = (!backlog.is_empty()).then_some(seen);
        let close_waits = self.shard.close_waits(id).is_some();
        let is_waiting = connection.io.awaits_room() || connection.io.is_dirty || close_waits;
        assert!(is_waiting || backlog.is_empty(), "the backlog of client {number} waits for nothing");
        assert!(!connection.io.awaits_room() || !backlog.is_empty(), "client {number} needs no room");
        !backlog.is_empty()
    }

    /// Checks how far the two sides of the connection's socket have ended.
    fn check_sides(&self, number: usize, network: &Network) {
        let line = &network.lines[number];
        let connection = self.clients[number].id.and_then(|id| self.shard.hub.connections.get(id));
        let connection = connection.expect("the connection is there");
        let (state, sides) = (connection.websocket.state(), &connection.io.sides);
        assert_eq!(sides.is_open(), connection.is_open(), "our side of client {number}");
        let is_over = state == State::Closed && !connection.io.owes_output();
        assert_eq!((line.finished, sides.is_finished()), (is_over, is_over), "the end of client {number}");
        // The peer has taken everything, and the shard knows of all that the peer has done.
        let is_taken =
            line.sent.is_empty() && connection.io.reading != Reading::Queued && !network.has_input_report(number);
        let may_stay = state == State::Closed && !(is_over && is_taken);
        assert!(!sides.has_peer_ended() || may_stay, "client {number} has gone and nothing is left to do");
    }

    /// Checks that every open client has received everything.
    pub(super) fn check_settled(&self) {
        assert_eq!(self.shard.hub.gathered_bytes(), 0, "everything was sent");
        for client in self.open_clients() {
            let number = client.number;
            if client.mute {
                continue;
            }
            let expected = self.expected_of_all(client, &vec![u64::MAX; self.topics.len()]);
            assert_eq!(client.received.len(), expected, "client {number} has everything");
            assert!(client.has_sent_all() && client.has_all_pongs(), "client {number} was answered");
            let order = &self.clients[client.topic].received;
            let published = order.iter().filter(|&&name| sender(name) == Some(number)).count();
            if client.leaving.is_none() {
                assert_eq!(published, client.sent as usize, "messages of client {number}");
            }
        }
    }

    /// Returns the messages that a client is owed of a topic's first `until`.
    fn expected(&self, client: &Client, topic: usize, until: u64) -> impl Iterator<Item = Name> {
        let order = &self.clients[topic].received;
        let end = until.min(order.len() as u64);
        let subscriptions = client.subscriptions.iter().filter(move |subscription| subscription.topic == topic);
        subscriptions.flat_map(move |subscription| {
            let end = subscription.until.unwrap_or(end).min(end);
            let begin = subscription.from.min(end);
            let (own, echo) = (client.number, subscription.echo);
            order[begin as usize..end as usize].iter().copied().filter(move |&name| echo || sender(name) != Some(own))
        })
    }

    /// Returns how many messages a client is owed of the first `until` of each topic.
    fn expected_of_all(&self, client: &Client, until: &[u64]) -> usize {
        until.iter().enumerate().map(|(topic, &until)| self.expected(client, topic, until).count()).sum()
    }

    /// Checks what holds when all clients have left.
    pub(super) fn check_end(&self) {
        let counted = |counter| self.counters.get(counter);
        let network = self.network.borrow();
        let tally = &network.tally;
        assert_eq!(self.shard.hub.gathered_bytes(), 0);
        assert!(network.lines.iter().all(|line| line.dropped), "every socket is dropped");
        for (counter, expected) in [
            (Counter::Opened, self.clients.len() as u64),
            (Counter::Ended, self.clients.len() as u64),
            (Counter::ConnectionsOpen, 0),
            (Counter::SlowConsumers, 0),
            (Counter::BytesIn, tally.bytes_received),
            (Counter::BytesOut, tally.bytes_sent),
            (Counter::Sends, tally.sends),
            (Counter::ShortSends, tally.short_sends),
        ] {
            assert_eq!(counted(counter), expected, "{counter:?}");
        }
        let mut published = 0;
        for (topic, name) in self.topics.iter().enumerate() {
            let order = &self.clients[topic].received;
            assert_eq!(order.len() as u64, self.shard.hub.offset(name), "the observer of {name} has seen everything");
            published += order.len() as u64;
            self.check_order(topic, order);
        }
        let spoken: u64 = self.clients.iter().flat_map(|client| &client.spoken).copied().map(u64::from).sum();
        // Messages of receive-only clients are not published.
        let refused = counted(Counter::MessagesIn) + spoken - published;
        // Messages that handlers have answered are not published either.
        let asked: u64 = self.clients.iter().map(|client| u64::from(client.asked)).sum();
        let closing = self.clients.iter().filter(|client| client.leaving == Some(Leaving::Asking)).count() as u64;
        let taken = asked + closing + counted(Counter::PolicyClosed);
        assert!(refused <= taken, "{refused} messages in were not published");
        if !self.plan.backlog_is_limited {
            assert_eq!(counted(Counter::SlowClosed), 0, "slow consumers below the limit");
        }
        self.check_dropped();
        let mut received = 0;
        let mut is_exact = true;
        for client in &self.clients {
            received += client.received.len() as u64;
            is_exact &= self.check_client(client, network.lines[client.number].was_short);
        }
        let deliveries = counted(Counter::Deliveries);
        assert!(received <= deliveries, "{received} messages were received and {deliveries} delivered");
        assert!(received == deliveries || !is_exact, "{received} messages were received of {deliveries} delivered");
    }

    /// Checks that the messages are counted that slow consumers were owed when they were closed, and did not get.
    fn check_dropped(&self) {
        let (mut slow, mut dropped) = (0, 0);
        for client in self.clients.iter().filter(|client| client.is_slow()) {
            let owed = self.expected_of_all(client, client.closed_at.as_ref().expect("it is closed"));
            slow += 1;
            dropped += (owed - client.received.len()) as u64;
        }
        let counted = self.counters.get(Counter::SlowDropped);
        assert!(dropped <= counted, "{dropped} messages were dropped and {counted} counted");
        let all = slow == self.counters.get(Counter::SlowClosed);
        assert!(dropped == counted || !all, "{dropped} messages were dropped and {counted} counted");
    }

    /// Checks that each client's messages stand in the order in which it sent them, without a gap.
    fn check_order(&self, topic: usize, order: &[Name]) {
        let mut next = vec![0_u32; self.clients.len()];
        for &name in order.iter().filter(|&&name| name != EMPTY) {
            let number = sender(name).expect("a named message has a sender");
            assert_eq!(name as u32, next[number], "the messages of client {number} in their order");
            assert_eq!(topic_of(name), topic, "messages stay in their topic");
            next[number] += 1;
        }
        for (client, next) in self.clients.iter().zip(next) {
            if client.topic != topic {
                assert_eq!(next, client.spoken[topic], "what was published for client {}", client.number);
                continue;
            }
            assert!(next <= client.sent, "client {} did not send so many", client.number);
            let closed_cleanly = client.leaving == Some(Leaving::Handshake)
                && client.close.as_ref().is_some_and(|(code, _)| *code == CloseCode::NORMAL);
            if closed_cleanly {
                assert_eq!(next, client.sent, "what client {} sent before its close frame", client.number);
            }
        }
        let empty = order.iter().filter(|&&name| name == EMPTY).count();
        let sent: u32 = self.clients.iter().filter(|client| client.topic == topic).map(|c| c.sent_empty).sum();
        assert!(empty <= sent as usize, "empty messages");
    }

    /// Returns whether the client must have seen all that was delivered to it.
    fn check_client(&self, client: &Client, was_short: bool) -> bool {
        let number = client.number;
        let until = client.closed_at.as_ref().expect("all clients have left");
        for (topic, &until) in until.iter().enumerate() {
            let mut expected = self.expected(client, topic, until);
            for (index, &name) in client.received.iter().filter(|&&name| topic_of(name) == topic).enumerate() {
                let owed = expected.next();
                let subscriptions = &client.subscriptions;
                assert_eq!(Some(name), owed, "message {index} of client {number}, topic {topic}: {subscriptions:?}");
            }
        }
        let Some((code, reason)) = &client.close else { return false };
        let KeepAlive { ping_interval, pong_timeout, .. } = self.keep_alive;
        let is_slow = client.is_slow();
        let is_explained = match *code {
            _ if is_slow => self.plan.backlog_is_limited && was_short,
            CloseCode::NORMAL => client.leaving == Some(Leaving::Handshake),
            CloseCode::TRY_AGAIN_LATER => self.plan.unfinished_is_limited,
            CloseCode::POLICY_VIOLATION if reason == MESSAGE_TIMEOUT => self.plan.unfinished_is_limited,
            CloseCode::POLICY_VIOLATION => client.leaving == Some(Leaving::Trespass),
            CLOSED_AS_ASKED => client.leaving == Some(Leaving::Asking),
            CLOSED_AS_FULL => client.asked > 0 && self.plan.backlog_is_limited && was_short,
            CloseCode::PROTOCOL_ERROR => client.leaving == Some(Leaving::Breach),
            CloseCode::INTERNAL_ERROR => ping_interval > 0 && pong_timeout > 0,
            CloseCode::GOING_AWAY => self.is_draining,
            _ => false,
        };
        assert!(is_explained, "client {number} is closed with {code} {reason:?}");
        let (owed, received) = (self.expected_of_all(client, &client.open_until), client.received.len());
        assert!(
            is_slow || received >= owed,
            "client {number} was closed after {received} messages of {owed}: {client:x?}"
        );
        !is_slow
    }
}

/// The reason of a close by the message timeout.
const MESSAGE_TIMEOUT: &str = "a message did not arrive in time";

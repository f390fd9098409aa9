//! The checks when the shards have come to rest with their clients, and when all clients have left.

use super::{
    answering::{CLOSED_AS_ASKED, CLOSED_AS_FULL, CLOSED_BY_COMMAND},
    client::{Client, Leaving, Span},
    names::{CONTROL, EMPTY, Stream, number_of, sender, stream_of, topic_of},
    owed::{Comparison, Placed, compare, parts},
    sealing::Sealing,
    simulation::Simulation,
};
use crate::{
    hub::{Place, Receipt},
    metrics::Counter,
    proto::{CloseCode, KeepAlive},
};

impl Simulation {
    /// Checks that every open client has received everything.
    pub(super) fn check_settled(&self) {
        self.check_rest();
        self.check_interest();
        let orders = self.orders();
        for client in self.open_clients().filter(|client| !client.mute) {
            let number = client.number;
            for (topic, order) in orders.iter().enumerate() {
                let owed = parts(client, topic, Span::exactly(order.len() as u64));
                let comparison = compare(client, topic, order, &owed);
                assert_eq!(comparison, Comparison::Whole, "client {number} and topic {topic}: {owed:?}");
            }
            let mut subscriptions = client.subscriptions.iter().filter(|own| own.until.is_none());
            assert!(subscriptions.all(|own| own.live_at.is_some()), "client {number} has subscribed");
            assert!(client.has_sent_all() && client.has_all_pongs(), "client {number} was answered");
            assert_eq!(client.direct, client.accepted, "client {number} has the messages for it alone");
            let network = self.drivers[client.shard].network.borrow();
            let unanswered = network.lines[client.line].sealing.as_ref().map_or(0, Sealing::unanswered);
            assert_eq!(unanswered, 0, "questions of the transport of client {number}");
            let order = &orders[client.topic];
            if client.leaving.is_none() {
                let published = order.iter().filter(|placed| placed.is_sent_by(client)).count();
                assert_eq!(published, (client.sent + client.sent_empty) as usize, "messages of client {number}");
            }
        }
        self.check_places(&orders);
    }

    /// Checks the outcome of the run, when all clients have left and nothing is under way.
    pub(super) fn check_end(&self) {
        let orders = self.orders();
        for (topic, order) in orders.iter().enumerate() {
            self.check_order(topic, order);
        }
        self.check_places(&orders);
        self.check_dropped(&orders);
        for shard in 0..self.drivers.len() {
            self.check_counters(shard, &orders);
        }
        let count = |counter| -> u64 { self.drivers.iter().map(|driver| driver.counters.get(counter)).sum() };
        let mut received = 0;
        let mut is_exact = true;
        for client in &self.clients {
            received += client.received.len() as u64;
            is_exact &= self.check_client(client, &orders);
        }
        let deliveries = count(Counter::Deliveries);
        assert!(received <= deliveries, "{received} messages were received and {deliveries} delivered");
        assert!(received == deliveries || !is_exact, "{received} messages were received of {deliveries} delivered");
    }

    /// Checks that the counters of a shard agree with the run.
    fn check_counters(&self, shard: usize, orders: &[Vec<Placed>]) {
        let driver = &self.drivers[shard];
        let counted = |counter| driver.counters.get(counter);
        let network = driver.network.borrow();
        let tally = &network.tally;
        assert!(network.lines.iter().all(|line| line.dropped), "every socket is dropped");
        let own: Vec<&Client> = driver.clients.iter().map(|&number| &self.clients[number]).collect();
        let is_sent = |placed: &&Placed| own.iter().any(|client| placed.is_sent_by(client));
        let forwarded: usize = orders.iter().map(|order| order.iter().filter(is_sent).count()).sum();
        for (counter, expected) in [
            (Counter::Opened, driver.clients.len() as u64),
            (Counter::Ended, driver.clients.len() as u64),
            (Counter::ConnectionsOpen, 0),
            (Counter::SlowConsumers, 0),
            (Counter::BytesIn, tally.bytes_received),
            (Counter::BytesOut, tally.bytes_sent),
            (Counter::Sends, tally.sends),
            (Counter::ShortSends, tally.short_sends),
            // A message that was taken has a place, or a handler was called with it.
            (Counter::MessagesIn, forwarded as u64 + driver.handled),
            (Counter::HandlerPanics, 0),
        ] {
            assert_eq!(counted(counter), expected, "{counter:?} of shard {shard}");
        }
        if !self.plan.backlog_is_limited {
            assert_eq!(counted(Counter::SlowClosed), 0, "slow consumers below the limit");
        }
    }

    /// Checks the count of dropped messages: those that slow consumers were owed at their close and did not get.
    fn check_dropped(&self, orders: &[Vec<Placed>]) {
        for (shard, driver) in self.drivers.iter().enumerate() {
            let (mut slow, mut least, mut most) = (0, 0, 0);
            for client in self.clients.iter().filter(|client| client.shard == shard && client.is_slow()) {
                let (low, high) = self.owed_at_end(client, orders);
                let received = client.received.len() as u64;
                slow += 1;
                (least, most) = (least + low.saturating_sub(received), most + high - received);
            }
            let counted = driver.counters.get(Counter::SlowDropped);
            let all = slow == driver.counters.get(Counter::SlowClosed);
            assert!(least <= counted, "{least} messages at least were dropped and {counted} counted");
            assert!(counted <= most || !all, "{most} messages at most were dropped and {counted} counted");
        }
    }

    /// Checks that each message that was answered with a place stands there, and that the places are those that the
    /// home has given, one by one in one epoch, or the engine.
    fn check_places(&self, orders: &[Vec<Placed>]) {
        for (topic, order) in orders.iter().enumerate() {
            let places = order.iter().map(|placed| placed.place);
            if let Some(engine) = self.engine.as_ref().filter(|_| self.is_of_engine(topic)) {
                assert!(
                    places.eq(engine.places(&self.topics[topic]).iter().copied()),
                    "the engine's places in {topic}"
                );
                continue;
            }
            for (at, place) in (0..).zip(places) {
                let expected = Place { offset: at + 1, previous: at, ..order[0].place };
                assert_eq!(place, expected, "the places in topic {topic}");
            }
        }
        for Receipt { matched, sent, queued, dropped, closed } in
            self.control.posts.iter().filter_map(|post| post.receipt)
        {
            assert_eq!(sent + queued + dropped + closed, matched, "each subscriber counts once");
            assert!(dropped == 0 && matched as usize <= self.clients.len());
        }
        for post in &self.control.posts {
            let at = orders[post.topic].iter().position(|placed| placed.name == post.name);
            if let Some(place) = post.place {
                assert_eq!(at.map(|at| orders[post.topic][at].place), Some(place), "the place of {:x}", post.name);
            }
            if let Some(at) = at {
                assert_eq!(orders[post.topic][at].author, post.source, "the source of {:x}", post.name);
            }
        }
    }

    /// Checks that the messages of each sender stand in the order in which it published them, each once and without a
    /// gap.
    fn check_order(&self, topic: usize, order: &[Placed]) {
        let senders = self.clients.len() + 1;
        let mut next = vec![[0_u32; Stream::ALL.len()]; senders];
        let of_sender = |sender: usize| if sender == CONTROL { senders - 1 } else { sender };
        for placed in order.iter().filter(|placed| placed.name != EMPTY) {
            let (name, stream) = (placed.name, stream_of(placed.name));
            let number = sender(name).expect("a named message has a sender");
            assert!(placed.is_posted() || placed.author == Some(number), "the source of {name:x}");
            assert_eq!(topic_of(name), topic, "messages stay in their topic");
            let next = &mut next[of_sender(number)][stream as usize];
            let is_next = match stream {
                Stream::Forwarded | Stream::Called | Stream::Asked => number_of(name) == *next,
                Stream::Live | Stream::Farewell => number_of(name) >= *next,
            };
            assert!(is_next, "message {name:x} of client {number} comes when message {next} is due");
            *next = number_of(name) + 1;
        }
        for (client, next) in self.clients.iter().zip(&next) {
            self.check_sender(client, topic, next);
        }
        let posts = self.control.posts.iter().filter(|post| post.topic == topic);
        assert_eq!(next[senders - 1][0] as usize, posts.count(), "the messages of the control thread");
        let empty = order.iter().filter(|placed| placed.name == EMPTY).count();
        let sent: u32 = self.clients.iter().filter(|client| client.topic == topic).map(|c| c.sent_empty).sum();
        assert!(empty <= sent as usize, "empty messages");
    }

    /// Checks that as many messages of a client have a place as must have one.
    fn check_sender(&self, client: &Client, topic: usize, next: &[u32; Stream::ALL.len()]) {
        let number = client.number;
        assert_eq!(next[Stream::Called as usize], client.called[topic], "what was published for client {number}");
        let asked = next[Stream::Asked as usize];
        assert!(asked <= client.asked_to_publish[topic], "what the handler of client {number} has published");
        let sent = next[Stream::Forwarded as usize];
        let most = if client.topic == topic { client.sent } else { 0 };
        assert!(sent <= most, "client {number} did not send so many");
        if self.is_taken_whole(client) {
            assert_eq!(sent, most, "what client {number} sent before its end");
            assert_eq!(asked, client.asked_to_publish[topic], "what client {number} asked for before its end");
        }
    }

    /// Checks the messages that a client has received, and the reason of its close. Returns whether the client must
    /// have seen all that was delivered to it.
    fn check_client(&self, client: &Client, orders: &[Vec<Placed>]) -> bool {
        let number = client.number;
        let closed_at = client.closed_at.as_ref().expect("all clients have left");
        let is_whole = client.close.is_some() && !client.is_slow();
        for (topic, order) in orders.iter().enumerate() {
            let end = Span { low: self.owed_at_least(client, topic, order), high: closed_at[topic] };
            let owed = parts(client, topic, end);
            let comparison = compare(client, topic, order, &owed);
            let is_right = comparison == Comparison::Whole || comparison == Comparison::Beginning && !is_whole;
            let Client { received, close, leaving, .. } = client;
            assert!(
                is_right,
                "{comparison:?}: client {number}, topic {topic}, leaving {leaving:?}, closed {close:?}: {owed:?} of \
                 {order:x?}, received {received:x?}"
            );
        }
        let mut accepted = client.accepted.iter();
        assert!(client.direct.iter().all(|ticket| accepted.any(|other| other == ticket)), "for client {number} alone");
        assert!(!is_whole || client.direct == client.accepted, "for client {number} alone");
        if let Some((code, reason)) = &client.close {
            let is_explained = self.is_explained(client, *code, reason);
            assert!(is_explained, "client {number} is closed with {code} {reason:?}");
        }
        is_whole
    }

    /// Returns whether the server had a reason to close the client.
    fn is_explained(&self, client: &Client, code: CloseCode, reason: &str) -> bool {
        let was_short = self.drivers[client.shard].network.borrow().lines[client.line].was_short;
        let KeepAlive { ping_interval, pong_timeout, .. } = self.keep_alive;
        match code {
            // A message for the client alone finds no room after a large share of a topic that the client has given up,
            // whether the socket was offered the share or not.
            _ if client.is_slow() => {
                self.plan.backlog_is_limited && (was_short || client.is_sent_to || client.asked > 0)
            }
            CloseCode::NORMAL => client.leaving == Some(Leaving::Goodbye),
            CloseCode::TRY_AGAIN_LATER => self.plan.unfinished_is_limited,
            CloseCode::POLICY_VIOLATION if reason == MESSAGE_TIMEOUT => self.plan.unfinished_is_limited,
            CloseCode::POLICY_VIOLATION => client.leaving == Some(Leaving::Trespass),
            CLOSED_AS_ASKED => client.leaving == Some(Leaving::Asking) || client.asks_for_close,
            CLOSED_BY_COMMAND => client.is_closed_by_command,
            CLOSED_AS_FULL => client.asked > 0 && self.plan.backlog_is_limited && was_short,
            CloseCode::PROTOCOL_ERROR => client.leaving == Some(Leaving::Breach),
            CloseCode::INTERNAL_ERROR => ping_interval > 0 && pong_timeout > 0,
            CloseCode::SERVICE_RESTART => self.is_draining,
            _ => false,
        }
    }
}

/// The reason of a close by the message timeout.
const MESSAGE_TIMEOUT: &str = "a message did not arrive in time";

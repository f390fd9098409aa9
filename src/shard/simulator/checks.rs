//! The checks of a shard between any two of its turns.

use std::{mem, rc::Rc};

use super::{
    super::{io_state::Reading, lag::BacklogSize},
    client::{BacklogSeen, Client},
    line::Line,
    network::Network,
    promises::receives,
    simulation::Simulation,
};
use crate::{hub::Label, metrics::Counter, proto::State};

impl Simulation {
    /// Returns the clients whose connections are open.
    pub(super) fn open_clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.closed_at.is_none())
    }

    /// Checks what must hold between any two turns of a shard. The last parameter has the numbers of close timeouts and
    /// of connections cut off that were counted before the turn.
    pub(super) fn check_turn(&mut self, shard: usize, (close_timeout, cut_off): (u64, u64)) {
        let network = Rc::clone(&self.drivers[shard].network);
        let network = &mut *network.borrow_mut();
        let offered = mem::take(&mut network.offered);
        assert!(offered.is_within(&self.drivers[shard].shard.pace), "{offered:?} in a turn");
        let places = self.places(shard);
        let (mut alive, mut slow_consumers) = (0, 0);
        for &number in &network.active {
            let line = &network.lines[number];
            let number = self.drivers[shard].clients[number];
            let Some(is_open) = self.check_presence(number, line, &places) else { continue };
            alive += 1;
            slow_consumers += u64::from(self.check_output(number, line));
            self.check_tags(number);
            self.check_sides(number, network);
            let (client, hub) = (&mut self.clients[number], &self.drivers[shard].shard.hub);
            for (topic, name) in self.topics.iter().enumerate() {
                let is_subscribed = client.id.is_some_and(|id| hub.is_subscribed(id, name));
                let is_live = client.subscription(topic).is_some_and(|own| own.live_at.is_some());
                assert_eq!(is_subscribed, is_open && is_live, "client {number} and topic {topic}");
            }
        }
        assert!(network.has_submitted(), "the shard goes to sleep without having asked");
        let driver = &self.drivers[shard];
        assert_eq!(driver.shard.open(), alive, "connections");
        let counted = |counter| driver.counters.get(counter);
        assert_eq!(counted(Counter::ConnectionsOpen), alive as u64);
        assert_eq!(counted(Counter::Opened) - counted(Counter::Ended), alive as u64);
        assert_eq!(counted(Counter::SlowConsumers), slow_consumers, "slow consumers");
        self.check_measures(shard);
        let timeouts = counted(Counter::CloseTimeout) - close_timeout;
        assert!(network.tally.cut_off - cut_off <= timeouts, "a connection is cut off before its time");
        let (clients, lines) = (&self.clients, &network.lines);
        let numbers = &self.drivers[shard].clients;
        network.active.retain(|&number| {
            let (line, client) = (&lines[number], &clients[numbers[number]]);
            let can_read = !client.has_no_reader() && !client.mute;
            !line.dropped || can_read && !(line.sent.is_empty() && line.fetched.is_empty())
        });
    }

    /// Checks that the shard's measures of its backlogs are those of each backlog.
    fn check_measures(&self, shard: usize) {
        let shard = &self.drivers[shard].shard;
        let (mut all, mut subscriptions) = (BacklogSize::default(), 0);
        for id in self.clients.iter().filter_map(|client| client.id) {
            let Some(connection) = shard.hub.connections.get(id) else { continue };
            subscriptions += shard.hub.subscriptions(id).iter().filter(|topic| !topic.is_everyone()).count();
            let Some(output) = &connection.io.output else { continue };
            let size = BacklogSize::of(&output.backlog);
            assert_eq!(output.counted, size, "{id:?}");
            assert_eq!(output.marked.is_some(), !output.backlog.is_empty(), "{id:?}");
            assert_eq!(shard.laggards.contains(&id), !output.backlog.is_empty(), "{id:?}");
            all.replace(BacklogSize::default(), size);
        }
        assert_eq!((shard.backlogs, shard.hub.subscribed()), (all, subscriptions), "measures");
    }

    /// Notes whether the client's connection is there and open. Returns whether it is open, if it is there.
    pub(super) fn check_presence(&mut self, number: usize, line: &Line, places: &[u64]) -> Option<bool> {
        let Client { topic, shard, .. } = self.clients[number];
        let waits_for_engine = self.is_of_engine(topic) && self.homes[topic] == shard;
        let client = &mut self.clients[number];
        let connections = &self.drivers[client.shard].shard.hub.connections;
        let shard = &self.drivers[client.shard].shard;
        let connection = client.id.and_then(|id| Some((id, connections.get(id)?)));
        let is_open = connection.map(|(id, connection)| receives(shard, id, connection));
        match client.id.and_then(|id| shard.marks.until(id)) {
            Some(until) => {
                self.events.engine_marks += u64::from(waits_for_engine);
                client.marks_until = Some(until);
            }
            None => client.has_late_marks |= client.marks_until.take().is_some_and(|until| shard.now >= until),
        }
        client.gone = is_open.is_none();
        assert!(!client.gone || line.dropped, "client {number} is gone and its socket is not");
        if is_open == Some(true) {
            client.open_until = places.to_vec();
        } else if client.closed_at.is_none() {
            client.closed_at = Some(places.to_vec());
            let has_ended_it = line.end_received && self.is_left_alone(&self.clients[number]);
            self.clients[number].has_ended_it = has_ended_it;
        }
        is_open
    }

    /// Checks the connection's output. Returns whether it has a backlog.
    fn check_output(&mut self, number: usize, line: &Line) -> bool {
        let client = &mut self.clients[number];
        let id = client.id.expect("the connection is there");
        let shard = &self.drivers[client.shard].shard;
        let connection = shard.hub.connections.get(id).expect("the connection is there");
        let is_open = receives(shard, id, connection);
        let Some(output) = &connection.io.output else {
            client.backlog = None;
            let has_reason = line.stream.has_ended() || connection.io.sides.has_peer_ended() || connection.is_lost;
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
        let labelled: u64 = backlog.labels().map(|label| label.bytes() as u64).sum();
        assert_eq!(labelled, seen.unsent, "labels say what the backlog of client {number} holds");
        let has_topic = |label: &Label| label.topic().is_some() || label.messages() == 0;
        assert!(backlog.labels().all(has_topic), "each message that client {number} is owed is of a topic");
        // One run may make a backlog of any size, since its subscriber had kept up. Later messages may not.
        let is_new = client.backlog.is_none_or(|before| !before.was_refused || before.is_sent(&seen));
        let is_within = seen.is_within(&shard.limits, client.backlog.as_ref());
        assert!(is_new || is_within || !is_open, "the backlog of client {number} is beyond its limit");
        client.backlog = (!backlog.is_empty()).then_some(seen);
        let close_waits = shard.close_waits(id).is_some();
        let is_waiting = connection.io.awaits_room() || connection.io.is_dirty || close_waits;
        assert!(is_waiting || backlog.is_empty(), "the backlog of client {number} waits for nothing");
        assert!(!connection.io.awaits_room() || !backlog.is_empty(), "client {number} needs no room");
        !backlog.is_empty()
    }

    /// Checks how far the two sides of the connection's socket have ended.
    fn check_sides(&self, number: usize, network: &Network) {
        let client = &self.clients[number];
        let line = &network.lines[client.line];
        let connection = client.id.and_then(|id| self.drivers[client.shard].shard.hub.connections.get(id));
        let connection = connection.expect("the connection is there");
        let (state, sides) = (connection.io.session.state(), &connection.io.sides);
        assert_eq!(sides.is_open(), connection.is_open(), "our side of client {number}");
        let waits = client.id.is_some_and(|id| self.drivers[client.shard].shard.marks.has(id));
        let is_over = state == State::Closed && !connection.io.owes_output() && !waits;
        assert_eq!((line.is_end_asked, sides.is_finished()), (is_over, is_over), "the end of client {number}");
        // The peer has taken everything, and the shard knows of all that the peer has done. The end of a transport may
        // come before the end of its socket, and kept bytes may be sent after it.
        let is_taken = line.sent.is_empty()
            && !line.has_kept()
            && (line.sealing.is_none() || line.arrived_end.is_some() && line.arrived_end == line.end)
            && connection.io.reading != Reading::Queued
            && !network.has_input_report(client.line);
        let may_stay = state == State::Closed && !(is_over && is_taken);
        assert!(!sides.has_peer_ended() || may_stay, "client {number} has gone and nothing is left to do");
    }
}

//! Adopts a connection whose opening handshake is accepted.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::{
    arrival::Arrival,
    io_state::{IoState, ShardConnection},
    state::{Shard, key},
};
use crate::{
    handler::Profile,
    handover::AddressPermit,
    hub::{ConnectionId, Subscribed},
    metrics::Counter,
    proto::{CloseCode, Millis},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Adopts a connection whose opening handshake is accepted: subscribes it, and appends its opening answer. Returns
    /// `None` if all slots are taken.
    pub(crate) fn adopt(&mut self, now: Millis, arrival: Arrival<I::Socket>) -> Option<ConnectionId> {
        let Arrival { socket, begun, access, of_address, named, session, route, state, profile, limits, .. } = arrival;
        let Arrival { subscriptions, forwards, format, answer, leftover, .. } = arrival;
        self.note_time(now);
        // A message that is gathered before the connection joins needs no exclusion of the connection.
        self.take_mail();
        let mut connection = ShardConnection::new(IoState::new(session));
        let opening_status = connection.io.session.opening_status();
        connection.io.session.excuse_silence(self.now);
        // Hold the 101 until every subscription is live: after it, the client must miss no message.
        connection.is_held = true;
        connection.io.format = format;
        let id = self.hub.connections.insert(connection).ok()?;
        let lifetime = profile.as_ref().and_then(|profile| profile.lifetime());
        let mut is_revoked = false;
        if let Some(Profile { identities, .. }) = profile.as_deref() {
            // Whoever was judged just before a revocation, and is adopted after it, has not been closed by it.
            is_revoked = self.revocations.check(identities.all()).is_err();
            self.people.note(id.slot(), identities);
        }
        self.handlers.seat(id, route, state, profile, limits);
        self.handlers.set_lifetime(id, lifetime, self.now);
        self.place_socket(id, socket, of_address, named);
        self.begin_rates(id);
        let mut is_refused = false;
        for (topic, options) in subscriptions {
            is_refused |= self.hub.subscribe(id, &topic, options) == Subscribed::TooMany;
        }
        // The interest of a subscription already makes the home remember the topic's offsets. So publishing to the same
        // topic needs no interest of its own if it begins after the subscription.
        if let Some((topic, scope)) = forwards {
            self.hub.publish_to(id, &topic, scope);
        }
        self.count(Counter::Opened, 1);
        self.counters.set(Counter::ConnectionsOpen, self.hub.connections.len() as u64);
        // Everything that a handler sends stands after the answer.
        self.reply(id, &answer);
        self.schedule(id);
        self.opening.insert(id, begun);
        self.access.note_opened(id, access, opening_status);
        self.call(id, |handler, shard, seat| handler.on_open(shard, seat));
        self.release(id);
        self.report_joined();
        if is_refused {
            self.count(Counter::PolicyClosed, 1);
            self.close(id, CloseCode::POLICY_VIOLATION, "more subscriptions than a connection may have");
        }
        if is_revoked {
            self.disconnect(id, CloseCode::POLICY_VIOLATION, "revoked");
        }
        self.receive_leftover(id, leftover);
        if let Some(drain) = &mut self.drain {
            drain.add(id);
        }
        Some(id)
    }

    /// Keeps a connection's socket, the permit of its address, the address that a proxy has named, and the time
    /// in the connection's slot.
    fn place_socket(
        &mut self,
        id: ConnectionId,
        socket: I::Socket,
        of_address: Option<AddressPermit>,
        named: Option<SocketAddr>,
    ) {
        let slot = id.slot() as usize;
        if self.sockets.len() <= slot {
            self.sockets.resize_with(slot + 1, || None);
            self.opened.resize(slot + 1, self.now);
        }
        self.opened[slot] = self.now;
        assert!(self.sockets[slot].is_none(), "the last connection on this slot has taken its socket along");
        self.io.arm(key(id), &socket);
        self.sockets[slot] = Some(socket);
        if of_address.is_some() {
            if self.of_address.len() <= slot {
                self.of_address.resize_with(slot + 1, || None);
            }
            self.of_address[slot] = of_address;
        }
        if named.is_some() {
            if self.named.len() <= slot {
                self.named.resize(slot + 1, None);
            }
            self.named[slot] = named;
        }
    }

    /// Keeps the bytes that the client has sent after its opening request. The next batch parses them. Until then they
    /// count as an unfinished message, whose time begins here. Otherwise clients could fill the memory with such bytes
    /// while the shard does not parse.
    fn receive_leftover(&mut self, id: ConnectionId, leftover: BytesMut) {
        if let Some(connection) = self.hub.connections.get_mut(id)
            && !leftover.is_empty()
        {
            // The buffer of an opening request, or of a body before it, may be many times as large.
            let rest = BytesMut::from(&leftover[..]);
            let is_new = self.incoming.unfinished.note(id, rest.capacity(), self.now);
            self.incoming.keep_unparsed(connection, rest);
            self.incoming.push_busy(connection, id);
            if is_new {
                self.schedule(id);
            }
            self.charge_bytes(id, leftover.len());
            self.limit_unfinished();
        }
    }
}

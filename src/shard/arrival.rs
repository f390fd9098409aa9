//! An accepted opening handshake on its way from the lobby to the turn.

use std::{any::Any, fmt, net::SocketAddr, time::Instant};

use bytes::{Bytes, BytesMut};

use super::session::Session;
use crate::{
    access_log::Access,
    handler::Profile,
    handover::AddressPermit,
    hub::{Format, Scope, SubscribeOptions, TopicName},
    proto::MessageLimits,
};

/// An accepted opening handshake on its way to become a connection.
pub(crate) struct Arrival<S> {
    pub(crate) socket: S,
    /// The facts for the access log, if it is on.
    pub(crate) access: Option<Box<Access>>,
    /// The time at which the socket was accepted, or was handed back by the control thread.
    pub(crate) begun: Instant,
    /// The permit that counts the socket among those of its address, where their number is limited.
    pub(crate) of_address: Option<AddressPermit>,
    /// The client's address, if the socket has a trusted proxy as its peer.
    pub(crate) named: Option<SocketAddr>,
    /// The session, which begins after the answer.
    pub(crate) session: Session,
    /// The index of the route; the route keeps the state and the profile of the connection.
    pub(crate) route: u16,
    pub(crate) state: Box<dyn Any>,
    pub(crate) profile: Option<Box<Profile>>,
    /// The limits of the connection's messages, where they are not those of its route.
    pub(crate) limits: Option<MessageLimits>,
    /// The topics that the connection subscribes to from the beginning. Its answer is held until all subscriptions are
    /// live.
    pub(crate) subscriptions: Vec<(TopicName, SubscribeOptions)>,
    /// The topic that the client's messages are forwarded to, past the handler.
    pub(crate) forwards: Option<(TopicName, Scope)>,
    /// The form in which the connection gets publications.
    pub(crate) format: Format,
    /// The answer to the client's opening request; for a WebSocket see RFC 6455 4.2.2. No other output may overtake the
    /// answer.
    pub(crate) answer: Bytes,
    /// The bytes that the client sent after its opening request.
    pub(crate) leftover: BytesMut,
}

impl<S: fmt::Debug> fmt::Debug for Arrival<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("socket", &self.socket).field("route", &self.route).finish_non_exhaustive()
    }
}

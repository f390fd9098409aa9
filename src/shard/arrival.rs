//! An accepted opening handshake on its way from the lobby to the turn.

use std::{any::Any, fmt};

use bytes::{Bytes, BytesMut};

use crate::{
    handler::Profile,
    handover::AddressPermit,
    hub::{Scope, SubscribeOptions, TopicName},
    proto::MessageLimits,
};

/// An accepted opening handshake on its way to become a connection.
pub(crate) struct Arrival<S> {
    pub(crate) socket: S,
    /// The permit of its address, where the sockets of an address are limited.
    pub(crate) of_address: Option<AddressPermit>,
    /// The number of its route, and the state and profile that the route keeps.
    pub(crate) route: u16,
    pub(crate) state: Box<dyn Any>,
    pub(crate) profile: Option<Box<Profile>>,
    /// The limits of its messages, where they are not those of its route.
    pub(crate) limits: Option<MessageLimits>,
    /// Its subscriptions from the beginning. Its answer is held until all of them are live.
    pub(crate) subscriptions: Vec<(TopicName, SubscribeOptions)>,
    /// The topic that its client's messages are forwarded to, without a call of its handler.
    pub(crate) forwards: Option<(TopicName, Scope)>,
    /// The opening answer (RFC 6455 4.2.2). No frame may overtake it.
    pub(crate) answer: Bytes,
    /// The bytes that the client has sent behind its head.
    pub(crate) leftover: BytesMut,
}

impl<S: fmt::Debug> fmt::Debug for Arrival<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("socket", &self.socket).field("route", &self.route).finish_non_exhaustive()
    }
}

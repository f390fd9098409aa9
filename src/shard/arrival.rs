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
    /// Its part in the number of its address' sockets, where that is limited.
    pub(crate) of_address: Option<AddressPermit>,
    /// Which route it is for, and what that keeps of it.
    pub(crate) route: u16,
    pub(crate) state: Box<dyn Any>,
    pub(crate) profile: Option<Box<Profile>>,
    /// The limits of its messages, where they are not those of its route.
    pub(crate) limits: Option<MessageLimits>,
    /// The topics it subscribes to from the beginning. Its answer is held until all subscriptions are live.
    pub(crate) subscriptions: Vec<(TopicName, SubscribeOptions)>,
    /// Where its client's messages go, if its handler is not to see them.
    pub(crate) forwards: Option<(TopicName, Scope)>,
    /// The head that tells the client so (RFC 6455 4.2.2). No frame may overtake it.
    pub(crate) answer: Bytes,
    /// What the client sent behind its own head.
    pub(crate) leftover: BytesMut,
}

impl<S: fmt::Debug> fmt::Debug for Arrival<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("socket", &self.socket).field("route", &self.route).finish_non_exhaustive()
    }
}

//! Erases the types of handlers' states, so that a shard can call every handler. No other file erases types.

use std::{any::Any, fmt, future::Future, net::SocketAddr, pin::Pin, rc::Rc, sync::Arc};

use super::{
    Handler,
    answer::{Accept, ProtocolChoice, Response},
    closed::Closed,
    connection::{Connection, call_with},
    panicked::Panicked,
    profile::{About, Profile},
    request::OpeningRequest,
    shard_api::ShardApi,
    states::{Entry, Out, Seat, States},
};
use crate::{
    auth::Identity,
    hub::{Format, Lag, MemberInfo, Scope, SubscribeOptions, TopicName},
    proto::{Fragment, FrameHeader, Message, ProtocolError, Verdict},
};

/// Makes the part of a route on each shard.
pub(crate) trait Factory: fmt::Debug + Send + Sync {
    /// Returns a new part for a shard.
    fn on_shard(&self) -> Rc<dyn ShardRoute>;
}

/// A route's part of a shard: the handler, and the states of the route's connections there. Every call ends without a
/// panic; `Err` holds a panic of the handler.
pub(crate) trait ShardRoute {
    /// Decides on an opening request. The future, unlike all other calls, may panic.
    fn opening<'a>(
        &'a self,
        request: &'a OpeningRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, Response>> + 'a>>;

    /// Returns whether calls about a connection may publish.
    fn publishes(&self) -> bool;

    /// Keeps the state and the profile of an accepted request, and returns their key.
    fn insert(&self, opened: Box<dyn Any>, profile: Option<Box<Profile>>) -> u32;
    /// Drops the state and the profile of a key.
    fn remove(&self, key: u32) -> Result<(), Panicked>;

    fn on_open(&self, shard: &mut dyn ShardApi, seat: Seat) -> Result<(), Panicked>;
    fn on_message(&self, shard: &mut dyn ShardApi, seat: Seat, message: Message<'_>) -> Result<(), Panicked>;
    fn on_fragment(&self, shard: &mut dyn ShardApi, seat: Seat, fragment: Fragment<'_>) -> Result<(), Panicked>;
    fn on_frame(&self, seat: Seat, header: &FrameHeader, payload: &[u8]) -> Result<Verdict, Panicked>;
    fn on_ping(&self, shard: &mut dyn ShardApi, seat: Seat, payload: &[u8]) -> Result<(), Panicked>;
    fn on_pong(&self, shard: &mut dyn ShardApi, seat: Seat, payload: &[u8]) -> Result<(), Panicked>;
    fn on_subscribed(&self, shard: &mut dyn ShardApi, seat: Seat, topic: &TopicName) -> Result<(), Panicked>;
    fn on_unsubscribed(&self, shard: &mut dyn ShardApi, seat: Seat, topic: &TopicName) -> Result<(), Panicked>;
    fn on_lag(&self, shard: &mut dyn ShardApi, seat: Seat, lag: &Lag) -> Result<(), Panicked>;
    fn on_error(&self, shard: &mut dyn ShardApi, seat: Seat, error: &ProtocolError) -> Result<(), Panicked>;
    fn on_close(&self, shard: &mut dyn ShardApi, seat: Seat) -> Result<(), Panicked>;

    /// Returns the client's address, if it is kept.
    fn peer(&self, seat: Seat) -> Option<SocketAddr>;

    /// Returns what is kept about the opening of a connection.
    fn about(&self, seat: Seat) -> About;

    /// Returns the member of topics that a connection counts for, if it has an identity.
    fn member(&self, seat: Seat) -> Option<MemberInfo>;

    /// Gives up the messages of the client that wait for decisions: the connection carries out none of them.
    fn give_up_waiting(&self, seat: Seat);

    /// Keeps the end of the connection: the client's close frame, or an end without one.
    fn set_closed(&self, seat: Seat, closed: Closed);
}

/// An opening request that a handler has accepted.
pub(crate) struct Opened {
    pub(crate) state: Box<dyn Any>,
    pub(crate) protocol: ProtocolChoice,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) identity: Option<Identity>,
    pub(crate) subscriptions: Vec<(TopicName, SubscribeOptions)>,
    pub(crate) forwards: Option<(TopicName, Scope)>,
    pub(crate) format: Format,
}

impl<S: 'static> From<Accept<S>> for Opened {
    fn from(accept: Accept<S>) -> Self {
        let Accept { state, protocol, headers, identity, subscriptions, forwards, format } = accept;
        Opened { state: Box::new(state), protocol, headers, identity, subscriptions, forwards, format }
    }
}

/// A handler, before the shards are started.
pub(crate) struct Typed<H>(pub(crate) Arc<H>);

impl<H> fmt::Debug for Typed<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::any::type_name::<H>())
    }
}

impl<H: Handler> Factory for Typed<H> {
    fn on_shard(&self) -> Rc<dyn ShardRoute> {
        Rc::new(TypedRoute { handler: Arc::clone(&self.0), states: States::<H::State>::new() })
    }
}

/// A handler on a shard.
struct TypedRoute<H: Handler> {
    handler: Arc<H>,
    states: Rc<States<H::State>>,
}

impl<H: Handler> TypedRoute<H> {
    fn call(
        &self,
        shard: &mut dyn ShardApi,
        seat: Seat,
        work: impl FnOnce(&H, &mut Connection<'_, H::State>),
    ) -> Result<(), Panicked> {
        Panicked::catch(|| call_with(&self.states, shard, seat, |connection| work(&self.handler, connection))).map(drop)
    }
}

impl<H: Handler> ShardRoute for TypedRoute<H> {
    fn opening<'a>(
        &'a self,
        request: &'a OpeningRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, Response>> + 'a>> {
        Box::pin(async {
            let accept = self.handler.opening(request).await?;
            Ok(Opened::from(accept))
        })
    }

    fn publishes(&self) -> bool {
        H::PUBLISHES
    }

    fn insert(&self, opened: Box<dyn Any>, profile: Option<Box<Profile>>) -> u32 {
        let state = opened.downcast::<H::State>().expect("the state that this handler has made");
        self.states.insert(*state, profile)
    }

    fn remove(&self, key: u32) -> Result<(), Panicked> {
        Panicked::catch(|| self.states.remove(key))
    }

    fn on_open(&self, shard: &mut dyn ShardApi, seat: Seat) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| handler.on_open(connection))
    }

    fn on_message(&self, shard: &mut dyn ShardApi, seat: Seat, message: Message<'_>) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| handler.on_message(connection, message))
    }

    fn on_fragment(&self, shard: &mut dyn ShardApi, seat: Seat, fragment: Fragment<'_>) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| handler.on_fragment(connection, fragment))
    }

    fn on_frame(&self, seat: Seat, header: &FrameHeader, payload: &[u8]) -> Result<Verdict, Panicked> {
        let work = || {
            let mut out = Out::take(&self.states, seat.key)?;
            let Entry { state, profile } = out.entry.as_mut()?;
            let mut look = || self.handler.on_frame(state, header, payload);
            let span = profile.as_ref().and_then(|profile| profile.span.as_ref());
            Some(match span {
                Some(span) => span.in_scope(look),
                None => look(),
            })
        };
        let verdict = Panicked::catch(work)?;
        Ok(verdict.unwrap_or(Verdict::Pass))
    }

    fn on_ping(&self, shard: &mut dyn ShardApi, seat: Seat, payload: &[u8]) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| handler.on_ping(connection, payload))
    }

    fn on_pong(&self, shard: &mut dyn ShardApi, seat: Seat, payload: &[u8]) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| handler.on_pong(connection, payload))
    }

    fn on_subscribed(&self, shard: &mut dyn ShardApi, seat: Seat, topic: &TopicName) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| handler.on_subscribed(connection, topic))
    }

    fn on_unsubscribed(&self, shard: &mut dyn ShardApi, seat: Seat, topic: &TopicName) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| handler.on_unsubscribed(connection, topic))
    }

    fn on_lag(&self, shard: &mut dyn ShardApi, seat: Seat, lag: &Lag) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| handler.on_lag(connection, lag))
    }

    fn on_error(&self, shard: &mut dyn ShardApi, seat: Seat, error: &ProtocolError) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| {
            connection.profile.get_or_insert_default().error = Some(*error);
            handler.on_error(connection, error);
        })
    }

    fn on_close(&self, shard: &mut dyn ShardApi, seat: Seat) -> Result<(), Panicked> {
        self.call(shard, seat, |handler, connection| {
            let closed = connection.profile.get_or_insert_default().closed.get_or_insert_default().clone();
            handler.on_close(connection, &closed);
        })
    }

    fn peer(&self, seat: Seat) -> Option<SocketAddr> {
        self.states.peer(seat.key)
    }

    fn about(&self, seat: Seat) -> About {
        self.states.about(seat.key)
    }

    fn member(&self, seat: Seat) -> Option<MemberInfo> {
        self.states.member(seat.key)
    }

    fn give_up_waiting(&self, seat: Seat) {
        let mut out = Out::take(&self.states, seat.key);
        let profile = out.as_mut().and_then(|out| out.entry.as_mut()).and_then(|entry| entry.profile.as_mut());
        if let Some(profile) = profile {
            profile.waiting = None;
        }
    }

    fn set_closed(&self, seat: Seat, closed: Closed) {
        if let Some(mut out) = Out::take(&self.states, seat.key)
            && let Some(entry) = out.entry.as_mut()
        {
            entry.profile.get_or_insert_default().closed = Some(closed);
        }
    }
}

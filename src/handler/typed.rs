//! From a handler with a state of its own type to what a shard can call: the only place where types are erased.

use std::{
    any::Any,
    cell::RefCell,
    fmt,
    future::Future,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use tracing::Span;

use super::{Accept, Closed, Connection, Door, Handler, OpeningRequest, Response};
use crate::{
    auth::Identity,
    hub::{ConnectionId, Scope, TopicName},
    proto::{Fragment, FrameHeader, Message, ProtocolError, Verdict},
};

/// Makes a route's part of each shard.
pub(crate) trait Factory: fmt::Debug + Send + Sync {
    fn on_shard(&self) -> Rc<dyn ShardRoute>;
}

/// A route's part of a shard: the handler, and the states of its connections there. Every call ends without a panic;
/// what panicked is told by `Err`.
pub(crate) trait ShardRoute {
    fn opening<'a>(
        &'a self,
        request: &'a OpeningRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, Response>> + 'a>>;

    /// Keeps what an accepted request has brought, under a key.
    fn insert(&self, opened: Box<dyn Any>, profile: Option<Box<Profile>>) -> u32;
    fn remove(&self, key: u32) -> Result<(), Panicked>;

    fn on_open(&self, door: &mut dyn Door, seat: Seat) -> Result<(), Panicked>;
    fn on_message(&self, door: &mut dyn Door, seat: Seat, message: Message<'_>) -> Result<(), Panicked>;
    fn on_fragment(&self, door: &mut dyn Door, seat: Seat, fragment: Fragment<'_>) -> Result<(), Panicked>;
    fn on_frame(&self, seat: Seat, header: &FrameHeader, payload: &[u8]) -> Result<Verdict, Panicked>;
    fn on_ping(&self, door: &mut dyn Door, seat: Seat, payload: &[u8]) -> Result<(), Panicked>;
    fn on_pong(&self, door: &mut dyn Door, seat: Seat, payload: &[u8]) -> Result<(), Panicked>;
    fn on_subscribed(&self, door: &mut dyn Door, seat: Seat, topic: &TopicName) -> Result<(), Panicked>;
    fn on_error(&self, door: &mut dyn Door, seat: Seat, error: &ProtocolError) -> Result<(), Panicked>;
    fn on_close(&self, door: &mut dyn Door, seat: Seat) -> Result<(), Panicked>;

    /// The client's address, if it is kept.
    fn peer(&self, seat: Seat) -> Option<SocketAddr>;

    /// The client has sent a close frame, or the connection has ended without.
    fn set_closed(&self, seat: Seat, closed: Closed);
}

/// A handler has panicked, with this text.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) String);

impl Panicked {
    pub(crate) fn new(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        Panicked(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into()))
    }
}

/// A connection, and where its route keeps what belongs to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) id: ConnectionId,
    pub(crate) key: u32,
}

/// An opening request that a handler has accepted.
pub(crate) struct Opened {
    pub(crate) state: Box<dyn Any>,
    pub(crate) protocol: Option<Option<String>>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) identity: Option<Identity>,
    pub(crate) subscriptions: Vec<(TopicName, bool)>,
    pub(crate) forwards: Option<(TopicName, Scope)>,
}

impl<S: 'static> From<Accept<S>> for Opened {
    fn from(accept: Accept<S>) -> Self {
        let Accept { state, protocol, headers, identity, subscriptions, forwards } = accept;
        Opened { state: Box::new(state), protocol, headers, identity, subscriptions, forwards }
    }
}

/// What is known of a connection beside its state. Those that need none of it do without.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    pub(crate) request: Option<OpeningRequest>,
    pub(crate) identity: Option<Identity>,
    pub(crate) protocol: Option<String>,
    pub(crate) error: Option<ProtocolError>,
    pub(crate) closed: Option<Closed>,
    /// Frames of a message of ours that is not finished.
    pub(crate) fragments: Option<Vec<u8>>,
    /// What the handler is called in, and the client's address beside a request that is not kept. Only while somebody
    /// listens to events of that level.
    pub(crate) span: Option<Span>,
    pub(crate) peer: Option<SocketAddr>,
}

impl Profile {
    fn is_empty(&self) -> bool {
        let Profile { request, identity, protocol, error, closed, fragments, span, peer } = self;
        request.is_none()
            && identity.is_none()
            && protocol.is_none()
            && error.is_none()
            && closed.is_none()
            && fragments.is_none()
            && span.is_none()
            && peer.is_none()
    }

    /// The client's address.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.request.as_ref().and_then(OpeningRequest::peer).or(self.peer)
    }
}

/// Takes the span of a connection out of its profile, or makes it. A route that forgets its requests wants connections
/// to cost little: there it is a span of debugging.
fn take_span(profile: &mut Option<Box<Profile>>, door: &dyn Door, id: ConnectionId) -> Span {
    if let Some(span) = profile.as_mut().and_then(|profile| profile.span.take()) {
        return span;
    }
    // What stands in a span is found out only if somebody listens to it.
    if let Some(peer) = profile.as_ref().and_then(|profile| profile.request.as_ref()).map(OpeningRequest::peer) {
        return tracing::info_span!("connection", %id, peer = peer.map(display));
    }
    let mut find_peer = || {
        let profile = profile.get_or_insert_default();
        profile.peer = profile.peer.or_else(|| door.addresses(id).0);
        profile.peer
    };
    tracing::debug_span!("connection", %id, peer = find_peer().map(display))
}

/// The states of a route's connections on a shard.
pub(crate) struct States<S>(RefCell<Table<S>>);

struct Table<S> {
    entries: Vec<Option<Entry<S>>>,
    free: Vec<u32>,
}

struct Entry<S> {
    state: S,
    profile: Option<Box<Profile>>,
}

impl<S: 'static> States<S> {
    fn new() -> Rc<Self> {
        Rc::new(States(RefCell::new(Table { entries: Vec::new(), free: Vec::new() })))
    }

    fn insert(&self, state: S, profile: Option<Box<Profile>>) -> u32 {
        let mut table = self.0.borrow_mut();
        let entry = Some(Entry { state, profile });
        if let Some(key) = table.free.pop() {
            table.entries[key as usize] = entry;
            return key;
        }
        table.entries.push(entry);
        table.entries.len() as u32 - 1
    }

    fn remove(&self, key: u32) {
        let mut table = self.0.borrow_mut();
        let entry = table.entries[key as usize].take();
        table.free.push(key);
        drop(table);
        // Outside of the borrow: a state's end may be anything.
        drop(entry);
    }

    /// Does something with a connection. `None` if it has ended.
    pub(super) fn with<T>(
        self: &Rc<Self>,
        door: &mut dyn Door,
        id: ConnectionId,
        key: u32,
        work: impl FnOnce(&mut Connection<'_, S>) -> T,
    ) -> Option<T> {
        door.facts(id)?;
        self.call(door, Seat { id, key }, work)
    }

    /// Calls `work` with the connection's state, which is out of the table meanwhile, in the connection's span.
    fn call<T>(
        self: &Rc<Self>,
        door: &mut dyn Door,
        Seat { id, key }: Seat,
        work: impl FnOnce(&mut Connection<'_, S>) -> T,
    ) -> Option<T> {
        let mut out = Out::take(self, key)?;
        let Entry { state, profile } = out.entry.as_mut()?;
        // A panic loses it, and the next call makes another.
        let span = take_span(profile, door, id);
        let outcome = span.in_scope(|| work(&mut Connection { door, id, key, state, profile, states: self }));
        if !span.is_disabled() {
            profile.get_or_insert_default().span = Some(span);
        } else if profile.as_ref().is_some_and(|profile| profile.is_empty()) {
            *profile = None;
        }
        Some(outcome)
    }
}

/// An entry that is out of its table, and goes back even if there is a panic.
struct Out<'a, S> {
    states: &'a States<S>,
    key: u32,
    entry: Option<Entry<S>>,
}

impl<'a, S> Out<'a, S> {
    fn take(states: &'a States<S>, key: u32) -> Option<Self> {
        let entry = states.0.borrow_mut().entries.get_mut(key as usize)?.take()?;
        Some(Out { states, key, entry: Some(entry) })
    }
}

impl<S> Drop for Out<'_, S> {
    fn drop(&mut self) {
        self.states.0.borrow_mut().entries[self.key as usize] = self.entry.take();
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
        Rc::new(OnShard { handler: Arc::clone(&self.0), states: States::<H::State>::new() })
    }
}

/// A handler on a shard.
struct OnShard<H: Handler> {
    handler: Arc<H>,
    states: Rc<States<H::State>>,
}

impl<H: Handler> OnShard<H> {
    fn call(
        &self,
        door: &mut dyn Door,
        seat: Seat,
        work: impl FnOnce(&H, &mut Connection<'_, H::State>),
    ) -> Result<(), Panicked> {
        let work = || self.states.call(door, seat, |connection| work(&self.handler, connection));
        catch_unwind(AssertUnwindSafe(work)).map(drop).map_err(|panic| Panicked::new(&*panic))
    }
}

impl<H: Handler> ShardRoute for OnShard<H> {
    fn opening<'a>(
        &'a self,
        request: &'a OpeningRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, Response>> + 'a>> {
        Box::pin(async {
            let accept = self.handler.opening(request).await?;
            Ok(Opened::from(accept))
        })
    }

    fn insert(&self, opened: Box<dyn Any>, profile: Option<Box<Profile>>) -> u32 {
        let state = opened.downcast::<H::State>().expect("the state that this handler has made");
        self.states.insert(*state, profile)
    }

    fn remove(&self, key: u32) -> Result<(), Panicked> {
        catch_unwind(AssertUnwindSafe(|| self.states.remove(key))).map_err(|panic| Panicked::new(&*panic))
    }

    fn on_open(&self, door: &mut dyn Door, seat: Seat) -> Result<(), Panicked> {
        self.call(door, seat, |handler, connection| handler.on_open(connection))
    }

    fn on_message(&self, door: &mut dyn Door, seat: Seat, message: Message<'_>) -> Result<(), Panicked> {
        self.call(door, seat, |handler, connection| handler.on_message(connection, message))
    }

    fn on_fragment(&self, door: &mut dyn Door, seat: Seat, fragment: Fragment<'_>) -> Result<(), Panicked> {
        self.call(door, seat, |handler, connection| handler.on_fragment(connection, fragment))
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
        let verdict = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Panicked::new(&*panic))?;
        Ok(verdict.unwrap_or(Verdict::Pass))
    }

    fn on_ping(&self, door: &mut dyn Door, seat: Seat, payload: &[u8]) -> Result<(), Panicked> {
        self.call(door, seat, |handler, connection| handler.on_ping(connection, payload))
    }

    fn on_pong(&self, door: &mut dyn Door, seat: Seat, payload: &[u8]) -> Result<(), Panicked> {
        self.call(door, seat, |handler, connection| handler.on_pong(connection, payload))
    }

    fn on_subscribed(&self, door: &mut dyn Door, seat: Seat, topic: &TopicName) -> Result<(), Panicked> {
        self.call(door, seat, |handler, connection| handler.on_subscribed(connection, topic))
    }

    fn on_error(&self, door: &mut dyn Door, seat: Seat, error: &ProtocolError) -> Result<(), Panicked> {
        self.call(door, seat, |handler, connection| {
            connection.profile.get_or_insert_default().error = Some(*error);
            handler.on_error(connection, error);
        })
    }

    fn on_close(&self, door: &mut dyn Door, seat: Seat) -> Result<(), Panicked> {
        self.call(door, seat, |handler, connection| {
            let closed = connection.profile.get_or_insert_default().closed.get_or_insert_default().clone();
            handler.on_close(connection, &closed);
        })
    }

    fn peer(&self, seat: Seat) -> Option<SocketAddr> {
        self.states.0.borrow().entries.get(seat.key as usize)?.as_ref()?.profile.as_ref()?.peer()
    }

    fn set_closed(&self, seat: Seat, closed: Closed) {
        if let Some(mut out) = Out::take(&self.states, seat.key)
            && let Some(entry) = out.entry.as_mut()
        {
            entry.profile.get_or_insert_default().closed = Some(closed);
        }
    }
}

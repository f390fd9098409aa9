//! Who answers a request on a connection that speaks HTTP: hyper, or a shard.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use super::Shared;
use crate::{
    auth::Credentials,
    proto::{Refusal, RequestHead, Upgrade},
    surface::{
        access::Shown,
        raw::{RawRequest, asks_for_websocket},
    },
};

/// Judges the heads of one connection, and says between its line and its service what the answer to the next is.
#[derive(Debug)]
pub(super) struct Judge {
    shared: Arc<Shared>,
    /// May it become a WebSocket?
    websockets: bool,
    peer: Option<SocketAddr>,
    refusal: Mutex<Option<Refusal>>,
    head: Mutex<Option<RequestHead>>,
}

/// Whose the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The service's, which asks [`Judge::take_refusal`] first.
    Http,
    /// A shard's: nobody else may tell a client that it subscribes.
    WebSocket,
}

impl Judge {
    pub(super) fn new(shared: Arc<Shared>, websockets: bool, peer: Option<SocketAddr>) -> Judge {
        Judge { shared, websockets, peer, refusal: Mutex::default(), head: Mutex::default() }
    }

    /// Judges the next request, as a shard would as far as that is possible here: what a handler says of it, only a
    /// shard can know. What topics say can be known here, so that a client who is refused keeps its connection.
    pub(super) fn verdict(&self, head: &RequestHead) -> Verdict {
        if self.shared.endpoints.has_gates() {
            *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(head.clone());
        }
        if !self.websockets || !asks_for_websocket(head) {
            return Verdict::Http;
        }
        match self.open(head) {
            Ok(()) => Verdict::WebSocket,
            Err(refusal) => {
                *self.lock() = Some(refusal);
                Verdict::Http
            }
        }
    }

    fn open(&self, head: &RequestHead) -> Result<(), Refusal> {
        let Shared { routes, endpoints, config, .. } = &*self.shared;
        let Some((_, parameters)) = routes.find(head.path()) else { return Err(routes.nothing_at(head.path())) };
        parameters?;
        Upgrade::from_request(head).map_err(|error| error.refusal())?;
        if self.shared.is_leaving() {
            return Err(Refusal::leaving());
        }
        if let Some((hub, topic)) = endpoints.hubs.iter().find_map(|hub| Some((hub, hub.topic(head.path())?))) {
            let raw = RawRequest::new(topic?, head.query())?;
            self.shared.admit(&hub.gate, &Credentials { head, peer: self.peer })?;
            raw.check(&Shown::of(head), &config.access)?;
        }
        Ok(())
    }

    /// The head of the request that is being answered, where somebody wants to see it.
    pub(super) fn take_head(&self) -> Option<RequestHead> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The address it comes from.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Why the request that is being answered cannot have the WebSocket it asks for.
    pub(super) fn take_refusal(&self) -> Option<Refusal> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Refusal>> {
        // All of it is one task's.
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

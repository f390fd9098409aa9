//! Who answers a request on a connection that speaks HTTP: hyper, or a shard.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use super::shared::Shared;
use crate::{
    auth::Credentials,
    endpoints::Endpoint,
    proto::{Refusal, RequestHead, Upgrade},
    surface::raw::{RawRequest, asks_for_websocket},
};

/// Judges the heads of one connection, and hands from its line to its service what is known of the next request.
#[derive(Debug)]
pub(super) struct Judge {
    shared: Arc<Shared>,
    /// May it become a WebSocket?
    websockets: bool,
    peer: Option<SocketAddr>,
    judged: Mutex<Option<Judged>>,
}

/// A request that the service is to answer.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) head: RequestHead,
    /// What it is for, or why that cannot be.
    pub(super) endpoint: Result<Endpoint, Refusal>,
    /// Why it cannot have the WebSocket that it asks for.
    pub(super) refusal: Option<Refusal>,
}

/// Whose the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The service's, which begins with [`Judge::take`].
    Http,
    /// A shard's: nobody else may tell a client that it subscribes.
    WebSocket,
}

impl Judge {
    pub(super) fn new(shared: Arc<Shared>, websockets: bool, peer: Option<SocketAddr>) -> Judge {
        Judge { shared, websockets, peer, judged: Mutex::default() }
    }

    /// Judges the next request, as a shard would as far as that is possible here: what a handler says of it, only a
    /// shard can know. What topics say can be known here, so that a client who is refused keeps its connection.
    pub(super) fn verdict(&self, head: RequestHead) -> Verdict {
        let endpoint = self.shared.endpoints.resolve(&head);
        let mut refusal = None;
        if self.websockets && asks_for_websocket(&head) {
            match self.open(&head, &endpoint) {
                Ok(()) => return Verdict::WebSocket,
                Err(refused) => refusal = Some(refused),
            }
        }
        *self.lock() = Some(Judged { head, endpoint, refusal });
        Verdict::Http
    }

    fn open(&self, head: &RequestHead, endpoint: &Result<Endpoint, Refusal>) -> Result<(), Refusal> {
        let endpoint = endpoint.as_ref().map_err(Clone::clone)?;
        if !matches!(endpoint, Endpoint::Topic { .. } | Endpoint::WebSocket { .. }) {
            return Err(self.shared.endpoints.no_websocket_at(head.path()));
        }
        Upgrade::from_request(head).map_err(|error| error.refusal())?;
        if self.shared.is_leaving() {
            return Err(Refusal::leaving());
        }
        if let Endpoint::Topic { topic, .. } = endpoint {
            let raw = RawRequest::new(topic.clone(), head.query())?;
            self.shared.authorize(&Credentials { head, peer: self.peer }, raw.intent(), endpoint)?;
        }
        Ok(())
    }

    /// The request that is being answered.
    pub(super) fn take(&self) -> Option<Judged> {
        self.lock().take()
    }

    /// Returns whether the server leaves.
    pub(super) fn is_leaving(&self) -> bool {
        self.shared.is_leaving()
    }

    /// The address it comes from.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Judged>> {
        // All of it is one task's.
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

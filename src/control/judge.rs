//! Who answers a request on a connection that speaks HTTP: hyper, or a shard.

use std::sync::{Arc, Mutex, PoisonError};

use super::Shared;
use crate::{
    proto::{Refusal, RequestHead},
    surface::raw::{RawRequest, asks_for_websocket},
};

/// Judges the heads of one connection, and says between its line and its service what the answer to the next is.
#[derive(Debug)]
pub(super) struct Judge {
    shared: Arc<Shared>,
    /// May it become a WebSocket?
    websockets: bool,
    refusal: Mutex<Option<Refusal>>,
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
    pub(super) fn new(shared: Arc<Shared>, websockets: bool) -> Judge {
        Judge { shared, websockets, refusal: Mutex::default() }
    }

    /// Judges the next request as a shard would.
    pub(super) fn verdict(&self, head: &RequestHead) -> Verdict {
        if !self.websockets || !asks_for_websocket(head) {
            return Verdict::Http;
        }
        let opened = RawRequest::open(head, &self.shared.config.access);
        let opened = opened.and_then(|_| if self.shared.is_leaving() { Err(super::leaving()) } else { Ok(()) });
        match opened {
            Ok(()) => Verdict::WebSocket,
            Err(refusal) => {
                *self.lock() = Some(refusal);
                Verdict::Http
            }
        }
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

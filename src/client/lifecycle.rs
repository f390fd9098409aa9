//! The phases of one `connect`: an attempt, a connection, perhaps further connections after it, an end.

use std::sync::Arc;

use tokio::sync::watch;

use super::{event::Cause, send_queue::SendQueue};
use crate::proto::CloseCode;

/// The phase that the client's task sets, and the close request that a handle leaves for it.
pub(super) struct Lifecycle {
    phase: watch::Sender<Phase>,
    close: watch::Sender<Option<CloseRequest>>,
}

#[derive(Clone)]
enum Phase {
    /// `connect` is opening the first connection.
    Opening,
    Open(Arc<SendQueue>),
    Reconnecting,
    Ended,
}

/// A request to close the connection, or to give up opening one.
#[derive(Clone)]
pub(super) struct CloseRequest {
    /// A code that an endpoint may send (RFC 6455 7.4).
    pub(super) code: CloseCode,
    pub(super) reason: String,
    pub(super) requester: Requester,
}

/// The origin of a close request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Requester {
    /// A method of the handle.
    Caller,
    /// A second `connect`.
    Replaced,
    /// The drop of the last handle.
    Dropped,
}

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Opening), close: watch::Sender::new(None) }
    }

    /// Returns the queue of the open connection, unless a close was requested.
    pub(super) fn send_queue(&self) -> Option<Arc<SendQueue>> {
        match &*self.phase.borrow() {
            Phase::Open(queue) if self.close.borrow().is_none() => Some(queue.clone()),
            _ => None,
        }
    }

    /// Returns whether a lost connection is to be opened again.
    pub(super) fn is_reconnecting(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Reconnecting) && self.close.borrow().is_none()
    }

    pub(super) fn set_open(&self, queue: Arc<SendQueue>) {
        self.phase.send_replace(Phase::Open(queue));
    }

    pub(super) fn set_reconnecting(&self) {
        self.phase.send_replace(Phase::Reconnecting);
    }

    pub(super) fn set_ended(&self) {
        self.phase.send_replace(Phase::Ended);
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) {
        // The wait cannot fail: `self` holds the sender.
        drop(self.phase.subscribe().wait_for(|phase| matches!(phase, Phase::Ended)).await);
    }

    /// Stores a close request. Requests after the first have no effect.
    pub(super) fn request_close(&self, request: CloseRequest) {
        self.close.send_if_modified(|stored| {
            let is_first = stored.is_none();
            if is_first {
                *stored = Some(request);
            }
            is_first
        });
    }

    pub(super) fn close_request(&self) -> Option<CloseRequest> {
        self.close.borrow().clone()
    }

    /// Waits for a close request.
    pub(super) async fn close_requested(&self) {
        drop(self.close.subscribe().wait_for(Option::is_some).await);
    }
}

impl CloseRequest {
    /// Returns a request with code 1001 and no reason.
    pub(super) fn going_away(requester: Requester) -> Self {
        Self { code: CloseCode::GOING_AWAY, reason: String::new(), requester }
    }
}

impl Requester {
    pub(super) fn cause(self) -> Cause {
        match self {
            Self::Caller => Cause::Caller,
            Self::Replaced => Cause::Replaced,
            Self::Dropped => Cause::Dropped,
        }
    }
}

//! What one `connect` begins: an attempt, a connection, perhaps others after it, an end.

use std::sync::Arc;

use tokio::sync::watch;

use super::{event::Cause, link::Link};
use crate::proto::CloseCode;

/// The state that handles look at, and the wish to end that they leave.
pub(super) struct Life {
    phase: watch::Sender<Phase>,
    close: watch::Sender<Option<CloseRequest>>,
}

#[derive(Clone)]
enum Phase {
    /// `connect` is at it.
    Opening,
    Open(Arc<Link>),
    Reconnecting,
    Over,
}

#[derive(Clone)]
pub(super) struct CloseRequest {
    /// One that may be sent.
    pub(super) code: CloseCode,
    pub(super) reason: String,
    pub(super) requester: Requester,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Requester {
    Caller,
    Replaced,
    Dropped,
}

impl Life {
    pub(super) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Opening), close: watch::Sender::new(None) }
    }

    /// The open connection, unless it is being closed.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        match &*self.phase.borrow() {
            Phase::Open(link) if self.close.borrow().is_none() => Some(link.clone()),
            _ => None,
        }
    }

    pub(super) fn is_reconnecting(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Reconnecting) && self.close.borrow().is_none()
    }

    pub(super) fn set_open(&self, link: Arc<Link>) {
        self.phase.send_replace(Phase::Open(link));
    }

    pub(super) fn set_reconnecting(&self) {
        self.phase.send_replace(Phase::Reconnecting);
    }

    pub(super) fn end(&self) {
        self.phase.send_replace(Phase::Over);
    }

    /// Waits for the end.
    pub(super) async fn over(&self) {
        // The sender is `self`.
        drop(self.phase.subscribe().wait_for(|phase| matches!(phase, Phase::Over)).await);
    }

    /// The first wish counts.
    pub(super) fn request_close(&self, request: CloseRequest) {
        self.close.send_if_modified(|wish| {
            let is_first = wish.is_none();
            if is_first {
                *wish = Some(request);
            }
            is_first
        });
    }

    pub(super) fn close_request(&self) -> Option<CloseRequest> {
        self.close.borrow().clone()
    }

    /// Waits for a wish to close.
    pub(super) async fn close_requested(&self) {
        drop(self.close.subscribe().wait_for(Option::is_some).await);
    }
}

impl CloseRequest {
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

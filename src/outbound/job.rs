//! Requests on their way from any thread to the control thread.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;

use super::{
    error::OutboundError,
    message::{OutboundAnswer, OutboundRequest},
    room::{Party, Place, Room},
    url::TargetUrl,
};
use crate::metrics::{Counter, add_for_process};

/// A request on its way to the control thread.
pub(super) struct Job {
    pub(super) url: Arc<TargetUrl>,
    pub(super) request: OutboundRequest,
    /// The end of the wait for a place among the requests under way.
    pub(super) wait_until: Instant,
    pub(super) reply: Reply,
}

/// The caller's part of a request.
type Done = Box<dyn FnOnce(Result<OutboundAnswer, OutboundError>) + Send>;

/// The way back to the caller of a request. A drop of it tells the caller that the server has ended.
pub(super) struct Reply(Option<Done>);

impl Reply {
    pub(super) fn new(done: Done) -> Reply {
        Reply(Some(done))
    }

    /// Tells the caller the outcome, and counts it.
    pub(super) fn send(mut self, outcome: Result<OutboundAnswer, OutboundError>) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Result<OutboundAnswer, OutboundError>) {
        let Some(done) = self.0.take() else { return };
        let counter = match &outcome {
            Ok(_) => Counter::OutboundAnswered,
            Err(OutboundError::Timeout(_)) => Counter::OutboundTimeout,
            Err(OutboundError::Limit) => Counter::OutboundLimit,
            Err(_) => Counter::OutboundFailed,
        };
        add_for_process(counter, 1);
        done(outcome);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.tell(Err(OutboundError::NotServing));
    }
}

/// The way to a service.
#[derive(Clone)]
pub(super) struct Entrance {
    pub(super) jobs: mpsc::Sender<(Job, Place)>,
    /// The room of all requests.
    pub(super) common: Room,
    /// The room that is kept for fetches of keys.
    pub(super) of_keys: Room,
}

impl Entrance {
    pub(super) fn is_open(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// Hands a job to the service. If there is no room, the job fails.
    pub(super) fn submit(&self, job: Job) {
        let kept = if job.request.is_for_keys { self.of_keys.take(Party::Server) } else { None };
        match kept.or_else(|| self.common.take(job.request.party)) {
            // The channel has room for all that have a place. A service that has ended drops the job, which fails.
            Some(place) => drop(self.jobs.try_send((job, place))),
            None => job.reply.send(Err(OutboundError::Limit)),
        }
    }
}

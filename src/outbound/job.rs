//! Requests on their way from any thread to the control thread.

use std::{sync::Arc, time::Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    error::OutboundError,
    message::{OutboundAnswer, OutboundRequest},
    url::TargetUrl,
};
use crate::metrics::{Counter, add_for_process};

/// A request on its way to the control thread.
pub(super) struct Job {
    pub(super) url: Arc<TargetUrl>,
    pub(super) request: OutboundRequest,
    pub(super) deadline: Instant,
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
    pub(super) jobs: mpsc::Sender<(Job, OwnedSemaphorePermit)>,
    /// A permit for each job that is under way or waits.
    pub(super) room: Arc<Semaphore>,
}

impl Entrance {
    pub(super) fn is_open(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// Hands a job to the service. If there is no room, the job fails.
    pub(super) fn submit(&self, job: Job) {
        match Arc::clone(&self.room).try_acquire_owned() {
            // The channel has room for all that have a permit. A service that has ended drops the job, which fails.
            Ok(permit) => drop(self.jobs.try_send((job, permit))),
            Err(_) => job.reply.send(Err(OutboundError::Limit)),
        }
    }
}

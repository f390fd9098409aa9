//! The service of a server that makes its requests, on the control thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use super::{
    Outbound,
    authorities::Authorities,
    connections::Connections,
    error::OutboundError,
    exchange::{exchange, keep},
    message::{OutboundAnswer, OutboundRequest},
    url::TargetUrl,
};
use crate::metrics::{Counter, add_for_process};

/// The limits of a server's own requests.
#[derive(Debug, Clone, Copy)]
pub struct OutboundLimits;

impl OutboundLimits {
    /// Requests that are under way, each on a connection of its own. Further requests wait, within their time.
    pub const IN_FLIGHT_MAX: usize = 64;

    /// Requests that are under way or wait. One more fails at once.
    pub const REQUESTS_MAX: usize = 1_024;

    /// Idle connections that are kept for the next requests. For one more, the one that has been idle longest is closed.
    pub const IDLE_MAX: usize = 16;

    /// The time after which an idle connection is closed.
    pub const IDLE_TIME: Duration = Duration::from_secs(30);

    /// Names that are resolved at the same time.
    pub const LOOKUPS_MAX: usize = 2;

    /// Bytes of the head of an answer, and of the buffer that it is read into.
    pub const HEAD_BYTES_MAX: usize = 64 << 10;

    /// Descriptors of the requests under way, of the idle connections, and of names that are resolved.
    pub const DESCRIPTORS_MAX: usize = Self::IN_FLIGHT_MAX + Self::IDLE_MAX + 4 * Self::LOOKUPS_MAX;
}

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
    jobs: mpsc::Sender<(Job, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl Entrance {
    pub(super) fn is_open(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// Hands a job to the service. If there is no room, the job fails.
    pub(super) fn submit(&self, job: Job) {
        match Arc::clone(&self.room).try_acquire_owned() {
            // The channel has room for all that have a permit. A service that has ended drops the job, which fails then.
            Ok(permit) => drop(self.jobs.try_send((job, permit))),
            Err(_) => job.reply.send(Err(OutboundError::Limit)),
        }
    }
}

/// Makes the requests of a server's handles.
pub(crate) struct Service {
    jobs: mpsc::Receiver<(Job, OwnedSemaphorePermit)>,
    connections: Arc<Connections>,
    in_flight: Arc<Semaphore>,
}

impl Service {
    /// Returns the service for these handles; `None` if they have no targets. For targets with TLS, it reads the
    /// authorities that the system trusts, which blocks.
    ///
    /// # Errors
    ///
    /// A sentence, if there is a target with TLS and no authority to trust.
    pub(crate) fn new(handles: &[&Outbound], authorities: &Authorities) -> Result<Option<Service>, String> {
        if !handles.iter().any(|handle| handle.has_targets()) {
            return Ok(None);
        }
        let is_secure = handles.iter().any(|handle| handle.has_secure_targets());
        let tls = is_secure.then(|| authorities.client_config()).transpose()?;
        let (sender, jobs) = mpsc::channel(OutboundLimits::REQUESTS_MAX);
        let entrance = Entrance { jobs: sender, room: Arc::new(Semaphore::new(OutboundLimits::REQUESTS_MAX)) };
        handles.iter().for_each(|handle| handle.attach(&entrance));
        let in_flight = Arc::new(Semaphore::new(OutboundLimits::IN_FLIGHT_MAX));
        Ok(Some(Service { jobs, connections: Arc::new(Connections::new(tls)), in_flight }))
    }

    /// Makes requests until the future is dropped, with which all requests under way end, or until all handles are gone.
    pub(crate) async fn run(mut self) {
        let mut tasks = JoinSet::new();
        let mut rounds = time::interval(OutboundLimits::IDLE_TIME / 4);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                job = self.jobs.recv() => {
                    let Some((job, permit)) = job else { break };
                    let (connections, in_flight) = (Arc::clone(&self.connections), Arc::clone(&self.in_flight));
                    tasks.spawn(async move {
                        let _room = permit;
                        make(job, &connections, &in_flight).await;
                    });
                }
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a request of the server has failed");
                    }
                }
                now = rounds.tick() => self.connections.close_idle(now),
            }
        }
    }
}

/// Makes a request within its time, and tells its caller the outcome.
async fn make(job: Job, connections: &Connections, in_flight: &Semaphore) {
    let Job { url, request, deadline, reply } = job;
    let deadline = time::Instant::from_std(deadline);
    let made = time::timeout_at(deadline, async {
        // The semaphore is never closed.
        let permit = in_flight.acquire().await.map_err(|_| OutboundError::NotServing)?;
        Ok((exchange(connections, &url, &request, deadline).await?, permit))
    });
    match made.await {
        Ok(Ok(((answer, connection), _permit))) => {
            reply.send(Ok(answer));
            keep(connections, connection).await;
        }
        Ok(Err(error)) => reply.send(Err(error)),
        Err(_) => reply.send(Err(OutboundError::Timeout(request.timeout))),
    }
}

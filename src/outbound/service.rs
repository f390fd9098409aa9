//! The service of a server that makes its requests, on the control thread.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use super::{
    authorities::Authorities,
    connections::Connections,
    error::OutboundError,
    exchange::{exchange, keep},
    handle::Outbound,
    job::{Entrance, Job},
    limits::OutboundLimits,
};

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

    /// Makes requests until the future is dropped, which ends all requests under way, or until all handles are gone.
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
                        tracing::error!(%error, "the task of a request has panicked");
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

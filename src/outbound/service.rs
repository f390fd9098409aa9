//! The service of a server that makes its requests, on the control thread.

use std::sync::Arc;

use tokio::{
    sync::mpsc,
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
    room::{Place, Room},
};

/// Makes the requests of a server's handles.
pub(crate) struct Service {
    jobs: mpsc::Receiver<(Job, Place)>,
    connections: Arc<Connections>,
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
        let kept = OutboundLimits::OF_KEYS_MAX;
        let (all, in_flight) = (OutboundLimits::REQUESTS_MAX - kept, OutboundLimits::IN_FLIGHT_MAX - kept);
        let common = Room::new(all, in_flight, OutboundLimits::OF_SERVER_MIN);
        let entrance = Entrance { jobs: sender, common, of_keys: Room::new(kept, kept, 0) };
        handles.iter().for_each(|handle| handle.attach(&entrance));
        Ok(Some(Service { jobs, connections: Arc::new(Connections::new(tls)) }))
    }

    /// Makes requests until the future is dropped, which ends all requests under way, or until all handles are gone.
    pub(crate) async fn run(mut self) {
        let mut tasks = JoinSet::new();
        let mut rounds = time::interval(OutboundLimits::IDLE_TIME / 4);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                job = self.jobs.recv() => {
                    let Some((job, place)) = job else { break };
                    let connections = Arc::clone(&self.connections);
                    tasks.spawn(async move { make(job, &connections, place).await });
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

/// Makes a request within its time, and tells its caller the outcome. A request that has found no place within this
/// time was not sent, and its server is not to blame.
async fn make(job: Job, connections: &Connections, mut place: Place) {
    let Job { url, request, wait_until, reply } = job;
    if time::timeout_at(time::Instant::from_std(wait_until), place.begin()).await.is_err() {
        return reply.send(Err(OutboundError::Limit));
    }
    let deadline = time::Instant::now() + request.timeout;
    match time::timeout_at(deadline, exchange(connections, &url, &request, deadline)).await {
        Ok(Ok((answer, connection))) => {
            reply.send(Ok(answer));
            keep(connections, connection).await;
        }
        Ok(Err(error)) => reply.send(Err(error)),
        Err(_) => reply.send(Err(OutboundError::Timeout(request.timeout))),
    }
}

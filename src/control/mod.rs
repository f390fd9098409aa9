//! The control thread: everything on the port that is no WebSocket.
//!
//! It runs an ordinary runtime, floats over the CPUs, and is one more end of the mesh. hyper serves the connections
//! that shards hand over; [`publisher`] is the one task that speaks with the shards for all of them.

#![forbid(unsafe_code)]

mod bodies;
mod judge;
mod line;
mod output;
mod places;
mod port;
pub(crate) mod publisher;
mod service;

use std::{
    io,
    net::TcpListener,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
};

use self::{
    bodies::Bodies,
    port::Port,
    publisher::{Publisher, Publishing, Requests},
    service::Scope,
};
use crate::{
    auth::{Credentials, Gate, Origins},
    config::Config,
    endpoints::{Endpoint, Endpoints},
    handover::Visit,
    hub::Outside,
    metrics::{Counter, Counters},
    proto::Refusal,
};

/// What the control thread is started with.
pub(crate) struct Start {
    /// Its end of the mesh, and what a shard notifies it by.
    pub(crate) outside: Outside,
    pub(crate) woken: Arc<Notify>,
    /// What is asked of the shards, and the way to ask.
    pub(crate) requests: Requests,
    pub(crate) publisher: Publisher,
    /// What is at which path.
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) config: Arc<Config>,
    /// Connections that shards hand over. It ends when all shards have.
    pub(crate) arrivals: mpsc::Receiver<Visit>,
    /// To each shard, for connections that want to become WebSockets.
    pub(crate) returns: Vec<mpsc::Sender<Visit>>,
    /// For `/metrics` alone.
    pub(crate) metrics_listener: Option<TcpListener>,
    pub(crate) shards: Vec<Arc<Counters>>,
    pub(crate) counters: Arc<Counters>,
    /// The server is leaving.
    pub(crate) leaving: Arc<AtomicBool>,
}

/// Runs the control thread until all shards have ended.
///
/// # Errors
///
/// If its runtime cannot be set up.
pub(crate) fn run(start: Start) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(READING_THREADS_MAX).build()?;
    runtime.block_on(serve(start))
}

/// Threads that read documents while the control thread does other things. Beyond it, reads wait for each other.
const READING_THREADS_MAX: usize = 8;

async fn serve(start: Start) -> io::Result<()> {
    let Start { config, mut arrivals, returns, metrics_listener, shards, counters, leaving, .. } = start;
    let Start { outside, woken, requests, publisher, endpoints, .. } = start;
    // Dropped when everybody is to finish.
    let (finish, finishing) = watch::channel(());
    let publishing = Publishing::new(outside, woken, Arc::clone(&counters), Arc::clone(&leaving), requests);
    tokio::spawn(publishing.run(finishing.clone()));
    let bodies = Bodies::new(config.http.bodies_bytes_max);
    let files = Arc::new(Semaphore::new(FILES_MAX));
    let port = Port::new(Scope::Everything, config.http.connections_max, port::FAREWELLS_MAX);
    let shared = Shared { config, publisher, endpoints, returns, shards, counters, leaving, port, bodies, files };
    let shared = Arc::new(shared);
    let mut connections = JoinSet::new();
    if let Some(listener) = metrics_listener {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        connections.spawn(port::serve_metrics(Arc::clone(&shared), listener, finishing.clone()));
    }
    loop {
        tokio::select! {
            arrival = arrivals.recv() => {
                let Some(visit) = arrival else { break };
                connections.spawn(port::serve_visit(Arc::clone(&shared), visit, finishing.clone()));
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "serving an HTTP connection has failed");
                }
            }
        }
    }
    drop(finish);
    // Nobody is left to publish to: what was not published is answered so.
    let rest = async { while connections.join_next().await.is_some() {} };
    drop(tokio::time::timeout(FINISH, rest).await);
    Ok(())
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: Arc<Config>,
    publisher: Publisher,
    endpoints: Arc<Endpoints>,
    returns: Vec<mpsc::Sender<Visit>>,
    shards: Vec<Arc<Counters>>,
    counters: Arc<Counters>,
    leaving: Arc<AtomicBool>,
    /// For everything but `/metrics` on an address of its own.
    port: Port,
    bodies: Bodies,
    /// Files that may be sent at the same time.
    files: Arc<Semaphore>,
}

impl Shared {
    fn is_leaving(&self) -> bool {
        // Relaxed: it only says what to answer.
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whose pages may use an endpoint.
    fn origins_of(&self, endpoint: &Endpoint) -> &Origins {
        let gate = match endpoint {
            Endpoint::Topic { route, .. } => Some(&self.endpoints.routes()[*route].options.gate),
            _ => None,
        };
        gate.and_then(|gate| gate.origins.as_ref()).unwrap_or(&self.config.access.origins)
    }

    /// May who sent a request pass a route's rules?
    fn admit(&self, gate: &Gate, credentials: &Credentials<'_>) -> Result<(), Refusal> {
        let admitted = || gate.admit(&self.config.access.origins, credentials).map(drop);
        catch_unwind(AssertUnwindSafe(admitted)).unwrap_or_else(|_| {
            tracing::error!("an authenticator has panicked");
            Err(Refusal::new(500, "an authenticator of this server has failed"))
        })
    }

    fn count_refusal(&self, refusal: &Refusal) {
        let is_limit = refusal.status == 503 && !self.is_leaving();
        self.counters.add(if is_limit { Counter::RefusedLimit } else { Counter::refused(refusal.status) }, 1);
    }

    /// Gives a connection to a shard, each in turn.
    async fn hand_back(&self, visit: Visit) {
        // Relaxed: any shard will do.
        let at = NEXT.fetch_add(1, Ordering::Relaxed) % self.returns.len();
        self.counters.add(Counter::HttpReturned, 1);
        if self.returns[at].send(visit).await.is_err() {
            tracing::debug!("a shard has ended before it took a connection back");
        }
    }
}

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// How long answers under way may take when the shards have ended.
const FINISH: Duration = Duration::from_secs(1);

/// Files that may be sent at the same time, each a descriptor beside its connection's. One more request: 503.
const FILES_MAX: usize = 64;

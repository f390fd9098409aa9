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
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    runtime::Runtime,
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
};

use self::{
    bodies::Bodies,
    places::Farewells,
    port::Port,
    publisher::{Publisher, Publishing, Requests},
    service::Scope,
};
use crate::{
    auth::Credentials,
    config::{Config, Limits},
    endpoints::{Denied, Endpoint, Endpoints, Intent},
    handover::Visit,
    hub::ExternalEnd,
    metrics::{self, Counter, Counters},
    proto::Refusal,
};

/// What the control thread is started with.
pub(crate) struct Start {
    /// Its end of the mesh, and what a shard notifies it by.
    pub(crate) outside: ExternalEnd,
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
    /// Whether the server is leaving.
    pub(crate) leaving: watch::Receiver<bool>,
}

/// Runs the control thread until all shards have ended. `started` is called once it has all descriptors that it needs
/// itself.
///
/// # Errors
///
/// If its runtime cannot be set up.
pub(crate) fn run(start: Start, started: impl FnOnce()) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(READING_THREADS_MAX).build()?;
    started();
    let outcome = runtime.block_on(serve(start));
    end(runtime);
    outcome
}

/// Ends a runtime without waiting any longer for reads of files than for answers: one may never return.
fn end(runtime: Runtime) {
    runtime.shutdown_timeout(FINISH);
}

/// Threads that read documents while the control thread does other things. Beyond it, reads wait for each other.
const READING_THREADS_MAX: usize = 8;

async fn serve(start: Start) -> io::Result<()> {
    let Start { config, mut arrivals, returns, metrics_listener, shards, counters, leaving, .. } = start;
    let Start { outside, woken, requests, publisher, endpoints, .. } = start;
    // Dropped when everybody is to finish.
    let (finish, finishing) = watch::channel(());
    let publishing = Publishing::new(outside, woken, Arc::clone(&counters), leaving.clone(), requests);
    tokio::spawn(publishing.run(finishing.clone()));
    let bodies = Bodies::new(config.http.bodies_bytes_max);
    let files = Arc::new(Semaphore::new(Limits::FILES_MAX));
    let port = Port::new(Scope::Everything, config.http.connections_max, Limits::FAREWELLS_MAX);
    let shared = Shared {
        config,
        publisher,
        endpoints,
        returns,
        shards,
        counters,
        leaving,
        port,
        // The rest is for those that have given way and are about to be closed.
        monitors: Farewells::new(Limits::MONITORS_MAX * 3 / 4),
        bodies,
        files,
        metrics: Mutex::default(),
    };
    let shared = Arc::new(shared);
    let mut connections = JoinSet::new();
    if let Some(listener) = metrics_listener {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        connections.spawn(port::serve_metrics(Arc::clone(&shared), listener, finishing.clone()));
    }
    let mut ends_by = None;
    loop {
        tokio::select! {
            () = shared.has_left(), if ends_by.is_none() => {
                ends_by = Instant::now().checked_add(shared.config.drain_timeout);
            }
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
    let left = ends_by.map_or(FINISH, |ends_by| ends_by.saturating_duration_since(Instant::now()));
    drop(tokio::time::timeout(left.clamp(FINISH_MIN, FINISH), rest).await);
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
    leaving: watch::Receiver<bool>,
    /// For everything but `/metrics` on an address of its own.
    port: Port,
    /// Connections without room that ask for the metrics.
    monitors: Farewells,
    bodies: Bodies,
    /// Files that may be sent at the same time.
    files: Arc<Semaphore>,
    /// The text of `/metrics` that was made last, and when.
    metrics: Mutex<Option<(Instant, Bytes)>>,
}

impl Shared {
    fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Waits until the server leaves, or is gone.
    async fn has_left(&self) {
        drop(self.leaving.clone().wait_for(|&is_leaving| is_leaving).await);
    }

    /// May who sent a request do what it wants?
    fn authorize(&self, credentials: &Credentials<'_>, intent: Intent, endpoint: &Endpoint) -> Result<(), Refusal> {
        self.endpoints.authorize(credentials, intent, endpoint).map(drop).map_err(|denied| {
            if denied == Denied::Panicked {
                self.counters.add(Counter::HandlerPanics, 1);
            }
            denied.into()
        })
    }

    /// Returns what counts a refusal.
    fn cause(&self, refusal: &Refusal) -> Counter {
        match refusal.status {
            503 if self.is_leaving() => Counter::RefusedLeaving,
            503 => Counter::RefusedLimit,
            status => Counter::refused(status),
        }
    }

    /// Returns the text of `/metrics`. All who ask within a second get the same, so nobody can keep this thread busy
    /// with it.
    fn metrics(&self) -> Bytes {
        let mut last = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((time, text)) if time.elapsed() < METRICS_AGE_MAX => text.clone(),
            _ => {
                let text = Bytes::from(metrics::prometheus(&self.shards, &self.counters));
                *last = Some((Instant::now(), text.clone()));
                text
            }
        }
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

/// How long answers under way may take when the shards have ended, within [`Config::drain_timeout`]; and how long in
/// any case, which is enough to hand them to the kernel.
const FINISH: Duration = Duration::from_secs(1);
const FINISH_MIN: Duration = Duration::from_millis(50);

/// How old the text of `/metrics` may be.
const METRICS_AGE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    /// A file on a device that does not answer keeps its reader, and nobody else.
    #[test]
    fn a_read_that_never_returns_does_not_hold_the_end() {
        let (let_go, is_let_go) = mpsc::channel::<()>();
        let (reads, is_reading) = mpsc::channel();
        let (ended, has_ended) = mpsc::channel();
        let ending = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.spawn_blocking(move || {
                reads.send(()).unwrap();
                is_let_go.recv()
            });
            is_reading.recv().unwrap();
            end(runtime);
            ended.send(()).unwrap();
        });
        has_ended.recv_timeout(Duration::from_secs(60)).expect("the runtime waits for the read");
        drop(let_go);
        ending.join().unwrap();
    }
}

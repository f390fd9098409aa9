//! The control thread: everything on the port that is no WebSocket.
//!
//! It runs an ordinary runtime, floats over the CPUs, and is one more end of the mesh. hyper serves the connections
//! that shards hand over; [`publisher`] is the one task that speaks with the shards for all of them.

#![forbid(unsafe_code)]

mod line;
pub(crate) mod publisher;
mod service;

use std::{
    io,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioTimer;
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

use self::{
    line::Line,
    publisher::{Publisher, Requests},
    service::Service,
};
use crate::{
    config::Config,
    handler::Routes,
    handover::{Counted, Visit},
    hub::Outside,
    metrics::{Counter, Counters},
    proto::HEADERS_MAX,
};

/// What the control thread is started with.
pub(crate) struct Start {
    /// Its end of the mesh, and what a shard notifies it by.
    pub(crate) outside: Outside,
    /// What is asked of the shards, and the way to ask.
    pub(crate) requests: Requests,
    pub(crate) publisher: Publisher,
    /// Who serves which path.
    pub(crate) routes: Arc<Routes>,
    pub(crate) endpoints: Endpoints,
    pub(crate) woken: Arc<Notify>,
    pub(crate) config: Arc<Config>,
    /// Connections that shards hand over. It ends when all shards have.
    pub(crate) arrivals: mpsc::Receiver<(Visit, Counted)>,
    /// To each shard, for connections that want to become WebSockets.
    pub(crate) returns: Vec<mpsc::Sender<Visit>>,
    /// For `/metrics` alone.
    pub(crate) metrics_listener: Option<TcpListener>,
    pub(crate) shards: Vec<Arc<Counters>>,
    pub(crate) counters: Arc<Counters>,
    /// The server is leaving.
    pub(crate) leaving: Arc<AtomicBool>,
}

/// What it serves of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Endpoints {
    /// `POST /t/{topic}`.
    pub(crate) topics: bool,
    /// The page at `/`.
    pub(crate) page: bool,
    /// `/healthz`, `/readyz`, `/metrics`.
    pub(crate) operations: bool,
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
    let Start { publisher, routes, endpoints, .. } = start;
    let publishing = publisher::serve(start.outside, start.woken, Arc::clone(&counters), start.requests);
    let publishing = tokio::spawn(publishing);
    let shared = Shared { config, publisher, routes, endpoints, returns, shards, counters, leaving };
    let shared = Arc::new(shared);
    // Dropped when everybody is to finish.
    let (finish, finishing) = watch::channel(());
    let mut connections = JoinSet::new();
    if let Some(listener) = metrics_listener {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        connections.spawn(serve_metrics(Arc::clone(&shared), listener, finishing.clone()));
    }
    loop {
        tokio::select! {
            arrival = arrivals.recv() => {
                let Some((visit, counted)) = arrival else { break };
                connections.spawn(serve_visit(Arc::clone(&shared), visit, counted, finishing.clone()));
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "serving an HTTP connection has failed");
                }
            }
        }
    }
    drop(finish);
    // Nobody is left to publish to; what is being answered may be finished.
    let rest = async { while connections.join_next().await.is_some() {} };
    drop(tokio::time::timeout(FINISH, rest).await);
    publishing.abort();
    Ok(())
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: Arc<Config>,
    publisher: Publisher,
    routes: Arc<Routes>,
    endpoints: Endpoints,
    returns: Vec<mpsc::Sender<Visit>>,
    shards: Vec<Arc<Counters>>,
    counters: Arc<Counters>,
    leaving: Arc<AtomicBool>,
}

impl Shared {
    fn is_leaving(&self) -> bool {
        // Relaxed: it only says what to answer.
        self.leaving.load(Ordering::Relaxed)
    }
}

async fn serve_visit(shared: Arc<Shared>, visit: Visit, counted: Counted, finishing: watch::Receiver<()>) {
    let Visit { socket, received, owed, place } = visit;
    let stream = match TcpStream::from_std(socket.into()) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a connection could not be taken over"),
    };
    shared.counters.add(Counter::HttpConnections, 1);
    let open = shared.counters.get(Counter::HttpConnectionsOpen) + 1;
    shared.counters.set(Counter::HttpConnectionsOpen, open);
    let line = Line::new(stream, received.freeze(), owed, &shared.config.http);
    let returned = serve_line(&shared, line, Service::new(Arc::clone(&shared)), finishing).await;
    drop(counted);
    let open = shared.counters.get(Counter::HttpConnectionsOpen) - 1;
    shared.counters.set(Counter::HttpConnectionsOpen, open);
    if let Some((socket, received, owed)) = returned {
        service::hand_back(&shared, Visit { socket, received, owed, place }).await;
    }
}

/// Serves a connection to its end. Returns it if it is to become a WebSocket.
async fn serve_line(
    shared: &Shared,
    line: Line,
    service: Service,
    mut finishing: watch::Receiver<()>,
) -> Option<service::Returned> {
    let phase = line.phase();
    let service = service.on(Arc::clone(&phase));
    let upgrade = service.upgrade();
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        // Who has finished sending is still waiting for its answer.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.http.idle_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(line, service).with_upgrades());
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        _ = finishing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        if phase.is_in_head() {
            shared.counters.add(Counter::HandshakeOverdue, 1);
        }
        tracing::debug!(%error, "an HTTP connection has ended");
    }
    upgrade.take().await
}

/// Accepts on the address that is for `/metrics` alone.
async fn serve_metrics(shared: Arc<Shared>, listener: tokio::net::TcpListener, mut finishing: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting for the metrics pauses");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            _ = finishing.changed() => return,
        };
        if connections.len() >= METRICS_CONNECTIONS_MAX {
            shared.counters.add(Counter::RefusedLimit, 1);
            continue;
        }
        let (shared, finishing) = (Arc::clone(&shared), finishing.clone());
        connections.spawn(async move {
            let line = Line::new(stream, bytes::Bytes::new(), bytes::Bytes::new(), &shared.config.http);
            let service = Service::only_metrics(Arc::clone(&shared));
            serve_line(&shared, line, service, finishing).await;
        });
    }
}

/// How long answers under way may take when the shards have ended.
const FINISH: Duration = Duration::from_secs(1);

/// What hyper may keep of a head that is not whole, or of a body.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;

/// Connections to the address that is for `/metrics` alone.
const METRICS_CONNECTIONS_MAX: usize = 64;

/// How long accepting pauses when descriptors are used up.
const PAUSE: Duration = Duration::from_millis(200);

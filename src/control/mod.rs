//! The control thread: everything on the port that is no WebSocket.
//!
//! It runs an ordinary runtime, floats over the CPUs, and is one more end of the mesh. hyper serves the connections
//! that shards hand over; [`publisher`] is the one task that speaks with the shards for all of them.

#![forbid(unsafe_code)]

mod judge;
mod line;
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

use bytes::BytesMut;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
};
use tracing::field::display;

use self::{
    judge::Judge,
    line::{Ending, Line},
    publisher::{Publisher, Publishing, Requests},
    service::Service,
};
use crate::{
    auth::{Credentials, Gate, Origins},
    config::Config,
    endpoints::{Endpoint, Endpoints},
    handover::{Bodies, Counted, Visit},
    hub::Outside,
    metrics::{Counter, Counters},
    proto::{HEADERS_MAX, Refusal},
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
    let shared = Shared { config, publisher, endpoints, returns, shards, counters, leaving, bodies, files };
    let shared = Arc::new(shared);
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

/// Counts an open connection, however it ends.
struct Open<'a>(&'a Counters);

impl<'a> Open<'a> {
    fn new(counters: &'a Counters) -> Self {
        counters.add(Counter::HttpConnections, 1);
        counters.set(Counter::HttpConnectionsOpen, counters.get(Counter::HttpConnectionsOpen) + 1);
        Open(counters)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set(Counter::HttpConnectionsOpen, self.0.get(Counter::HttpConnectionsOpen) - 1);
    }
}

async fn serve_visit(shared: Arc<Shared>, visit: Visit, counted: Counted, finishing: watch::Receiver<()>) {
    let Visit { socket, received, ticket } = visit;
    let stream = match TcpStream::from_std(socket.into()) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a connection could not be taken over"),
    };
    let open = Open::new(&shared.counters);
    let judge = Arc::new(Judge::new(Arc::clone(&shared), true, stream.peer_addr().ok()));
    let line = Line::new(stream, received, judge.clone(), &shared.config.http);
    let service = Service { shared: Arc::clone(&shared), judge, only_metrics: false };
    let returned = serve_line(&shared, line, service, finishing).await;
    drop((open, counted));
    if let Some((socket, received)) = returned.and_then(|line| line.into_parts().ok()) {
        shared.hand_back(Visit { socket, received, ticket }).await;
    }
}

/// Serves a connection to its end. Returns it if it is to become a WebSocket.
async fn serve_line(shared: &Shared, line: Line, service: Service, mut finishing: watch::Receiver<()>) -> Option<Line> {
    let peer = service.judge.peer().map(display);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        // Who has finished sending is still waiting for its answer.
        .half_close(true)
        // The line keeps the time.
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection = builder.serve_connection(line, service);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        _ = finishing.changed() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let line = connection.into_parts().io;
    if let Err(error) = outcome {
        // Whatever is still to be sent, nobody takes it.
        tracing::debug!(peer, %error, "an HTTP connection has ended");
        return None;
    }
    match line.ending() {
        Some(Ending::WebSocket) => return Some(line),
        Some(Ending::Malformed(error)) => {
            let refusal = error.refusal();
            tracing::debug!(peer, status = refusal.status, %error, "refused");
            shared.counters.add(Counter::HttpRequests, 1);
            shared.count_refusal(&refusal);
            line.refuse(&refusal).await;
        }
        Some(Ending::Overdue) => shared.counters.add(Counter::HandshakeOverdue, 1),
        Some(Ending::Quiet) | None => line.finish().await,
    }
    None
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
            let judge = Arc::new(Judge::new(Arc::clone(&shared), false, stream.peer_addr().ok()));
            let line = Line::new(stream, BytesMut::new(), judge.clone(), &shared.config.http);
            let service = Service { shared: Arc::clone(&shared), judge, only_metrics: true };
            serve_line(&shared, line, service, finishing).await;
        });
    }
}

/// How long answers under way may take when the shards have ended.
const FINISH: Duration = Duration::from_secs(1);

/// Files that may be sent at the same time, each a descriptor beside its connection's. One more request: 503.
const FILES_MAX: usize = 64;

/// What hyper may keep of a head that is not whole, or of a body.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;

/// Connections to the address that is for `/metrics` alone.
const METRICS_CONNECTIONS_MAX: usize = 64;

/// How long accepting pauses when descriptors are used up.
const PAUSE: Duration = Duration::from_millis(200);

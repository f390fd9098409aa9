//! The control thread: it serves the connections of the port that are no WebSockets.
//!
//! It runs tokio's runtime, is not pinned to a CPU, and is one more end of the mesh. hyper serves the connections that
//! shards hand over; [`publisher`] is the one task that sends requests to the shards for all these connections.

#![forbid(unsafe_code)]

mod admin;
mod admin_query;
mod answers;
mod bodies;
mod body;
mod calls;
mod date;
mod embedded;
pub(crate) mod feed;
mod history_reads;
mod http_connection;
mod last_head;
mod memory;
mod merged_top;
mod output;
mod paths;
mod people;
mod permits;
mod port;
mod publish_rates;
pub(crate) mod publisher;
mod router;
mod service;
mod shared;
mod top;
mod waits;

use std::{
    io,
    net::TcpListener,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Runtime,
    sync::{Notify, Semaphore, mpsc, watch},
    task::{JoinError, JoinSet},
};

use self::{
    bodies::Bodies,
    calls::ServiceCalls,
    history_reads::HistoryReads,
    permits::Farewells,
    port::Port,
    publish_rates::PublishBuckets,
    publisher::{Publisher, PublisherTask, Requests},
    service::ServedEndpoints,
    shared::Shared,
    waits::Waits,
};
use crate::{
    access_log::AccessLog,
    budget::Budget,
    clock::{Clock, WallStart},
    config::{Config, Http, Limits},
    current::Current,
    endpoints::{Endpoints, Readiness},
    handover::{Addresses, HandedOff},
    hub::{ExternalEnd, MeshLimits},
    metrics::{BackendInfo, Counter, Counters},
    outbound,
    rates::RateTable,
    refusal_log::RefusalLog,
};

/// The parts that the control thread is started with.
pub(crate) struct Start {
    /// The control thread's end of the mesh, and the notification that shards wake it by.
    pub(crate) outside: ExternalEnd,
    /// The clock of the server.
    pub(crate) clock: Clock,
    pub(crate) woken: Arc<Notify>,
    /// The requests to the shards, and the handle by which tasks submit them.
    pub(crate) requests: Requests,
    pub(crate) publisher: Publisher,
    /// The endpoints by their paths.
    pub(crate) endpoints: Current<Endpoints>,
    pub(crate) config: Current<Config>,
    /// Connections that shards hand over. The channel ends when all shards have ended.
    pub(crate) arrivals: mpsc::Receiver<HandedOff>,
    /// The way back to each shard, for connections that are to become WebSockets.
    pub(crate) returns: Vec<mpsc::Sender<HandedOff>>,
    /// The listener for `/metrics` alone.
    pub(crate) metrics_listener: Option<TcpListener>,
    pub(crate) shards: Vec<Arc<Counters>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) refusal_log: Arc<RefusalLog>,
    /// The sockets of each address, where their number is limited.
    pub(crate) of_addresses: Option<Arc<Addresses>>,
    /// The buckets of the addresses that open WebSockets.
    pub(crate) handshakes: Arc<RateTable>,
    pub(crate) access_log: AccessLog,
    /// The backend of the shards.
    pub(crate) backend: BackendInfo,
    /// The budget of the server's memory, if there is a limit.
    pub(crate) budget: Option<Arc<Budget>>,
    /// Whether the server is leaving.
    pub(crate) leaving: watch::Receiver<bool>,
    /// Whether `/readyz` answers 200.
    pub(crate) readiness: Readiness,
    /// Changes with each reload of the settings.
    pub(crate) reloaded: watch::Receiver<()>,
    /// The service of the server's own requests, if the server has URLs to send them to.
    pub(crate) outbound: Option<outbound::Service>,
}

/// Runs the control thread until all shards have ended. `started` is called once the control thread has all descriptors
/// that it needs itself.
///
/// # Errors
///
/// If the runtime cannot be set up, or [`publisher`] ends before the shards do.
pub(crate) fn run(start: Start, started: impl FnOnce()) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(READING_THREADS_MAX).build()?;
    started();
    let outcome = runtime.block_on(serve(start));
    end(runtime);
    outcome
}

/// Ends a runtime. A read of a file may never return, so reads are awaited no longer than answers.
fn end(runtime: Runtime) {
    runtime.shutdown_timeout(FINISH);
}

/// The most threads that read documents for the control thread. Further reads wait for one of them.
const READING_THREADS_MAX: usize = 8;

async fn serve(start: Start) -> io::Result<()> {
    let Start { config, mut arrivals, returns, metrics_listener, shards, counters, leaving, .. } = start;
    let Start { outside, clock, woken, requests, publisher, endpoints, backend, .. } = start;
    let Start { refusal_log, of_addresses, handshakes, access_log, outbound, readiness, mut reloaded, .. } = start;
    if let Some(service) = outbound {
        // It ends with the runtime.
        tokio::spawn(service.run());
    }
    let at_start = config.get();
    counters.set(Counter::ConnectionsMax, at_start.limits.connections_max as u64);
    counters.set(Counter::GatheredBytesMax, at_start.limits.gathered_bytes_max as u64);
    let lane_entries = MeshLimits::default().lane_entries(outside.ends());
    counters.set(Counter::LaneEntriesMax, lane_entries as u64);
    // A change tells the connections that the server leaves, and the end of the sender that they are to finish.
    let (finish, finishing) = watch::channel(());
    let task = PublisherTask::new(outside, clock, Arc::clone(&woken), Arc::clone(&counters), leaving.clone(), requests);
    let mut publishing = tokio::spawn(task.run(finishing.clone()));
    let http = &at_start.http;
    let bodies = Bodies::new(http.bodies_bytes_max);
    let waits = Waits::new(at_start.shards, http.connections_max, http.bodies_bytes_max);
    let publisher = publisher.with_waits(waits.clone());
    let files = Arc::new(Semaphore::new(Limits::FILES_MAX));
    // The port of the connections that shards hand over. An address of `/metrics` alone has another port.
    let port = Arc::new(Port::new(ServedEndpoints::Everything, http.connections_max, Limits::FAREWELLS_MAX));
    let shared = Shared {
        history_reads: HistoryReads::default(),
        config,
        publisher,
        endpoints,
        returns,
        shards,
        counters,
        refusal_log,
        of_addresses,
        access_log,
        backend,
        leaving,
        readiness,
        // The rest of the limit is for connections that have given way and are about to be closed.
        monitors: Farewells::new(Limits::MONITORS_MAX * 3 / 4),
        bodies,
        clock,
        wall_start: WallStart::default(),
        handshakes,
        publish_buckets: PublishBuckets::new(clock),
        files,
        calls: ServiceCalls::new(http.connections_max),
        metrics: Mutex::default(),
        top: Default::default(),
        returned: AtomicUsize::default(),
    };
    let shared = Arc::new(shared);
    let watching = start.budget.map(|budget| {
        shared.counters.set(Counter::MemoryMax, budget.bytes_max());
        tokio::spawn(memory::watch(Arc::clone(&shared), budget, shared.shards.len()))
    });
    let trimming = tokio::spawn(memory::trim_after_storms(Arc::clone(&shared)));
    let mut connections = JoinSet::new();
    if let Some(listener) = metrics_listener {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        connections.spawn(port::serve_metrics(Arc::clone(&shared), listener, finishing.clone()));
    }
    let (mut has_left, mut ends_by) = (false, None);
    loop {
        tokio::select! {
            () = shared.has_left(), if !has_left => {
                has_left = true;
                ends_by = Instant::now().checked_add(shared.config.get().drain_timeout);
                woken.notify_one();
                finish.send_replace(());
            }
            // The sender is dropped with the server's owner, and then there are no further reloads.
            Ok(()) = reloaded.changed() => take_limits(&shared, &port, &waits),
            arrival = arrivals.recv() => {
                let Some(handed_off) = arrival else { break };
                let (shared, port) = (Arc::clone(&shared), Arc::clone(&port));
                connections.spawn(port::serve_handed_off(shared, port, handed_off, finishing.clone()));
            }
            // Without this task every publish by HTTP or by a `Hub` would wait for ever.
            ended = &mut publishing => return Err(publishing_ended(ended)),
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "serving an HTTP connection has failed");
                }
            }
        }
    }
    trimming.abort();
    if let Some(watching) = watching {
        watching.abort();
    }
    drop(finish);
    woken.notify_one();
    // No shard is left to publish to, so requests that were not published are answered 503.
    let rest = async { while connections.join_next().await.is_some() {} };
    let left = ends_by.map_or(FINISH, |ends_by| ends_by.saturating_duration_since(Instant::now()));
    drop(tokio::time::timeout(left.clamp(FINISH_MIN, FINISH), rest).await);
    Ok(())
}

/// Takes the limits of a reload that the tables of connections and bodies keep.
fn take_limits(shared: &Shared, port: &Port, waits: &Waits) {
    let config = shared.config.get();
    let Http { connections_max, bodies_bytes_max, .. } = config.http;
    port.set_permits_max(connections_max);
    shared.bodies.set_max(bodies_bytes_max);
    shared.calls.set_max(connections_max);
    waits.set_max(config.shards, connections_max, bodies_bytes_max);
    shared.counters.set(Counter::ConnectionsMax, config.limits.connections_max as u64);
    shared.counters.set(Counter::GatheredBytesMax, config.limits.gathered_bytes_max as u64);
}

/// Returns the error of a server whose task for the shards has ended before them.
fn publishing_ended(ended: Result<(), JoinError>) -> io::Error {
    let how = ended.map_or_else(|error| error.to_string(), |()| "without a panic".into());
    io::Error::other(format!("the task that speaks with the shards has ended: {how}"))
}

/// The longest time for answers under way when the shards have ended, within [`Config::drain_timeout`].
const FINISH: Duration = Duration::from_secs(1);

/// The time that these answers have even after [`Config::drain_timeout`]. It is enough to hand them to the kernel.
const FINISH_MIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::{
        auth::Access,
        config::Settings,
        hub::{EndRole, MeshEnd, MeshLimits, Wake},
    };

    /// A server that has lost the task for its shards ends, like a server that has lost a shard.
    #[test]
    fn the_end_of_the_publisher_ends_the_control_thread() {
        let wake = (0..2).map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, &EndRole::shards_and_control(1), &MeshLimits::default());
        let (door, arrivals) = tokio::sync::mpsc::channel(1);
        // The task ends when nobody can send it a request, which happens to this one at once.
        let ((_, requests), (publisher, _others)) = (Publisher::new(), Publisher::new());
        let endpoints = Endpoints::new(Vec::new(), Vec::new(), Vec::new(), false, true, Access::default());
        let leaving = watch::Sender::new(false);
        let start = Start {
            outside: ExternalEnd::new(ends.pop().expect("the end of control")),
            clock: Clock::new(),
            woken: Arc::default(),
            requests,
            publisher,
            endpoints: Current::new(endpoints.expect("no two for a path")),
            config: Current::new(Config::new(&Settings::default(), 20_000).expect("settings that fit")),
            arrivals,
            returns: Vec::new(),
            metrics_listener: None,
            shards: Vec::new(),
            counters: Arc::default(),
            refusal_log: Arc::default(),
            of_addresses: None,
            handshakes: Arc::default(),
            access_log: AccessLog::off(),
            backend: BackendInfo { backend: "none".into(), reason: "no shard".into() },
            budget: None,
            leaving: leaving.subscribe(),
            readiness: Readiness::default(),
            reloaded: watch::Sender::new(()).subscribe(),
            outbound: None,
        };
        let (ended, has_ended) = mpsc::channel();
        thread::spawn(move || ended.send(run(start, || {}).map_err(|error| error.to_string())));
        let outcome = has_ended.recv_timeout(Duration::from_secs(60)).expect("the control thread goes on without it");
        let expected = "the task that speaks with the shards has ended: without a panic";
        assert_eq!(outcome, Err(expected.into()));
        drop(door);
    }

    /// A file on a device that does not answer holds its reading thread, and no other.
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

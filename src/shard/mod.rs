//! One thread: where the pure parts meet the kernel.
//!
//! [`turn`] is the work, generic over `Io`; this file is the shell around it: it runs the runtime, takes in what
//! [`accept`] and [`handshake`] bring, and decides when the next turn is due.

#![forbid(unsafe_code)]

mod accept;
mod drain;
mod ending;
mod flush;
mod handlers;
mod handshake;
mod incoming;
mod io_state;
mod lobby;
mod opening;
mod pace;
mod receive;
mod refusals;
#[cfg(test)]
mod simulator;
mod spawned;
mod timers;
mod turn;
mod unfinished;

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};

use self::{handlers::Handlers, lobby::Lobby, turn::Shard};
use crate::{
    config::{Config, TICK},
    endpoints::Endpoints,
    handler::{ShardRoute, Tasks},
    handover::{ControlDoor, Sockets, Visit},
    hub::MeshEnd,
    metrics::{Counter, Counters},
    proto::Tick,
    sys::{HotRing, cpu, net, oneshot},
};

/// What the server tells a shard.
#[derive(Debug)]
pub(crate) enum Command {
    /// Stop accepting, close every connection, and end.
    Drain,
}

/// What a shard's thread is started with.
pub(crate) struct Start {
    /// Its end of the lanes between shards; the end's number is the shard's.
    pub(crate) mesh: MeshEnd,
    /// Notified when another shard wakes this one.
    pub(crate) woken: Arc<Notify>,
    /// How many shards still have connections while the server leaves.
    pub(crate) occupied: Arc<AtomicUsize>,
    /// The CPU to stay on.
    pub(crate) cpu: Option<usize>,
    pub(crate) config: Arc<Config>,
    pub(crate) listeners: Vec<OwnedFd>,
    /// What is at which path.
    pub(crate) endpoints: Arc<Endpoints>,
    /// What the server listens on.
    pub(crate) addresses: Vec<SocketAddr>,
    /// How many sockets all threads have: the limits are for all of them.
    pub(crate) sockets: Sockets,
    /// Where connections go that want no WebSocket, and where they come back from if they do later.
    pub(crate) control: ControlDoor,
    pub(crate) returns: mpsc::Receiver<Visit>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) epoch_first: u64,
}

/// Runs a shard on the calling thread until it has been told to drain and has done so. `started` is called once the
/// shard accepts connections.
///
/// # Errors
///
/// If the rings cannot be set up or the thread cannot be pinned.
pub(crate) fn run(start: Start, started: impl FnOnce()) -> io::Result<()> {
    if let Some(cpu) = start.cpu {
        cpu::pin(cpu)?;
    }
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer().setup_submit_all().setup_cqsize(RUNTIME_COMPLETIONS);
    let mut builder = tokio_uring::builder();
    builder.entries(RUNTIME_ENTRIES).uring_builder(&ring);
    let runtime = tokio_uring::Runtime::new(&builder)?;
    runtime.block_on(serve(start, started))
}

async fn serve(start: Start, started: impl FnOnce()) -> io::Result<()> {
    let Start { mesh, woken, occupied, config, listeners, counters, mut commands, epoch_first, .. } = start;
    let clock = Clock::new();
    let ring = HotRing::new()?;
    let watched = ring.watch()?;
    let routes = start.endpoints.routes();
    let on_shard: Rc<[Rc<dyn ShardRoute>]> = routes.iter().map(|route| route.factory.on_shard()).collect();
    let tasks = Tasks::default();
    let handlers = Handlers::new(routes, &on_shard, tasks.clone());
    let number = mesh.number();
    let mut shard = Shard::new(mesh, &config, ring, handlers, Arc::clone(&counters), epoch_first, clock.now());
    let lobby = Lobby::new(
        Arc::clone(&config),
        Arc::clone(&counters),
        start.sockets,
        start.control,
        start.endpoints,
        on_shard,
        start.addresses,
    );
    let lobby = Rc::new(lobby.of_shard(number));
    let mut spawned = spawned::Spawned::new(tasks.clone());
    let listeners: Vec<Rc<OwnedFd>> = listeners.into_iter().map(Rc::new).collect();
    for listener in &listeners {
        tokio_uring::spawn(accept::accept(Rc::clone(&lobby), Rc::clone(listener)));
    }
    tokio_uring::spawn(accept::take_back(Rc::clone(&lobby), start.returns));
    started();

    let (mut is_told, mut is_occupied) = (false, true);
    let mut ends_by: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        let more = shard.turn(clock.now());
        counters.turn(begun.elapsed());
        counters.set(Counter::PollsArmed, shard.io_mut().armed());
        counters.set(Counter::CancelsRepeated, shard.io_mut().repeated());
        lobby.set_open(shard.open());
        // At once: nothing else may happen here for long.
        spawned.start();
        spawned.end(shard.take_abandoned());
        if let Some(ends_by) = ends_by {
            // A shard whose connections have left is still the home of topics that others publish to.
            if is_occupied && shard.is_empty() && lobby.is_empty() {
                is_occupied = false;
                occupied.fetch_sub(1, Ordering::Relaxed);
            }
            if Instant::now() >= ends_by || occupied.load(Ordering::Relaxed) == 0 {
                break;
            }
        }
        // Calls that had no room before this turn.
        let has_calls = tasks.has_calls() && !shard.is_full();
        if more || has_calls || shard.io_mut().has_completions() {
            // Other tasks, and the runtime's own ring, have their turn between two of ours.
            oneshot::nop().await;
            is_told = !matches!(commands.try_recv(), Err(mpsc::error::TryRecvError::Empty));
        } else if shard.may_sleep() {
            let wait = clock.until(shard.next_deadline(), ends_by);
            tokio::select! {
                () = woken.notified() => {}
                ready = watched.readable() => ready?.clear_ready(),
                () = lobby.arrived() => {}
                () = tasks.added() => {}
                // A server that is gone without a word wants what it would have said.
                _ = commands.recv(), if ends_by.is_none() => is_told = true,
                () = tokio::time::sleep(wait) => {}
            }
        }
        shard.awake();
        if is_told && ends_by.is_none() {
            for listener in &listeners {
                net::stop_listening(listener)?;
            }
            lobby.refuse_from_now_on();
            shard.drain(clock.now(), ticks(config.drain_timeout));
            ends_by = Some(Instant::now() + config.drain_timeout);
        }
        // Who publishes from beside the turn waits as a client does.
        while !shard.is_full()
            && let Some((id, call)) = tasks.next_call()
        {
            shard.call_back(clock.now(), id, call);
        }
        while let Some(arrival) = lobby.take() {
            if shard.adopt(clock.now(), arrival).is_none() {
                tracing::error!("no slot is left for a connection");
            }
        }
    }
    if !shard.is_empty() {
        tracing::warn!(connections = shard.open(), "did not leave in time and are dropped");
        shard.drop_all();
    }
    // What still waits to be done finds nobody; left in its queue, a handle in it would keep all of it alive.
    while let Some((id, call)) = tasks.next_call() {
        shard.call_back(clock.now(), id, call);
    }
    spawned.start();
    Ok(())
}

/// The only clock of a shard.
#[derive(Debug)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn new() -> Self {
        Clock { start: Instant::now() }
    }

    fn now(&self) -> Tick {
        Tick(ticks(self.start.elapsed()))
    }

    /// How long to sleep until the first of the two.
    fn until(&self, tick: Option<Tick>, instant: Option<Instant>) -> Duration {
        let tick = tick.map(|tick| (self.start + TICK * tick.0).saturating_duration_since(Instant::now()));
        let instant = instant.map(|instant| instant.saturating_duration_since(Instant::now()));
        tick.into_iter().chain(instant).min().unwrap_or(SLEEP_MAX)
    }
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(u32::MAX)
}

/// The longest sleep of a shard that has nothing to wait for.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// The runtime's own ring: accepts and opening handshakes, one completion each.
const RUNTIME_ENTRIES: u32 = 256;
const RUNTIME_COMPLETIONS: u32 = 4_096;

//! A shard's thread: the loop around the turn.
//!
//! A loop is a turn, the decision of what follows it, and what has come in meanwhile.

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

use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc},
};

use super::{accept, lobby::Lobby, seats::Handlers, spawned::Spawned, state::Shard, warnings::Warnings};
use crate::{
    config::{Config, TICK},
    endpoints::Endpoints,
    handler::{ShardRoute, Tasks},
    handover::{ControlHandoff, HandedOff, Sockets},
    hub::MeshEnd,
    metrics::{Counter, Counters},
    proto::Tick,
    sys::{HotRing, cpu, net, oneshot},
};

/// What the server tells a shard.
#[derive(Debug)]
pub(crate) enum ShardCommand {
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
    pub(crate) control: ControlHandoff,
    pub(crate) returns: mpsc::Receiver<HandedOff>,
    pub(crate) counters: Arc<Counters>,
    /// The throttles of lines about limits, which all shards share.
    pub(crate) warnings: Arc<Warnings>,
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
    runtime.block_on(async {
        let driver = Driver::new(start)?;
        started();
        driver.serve().await
    })
}

/// A shard's thread, and what it has beside the shard.
struct Driver {
    shard: Shard<HotRing>,
    lobby: Rc<Lobby>,
    tasks: Tasks,
    spawned: Spawned,
    clock: Clock,
    config: Arc<Config>,
    counters: Arc<Counters>,
    listeners: Vec<Rc<OwnedFd>>,
    /// The hot ring's descriptor, which is readable when the ring has completions.
    ring: AsyncFd<OwnedFd>,
    woken: Arc<Notify>,
    commands: mpsc::Receiver<ShardCommand>,
    /// How many shards still have connections while the server leaves.
    occupied: Arc<AtomicUsize>,
    /// Whether this shard is one of them.
    is_occupied: bool,
    /// When the drain ends whatever is left; set when it begins.
    ends_by: Option<Instant>,
}

/// What the driver knows after a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct AfterTurn {
    /// Whether the turn has left work, a call waits that may be made, or the ring has completions.
    pub(super) has_work: bool,
    /// Whether a drain has ended: its time is over, or no shard has connections any more.
    pub(super) is_drained: bool,
}

/// What follows a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another turn, at once.
    Again,
    /// Another turn when something arrives, at the latest at this tick.
    Sleep(Option<Tick>),
    /// The end of the shard.
    End,
}

/// Decides what follows a turn, where the shard has this deadline.
pub(super) fn decide(after: AfterTurn, deadline: impl FnOnce() -> Option<Tick>) -> Next {
    match after {
        AfterTurn { is_drained: true, .. } => Next::End,
        AfterTurn { has_work: true, .. } => Next::Again,
        AfterTurn { has_work: false, is_drained: false } => Next::Sleep(deadline()),
    }
}

impl Driver {
    /// Sets up the shard and its tasks. It accepts connections from then on.
    ///
    /// # Errors
    ///
    /// If the hot ring cannot be set up.
    fn new(start: Start) -> io::Result<Self> {
        let Start { mesh, woken, occupied, config, listeners, counters, commands, epoch_first, .. } = start;
        let clock = Clock::new();
        let ring = HotRing::new()?;
        let watched = ring.watch()?;
        let routes = start.endpoints.routes();
        let on_shard: Rc<[Rc<dyn ShardRoute>]> = routes.iter().map(|route| route.factory.on_shard()).collect();
        let tasks = Tasks::default();
        let handlers = Handlers::new(routes, &on_shard, tasks.clone());
        let number = mesh.number();
        let mut shard = Shard::new(mesh, &config, ring, handlers, Arc::clone(&counters), epoch_first, clock.now());
        shard.warnings = Arc::clone(&start.warnings);
        let lobby = Lobby::new(
            Arc::clone(&config),
            Arc::clone(&counters),
            start.sockets,
            start.control,
            start.endpoints,
            on_shard,
            start.addresses,
        );
        let lobby = Rc::new(lobby.of_shard(number, start.warnings));
        let spawned = Spawned::new(tasks.clone());
        let listeners: Vec<Rc<OwnedFd>> = listeners.into_iter().map(Rc::new).collect();
        for listener in &listeners {
            tokio_uring::spawn(accept::accept(Rc::clone(&lobby), Rc::clone(listener)));
        }
        tokio_uring::spawn(accept::reclaim_handed_back(Rc::clone(&lobby), start.returns));
        Ok(Driver {
            shard,
            lobby,
            tasks,
            spawned,
            clock,
            config,
            counters,
            listeners,
            ring: watched,
            woken,
            commands,
            occupied,
            is_occupied: true,
            ends_by: None,
        })
    }

    /// Serves until the shard has been told to drain and has done so.
    async fn serve(mut self) -> io::Result<()> {
        loop {
            let after = self.turn();
            let is_told = match decide(after, || self.shard.next_deadline()) {
                Next::End => break,
                Next::Again => self.pass().await,
                // Something may have come down a lane just now.
                Next::Sleep(deadline) if self.shard.may_sleep() => self.sleep(deadline).await?,
                Next::Sleep(_) => false,
            };
            self.shard.awake();
            if is_told && self.ends_by.is_none() {
                self.begin_drain()?;
            }
            self.admit();
        }
        self.finish();
        Ok(())
    }

    /// Runs a turn, and starts and ends what runs beside it. Returns what is known after it.
    fn turn(&mut self) -> AfterTurn {
        let begun = Instant::now();
        let has_more = self.shard.turn(self.clock.now());
        self.counters.turn(begun.elapsed());
        self.counters.set(Counter::PollsArmed, self.shard.io_mut().armed());
        self.counters.set(Counter::CancelsRepeated, self.shard.io_mut().repeated());
        self.lobby.set_open(self.shard.open());
        // At once: nothing else may happen here for long.
        self.spawned.start();
        self.spawned.end(self.shard.take_abandoned());
        let is_drained = self.is_drained();
        // Calls that had no room before this turn.
        let has_calls = self.tasks.has_calls() && !self.shard.is_full();
        let has_work = has_more || has_calls || self.shard.io_mut().has_completions();
        AfterTurn { has_work, is_drained }
    }

    /// Notes when the last connection of a drain has left. Returns whether the drain has ended.
    fn is_drained(&mut self) -> bool {
        let Some(ends_by) = self.ends_by else { return false };
        // A shard whose connections have left is still the home of topics that others publish to.
        if self.is_occupied && self.shard.is_empty() && self.lobby.is_empty() {
            self.is_occupied = false;
            self.occupied.fetch_sub(1, Ordering::Relaxed);
        }
        Instant::now() >= ends_by || self.occupied.load(Ordering::Relaxed) == 0
    }

    /// Lets other tasks, and the runtime's own ring, have their turn. Returns whether a drain is to begin.
    async fn pass(&mut self) -> bool {
        oneshot::nop().await;
        !matches!(self.commands.try_recv(), Err(mpsc::error::TryRecvError::Empty))
    }

    /// Sleeps until something arrives, or the deadline. Returns whether a drain is to begin.
    async fn sleep(&mut self, deadline: Option<Tick>) -> io::Result<bool> {
        let wait = self.clock.until(deadline, self.ends_by);
        let mut is_told = false;
        tokio::select! {
            () = self.woken.notified() => {}
            ready = self.ring.readable() => ready?.clear_ready(),
            () = self.lobby.arrived() => {}
            () = self.tasks.added() => {}
            // A closed channel means that the server was dropped, which drains too.
            _ = self.commands.recv(), if self.ends_by.is_none() => is_told = true,
            () = tokio::time::sleep(wait) => {}
        }
        Ok(is_told)
    }

    /// Stops accepting, and begins to close every connection.
    fn begin_drain(&mut self) -> io::Result<()> {
        assert!(self.ends_by.is_none(), "a drain begins once");
        for listener in &self.listeners {
            net::stop_listening(listener)?;
        }
        self.lobby.refuse_from_now_on();
        self.shard.drain(self.clock.now(), ticks(self.config.drain_timeout));
        self.ends_by = Some(Instant::now() + self.config.drain_timeout);
        Ok(())
    }

    /// Makes the calls that wait, as long as the shard may receive, and adopts the connections that have arrived.
    fn admit(&mut self) {
        // A publisher beside the turn waits as a client does.
        while !self.shard.is_full()
            && let Some((id, call)) = self.tasks.next_call()
        {
            self.shard.call_back(self.clock.now(), id, call);
        }
        while let Some(arrival) = self.lobby.next_arrival() {
            if self.shard.adopt(self.clock.now(), arrival).is_none() {
                tracing::error!("no slot is left for a connection");
            }
        }
    }

    /// Drops the connections that are left, and makes the calls that wait.
    fn finish(&mut self) {
        if !self.shard.is_empty() {
            let connections = self.shard.open();
            tracing::warn!(connections, "did not leave in time and are dropped");
            self.shard.drop_all();
        }
        // The calls find no connection; left in its queue, a handle in one would keep the queue alive.
        while let Some((id, call)) = self.tasks.next_call() {
            self.shard.call_back(self.clock.now(), id, call);
        }
        self.spawned.start();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_followed_by_a_turn_idleness_by_sleep_and_a_drain_by_the_end() {
        let next = |has_work, is_drained| decide(AfterTurn { has_work, is_drained }, || Some(Tick(7)));
        assert_eq!(next(false, false), Next::Sleep(Some(Tick(7))));
        assert_eq!(next(true, false), Next::Again);
        assert_eq!((next(false, true), next(true, true)), (Next::End, Next::End));
    }

    /// The deadline costs a look at every list of the timer wheel.
    #[test]
    fn only_a_sleep_looks_at_the_deadline() {
        for (has_work, is_drained) in [(true, false), (false, true), (true, true)] {
            decide(AfterTurn { has_work, is_drained }, || panic!("nobody sleeps"));
        }
    }
}

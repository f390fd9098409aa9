//! A shard's thread: the loop around the turn.
//!
//! A round of the loop is a turn, the decision about the next step, and the admission of arrivals and calls.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc},
    task::spawn_local,
};

use super::{
    accept::{self, Accepting},
    listener::{Listener, ListenerOwner},
    lobby::{Lobby, Openings},
    seats::Handlers,
    spawned::Spawned,
    state::Shard,
    warnings::Warnings,
};
use crate::{
    access_log::AccessLog,
    clock::Clock,
    config::{Config, TICK},
    current::Current,
    endpoints::{Endpoints, Readiness},
    handler::{ShardRoute, Tasks},
    handover::{ControlHandoff, HandedOff, Sockets},
    hub::{Encodings, EngineTopics, MeshEnd, RulesOfTopics},
    metrics::{Counter, Counters, Histogram},
    proto::{Millis, Tick},
    sys::{Backend, BackendKind, Io as _, Layered, RingAccess, cpu, runtime},
};

/// A command of the server to a shard.
#[derive(Debug)]
pub(crate) enum ShardCommand {
    /// Stop accepting, close every connection, and end.
    Drain,
}

/// The parts that a shard's thread is started with.
pub(crate) struct Start {
    /// The shard's end of the mesh; the end's number is the shard's.
    pub(crate) mesh: MeshEnd,
    /// Notified when another end of the mesh wakes this shard.
    pub(crate) woken: Arc<Notify>,
    /// The number of shards that still have connections while the server leaves.
    pub(crate) occupied: Arc<AtomicUsize>,
    /// The CPU that the thread stays on.
    pub(crate) cpu: Option<usize>,
    pub(crate) backend: BackendKind,
    /// The operations that the shard's rings take, if it has rings.
    pub(crate) ring_access: RingAccess,
    pub(crate) config: Current<Config>,
    pub(crate) listeners: Vec<Listener>,
    /// The table of endpoints.
    pub(crate) endpoints: Current<Endpoints>,
    /// The addresses that the server listens on.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The count of the sockets of all threads, which the limits bound.
    pub(crate) sockets: Sockets,
    /// The way to the control thread, for connections whose request is no upgrade.
    pub(crate) control: ControlHandoff,
    /// Connections that come back from the control thread, after they have sent an upgrade there.
    pub(crate) returns: mpsc::Receiver<HandedOff>,
    pub(crate) counters: Arc<Counters>,
    /// The throttles of lines about limits, which all shards share.
    pub(crate) warnings: Arc<Warnings>,
    pub(crate) commands: mpsc::Receiver<ShardCommand>,
    /// The rules of topics, which a reload replaces.
    pub(crate) topic_rules: RulesOfTopics,
    /// The encodings of the server's surfaces.
    pub(crate) encodings: Arc<Encodings>,
    /// The engine that orders some of the topics, if there is one.
    pub(crate) engine: Option<EngineTopics>,
    pub(crate) access_log: AccessLog,
    /// The clock of the server.
    pub(crate) clock: Clock,
    /// A random number, from which the epochs of the shard's topics follow.
    pub(crate) epoch_seed: u64,
    /// Whether `/readyz` answers 200.
    pub(crate) readiness: Readiness,
    /// The number of the reload whose settings the shard has taken last.
    pub(crate) taken: Arc<AtomicU64>,
}

/// Runs a shard on the calling thread until a drain has ended. `started` is called once the shard accepts connections.
///
/// # Errors
///
/// If the thread cannot be pinned, the backend cannot be set up, or a listener or the backend cannot be watched.
pub(crate) fn run(start: Start, started: impl FnOnce()) -> io::Result<()> {
    if let Some(cpu) = start.cpu {
        cpu::pin(cpu)?;
    }
    runtime::block_on(start.backend, start.ring_access, async {
        let driver = Driver::new(start)?;
        started();
        driver.serve().await
    })?
}

/// A shard, and the rest of its thread.
struct Driver {
    shard: Shard<Layered<Backend>>,
    lobby: Rc<Lobby>,
    tasks: Tasks,
    spawned: Spawned,
    clock: Clock,
    config: Current<Config>,
    /// The table of endpoints whose rules the shard has taken.
    endpoints: Arc<Endpoints>,
    /// The number of the reload whose settings the shard has taken last.
    taken: Arc<AtomicU64>,
    counters: Arc<Counters>,
    listeners: Vec<Accepting>,
    /// Whether a listener belongs to the server's parent, which will start the next server.
    has_parent: bool,
    backend: BackendKind,
    /// The descriptor that is readable when the backend has reports.
    watched: AsyncFd<OwnedFd>,
    woken: Arc<Notify>,
    commands: mpsc::Receiver<ShardCommand>,
    /// The number of shards that still have connections while the server leaves.
    occupied: Arc<AtomicUsize>,
    /// Whether `occupied` counts this shard.
    is_occupied: bool,
    /// The tick in which the gauges were set that are not set in each turn.
    gauges_of: Tick,
    /// When the drain drops the connections that are left; set when the drain begins.
    ends_by: Option<Instant>,
}

/// The driver's knowledge after a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct AfterTurn {
    /// Whether the turn has left work, a call that may be made waits, or the backend has reports.
    pub(super) has_work: bool,
    /// Whether a drain has ended: its time is over, or no shard has connections any more and this shard owes the
    /// control thread nothing.
    pub(super) is_drained: bool,
}

/// The driver's next step after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another turn, at once.
    Again,
    /// Another turn when something arrives, at the latest at this time.
    Sleep(Option<Millis>),
    /// The end of the shard.
    End,
}

/// Decides the next step after a turn; `deadline` returns when the shard's next turn is due.
pub(super) fn decide(after: AfterTurn, deadline: impl FnOnce() -> Option<Millis>) -> Next {
    match after {
        AfterTurn { is_drained: true, .. } => Next::End,
        AfterTurn { has_work: true, .. } => Next::Again,
        AfterTurn { has_work: false, is_drained: false } => Next::Sleep(deadline()),
    }
}

impl Driver {
    /// Sets up the shard and its tasks. The shard accepts connections from then on.
    ///
    /// # Errors
    ///
    /// If the backend cannot be set up, or a listener cannot be watched.
    fn new(start: Start) -> io::Result<Self> {
        let Start { mesh, woken, occupied, backend, config, listeners, counters, commands, clock, epoch_seed, .. } =
            start;
        let io = Backend::with(backend, start.ring_access)?;
        let watched = io.watch()?;
        let endpoints = start.endpoints.get();
        let routes = endpoints.routes();
        let on_shard: Rc<[Rc<dyn ShardRoute>]> = routes.iter().map(|route| route.factory.on_shard()).collect();
        let tasks = Tasks::default();
        let handlers = Handlers::new(routes, &on_shard, tasks.clone());
        let number = mesh.number();
        let io = Layered::new(io);
        let mut shard = Shard::new(mesh, &config.get(), io, handlers, Arc::clone(&counters), epoch_seed, clock.now());
        shard = shard.with_encodings(start.encodings).with_topic_rules(start.topic_rules);
        shard = shard.with_access_log(start.access_log.clone());
        shard = shard.with_budget(start.sockets.budget.clone(), number);
        shard = shard.with_revocations(start.endpoints.get().revocations().clone());
        if let Some(engine) = start.engine {
            shard = shard.with_engine(engine);
        }
        shard.warnings = Arc::clone(&start.warnings);
        let mut lobby = Lobby::new(
            config.clone(),
            Arc::clone(&counters),
            start.sockets,
            start.control,
            start.endpoints,
            on_shard,
            start.addresses,
        );
        lobby.access_log = start.access_log;
        let lobby = Rc::new(lobby.of_shard(number, start.warnings, clock, backend, start.readiness));
        let spawned = Spawned::new(tasks.clone());
        let has_parent = listeners.iter().any(|listener| listener.owner == ListenerOwner::Parent);
        let listeners = listeners.into_iter().map(|listener| Accepting::begin(&lobby, listener));
        let listeners = listeners.collect::<io::Result<Vec<Accepting>>>()?;
        spawn_local(accept::reclaim_handed_back(Rc::clone(&lobby), start.returns));
        spawn_local(Rc::clone(&lobby).watch_openings());
        Ok(Driver {
            shard,
            lobby,
            tasks,
            spawned,
            clock,
            config,
            endpoints,
            taken: start.taken,
            counters,
            listeners,
            has_parent,
            backend,
            watched,
            woken,
            commands,
            occupied,
            is_occupied: true,
            gauges_of: Tick::default(),
            ends_by: None,
        })
    }

    /// Serves until a drain has ended.
    async fn serve(mut self) -> io::Result<()> {
        loop {
            let after = self.turn();
            let has_command = match decide(after, || self.shard.next_deadline()) {
                Next::End => break,
                Next::Again => self.pass().await,
                // A message may have come down a lane just now.
                Next::Sleep(deadline) if self.shard.may_sleep() => self.sleep(deadline).await?,
                Next::Sleep(_) => false,
            };
            self.shard.awake();
            if has_command && self.ends_by.is_none() {
                self.begin_drain()?;
            }
            self.admit();
            self.take_settings();
        }
        self.finish();
        Ok(())
    }

    /// Runs a turn, and starts and ends the work beside it.
    fn turn(&mut self) -> AfterTurn {
        let begun = Instant::now();
        self.shard.note_begin(begun);
        let now = self.clock.at(begun);
        let has_more = self.shard.turn(now);
        self.counters.count_time(Histogram::Turn, begun.elapsed());
        if self.gauges_of != now.tick() {
            self.gauges_of = now.tick();
            self.shard.set_gauges();
        }
        self.counters.set(Counter::PollsArmed, self.shard.io_mut().inner().armed());
        self.counters.set(Counter::CancelsRepeated, self.shard.io_mut().inner().repeated());
        self.lobby.set_open(self.shard.open());
        // Work starts here and not later, since the driver may sleep next.
        self.spawned.start();
        self.spawned.end(self.shard.take_abandoned());
        let is_drained = self.is_drained();
        // These calls had no room before this turn.
        let has_calls = self.tasks.has_calls() && self.shard.takes_calls();
        let has_work = has_more || has_calls || self.shard.io_mut().has_reports();
        AfterTurn { has_work, is_drained }
    }

    /// Notes when the last connection of a drain has left. Returns whether the drain has ended: no shard has
    /// connections or requests to others any more, and this shard has handed the messages for other threads over.
    fn is_drained(&mut self) -> bool {
        let Some(ends_by) = self.ends_by else { return false };
        // A shard whose connections have left is still the home of topics that others publish to.
        if self.is_occupied && self.shard.has_left() && self.lobby.is_empty() {
            self.is_occupied = false;
            let before = self.occupied.fetch_sub(1, Ordering::Relaxed);
            assert!(before > 0, "each shard leaves once");
        }
        let have_all_left = self.occupied.load(Ordering::Relaxed) == 0;
        Instant::now() >= ends_by || have_all_left && !self.shard.owes_external_ends()
    }

    /// Lets other tasks and the runtime's own waits go on. Returns whether a drain has to begin.
    async fn pass(&mut self) -> bool {
        runtime::pass(self.backend).await;
        !matches!(self.commands.try_recv(), Err(mpsc::error::TryRecvError::Empty))
    }

    /// Sleeps until something arrives or the deadline has come. Returns whether a drain has to begin.
    async fn sleep(&mut self, deadline: Option<Millis>) -> io::Result<bool> {
        let wait = until(self.clock, deadline, self.ends_by, Instant::now());
        let mut has_command = false;
        self.shard.set_gauges();
        self.shard.note_memory();
        tokio::select! {
            () = self.woken.notified() => {}
            ready = self.watched.readable() => ready?.clear_ready(),
            () = self.lobby.arrived() => {}
            () = self.tasks.added() => {}
            // A closed channel means that the server was dropped, which drains too.
            _ = self.commands.recv(), if self.ends_by.is_none() => has_command = true,
            () = tokio::time::sleep(wait) => {}
        }
        Ok(has_command)
    }

    /// Stops accepting, and begins to close every connection.
    fn begin_drain(&mut self) -> io::Result<()> {
        assert!(self.ends_by.is_none(), "a drain begins once");
        for listener in &self.listeners {
            listener.end()?;
        }
        self.lobby.leave(if self.has_parent {
            // Otherwise a restart would refuse exactly the clients whose sockets were accepted before.
            Openings::Served { until: Instant::now() + OPENINGS_TIME }
        } else {
            Openings::Refused
        });
        let drain_timeout = self.config.get().drain_timeout;
        self.shard.drain(self.clock.now(), ticks(drain_timeout));
        self.ends_by = Some(Instant::now() + drain_timeout);
        Ok(())
    }

    /// Makes the calls that wait, as long as the shard takes calls, and adopts the connections that have arrived.
    fn admit(&mut self) {
        // A handle that publishes waits as a client does.
        while self.shard.takes_calls()
            && let Some((id, call)) = self.tasks.next_call()
        {
            let now = self.begin_call();
            self.shard.call_back(now, id, call);
        }
        while let Some(arrival) = self.lobby.next_arrival() {
            let now = self.begin_call();
            if self.shard.adopt(now, arrival).is_none() {
                tracing::error!("no slot is left for a connection");
            }
        }
    }

    /// Takes the settings of a reload, if there was one. The connections that have arrived are adopted before, by the
    /// rules of the table that the shard has: so the change of the rules reaches them too.
    fn take_settings(&mut self) {
        let generation = self.config.generation();
        // Relaxed: this thread alone writes it.
        if generation == self.taken.load(Ordering::Relaxed) {
            return;
        }
        // The table was replaced before the settings, whose number this is.
        let (config, endpoints) = (self.config.get(), self.lobby.endpoints.get());
        self.shard.take_settings(self.clock.now(), &config, &self.endpoints, &endpoints);
        self.endpoints = endpoints;
        // Pairs with the load by the thread that reloads.
        self.taken.store(generation, Ordering::Release);
    }

    /// Notes the beginning of a call between two turns. Returns the time.
    fn begin_call(&mut self) -> Millis {
        let begun = Instant::now();
        self.shard.note_begin(begun);
        self.clock.at(begun)
    }

    /// Drops the connections that are left, and makes the calls that wait.
    fn finish(&mut self) {
        if !self.shard.is_empty() {
            let connections = self.shard.open();
            tracing::warn!(connections, "drain timeout: connections that have not left are dropped");
            self.shard.drop_all();
        }
        // The calls find no connection. They are made nevertheless: a call that stayed in the queue might own a handle,
        // which would keep the queue alive.
        while let Some((id, call)) = self.tasks.next_call() {
            self.shard.call_back(self.clock.now(), id, call);
        }
        self.spawned.start();
    }
}

/// Returns the time from `now` until the time of the clock or the instant, whichever is earlier.
fn until(clock: Clock, time: Option<Millis>, instant: Option<Instant>, now: Instant) -> Duration {
    let time = time.map(|time| clock.start + Duration::from_millis(time.0));
    let first = time.into_iter().chain(instant).min();
    first.map_or(SLEEP_MAX, |first| first.saturating_duration_since(now))
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(u32::MAX)
}

/// The longest sleep of a shard that has nothing to wait for.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// The time that opening requests on accepted sockets have in a drain, where they are served.
const OPENINGS_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_followed_by_a_turn_idleness_by_sleep_and_a_drain_by_the_end() {
        let next = |has_work, is_drained| decide(AfterTurn { has_work, is_drained }, || Some(Millis(7)));
        assert_eq!(next(false, false), Next::Sleep(Some(Millis(7))));
        assert_eq!(next(true, false), Next::Again);
        assert_eq!((next(false, true), next(true, true)), (Next::End, Next::End));
    }

    /// The deadline costs a look at every list of the timer wheel.
    #[test]
    fn only_a_sleep_looks_at_the_deadline() {
        for (has_work, is_drained) in [(true, false), (false, true), (true, true)] {
            decide(AfterTurn { has_work, is_drained }, || panic!("no sleep follows"));
        }
    }

    #[test]
    fn a_sleep_ends_at_its_time_or_when_the_drain_ends() {
        let clock = Clock::new();
        let second = Duration::from_secs(1);
        let now = clock.start + second;
        assert_eq!(until(clock, Some(Millis(3_000)), None, now), 2 * second);
        assert_eq!(until(clock, Some(Millis(1_003)), None, now), Duration::from_millis(3));
        assert_eq!(until(clock, Some(Millis(3_000)), Some(now + second), now), second);
        assert_eq!(until(clock, Some(Millis(3_000)), Some(now + 3 * second), now), 2 * second);
        assert_eq!(until(clock, Some(Millis(900)), None, now), Duration::ZERO);
        assert_eq!(until(clock, None, None, now), SLEEP_MAX);
    }
}

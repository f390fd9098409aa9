//! Starts the threads of a server.

use std::{
    io,
    sync::{Arc, Mutex, atomic::AtomicUsize, mpsc as blocking},
    thread,
};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::{mpsc, watch};

use super::{
    Server, in_force::InForce, reload::note_start, role::Role, running::Running, sandbox::filter_of, wiring::Wiring,
};
use crate::{
    budget::Budget,
    clock::Clock,
    config::Limits,
    control,
    current::Current,
    endpoints::Readiness,
    error::StartError,
    handler::Panicked,
    handover::Sockets,
    hub::{EndRole, EngineTopics},
    metrics::Counters,
    outbound,
    refusal_log::RefusalLog,
    shard,
    sys::RingAccess,
};

impl Server {
    /// Starts the server, and serves until the future is dropped. The drop of the future stops the server, like the
    /// drop of [`Running`].
    ///
    /// # Errors
    ///
    /// See [`Server::start`] and [`Running::wait`].
    pub async fn run(self) -> Result<(), StartError> {
        self.start()?.wait().await
    }

    /// Starts the server, serves until `stop` is done, then leaves in order.
    ///
    /// ```no_run
    /// # use ringhub::server::Server;
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder().topics().build()?;
    /// server.run_until(async { tokio::signal::ctrl_c().await.expect("a signal handler") }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`Server::start`] and [`Running::wait`].
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let mut running = self.start()?;
        tokio::select! {
            ended = running.wait() => ended,
            () = stop => running.shutdown().await,
        }
    }

    /// Starts a thread for each shard and the control thread, and returns once all of them have started. From then on
    /// the server accepts connections.
    ///
    /// # Errors
    ///
    /// [`StartError::Shard`] or [`StartError::Control`] if a thread cannot be set up; [`StartError::ShardDied`] or
    /// [`StartError::ControlDied`] if a thread panics before it has started; [`StartError::Sandbox`] if the sandbox of
    /// the settings cannot be set up; [`StartError::Outbound`] if requests to the URLs of the settings cannot be made.
    pub fn start(self) -> Result<Running, StartError> {
        let Server { config, listeners, addresses, metrics_listener, endpoints, access_log, encodings, .. } = self;
        let Server { hub, backend, blueprint, engine, outbound, .. } = self;
        let (hub, requests) = hub;
        let outbound = [&config.outbound, &outbound];
        let sandbox = filter_of(&config, &outbound).map_err(StartError::Sandbox)?;
        let outbound = outbound::Service::new(&outbound, &config.authorities).map_err(StartError::Outbound)?;
        let ring_access = if sandbox.is_some() { RingAccess::InUse } else { RingAccess::Unrestricted };
        let config = Arc::new(config);
        let current = Current::new(Arc::clone(&config));
        let count = config.shards;
        let mut roles = EndRole::shards_and_control(count);
        roles.extend(engine.iter().map(|_| EndRole::Engine));
        let Wiring { shards, control, engines, commands } = Wiring::new(&roles);
        let of_engine = engine.as_ref().map(|engine| EngineTopics { end: count as u16 + 1, has: engine.has });
        let woken = shards.iter().map(|ends| Arc::clone(&ends.woken)).collect();
        let threads = Threads::new(count + 1);
        let Limits { memory_bytes_max, resident_bytes_max, .. } = config.limits;
        let budget = memory_bytes_max.map(|max| Budget::new(max, resident_bytes_max, config.idle_memory(), count));
        let sockets = Sockets { budget: budget.clone(), ..Sockets::new(config.limits.connections_per_address_max) };
        let occupied = Arc::new(AtomicUsize::new(count));
        let counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
        hub.start(&counters);
        let refusal_log: Arc<RefusalLog> = Arc::default();
        let warnings = Arc::new(shard::Warnings::new(Arc::clone(&refusal_log)));
        let readiness = Readiness::default();
        let in_force = InForce {
            config: current.clone(),
            endpoints: endpoints.clone(),
            blueprint,
            sockets: sockets.clone(),
            taken: (0..count).map(|_| Arc::default()).collect(),
            reloaded: watch::Sender::new(()),
            one_at_a_time: Mutex::default(),
        };
        let leaving = watch::Sender::new(false);
        let clock = Clock::new();
        for (number, (ends, listeners)) in shards.into_iter().zip(listeners).enumerate() {
            let start = shard::Start {
                access_log: access_log.clone(),
                mesh: ends.mesh,
                woken: ends.woken,
                occupied: Arc::clone(&occupied),
                sockets: sockets.clone(),
                control: ends.control,
                returns: ends.returns,
                cpu: config.is_pinned.then(|| config.cpus[number % config.cpus.len()]),
                backend: backend.kind,
                ring_access,
                config: current.clone(),
                endpoints: endpoints.clone(),
                addresses: addresses.clone(),
                listeners,
                counters: Arc::clone(&counters[number]),
                warnings: Arc::clone(&warnings),
                commands: ends.commands,
                topic_rules: in_force.blueprint.rules.clone(),
                encodings: Arc::clone(&encodings),
                engine: of_engine,
                clock,
                epoch_seed: epoch_seed().map_err(StartError::Shard)?,
                taken: Arc::clone(&in_force.taken[number]),
                readiness: readiness.clone(),
            };
            let run = move |started: Started<'_>| shard::run(start, || started.report());
            threads.spawn(format!("ringhub-shard-{number}"), Role::Shard, run).map_err(StartError::Shard)?;
        }
        let control_counters: Arc<Counters> = Arc::default();
        let start = control::Start {
            access_log,
            outside: control.outside,
            clock,
            requests,
            publisher: hub.publisher(),
            endpoints,
            woken: control.woken,
            config: current,
            arrivals: control.arrivals,
            returns: control.returns,
            metrics_listener,
            shards: counters.clone(),
            counters: Arc::clone(&control_counters),
            refusal_log,
            of_addresses: sockets.of_addresses,
            handshakes: sockets.handshakes,
            backend: backend.info(),
            budget,
            leaving: leaving.subscribe(),
            readiness: readiness.clone(),
            reloaded: in_force.reloaded.subscribe(),
            outbound,
        };
        let run = move |started: Started<'_>| control::run(start, || started.report());
        threads.spawn("ringhub-control".into(), Role::Control, run).map_err(StartError::Control)?;
        for (engine, ends) in engine.into_iter().zip(engines) {
            (engine.start)(ends);
        }
        let ends = threads.wait_for_start()?;
        let running = count + 1;
        // Its drop ends the threads if the sandbox fails.
        let running = Running {
            addresses,
            commands,
            woken,
            counters,
            control_counters,
            hub,
            leaving,
            readiness,
            in_force,
            ends,
            running,
        };
        if let Some(filter) = sandbox {
            filter.install().map_err(StartError::Sandbox)?;
        }
        note_start();
        Ok(running)
    }
}

/// The threads of a server: reports of their starts and of their ends.
struct Threads {
    count: usize,
    started: blocking::Sender<()>,
    starts: blocking::Receiver<()>,
    ended: mpsc::Sender<End>,
    ends: mpsc::Receiver<End>,
}

/// The end of a thread.
type End = Result<(), StartError>;

/// Reports that a thread has started.
struct Started<'a>(&'a mut Option<blocking::Sender<()>>);

impl Started<'_> {
    fn report(self) {
        let started = self.0.take().expect("a thread starts once");
        started.send(()).expect("the server waits for every thread");
    }
}

impl Threads {
    fn new(count: usize) -> Threads {
        let ((started, starts), (ended, ends)) = (blocking::channel(), mpsc::channel(count));
        Threads { count, started, starts, ended, ends }
    }

    fn spawn(
        &self,
        name: String,
        role: Role,
        run: impl FnOnce(Started<'_>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (mut started, ended) = (Some(self.started.clone()), self.ended.clone());
        let run = move || {
            role.assume();
            let outcome = Panicked::catch(|| run(Started(&mut started)));
            report_end(role.end(outcome, started.is_none()), &ended);
            // A thread that has not started drops its sender here, after the report of its end.
        };
        thread::Builder::new().name(name).spawn(run).map(drop)
    }

    /// Waits until all threads have started, and returns the receiver of their ends.
    ///
    /// # Errors
    ///
    /// The end of a thread that has ended before its start.
    fn wait_for_start(self) -> Result<mpsc::Receiver<End>, StartError> {
        let Threads { count, started, starts, ended, mut ends } = self;
        drop((started, ended));
        for _ in 0..count {
            if starts.recv().is_err() {
                // A thread has ended before its start, and has reported its end.
                while let Ok(outcome) = ends.try_recv() {
                    outcome?;
                }
                return Err(StartError::ShardDied("before it started".into()));
            }
        }
        Ok(ends)
    }
}

/// Reports the end of a thread.
fn report_end(end: End, ended: &mpsc::Sender<End>) {
    // The channel has room for the end of every thread; it has no receiver if the server's owner has dropped it.
    drop(ended.try_send(end));
}

/// Returns a random number, from which the epochs of a shard's topics follow.
fn epoch_seed() -> io::Result<u64> {
    let mut seed = [0; size_of::<u64>()];
    // The kernel returns up to 256 bytes whole.
    getrandom(&mut seed, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(seed))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::OwnedFd,
        time::{Duration, Instant},
    };

    use bytes::BytesMut;

    use super::*;
    use crate::access_log::AccessLog;
    use crate::{
        auth::Access,
        config::{Config, Settings},
        endpoints::Endpoints,
        handover::{HandedOff, SocketPermits},
        metrics::BackendInfo,
        server::{blueprint::Blueprint, hub::Hub, wiring::ControlEnds},
    };

    /// Returns the settings of a server without routes.
    fn in_force() -> InForce {
        let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
        let blueprint = Blueprint::default();
        InForce {
            endpoints: Current::new(blueprint.endpoints(&config).expect("no routes").0),
            config: Current::new(config),
            blueprint,
            sockets: Sockets::new(0),
            taken: Vec::new(),
            reloaded: watch::Sender::new(()),
            one_at_a_time: Mutex::default(),
        }
    }

    /// Starts the control thread of a server whose two shards are played by the test.
    fn start_control(threads: &Threads, control: ControlEnds) {
        let settings = Settings { shards: Some(2), ..Settings::default() };
        let (hub, requests) = Hub::new();
        let endpoints = Endpoints::new(Vec::new(), Vec::new(), Vec::new(), false, true, Access::default());
        let start = control::Start {
            access_log: AccessLog::off(),
            outside: control.outside,
            clock: Clock::new(),
            requests,
            publisher: hub.publisher(),
            endpoints: Current::new(endpoints.expect("no routes")),
            woken: control.woken,
            config: Current::new(Config::new(&settings, 20_000).expect("the defaults")),
            arrivals: control.arrivals,
            returns: control.returns,
            metrics_listener: None,
            shards: vec![Arc::default(), Arc::default()],
            counters: Arc::default(),
            refusal_log: Arc::default(),
            of_addresses: None,
            handshakes: Arc::default(),
            backend: BackendInfo { backend: "none".into(), reason: "the test plays the shards".into() },
            budget: None,
            leaving: watch::Sender::new(false).subscribe(),
            readiness: Readiness::default(),
            reloaded: watch::Sender::new(()).subscribe(),
            outbound: None,
        };
        let run = move |started: Started<'_>| control::run(start, || started.report());
        threads.spawn("control".into(), Role::Control, run).unwrap();
    }

    /// The control thread ends after the last shard, whichever shard panics, although a client keeps its socket open
    /// after its last answer.
    #[test]
    fn the_control_thread_ends_behind_a_shard_that_panics() {
        for panics_first in [true, false] {
            let roles = EndRole::shards_and_control(2);
            let Wiring { shards, control, commands: _commands, .. } = Wiring::new(&roles);
            let threads = Threads::new(3);
            start_control(&threads, control);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let socket = listener.accept().unwrap().0;
            socket.set_nonblocking(true).unwrap();
            let of_all = Sockets::new(0).all.admit(1).unwrap();
            let permits = SocketPermits { of_all, of_address: None };
            let handed_off = HandedOff {
                socket: OwnedFd::from(socket).into(),
                received: BytesMut::new(),
                permits,
                header: None,
                is_refused: false,
            };
            shards[0].control.transfer(handed_off).expect("there is room");
            client.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let mut stops = Vec::new();
            for (number, ends) in shards.into_iter().enumerate() {
                let (stop, is_stopped) = blocking::channel::<()>();
                stops.push(stop);
                let run = move |started: Started<'_>| {
                    started.report();
                    let _ends = ends;
                    is_stopped.recv().unwrap_err();
                    assert!((number == 0) != panics_first, "as intended");
                    Ok(())
                };
                threads.spawn(format!("shard-{number}"), Role::Shard, run).unwrap();
            }
            let mut ends = threads.wait_for_start().unwrap();
            let begin = Instant::now();
            let mut next = || loop {
                match ends.try_recv() {
                    Ok(end) => return end.map_err(|error| error.to_string()),
                    Err(_) => assert!(begin.elapsed() < Duration::from_secs(60), "a thread does not end"),
                }
                thread::sleep(Duration::from_millis(1));
            };
            // The last shard drops its ends before it reports, so the control thread may finish and report first.
            let mut outcomes = Vec::new();
            for stop in stops {
                drop(stop);
                outcomes.push(next());
            }
            outcomes.push(next());
            let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
            assert!(matches!(&failed[..], [error] if error.contains("as intended")), "{failed:?}");
            drop(client);
        }
    }

    /// Half a hub is worse than none: the first shard that ends with an error ends the wait for all shards.
    #[test]
    fn one_shard_that_dies_is_the_end_of_all() {
        let check = |role: Role, run: fn() -> io::Result<()>, expected: &str| {
            let (ended, ends) = mpsc::channel(2);
            report_end(role.end(Panicked::catch(run), true), &ended);
            drop(ended);
            let running = Running {
                addresses: Vec::new(),
                commands: Vec::new(),
                woken: Vec::new(),
                counters: Vec::new(),
                control_counters: Arc::default(),
                hub: Hub::new().0,
                leaving: watch::Sender::default(),
                readiness: Readiness::default(),
                in_force: in_force(),
                ends,
                running: 2,
            };
            let error = running.wait_blocking().expect_err("one of two has died").to_string();
            assert!(error.contains(expected), "{error}");
        };
        let error = || Err(io::Error::other("no ring"));
        check(
            Role::Shard,
            || panic!("an invariant is broken"),
            "a shard has ended, which it never should: an invariant",
        );
        check(Role::Shard, error, "a shard has ended, which it never should: no ring");
        check(Role::Shard, || Ok(()), "without a report of its end");
        check(Role::Control, error, "the control thread has ended, which it never should: no ring");
        check(Role::Control, || panic!("broken"), "the control thread has ended, which it never should: broken");
        let before = |role: Role| role.end(Ok(error()), false).map_err(|error| error.to_string());
        assert_eq!(before(Role::Shard), Err("a shard could not be set up: no ring".into()));
        assert_eq!(before(Role::Control), Err("the control thread could not be set up: no ring".into()));
    }
}

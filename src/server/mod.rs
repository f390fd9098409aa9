//! A server: its listeners, its shards, and what can be told to them from outside.

mod builder;
mod hub;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    panic,
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::{Notify, mpsc, watch};

use crate::{
    config::Config,
    control::{self, publisher::Requests},
    endpoints::Endpoints,
    error::StartError,
    handover::{ControlDoor, Sockets},
    hub::{ExternalEnd, MeshEnd, MeshLimits, Wake},
    metrics::Counters,
    shard::{self, Command},
    sys::{self, net},
};

pub use builder::{BuildError, Builder};
pub use hub::{Hub, HubError};

/// A server that listens and does not yet serve.
///
/// ```no_run
/// use ringhub::server::Server;
///
/// let running = Server::builder().listen(["127.0.0.1:0".parse()?]).topics().build()?.start()?;
/// println!("ws://{}/t/hello", running.local_addr());
/// running.stop();
/// running.wait_blocking()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    config: Config,
    /// For each address, one for each shard.
    listeners: Vec<Vec<OwnedFd>>,
    addresses: Vec<SocketAddr>,
    metrics_listener: Option<TcpListener>,
    endpoints: Endpoints,
    hub: (Hub, Requests),
}

impl Server {
    /// A server without routes, on 127.0.0.1:6455.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Checks what this kernel allows, then listens.
    ///
    /// # Errors
    ///
    /// [`StartError::Probe`] before anything listens; [`StartError::Listen`] or
    /// [`StartError::ListenMetrics`] if an address cannot be had.
    fn bind(config: Config, endpoints: Endpoints, hub: (Hub, Requests)) -> Result<Server, StartError> {
        sys::probe::probe().map_err(StartError::Probe)?;
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for &address in &config.listen {
            let listen = net::listen(address, config.shards);
            let (sockets, address) = listen.map_err(|error| StartError::Listen(address, error))?;
            listeners.push(sockets);
            addresses.push(address);
        }
        let metrics_listener = config.metrics_listen.map(|address| {
            let listen = TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listen.map_err(|error| StartError::ListenMetrics(address, error))
        });
        let metrics_listener = metrics_listener.transpose()?;
        Ok(Server { config, listeners, addresses, metrics_listener, endpoints, hub })
    }

    /// The first address it listens on, with the port that was chosen where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Every address it listens on.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of `/metrics`, if that is one of its own.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref()?.local_addr().ok()
    }

    /// Starts, and serves for as long as this is awaited: for a program that is nothing but this server. Giving it up
    /// stops the server as dropping [`Running`] does.
    ///
    /// # Errors
    ///
    /// See [`Server::start`] and [`Running::wait`].
    pub async fn run(self) -> Result<(), StartError> {
        self.start()?.wait().await
    }

    /// Starts, serves until `stop` is done, then leaves in order.
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

    /// Starts a thread for each shard and one for control, and returns once all of them accept connections.
    ///
    /// # Errors
    ///
    /// [`StartError::Shard`] if one cannot be set up.
    pub fn start(self) -> Result<Running, StartError> {
        let Server { config, mut listeners, addresses, metrics_listener, endpoints, hub } = self;
        let (hub, requests) = hub;
        let endpoints = Arc::new(endpoints);
        let config = Arc::new(config);
        let count = config.shards;
        // The last is control's.
        let woken: Vec<Arc<Notify>> = (0..=count).map(|_| Arc::default()).collect();
        let wake = woken.iter().map(|woken| {
            let woken = Arc::clone(woken);
            Arc::new(move || woken.notify_one()) as Wake
        });
        let mut mesh = MeshEnd::connect_with(wake.collect(), count, &MeshLimits::default());
        let outside = ExternalEnd::new(mesh.pop().expect("one end more than shards"));
        let (door, arrivals) = ControlDoor::new();
        let sockets = Sockets::new(config.limits.connections_per_address_max);
        let occupied = Arc::new(AtomicUsize::new(count));
        let counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
        hub.start(&counters);
        let (started, is_started) = std::sync::mpsc::channel();
        let control_counters: Arc<Counters> = Arc::default();
        let leaving = watch::Sender::new(false);
        let (ended, mut ends) = mpsc::channel(count + 1);
        let epoch_first = epoch_first();
        let (mut commands, mut returns) = (Vec::new(), Vec::new());
        for (number, (mesh, woken)) in mesh.into_iter().zip(&woken).enumerate() {
            let (command, receiver) = mpsc::channel(COMMANDS_MAX);
            commands.push(command);
            let (back, returned) = mpsc::channel(RETURNS_MAX);
            returns.push(back);
            let start = shard::Start {
                mesh,
                woken: Arc::clone(woken),
                occupied: Arc::clone(&occupied),
                sockets: sockets.clone(),
                control: door.clone(),
                returns: returned,
                cpu: config.pinned.then(|| config.cpus[number % config.cpus.len()]),
                config: Arc::clone(&config),
                endpoints: Arc::clone(&endpoints),
                addresses: addresses.clone(),
                listeners: listeners.iter_mut().filter_map(Vec::pop).collect(),
                counters: Arc::clone(&counters[number]),
                commands: receiver,
                epoch_first,
            };
            let (started, ended) = (started.clone(), ended.clone());
            let thread = thread::Builder::new().name(format!("{SHARD_THREAD}{number}"));
            // The sender goes with the word or with the failure: whoever waits for all of them learns of either.
            let started = move || started.send(()).expect("the server waits for every shard");
            let run = move || shard::run(start, started);
            let spawned = thread.spawn(move || watch(run, &ended));
            spawned.map_err(StartError::Shard)?;
        }
        let start = control::Start {
            outside,
            requests,
            publisher: hub.publisher(),
            endpoints,
            woken: Arc::clone(&woken[count]),
            config: Arc::clone(&config),
            arrivals,
            returns,
            metrics_listener,
            shards: counters.clone(),
            counters: Arc::clone(&control_counters),
            leaving: leaving.subscribe(),
        };
        let thread = thread::Builder::new().name(CONTROL_THREAD.into());
        let watched = ended.clone();
        let started = move || started.send(()).expect("the server waits for control");
        let run = move || control::run(start, started);
        thread.spawn(move || watch(run, &watched)).map_err(StartError::Control)?;
        // The doors of the shards are the last: when they have ended, control ends.
        drop((ended, door));
        for _ in 0..=count {
            if is_started.recv().is_err() {
                // One has ended before it started, and has said why before that.
                while let Ok(outcome) = ends.try_recv() {
                    outcome?;
                }
                return Err(StartError::ShardDied("before it started".into()));
            }
        }
        Ok(Running { addresses, commands, counters, control_counters, hub, leaving, ends, running: count + 1 })
    }
}

/// Runs a shard's thread: whatever ends it is told.
fn watch(run: impl FnOnce() -> io::Result<()>, ended: &mpsc::Sender<Result<(), StartError>>) {
    let outcome = match panic::catch_unwind(panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StartError::Shard(error)),
        Err(panic) => Err(StartError::ShardDied(panic_text(&*panic))),
    };
    // There is room for the last word of every shard; nobody listens if the server's owner has dropped it.
    drop(ended.try_send(outcome));
}

/// A server at work. Dropping it stops it as [`Running::stop`] does, without waiting for the end.
///
/// ```no_run
/// use ringhub::{proto::PreparedMessage, server::Server};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // Within a larger program on tokio:
/// let running = Server::builder().listen(["127.0.0.1:0".parse()?]).topics().build()?.start()?;
/// let hub = running.hub();
/// println!("ws://{}/t/hello", running.local_addr());
/// hub.send_all(&PreparedMessage::text("soon over")).await?;
/// running.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    commands: Vec<mpsc::Sender<Command>>,
    counters: Vec<Arc<Counters>>,
    control_counters: Arc<Counters>,
    hub: Hub,
    leaving: watch::Sender<bool>,
    ends: mpsc::Receiver<Result<(), StartError>>,
    /// Threads that have not ended.
    running: usize,
}

impl Running {
    /// The first address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Every address it listens on.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle to all connections, for any thread.
    #[must_use]
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// What each shard has counted so far.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// What the control thread has counted so far.
    #[must_use]
    pub fn control_counters(&self) -> &Arc<Counters> {
        &self.control_counters
    }

    /// Begins to leave: no new connections, each client is told with close code 1001, and after
    /// [`Config::drain_timeout`] at the latest nothing is left.
    pub fn stop(&self) {
        self.leaving.send_replace(true);
        for commands in &self.commands {
            // Full or closed: it is stopping already.
            drop(commands.try_send(Command::Drain));
        }
    }

    /// Begins to leave, as [`Running::stop`] does, and waits until the server has ended.
    ///
    /// # Errors
    ///
    /// If a shard has ended on its own.
    pub async fn shutdown(mut self) -> Result<(), StartError> {
        self.stop();
        self.wait().await
    }

    /// Waits until the server has ended. Another `wait` may go on after one that was given up.
    ///
    /// # Errors
    ///
    /// If a shard has ended on its own.
    pub async fn wait(&mut self) -> Result<(), StartError> {
        while self.running > 0 {
            self.ends.recv().await.unwrap_or_else(|| Err(StartError::ShardDied("without a word".into())))?;
            self.running -= 1;
        }
        Ok(())
    }

    /// [`Running::wait`] for callers without a runtime.
    ///
    /// # Errors
    ///
    /// If a shard has ended on its own.
    ///
    /// # Panics
    ///
    /// If called within an asynchronous context.
    pub fn wait_blocking(mut self) -> Result<(), StartError> {
        while self.running > 0 {
            let end = self.ends.blocking_recv();
            end.unwrap_or_else(|| Err(StartError::ShardDied("without a word".into())))?;
            self.running -= 1;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Larger than any epoch of an earlier process on this machine: microseconds, and topics are made more slowly.
fn epoch_first() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_micros() as u64)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

/// What the names of shards' threads begin with.
const SHARD_THREAD: &str = "ringhub-shard-";

const CONTROL_THREAD: &str = "ringhub-control";

/// Connections on their way back to a shard.
const RETURNS_MAX: usize = 64;

/// There is one command, and saying it twice changes nothing.
const COMMANDS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// Half a hub is worse than none: the first shard that ends with an error ends the wait for all.
    #[test]
    fn one_shard_that_dies_is_the_end_of_all() {
        let check = |end: fn() -> io::Result<()>, expected: &str| {
            let (ended, ends) = mpsc::channel(2);
            watch(end, &ended);
            drop(ended);
            let running = Running {
                addresses: Vec::new(),
                commands: Vec::new(),
                counters: Vec::new(),
                control_counters: Arc::default(),
                hub: Hub::new().0,
                leaving: watch::Sender::default(),
                ends,
                running: 2,
            };
            let error = running.wait_blocking().expect_err("one of two has died").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|| panic!("an invariant is broken"), "an invariant is broken");
        check(|| Err(io::Error::other("no ring")), "no ring");
        check(|| Ok(()), "without a word");
    }
}

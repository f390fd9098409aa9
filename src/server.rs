//! A server: its listener, its shards, and what can be told to them from outside.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    config::Config,
    error::StartError,
    metrics::Counters,
    shard::{self, Command},
    sys::{self, net},
};

/// A server that listens and does not yet serve.
///
/// ```no_run
/// # use clap::Parser;
/// # #[derive(Parser)] struct Flags { #[command(flatten)] settings: ringhub::config::Settings }
/// use ringhub::{config::Config, server::Server};
///
/// # let settings = Flags::parse_from(["ringhub"]).settings;
/// let config = Config::new(&settings, 20_000)?;
/// let running = Server::bind(config)?.start()?;
/// println!("ws://{}/t/hello", running.local_addr());
/// running.stop();
/// running.wait_blocking()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    config: Config,
    listener: OwnedFd,
    address: SocketAddr,
}

impl Server {
    /// Checks what this kernel allows, then listens.
    ///
    /// # Errors
    ///
    /// [`StartError::Probe`] before anything listens; [`StartError::Listen`] if the address cannot be had.
    pub fn bind(config: Config) -> Result<Server, StartError> {
        sys::probe::probe().map_err(StartError::Probe)?;
        let (listener, address) =
            net::listen(config.listen).map_err(|error| StartError::Listen(config.listen, error))?;
        Ok(Server { config, listener, address })
    }

    /// The address it listens on, with the port that was chosen where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Starts the shard's thread and returns once it accepts connections.
    ///
    /// # Errors
    ///
    /// [`StartError::Shard`] if it cannot be set up.
    pub fn start(self) -> Result<Running, StartError> {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (started, is_started) = std::sync::mpsc::channel();
        let (ended, end) = oneshot::channel();
        let counters = Arc::new(Counters::default());
        let start = shard::Start {
            number: 0,
            cpu: self.config.pinned.then(|| self.config.cpus[0]),
            config: Arc::new(self.config),
            listener: self.listener,
            counters: Arc::clone(&counters),
            commands: receiver,
            epoch_first: epoch_first(),
        };
        let spawned = thread::Builder::new().name("ringhub-shard-0".into()).spawn(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                // `started` is waited for below.
                shard::run(start, || started.send(()).expect("the server waits"))
            }));
            let outcome = match outcome {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(StartError::Shard(error)),
                Err(panic) => Err(StartError::ShardDied(panic_text(&*panic))),
            };
            // Nobody waits any more if the server's owner has dropped it.
            drop(ended.send(outcome));
        });
        let thread = spawned.map_err(StartError::Shard)?;
        let mut end = end;
        if is_started.recv().is_err() {
            // It ended before it started, so this does not wait; its last word is there.
            drop(thread.join());
            return match end.try_recv() {
                Ok(Err(error)) => Err(error),
                _ => Err(StartError::ShardDied("before it started".into())),
            };
        }
        Ok(Running { address: self.address, commands, counters, end: Some(end) })
    }
}

/// A server at work. Dropping it stops it as [`Running::stop`] does.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    end: Option<oneshot::Receiver<Result<(), StartError>>>,
}

impl Running {
    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it has counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Begins to leave: no new connections, each client is told with close code 1001, and after
    /// [`Config::drain_timeout`] at the latest nothing is left.
    pub fn stop(&self) {
        // Full or closed: it is stopping already.
        drop(self.commands.try_send(Command::Drain));
    }

    /// Waits until the server has ended.
    ///
    /// # Errors
    ///
    /// If a shard has ended on its own.
    pub async fn wait(&mut self) -> Result<(), StartError> {
        match &mut self.end {
            Some(end) => {
                let outcome = end.await.unwrap_or_else(|_| Err(StartError::ShardDied("without a word".into())));
                self.end = None;
                outcome
            }
            None => Ok(()),
        }
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
        match self.end.take() {
            Some(end) => end.blocking_recv().unwrap_or_else(|_| Err(StartError::ShardDied("without a word".into()))),
            None => Ok(()),
        }
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

/// There is one command, and saying it twice changes nothing.
const COMMANDS_MAX: usize = 4;

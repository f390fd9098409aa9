//! A server at work.

use std::{net::SocketAddr, sync::Arc, thread};

use tokio::sync::{Notify, mpsc, watch};

use super::{drain_report::DrainReport, hub::Hub, in_force::InForce, turn_watch::TurnWatch};
use crate::{config::Config, endpoints::Readiness, error::StartError, metrics::Counters, shard::ShardCommand};

/// A server at work. Its drop stops the server like [`Running::stop`], and does not wait for the end.
///
/// ```no_run
/// use ringhub::{Publication, server::Server};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // Within a larger program on tokio:
/// let running = Server::builder().listen(["127.0.0.1:0".parse()?]).topics().build()?.start()?;
/// let hub = running.hub();
/// println!("ws://{}/t/hello", running.local_addr());
/// hub.send_all(Publication::text("soon over")).await?;
/// running.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Running {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) commands: Vec<mpsc::Sender<ShardCommand>>,
    /// Wakes each shard.
    pub(super) woken: Vec<Arc<Notify>>,
    pub(super) counters: Vec<Arc<Counters>>,
    pub(super) control_counters: Arc<Counters>,
    pub(super) hub: Hub,
    pub(super) leaving: watch::Sender<bool>,
    pub(super) readiness: Readiness,
    pub(super) in_force: InForce,
    pub(super) ends: mpsc::Receiver<Result<(), StartError>>,
    /// Threads that have not ended.
    pub(super) running: usize,
}

impl Running {
    /// Returns a handle to all connections, for any thread.
    #[must_use]
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// Returns the counters of each shard.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Returns the counters of the control thread.
    #[must_use]
    pub fn control_counters(&self) -> &Arc<Counters> {
        &self.control_counters
    }

    /// Returns the settings in force, which [`Running::reload`] replaces.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.in_force.config.get()
    }

    /// Returns the report of the server's end, which is complete after [`Running::wait`].
    #[must_use]
    pub fn drain_report(&self) -> DrainReport {
        DrainReport::of(&self.counters)
    }

    /// Returns a watch over the turns of all shards, for a watchdog.
    #[must_use]
    pub fn watch_turns(&self) -> TurnWatch {
        TurnWatch::new(&self.counters, &self.woken)
    }

    /// Begins to leave. `/readyz` answers 503 from here on. After
    /// [`Config::drain_delay`](crate::config::Config::drain_delay), for which the server goes on as before, it takes no
    /// new connections, and closes each open one with 1012, after every message of its topics that the server has
    /// accepted by then. The reason of the close frame asks the client to connect again after a random time. After
    /// [`Config::drain_timeout`](crate::config::Config::drain_timeout) at the latest no connection is left.
    ///
    /// A further call changes nothing.
    pub fn stop(&self) {
        if !self.readiness.end() {
            return;
        }
        let delay = self.in_force.config.get().drain_delay;
        let departure = Departure { leaving: self.leaving.clone(), commands: self.commands.clone() };
        if delay.is_zero() {
            return departure.begin();
        }
        tracing::info!(?delay, "readiness has ended; the drain begins after the delay");
        let later = departure.clone();
        let wait = move || {
            thread::sleep(delay);
            later.begin();
        };
        if let Err(error) = thread::Builder::new().name("ringhub-leaving".into()).spawn(wait) {
            tracing::warn!(%error, "no thread waits for the delay of the drain, which begins at once");
            departure.begin();
        }
    }

    /// Begins to leave, like [`Running::stop`], and waits until the server has ended.
    ///
    /// # Errors
    ///
    /// If a shard or the control thread has failed.
    pub async fn shutdown(mut self) -> Result<(), StartError> {
        self.stop();
        self.wait().await
    }

    /// Waits until the server has ended. If the future is dropped, a later call resumes the wait.
    ///
    /// # Errors
    ///
    /// If a shard or the control thread has failed.
    pub async fn wait(&mut self) -> Result<(), StartError> {
        while self.running > 0 {
            self.ends.recv().await.unwrap_or_else(unreported)?;
            self.running -= 1;
        }
        Ok(())
    }

    /// Waits until the server has ended, like [`Running::wait`], but on a thread without a runtime.
    ///
    /// # Errors
    ///
    /// If a shard or the control thread has failed.
    ///
    /// # Panics
    ///
    /// If called within an asynchronous context.
    pub fn wait_blocking(mut self) -> Result<(), StartError> {
        while self.running > 0 {
            self.ends.blocking_recv().unwrap_or_else(unreported)?;
            self.running -= 1;
        }
        Ok(())
    }
}

/// The handles by which a drain begins.
#[derive(Debug, Clone)]
struct Departure {
    leaving: watch::Sender<bool>,
    commands: Vec<mpsc::Sender<ShardCommand>>,
}

impl Departure {
    fn begin(self) {
        // The control thread publishes nothing from here on, and sends the shards its barrier, which they wait for.
        self.leaving.send_replace(true);
        for commands in &self.commands {
            // If the channel is full or closed, the shard is stopping already.
            drop(commands.try_send(ShardCommand::Drain));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the end of a thread that has ended without a report. Only the report would tell a shard from the control
/// thread.
fn unreported() -> Result<(), StartError> {
    Err(StartError::ShardDied("a thread, perhaps the control thread, has ended without a report of its end".into()))
}

//! Talks to the service manager that has started the server, systemd for example: takes the listeners that the manager
//! has opened (sd_listen_fds(3)), tells the manager how the server is, and feeds its watchdog (sd_notify(3)).

use std::{env, net::TcpListener, time::Duration};

use ringhub::{
    config::{Given, ListenAddress, Settings},
    metrics::Counter,
    server::{Running, TurnWatch},
    sys::inherited::{InheritedError, take_listeners},
};
use sd_notify::NotifyState;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Takes the listeners that the manager has opened, and makes their addresses those of the settings.
///
/// # Errors
///
/// See [`InheritedError`].
pub(crate) fn take_over_listeners(given: &mut Given) -> Result<Inherited, InheritedError> {
    let listeners = take_listeners()?;
    let mut addresses: Vec<ListenAddress> = Vec::new();
    for address in listeners.iter().filter_map(|listener| listener.local_addr().ok()) {
        if !addresses.contains(&ListenAddress::Socket(address)) {
            addresses.push(ListenAddress::Socket(address));
        }
    }
    let mut warning = None;
    if !listeners.is_empty() {
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let ignored = std::mem::replace(&mut given.settings.listen, addresses.clone());
        warning = (ignored != Settings::default().listen && ignored != given.settings.listen).then(|| {
            format!("listen is ignored: the service manager has opened the listeners, on {}", shown.join(" and "))
        });
    }
    Ok(Inherited { listeners, addresses, warning })
}

/// The listeners that the manager has opened, if any.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) listeners: Vec<TcpListener>,
    addresses: Vec<ListenAddress>,
    /// The warning about addresses in the settings that are not used.
    pub(crate) warning: Option<String>,
}

impl Inherited {
    /// Makes the addresses of the listeners those of settings that are read again.
    pub(crate) fn take_over(&self, given: &mut Given) {
        if !self.addresses.is_empty() {
            given.settings.listen.clone_from(&self.addresses);
        }
    }
}

/// The manager, which has been told that the server is ready. Without a manager nothing is told, and nothing is due.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    /// The looks at the server; `None` without a manager.
    looks: Option<Interval>,
    turns: TurnWatch,
    /// Whether the manager has a watchdog, which must be fed.
    has_watchdog: bool,
    /// Whether some shard was stuck at the last look.
    was_stuck: bool,
    status: String,
}

impl ServiceManager {
    /// Tells the manager that the server is ready. Must be called within a runtime.
    pub(crate) fn begin(running: &Running) -> ServiceManager {
        let watchdog = sd_notify::watchdog_enabled();
        let has_manager = env::var_os("NOTIFY_SOCKET").is_some();
        let looks = has_manager.then(|| {
            let every = watchdog.map_or(STATUS_INTERVAL, |limit| limit / LOOKS_PER_LIMIT).max(Duration::from_millis(1));
            let mut looks = interval_at(Instant::now() + every, every);
            // Two looks at once would find a shard that has had no time for a turn.
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            looks
        });
        let status = status_of(running, false);
        if let Err(error) = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]) {
            tracing::warn!(%error, "the service manager (NOTIFY_SOCKET) cannot be told that the server is ready");
        }
        let turns = running.watch_turns();
        ServiceManager { looks, turns, has_watchdog: watchdog.is_some(), was_stuck: false, status }
    }

    /// Waits until the next look at the server is due; for ever without a manager.
    pub(crate) async fn due(&mut self) {
        match &mut self.looks {
            Some(looks) => drop(looks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Looks at the server, feeds the watchdog if every shard has had a turn since the last look, and tells the number
    /// of connections if it has changed.
    pub(crate) fn look(&mut self, running: &Running, is_leaving: bool) {
        let stuck = self.turns.look();
        let mut states = Vec::new();
        if stuck.is_empty() && self.has_watchdog {
            states.push(NotifyState::Watchdog);
        }
        if !stuck.is_empty() && !self.was_stuck && !is_leaving {
            let shards = &stuck;
            let fed = if self.has_watchdog { ": the service manager's watchdog is not fed" } else { "" };
            tracing::warn!(?shards, "shards have had no turn since the last look{fed}");
        }
        self.was_stuck = !stuck.is_empty();
        let status = status_of(running, is_leaving);
        if status != self.status {
            self.status = status;
            states.push(NotifyState::Status(&self.status));
        }
        tell(&states);
    }

    /// Tells the manager that the server reloads its settings, reloads them, and tells that the server is ready again.
    /// A unit of `Type=notify-reload` needs both.
    pub(crate) fn around_reload(&mut self, reload: impl FnOnce()) {
        if self.looks.is_some() {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => tell(&[NotifyState::Reloading, now]),
                Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
            }
        }
        reload();
        if self.looks.is_some() {
            tell(&[NotifyState::Ready]);
        }
    }

    /// Tells the manager that the server begins to leave.
    pub(crate) fn leave(&mut self, running: &Running) {
        self.status = status_of(running, true);
        tell(&[NotifyState::Stopping, NotifyState::Status(&self.status)]);
    }
}

/// Sends states to the manager. If they cannot be told, a later look tells newer ones.
fn tell(states: &[NotifyState<'_>]) {
    if states.is_empty() {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Returns the state of the server in words.
fn status_of(running: &Running, is_leaving: bool) -> String {
    let connections: u64 = running.counters().iter().map(|shard| shard.get(Counter::ConnectionsOpen)).sum();
    let does = if is_leaving { "leaving" } else { "serving" };
    let things = if connections == 1 { "connection" } else { "connections" };
    format!("{does}: {connections} {things}")
}

/// The looks within the watchdog's limit of time: one late look, or one long turn, is no reason to end the server.
const LOOKS_PER_LIMIT: u32 = 4;

/// The time between two looks where there is no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

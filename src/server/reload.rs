//! The reload of a running server: other settings in force, without a restart.

use std::{
    fmt,
    sync::{PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{build_error::BuildError, in_force::InForce, running::Running};
use crate::{
    config::{Config, ReloadReport},
    error::ConfigErrors,
    metrics::{Counter, add_for_process, set_for_process},
};

/// The reason for which a reload was refused. The earlier settings stay in force, all of them.
#[derive(Debug)]
pub enum ReloadError {
    /// The settings are wrong, or cannot be read.
    Settings(ConfigErrors),
    /// The routes in the settings do not fit those of the program.
    Routes(BuildError),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Settings(errors) => errors.fmt(f),
            ReloadError::Routes(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReloadError::Settings(errors) => Some(errors),
            ReloadError::Routes(error) => Some(error),
        }
    }
}

impl Running {
    /// Puts other settings in force. `read` gets the settings in force, and returns the new ones.
    ///
    /// Either all new values are put in force, or none: every thread sees the table of endpoints change as a whole, and
    /// the settings too. A request that is under way is judged to its end by the table that it has begun with. No
    /// connection is closed, unless a smaller limit is exceeded. A message that has begun keeps its limits. What a
    /// reload cannot change, such as `listen` or `shards`, stays as it is, and is named in the report and in the log.
    ///
    /// The call returns when all shards have taken the settings, or after a second.
    ///
    /// ```no_run
    /// use ringhub::{config::{Config, Secrets, Settings}, server::Server};
    ///
    /// let mut settings = Settings::default();
    /// let running = Server::builder().config(Config::new(&settings, 20_000)?).topics().build()?.start()?;
    /// settings.publish_tokens = Some(Secrets(vec!["a-new-token".into()]));
    /// let report = running.reload(|_| Config::new(&settings, 20_000))?;
    /// assert_eq!(report.applied.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReloadError`] if `read` fails, if the new values do not fit those that only a restart changes, or if the new
    /// settings do not fit the routes. Nothing has changed then.
    pub fn reload(
        &self,
        read: impl FnOnce(&Config) -> Result<Config, ConfigErrors>,
    ) -> Result<ReloadReport, ReloadError> {
        let _guard = self.in_force.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.in_force.replace(read);
        if outcome.is_ok() {
            self.woken.iter().for_each(|woken| woken.notify_one());
            self.in_force.wait_for_shards();
        }
        note_reload(&outcome);
        outcome
    }
}

impl InForce {
    fn replace(&self, read: impl FnOnce(&Config) -> Result<Config, ConfigErrors>) -> Result<ReloadReport, ReloadError> {
        let running = self.config.get();
        let new = read(&running).map_err(ReloadError::Settings)?;
        let (config, report) = running.reload(&new).map_err(ReloadError::Settings)?;
        let (endpoints, topics) = self.blueprint.endpoints(&config).map_err(ReloadError::Routes)?;
        assert!(endpoints.has_same_paths(&self.endpoints.get()), "a reload keeps the routes and their order");
        if let Some(addresses) = &self.sockets.of_addresses {
            addresses.set_max(config.limits.connections_per_address_max);
        }
        self.blueprint.revocations.set_max(config.limits.revocations_max);
        // A shard that sees the number of the settings finds the table that belongs to them.
        self.blueprint.rules.replace(topics);
        self.endpoints.replace(endpoints);
        self.config.replace(config);
        self.reloaded.send_replace(());
        Ok(report)
    }

    /// Waits until every shard has taken the settings, or for a second: a shard may be stuck.
    fn wait_for_shards(&self) {
        let generation = self.config.generation();
        let until = Instant::now() + TAKING_TIME;
        // Acquire pairs with the store by the shard, whose work then has been done.
        while self.taken.iter().any(|taken| taken.load(Ordering::Acquire) < generation) {
            if Instant::now() >= until {
                tracing::warn!(
                    "a shard has not taken the settings of the reload yet: it takes them with its next turn"
                );
                return;
            }
            thread::sleep(TAKING_LOOK);
        }
    }
}

/// Logs and counts the outcome of a reload.
fn note_reload(outcome: &Result<ReloadReport, ReloadError>) {
    set_for_process(Counter::ConfigLastReloadSuccess, outcome.is_ok().into());
    match outcome {
        Ok(ReloadReport { applied, pending }) => {
            for change in applied {
                tracing::info!(key = change.key, from = change.from, to = change.to, "reloaded {change}");
            }
            for change in pending {
                let (key, from, to) = (&change.key, &change.from, &change.to);
                tracing::warn!(key, from, to, "needs a restart, and stays as it was: {change}");
            }
            let (applied, pending) = (applied.len(), pending.len());
            tracing::info!(applied, pending, "the settings are reloaded");
            set_for_process(Counter::ConfigPending, pending as u64);
            add_for_process(Counter::ConfigReloads, 1);
        }
        Err(error) => {
            for line in error.to_string().lines() {
                tracing::error!("the reload is refused, and all settings stay as they were: {line}");
            }
            add_for_process(Counter::ConfigReloadsRefused, 1);
        }
    }
    note_time();
}

/// Notes the start of a server as the first reload.
pub(super) fn note_start() {
    set_for_process(Counter::ConfigLastReloadSuccess, 1);
    note_time();
}

fn note_time() {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    set_for_process(Counter::ConfigLastReloadTime, time.as_secs());
}

/// The longest time that a reload waits for the shards, which take its settings between two turns.
const TAKING_TIME: Duration = Duration::from_secs(1);

/// The time between two looks at the shards.
const TAKING_LOOK: Duration = Duration::from_millis(1);

//! The reload of this process' server, at SIGHUP: the same sources are read again.

use std::env;

use ringhub::{
    config::{Flags, Given},
    logs::Logs,
    server::Running,
};

use crate::service_manager::Inherited;

/// The sources from which the settings were read at the start.
pub(crate) struct SettingsSources<'a> {
    pub(crate) flags: &'a Flags,
    pub(crate) inherited: &'a Inherited,
}

impl SettingsSources<'_> {
    /// Reads all sources again, and puts the settings in force. If the reload is refused, everything stays as it was.
    /// The library logs and counts the outcome.
    pub(crate) fn reload(&self, running: &Running, logs: &Logs) {
        let mut given = Given::read(self.flags, env::vars_os());
        self.inherited.take_over(&mut given);
        if running.reload(|in_force| given.config_for(in_force)).is_err() {
            return;
        }
        if let Err(error) = logs.set_filter(&given.settings.log) {
            tracing::error!(%error, "the filter of logs stays as it was");
        }
        for warning in given.warnings().iter().chain(&running.config().warnings()) {
            tracing::warn!("{warning}");
        }
    }
}

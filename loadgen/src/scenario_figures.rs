//! The figures that only one scenario has.

use serde::{Deserialize, Serialize};

/// The figures of a scenario in addition to those of every run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ScenarioFigures {
    /// All connections opened anew at once.
    Storm {
        /// Connections that came back.
        connections: usize,
        /// The time until the last one was back.
        seconds: f64,
    },
}

impl ScenarioFigures {
    /// Returns the figures as a table for people: the name of each, and its value with its unit.
    pub fn rows(&self) -> Vec<(String, String)> {
        match self {
            ScenarioFigures::Storm { connections, seconds } => vec![
                ("all back after".to_owned(), format!("{seconds:.3} s")),
                ("handshakes".to_owned(), format!("{:.0}/s", *connections as f64 / seconds.max(f64::MIN_POSITIVE))),
            ],
        }
    }
}

//! The watcher of a run: a run tells it of its progress, and asks it whether the user ends the run.

use crate::moment::Moment;

/// Watches a run. A run calls these methods a few times a second, outside of every hot loop.
pub trait Progress {
    /// Takes the number of connections that are open, of those that the run needs.
    fn connecting(&mut self, open: usize, of: usize);

    /// Notes that messages are published before the measured window, for this time.
    fn warming_up(&mut self, _warmup_ns: u64) {}

    /// Takes the latest part of the measured window.
    fn running(&mut self, moment: &Moment);

    /// Ends the display, before the report.
    fn done(&mut self);

    /// Returns whether the user has asked for the end of the run. Every loop of a run asks this, so it costs no more
    /// than a read of an atomic. The run then waits for the last deliveries as usual, and reports.
    fn is_interrupted(&self) -> bool {
        false
    }
}

/// Shows nothing and interrupts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn connecting(&mut self, _open: usize, _of: usize) {}

    fn running(&mut self, _moment: &Moment) {}

    fn done(&mut self) {}
}

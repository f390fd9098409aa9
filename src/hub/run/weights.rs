//! The weight of all runs of a hub, and the part of it that has come by lanes.

use super::{FrozenRun, Run};

/// The weight of all runs of a hub, filling and frozen.
#[derive(Debug, Default)]
pub(in crate::hub) struct RunWeights {
    /// The memory that the runs take and keep alive.
    pub(in crate::hub) bytes: usize,
    /// The part of it that has come by lanes: of each run at most what the run weighs.
    pub(in crate::hub) from_mail: usize,
    /// By how much runs have grown since the hub began, modulo 2^64.
    pub(in crate::hub) grown: usize,
}

impl RunWeights {
    /// Changes a run. A run that was empty has not been counted before.
    #[inline]
    pub(in crate::hub) fn change<R>(&mut self, run: &mut Run, change: impl FnOnce(&mut Run) -> R) -> R {
        let before = if run.is_empty() { 0 } else { run.weight() };
        let result = change(run);
        let weight = run.weight();
        self.bytes = self.bytes - before + weight;
        self.grown = self.grown.wrapping_add(weight.saturating_sub(before));
        // The run has conflated, or its pieces were joined.
        if weight < before {
            self.from_mail -= run.bound_from_mail();
        }
        result
    }

    /// Freezes a run, see [`Run::freeze`].
    pub(in crate::hub) fn freeze(&mut self, run: Run) -> FrozenRun {
        let before = run.weight();
        let mut run = run.freeze();
        self.bytes = self.bytes - before + run.weight();
        self.from_mail -= run.bound_from_mail();
        run
    }

    /// Removes a run whose walk has ended.
    pub(in crate::hub) fn remove(&mut self, run: &FrozenRun) {
        assert!(self.bytes >= run.weight(), "the weight of all runs has that of each");
        self.bytes -= run.weight();
        self.from_mail -= run.mail_weight();
    }
}

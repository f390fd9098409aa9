//! Ctrl-C: the first ends the run early, the second ends the program.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that SIGINT or SIGTERM raises, by which the user ends the run.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    is_raised: Arc<AtomicBool>,
}

impl Interrupt {
    /// Begins to watch for the signals. From the second signal on they end the program, as they do by default.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn watch() -> io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM] {
            // The actions run in this order, so the first signal finds the flag lowered.
            flag::register_conditional_default(signal, Arc::clone(&interrupt.is_raised))?;
            flag::register(signal, Arc::clone(&interrupt.is_raised))?;
        }
        Ok(interrupt)
    }

    /// Returns whether a signal has arrived.
    pub fn is_raised(&self) -> bool {
        // No other memory depends on the flag.
        self.is_raised.load(Ordering::Relaxed)
    }
}

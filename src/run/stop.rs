//! Signals as a flag that work looks at between batches: drain, flush, exit resumable.

use crate::error::Exit;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether somebody asked the run to stop, and by which signal.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    signal: Arc<AtomicUsize>,
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// Listens to INT, TERM and USR1. A second INT ends the process at once, as people expect.
    pub fn on_signals() -> std::io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            let again = Arc::clone(&stop.signal);
            signal_hook::flag::register_usize(signal, again, signal as usize)?;
            signal_hook::flag::register(signal, Arc::clone(&stop.flag))?;
        }
        // Registered actions run in order: on a second signal the flag is set already, and the default action follows.
        let armed = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&armed))?;
        signal_hook::flag::register(SIGINT, armed)?;
        Ok(stop)
    }

    pub fn requested(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// The exit code that the signal calls for: 130 for the user's interrupt, 75 for a scheduler's preemption.
    pub fn exit(&self) -> Exit {
        if self.signal.load(Ordering::Relaxed) == SIGINT as usize { Exit::Interrupted } else { Exit::TryAgain }
    }

    /// The same question as a plain flag, for work that knows nothing of signals.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

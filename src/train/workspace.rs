//! Buffers that tasks of a thread take turns with, kept from step to step.

use std::sync::{Mutex, PoisonError};

/// One set of buffers for each thread.
pub(super) struct Workspaces<W>(Vec<Mutex<W>>);

impl<W> Workspaces<W> {
    pub(super) fn new(make: impl Fn() -> W) -> Self {
        Self((0..rayon::current_num_threads()).map(|_| Mutex::new(make())).collect())
    }

    /// Runs a task with the buffers of its thread. Whatever a task before left in them must not matter.
    pub(super) fn with<R>(&self, task: impl FnOnce(&mut W) -> R) -> R {
        let index = rayon::current_thread_index().unwrap_or(0) % self.0.len();
        task(&mut self.0[index].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

//! Commits that go on while the next units are worked on.
//!
//! A commit is a handful of syncs, each of which waits milliseconds for the disk and needs no processor: runs over many small
//! units would spend their time there. So small units are committed by threads of their own, several at once, and come back
//! in the order in which they went in. Large ones are committed where they stand: beside their work the wait is nothing,
//! and a second one in memory is much.

use anyhow::Context;
use std::collections::VecDeque;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Commits at the same time. A disk gathers the syncs that meet; of more than these it gains little.
pub const MOST_COMMITS: usize = 16;

/// Units of more rows are committed where they stand.
pub const MOST_ROWS: u64 = 4096;

/// Commits that have begun, oldest first.
pub struct InFlight<'scope, 'env, T> {
    scope: &'scope Scope<'scope, 'env>,
    commits: VecDeque<Commit<'scope, T>>,
}

enum Commit<'scope, T> {
    Done(T),
    Running(ScopedJoinHandle<'scope, T>),
}

impl<'scope, 'env, T: Send + 'scope> InFlight<'scope, 'env, T> {
    pub fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Self { scope, commits: VecDeque::new() }
    }

    /// Begins the commit of a unit of `rows` rows.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn begin(&mut self, rows: u64, commit: impl FnOnce() -> T + Send + 'scope) -> anyhow::Result<()> {
        let commit = if rows > MOST_ROWS {
            Commit::Done(commit())
        } else {
            let thread = Builder::new().name("commit".to_owned()).spawn_scoped(self.scope, commit);
            Commit::Running(thread.context("cannot start a thread that commits")?)
        };
        self.commits.push_back(commit);
        Ok(())
    }

    /// The oldest commit, if it is done, or if it has to be waited for before another one may begin.
    pub fn next_due(&mut self) -> Option<T> {
        let due = match self.commits.front()? {
            Commit::Done(_) => true,
            Commit::Running(thread) => thread.is_finished() || self.commits.len() >= MOST_COMMITS,
        };
        if due { self.next() } else { None }
    }
}

/// The commits one after the other, each waited for.
impl<'scope, T: Send + 'scope> Iterator for InFlight<'scope, '_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        Some(match self.commits.pop_front()? {
            Commit::Done(done) => done,
            Commit::Running(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    #[test]
    fn commits_run_together_and_come_back_in_order() {
        // Every commit waits for all others: one after the other they would never end.
        let barrier = Barrier::new(MOST_COMMITS);
        let done: Vec<usize> = std::thread::scope(|scope| {
            let mut commits = InFlight::new(scope);
            for number in 0..MOST_COMMITS {
                let barrier = &barrier;
                commits
                    .begin(1, move || {
                        barrier.wait();
                        number
                    })
                    .unwrap();
            }
            commits.collect()
        });
        assert_eq!(done, (0..MOST_COMMITS).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_than_the_bound_are_in_flight() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let counters = (&running, &most);
        let mut done = Vec::new();
        std::thread::scope(|scope| {
            let mut commits = InFlight::new(scope);
            for number in 0..200 {
                while let Some(number) = commits.next_due() {
                    done.push(number);
                }
                commits
                    .begin(1, move || {
                        let (running, most) = counters;
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        number
                    })
                    .unwrap();
            }
            done.extend(commits);
        });
        assert_eq!(done, (0..200).collect::<Vec<_>>());
        assert!(most.into_inner() <= MOST_COMMITS);
    }

    #[test]
    fn a_large_unit_is_committed_where_it_stands() {
        std::thread::scope(|scope| {
            let mut commits = InFlight::new(scope);
            let (send, receive) = mpsc::channel();
            let here = std::thread::current().id();
            commits.begin(MOST_ROWS + 1, move || send.send(std::thread::current().id()).unwrap()).unwrap();
            assert_eq!(receive.try_recv().unwrap(), here);
            assert!(commits.next_due().is_some() && commits.next_due().is_none());
        });
    }
}

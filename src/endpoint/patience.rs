//! Which troubles pass, how long to wait for them, and when to give up on a server.
//!
//! The budget is time in which the server answered nothing at all: requests that others overtake do not run out of it.

use crate::error::Exit;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why an attempt did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may pass: try again, after `wait` if the server named a time.
    Passing { reason: String, wait: Option<Duration>, exit: Exit },
    /// It will not pass.
    Final(anyhow::Error),
}

impl Trouble {
    pub(super) fn passing(reason: String) -> Self {
        Self::Passing { reason, wait: None, exit: Exit::Unavailable }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// When the server last answered.
#[derive(Debug)]
pub(super) struct Patience {
    budget: Duration,
    answered: Mutex<Option<Instant>>,
}

impl Patience {
    pub(super) fn new(budget: Duration) -> Self {
        Self { budget, answered: Mutex::new(None) }
    }

    pub(super) fn budget(&self) -> Duration {
        self.budget
    }

    /// The server answered something.
    pub(super) fn answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long a request that began at `began` should wait after its `attempt`-th failure (from 0); `None`: no longer.
    /// `jitter` is in [0, 1).
    pub(super) fn wait(&self, began: Instant, attempt: u32, named: Option<Duration>, jitter: f64) -> Option<Duration> {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = answered.map_or(began, |answered| answered.max(began)).elapsed();
        pause(self.budget.checked_sub(silent)?, attempt, named, jitter)
    }
}

/// A wait of at most `left`. A time that the server named is kept to, and a little more, so that those who wait do not come
/// back all at once; else waits double, and are shortened at random.
fn pause(left: Duration, attempt: u32, named: Option<Duration>, jitter: f64) -> Option<Duration> {
    if left.is_zero() {
        return None;
    }
    match named {
        Some(time) => Some(time + FIRST_WAIT.mul_f64(jitter)).filter(|wait| *wait <= left),
        None => {
            let full = FIRST_WAIT.saturating_mul(2u32.saturating_pow(attempt)).min(LONGEST_WAIT);
            Some(full.mul_f64(0.5 + jitter / 2.0).min(left))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_are_bounded_and_end_with_the_budget() {
        let check = |left_ms: u64, attempt: u32, named_ms: Option<u64>, expect: Option<u64>| {
            let wait = pause(Duration::from_millis(left_ms), attempt, named_ms.map(Duration::from_millis), 0.5);
            assert_eq!(wait.map(|wait| wait.as_millis() as u64), expect, "{left_ms} {attempt} {named_ms:?}");
        };
        check(600_000, 0, None, Some(187));
        check(600_000, 1, None, Some(375));
        check(600_000, 4, None, Some(3000));
        check(600_000, 40, None, Some(22_500));
        check(1000, 40, None, Some(1000));
        check(0, 0, None, None);
        check(600_000, 7, Some(5000), Some(5125));
        check(5000, 0, Some(5000), None);
    }

    #[test]
    fn an_answer_restores_the_budget() {
        let began = Instant::now();
        let spent = Patience::new(Duration::ZERO);
        assert_eq!(spent.wait(began, 0, None, 0.5), None);
        let patience = Patience::new(Duration::from_secs(600));
        patience.answered();
        assert!(patience.wait(began, 0, None, 0.5).is_some());
    }
}

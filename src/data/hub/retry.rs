//! Patience: which troubles pass, how long to wait for them, and when to give up.
//!
//! The budget is time without progress, not attempts: a host that is away for five minutes costs five minutes, and a
//! download that crawls forward never runs out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::error::{Exit, Failure};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Added to a rate limit's own time, up to this much, so that waiting processes do not come back all at once.
const SPREAD: Duration = Duration::from_secs(5);
/// How late a sleeper or a reader may notice that it should stop.
pub(super) const STOP_POLL: Duration = Duration::from_millis(100);

/// Says that work should end soon. Clones share the flag; a child is stopped with its parent and not the reverse.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    flags: Vec<Arc<AtomicBool>>,
}

impl Stop {
    /// Stops when `flag` is set, for example by a signal handler.
    pub fn on(flag: Arc<AtomicBool>) -> Self {
        Self { flags: vec![flag] }
    }

    /// A stop of its own that also follows `self`, and the flag that sets it.
    pub fn child(&self) -> (Self, Arc<AtomicBool>) {
        let own = Arc::new(AtomicBool::new(false));
        let flags = self.flags.iter().chain([&own]).cloned().collect();
        (Self { flags }, own)
    }

    pub fn is_set(&self) -> bool {
        self.flags.iter().any(|flag| flag.load(Ordering::Relaxed))
    }
}

/// Time as the retry policy sees it. Tests bring their own, and wait for nothing.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
    /// Waits for `time`, or until `stop` is set.
    fn sleep(&self, time: Duration, stop: &Stop);
    /// A number in `[0, 1)`, different in each process.
    fn jitter(&self) -> f64;
}

/// The machine's clock.
pub(super) struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration, stop: &Stop) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            && !stop.is_set()
        {
            std::thread::sleep(left.min(STOP_POLL));
        }
    }

    fn jitter(&self) -> f64 {
        rand::random()
    }
}

/// Why an attempt did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may pass: try again, after `wait` if the host named a time.
    Passing { reason: String, wait: Option<Duration>, exit: Exit },
    /// It will not pass.
    Final(anyhow::Error),
}

impl Trouble {
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self::Passing { reason: reason.into(), wait: None, exit: Exit::Unavailable }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// The patience left for one request or one file.
pub(super) struct Patience<'a> {
    clock: &'a dyn Clock,
    notice: &'a (dyn Fn(&str) + Send + Sync),
    stop: &'a Stop,
    budget: Duration,
    /// What the time is for, as in `cannot fetch …`.
    verb: &'static str,
    what: String,
    last_progress: Duration,
    attempts: u32,
    failures_in_a_row: u32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(
        clock: &'a dyn Clock,
        notice: &'a (dyn Fn(&str) + Send + Sync),
        stop: &'a Stop,
        budget: Duration,
        what: String,
    ) -> Self {
        let last_progress = clock.now();
        Self { clock, notice, stop, budget, verb: "fetch", what, last_progress, attempts: 1, failures_in_a_row: 0 }
    }

    /// The same patience for something else than fetching.
    pub(super) fn to(self, verb: &'static str) -> Self {
        Self { verb, ..self }
    }

    /// Something was gained: the budget starts anew.
    pub(super) fn progress(&mut self) {
        self.last_progress = self.clock.now();
        self.failures_in_a_row = 0;
    }

    /// Attempts until it succeeds, fails for good or the budget is spent.
    pub(super) fn until<T>(mut self, mut attempt: impl FnMut(&mut Self) -> Result<T, Trouble>) -> Result<T> {
        loop {
            match attempt(&mut self) {
                Ok(value) => return Ok(value),
                Err(trouble) => self.wait_out(trouble)?,
            }
        }
    }

    /// Waits before the next attempt, and says so.
    ///
    /// # Errors
    /// The trouble itself when it is final, the budget is spent, or the wait would overrun it.
    pub(super) fn wait_out(&mut self, trouble: Trouble) -> Result<()> {
        let (reason, named, exit) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Passing { reason, wait, exit } => (reason, wait, exit),
        };
        let left = self.budget.saturating_sub(self.clock.now().saturating_sub(self.last_progress));
        let wait = match named {
            Some(time) => time + Duration::from_secs(1) + SPREAD.mul_f64(self.clock.jitter()),
            None => {
                let full = FIRST_WAIT * 2u32.saturating_pow(self.failures_in_a_row.min(16));
                full.min(LONGEST_WAIT).mul_f64(0.5 + self.clock.jitter() / 2.0).min(left)
            }
        };
        if left.is_zero() || wait > left {
            return Err(self.given_up(&reason, named, exit));
        }
        self.attempts += 1;
        self.failures_in_a_row += 1;
        let seconds = wait.as_secs_f64().ceil();
        (self.notice)(&format!("{reason}; waiting {seconds} s (attempt {})", self.attempts));
        self.clock.sleep(wait, self.stop);
        if self.stop.is_set() { Err(stopped(&self.what)) } else { Ok(()) }
    }

    fn given_up(&self, reason: &str, named: Option<Duration>, exit: Exit) -> anyhow::Error {
        let failure = match named {
            Some(time) => Failure::new(
                exit,
                format!(
                    "cannot {} `{}`: {reason} for another {} s, longer than the {} s this run waits",
                    self.verb,
                    self.what,
                    time.as_secs(),
                    self.budget.as_secs()
                ),
            )
            .hint("run it again later; what is done is kept. A token in HF_TOKEN raises the hub's limits"),
            None => {
                let tried = match self.attempts {
                    1 => String::new(),
                    attempts => format!(", for {} s and {attempts} attempts", self.budget.as_secs()),
                };
                Failure::new(exit, format!("cannot {} `{}`: {reason}{tried}", self.verb, self.what))
                    .hint("run it again when the host is back; what is done is kept")
            }
        };
        failure.into()
    }
}

pub(super) fn stopped(what: &str) -> anyhow::Error {
    Failure::new(Exit::Interrupted, format!("stopped while waiting for `{what}`"))
        .hint("run it again to continue; what is done is kept")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::exit_of;
    use std::sync::Mutex;

    #[derive(Default)]
    struct TestClock {
        now: Mutex<Duration>,
        naps: Mutex<Vec<u64>>,
    }

    impl Clock for TestClock {
        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }
        fn sleep(&self, time: Duration, _: &Stop) {
            *self.now.lock().unwrap() += time;
            self.naps.lock().unwrap().push(time.as_millis() as u64);
        }
        fn jitter(&self) -> f64 {
            0.5
        }
    }

    fn patience<'a>(clock: &'a TestClock, stop: &'a Stop) -> Patience<'a> {
        Patience::new(clock, &|_| {}, stop, Duration::from_secs(600), "x".into())
    }

    #[test]
    fn waits_double_up_to_a_minute_and_end_with_the_budget() {
        let (clock, stop) = (TestClock::default(), Stop::default());
        let error = patience(&clock, &stop).until(|_| Err::<(), _>(Trouble::passing("away"))).unwrap_err();
        let naps = clock.naps.lock().unwrap().clone();
        assert_eq!(naps[..8], [750, 1500, 3000, 6000, 12000, 24000, 45000, 45000]);
        assert_eq!(naps.iter().sum::<u64>(), 600_000);
        assert_eq!(exit_of(&error), Exit::Unavailable);
    }

    #[test]
    fn progress_restores_the_budget_and_the_first_wait() {
        let (clock, stop) = (TestClock::default(), Stop::default());
        let mut rounds = 0;
        let done = patience(&clock, &stop).until(|patience| {
            rounds += 1;
            if rounds % 5 == 0 {
                patience.progress();
            }
            if rounds == 1000 { Ok(()) } else { Err(Trouble::passing("cut")) }
        });
        assert!(done.is_ok());
        assert!(clock.naps.lock().unwrap().iter().all(|&nap| nap <= 12_000));
    }

    #[test]
    fn a_named_wait_is_obeyed_or_refused() {
        let limited = |seconds| Trouble::Passing {
            reason: "hub rate limit reached".into(),
            wait: Some(Duration::from_secs(seconds)),
            exit: Exit::TryAgain,
        };
        let (clock, stop) = (TestClock::default(), Stop::default());
        let mut first = Some(limited(55));
        patience(&clock, &stop).until(|_| first.take().map_or(Ok(()), Err)).unwrap();
        assert_eq!(*clock.naps.lock().unwrap(), [58_500]);

        let clock = TestClock::default();
        let error = patience(&clock, &stop).until(|_| Err::<(), _>(limited(3600))).unwrap_err();
        assert_eq!((exit_of(&error), clock.naps.lock().unwrap().len()), (Exit::TryAgain, 0));
    }

    #[test]
    fn a_child_stops_with_its_parent_and_alone() {
        let flag = Arc::new(AtomicBool::new(false));
        let parent = Stop::on(Arc::clone(&flag));
        let ((first, own), (second, _)) = (parent.child(), parent.child());
        own.store(true, Ordering::Relaxed);
        assert_eq!([&parent, &first, &second].map(Stop::is_set), [false, true, false]);
        flag.store(true, Ordering::Relaxed);
        assert_eq!([&parent, &first, &second].map(Stop::is_set), [true, true, true]);
        SystemClock::new().sleep(Duration::from_secs(3600), &second);
    }
}

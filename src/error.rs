//! How a failure reaches the user: one sentence, its causes, a remedy and an exit code.

use std::fmt;

/// The process's exit codes, as documented in `docs/reference/exit-codes.md`. Schedulers act on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for is done.
    Done = 0,
    /// It failed; the message says why.
    Failed = 1,
    /// It could not start: usage, recipe, missing input.
    Usage = 2,
    /// Some units are not done; a rerun continues.
    Incomplete = 3,
    /// More bad documents than the recipe allows.
    BadData = 65,
    /// An endpoint or hub stayed unavailable.
    Unavailable = 69,
    /// Try again later: preempted or rate-limited.
    TryAgain = 75,
    /// Interrupted by the user; resumable.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows its remedy and its exit code. It travels inside `anyhow::Error`, at any depth of the chain.
#[derive(Debug)]
pub struct Failure {
    /// One sentence without a full stop, the thing's name in backticks.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    pub exit: Exit,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error: that of the outermost [`Failure`] in its chain, else [`Exit::Failed`].
pub fn exit_of(error: &anyhow::Error) -> Exit {
    failures(error).next().map_or(Exit::Failed, |failure| failure.exit)
}

/// The remedy of an error, if any part of its chain has one.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    failures(error).find_map(|failure| failure.hint.as_deref())
}

fn failures(error: &anyhow::Error) -> impl Iterator<Item = &Failure> {
    error.chain().filter_map(|cause| cause.downcast_ref::<Failure>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_outermost_failure_decides() {
        let inner = anyhow::Error::new(Failure::new(Exit::BadData, "3 bad rows").hint("look at them"));
        let outer = inner.context("unit `a` failed");
        assert_eq!(exit_of(&outer), Exit::BadData);
        assert_eq!(hint_of(&outer), Some("look at them"));

        let plain: anyhow::Result<()> = Err(std::io::Error::other("disk")).context("cannot write");
        assert_eq!(exit_of(&plain.unwrap_err()), Exit::Failed);
    }
}

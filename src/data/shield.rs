//! Running a library on bytes that nobody vouches for.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use anyhow::Result;
use parquet::errors::ParquetError;

use super::shard::damaged;
use crate::error::{Exit, Failure};

thread_local! {
    static SHIELDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the `parquet` crate: what it reports, or panics with, becomes a failure that names the file.
pub(super) fn shielded<T>(name: &str, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    silence_shielded_panics();
    let outer = SHIELDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    SHIELDED.set(outer);
    match outcome {
        Ok(outcome) => outcome.map_err(|error| parquet_failure(name, &error)),
        // What it panicked with is about its own lines, and of no use to the file's owner.
        Err(_) => Err(damaged(name, "its content makes no sense")),
    }
}

/// The failure that the `parquet` crate reports of a file.
pub(super) fn parquet_failure(name: &str, error: &ParquetError) -> anyhow::Error {
    if let ParquetError::External(cause) = error
        && let Some(error) = cause.downcast_ref::<std::io::Error>()
        && error.raw_os_error().is_some()
    {
        // The disk is at fault, and not the data.
        return Failure::new(Exit::Failed, format!("cannot read `{name}`: {error}")).into();
    }
    let mut reason = error.to_string();
    // The crate begins its messages with their kind, and again when it wraps one in another.
    let kinds = ["Parquet argument error: ", "Parquet error: ", "EOF: ", "NYI: ", "Arrow: ", "External: "];
    while let Some(rest) = kinds.iter().find_map(|kind| reason.strip_prefix(kind)) {
        reason = rest.to_owned();
    }
    damaged(name, reason)
}

/// A panic is announced on stderr before it can be caught. Those of shielded code are not: they become errors.
fn silence_shielded_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let announce = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !SHIELDED.get() {
                announce(panic);
            }
        }));
    });
}

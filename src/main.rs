//! Parse, run the command, say what went wrong, exit with a code that schedulers understand.

use clap::Parser;
use four_habits::cli::Cli;
use four_habits::error::{exit_of, hint_of};
use four_habits::{commands, error::Exit};
use std::io::Write;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    warn_on_stderr();
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) if is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            // Nothing is left to do if stderr is closed, too.
            let _ = report(&error, &mut std::io::stderr());
            exit_of(&error).into()
        }
    }
}

/// Warnings of this program go to stderr; `RUST_LOG` may ask for more, or for other programs' parts.
fn warn_on_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("four_habits=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}

/// One sentence, its causes, and the remedy.
fn report(error: &anyhow::Error, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "error: {error}")?;
    for cause in error.chain().skip(1) {
        writeln!(out, "  because: {cause}")?;
    }
    if let Some(hint) = hint_of(error) {
        writeln!(out, "hint: {hint}")?;
    }
    Ok(())
}

/// Whoever reads our output may stop reading: `pipeline inspect … | head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

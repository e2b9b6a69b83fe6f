//! `pipeline completions SHELL`.

use crate::cli::Cli;
use crate::error::Exit;
use clap::CommandFactory;
use clap_complete::Shell;

pub fn run(shell: Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pipeline", &mut script);
    super::print(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}

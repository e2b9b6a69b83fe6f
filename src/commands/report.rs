//! `pipeline report`.

use crate::cli::Report;
use crate::error::Exit;

pub fn run(_args: &Report, _json: bool) -> anyhow::Result<Exit> {
    anyhow::bail!("not there yet")
}

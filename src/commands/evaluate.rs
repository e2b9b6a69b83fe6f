//! `pipeline evaluate`.

use crate::cli::Evaluate;
use crate::error::Exit;

pub fn run(_args: &Evaluate, _json: bool) -> anyhow::Result<Exit> {
    anyhow::bail!("not there yet")
}

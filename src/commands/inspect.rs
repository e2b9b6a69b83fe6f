//! `pipeline inspect`.

use crate::cli::Inspect;
use crate::error::Exit;

pub fn run(_args: &Inspect, _json: bool) -> anyhow::Result<Exit> {
    anyhow::bail!("not there yet")
}

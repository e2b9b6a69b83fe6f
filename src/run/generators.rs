//! Making the language model that a recipe has write text.

use super::Runner;
use crate::config::WriterLm;
use crate::error::{Exit, Failure};
use crate::generation::TextGenerator;

pub fn make(lm: Option<&WriterLm>, _runner: &Runner) -> anyhow::Result<Box<dyn TextGenerator>> {
    let model = lm.map_or("", |lm| lm.model.as_str());
    Err(Failure::new(Exit::Usage, format!("`{model}` cannot write yet")).into())
}

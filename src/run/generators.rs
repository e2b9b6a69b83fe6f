//! Making the language model that a recipe has write text.

use super::Runner;
use super::judges::model_path;
use crate::config::{EndpointConfig, WriterLm};
use crate::data::hub::Notice;
use crate::endpoint::{EndpointGenerator, EndpointSpec};
use crate::error::{Exit, Failure};
use crate::generation::{LocalGenerator, LocalSpec, TextGenerator};
use std::sync::Arc;

/// The model on this machine, or the one behind an endpoint: whichever is given.
///
/// # Errors
/// A [`Failure`] for a model that cannot be used, a server that cannot be reached, or neither given.
pub fn make(
    lm: Option<&WriterLm>,
    endpoint: Option<&EndpointConfig>,
    runner: &Runner,
) -> anyhow::Result<Box<dyn TextGenerator>> {
    if let Some(lm) = lm {
        let model = model_path(&lm.model, runner.plan, runner.hub)?;
        return Ok(Box::new(LocalGenerator::load(&LocalSpec { precision: lm.precision, ..LocalSpec::new(model) })?));
    }
    let Some(endpoint) = endpoint else {
        return Err(Failure::new(Exit::Usage, "no language model is named").into());
    };
    let notice: Notice = Arc::new({
        let hub = runner.hub.clone();
        move |message: &str| hub.notice(message)
    });
    Ok(Box::new(EndpointGenerator::connect(&EndpointSpec::from(endpoint), &notice, runner.hub.stop())?))
}

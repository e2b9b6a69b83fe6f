//! Models behind a server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp.
//!
//! An [`Endpoint`] is a server that was reached and serves the wanted model. [`EndpointJudge`] reads labels off the
//! probabilities of its next token, [`EndpointGenerator`] has it write. Everything above [`client`] is blocking code.
//!
//! Invariants: what a label says does not depend on the URL, on how many requests are under way, nor on the order of
//! answers; the API key leaves this process in one request header and nowhere else; a server that stays away longer than
//! the patience ends the run with exit code 69, and nothing is ever guessed in place of an answer.

mod address;
mod answer;
mod client;
mod constraint;
mod generator;
mod judge;
mod model;
mod patience;
mod question;

pub use address::{check_url, is_variable};
pub use generator::EndpointGenerator;
pub use judge::{Api, EndpointJudge, EndpointJudgeSpec};

use crate::data::hub::{Notice, Stop};
use client::Client;
use std::time::Duration;

/// How a server is reached, and how long it is waited for. None of it but the model changes what the server answers.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpec {
    /// The server's address, with or without `/v1` at its end.
    pub url: String,
    /// The id of the model, as the server lists it; `None` if it serves one alone.
    pub model: Option<String>,
    /// The environment variable that holds the API key; `None` for a server that wants none.
    pub api_key_env: Option<String>,
    /// So many requests are under way at once.
    pub concurrency: usize,
    /// An answer that takes longer is given up, and asked for again.
    pub deadline: Duration,
    /// How long the server may go without answering anything before the run ends.
    pub patience: Duration,
}

impl EndpointSpec {
    /// 16 requests at once, two minutes for each, ten minutes of patience, no key.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            model: None,
            api_key_env: None,
            concurrency: 16,
            deadline: Duration::from_secs(120),
            patience: Duration::from_secs(600),
        }
    }
}

/// A server that was reached, and the model it is asked for.
struct Endpoint {
    client: Client,
    /// As the server lists it.
    model: String,
    /// What the server says of the model; empty if it says nothing.
    revision: String,
}

impl Endpoint {
    /// Reaches the server and finds the model on it.
    ///
    /// # Errors
    /// A [`crate::error::Failure`]: `Usage` for an address, key or model that is not good, `Unavailable` for a server
    /// that stays away or speaks another protocol.
    fn connect(spec: &EndpointSpec, notice: &Notice, stop: &Stop) -> anyhow::Result<Self> {
        let client = Client::new(spec, notice, stop)?;
        let (model, revision) = model::find(&client, spec.model.as_deref())?;
        Ok(Self { client, model, revision })
    }
}

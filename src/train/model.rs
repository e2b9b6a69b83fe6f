//! The decoder as it is trained: forward and backward over a packed batch, layer by layer.

use super::arithmetic::TrainPart;
use super::batch::TrainBatch;
use super::head::{Head, HeadGradients};
use super::layer::{Activations, LayerPlan, Pass, Scratch, Shape, norm_backward, normalise_into};
use super::objective::{CrossEntropy, Objective, Prediction, RowLoss};
use super::rows;
use crate::error::{Exit, Failure};
use crate::lm::kernels::tile::{Bf16, Float};
use crate::lm::{Meter, ModelConfig, Parameters, Precision};
use anyhow::{Context, Result};

/// How a model is trained, apart from its data.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TrainOptions {
    /// The numbers that products multiply; parameters, gradients and sums are always f32.
    pub precision: Precision,
    /// Keep only the input of each layer and compute the rest again on the way back: a third more work, far less memory.
    pub recompute: bool,
    /// PaLM's z-loss; 0 is off.
    pub z_loss: f32,
}

/// What a batch lost, summed over its targets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSum {
    /// Negative log-likelihood in nats.
    pub nll: f64,
    /// Z-loss, its coefficient included.
    pub z: f64,
    pub targets: u64,
}

/// A model's parameters and the buffers to train them with.
///
/// Buffers grow to the largest batch seen and stay. Beside parameters and gradients they are, for T tokens in f32: of each
/// layer `2 H + (2 heads + 2 kv_heads) D + 2 I` numbers a token (with `recompute` H, and the rest once), and about
/// `10 H + 2 I + 7 heads D` a token shared by all layers; the head keeps its weights twice, packed, and 2^24 logits.
/// [`MemoryEstimate`](super::memory::MemoryEstimate) adds them up.
pub struct TrainModel {
    config: ModelConfig,
    /// Change them at will between calls.
    pub parameters: Parameters,
    options: TrainOptions,
    shape: Shape,
    layers: Vec<LayerPlan>,
    final_norm: usize,
    /// The embedding where the head is tied.
    head: usize,
    frequencies: Vec<f32>,
    stream: Stream,
    engine: Engine,
    meter: Meter<TrainPart>,
}

/// The residual stream of the last forward, and what belongs to it.
#[derive(Default)]
struct Stream {
    /// `(T, H)` before each layer and after the last.
    inputs: Vec<Vec<f32>>,
    activations: Vec<Activations>,
    /// `(T, H)`: final hidden states, normed.
    hidden: Vec<f32>,
    /// `(T, H)`: gradients of the final hidden states, then of the stream.
    d_hidden: Vec<f32>,
    dx: Vec<f32>,
    /// Sines and cosines of positions from 0 on, `D / 2` each.
    table: Vec<(f32, f32)>,
    /// `(T, D / 2)` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The batch that a backward may follow.
    kept: Option<TrainBatch>,
}

/// Buffers in the numbers that products multiply.
enum Engine {
    F32(Box<Buffers<f32>>),
    Bf16(Box<Buffers<Bf16>>),
    /// With the method that runs.
    Away,
}

struct Buffers<E> {
    scratch: Scratch<E>,
    head: Head<E>,
}

impl<E: Float> Buffers<E> {
    fn new() -> Box<Self> {
        Box::new(Self { scratch: Scratch::new(), head: Head::new() })
    }
}

/// Runs a generic method with the buffers of the model's precision, which are out of the model meanwhile. It runs on a thread of
/// the pool: called from elsewhere, every parallel loop would put its caller to sleep and wake it again.
macro_rules! with_buffers {
    ($self:ident, $buffers:ident => $call:expr) => {{
        let mut engine = std::mem::replace(&mut $self.engine, Engine::Away);
        let result = match &mut engine {
            Engine::F32($buffers) => rayon::scope(|_| $call),
            Engine::Bf16($buffers) => rayon::scope(|_| $call),
            Engine::Away => anyhow::bail!("a pass over the model did not end"),
        };
        $self.engine = engine;
        result
    }};
}

/// Rows whose derivative nobody wants: log-probabilities alone.
struct Look<const ENTROPY: bool>;

impl<const ENTROPY: bool> Objective for Look<ENTROPY> {
    const ENTROPY: bool = ENTROPY;

    fn row(&self, _row: usize, prediction: &Prediction) -> RowLoss {
        RowLoss { loss: -f64::from(prediction.log_probability), ..RowLoss::default() }
    }
}

impl TrainModel {
    /// # Errors
    /// A [`Failure`] when the parameters are not the configuration's, or the processor lacks the instructions for the
    /// precision.
    pub fn new(config: ModelConfig, parameters: Parameters, options: TrainOptions) -> Result<Self> {
        parameters.check(&config)?;
        if !options.precision.usable() {
            return Err(Failure::new(
                Exit::Usage,
                format!("this processor cannot multiply in {:?}", options.precision),
            )
            .hint("use f32")
            .into());
        }
        let find = |name: &str| {
            parameters.iter().position(|entry| entry.name == name).with_context(|| format!("no tensor `{name}`"))
        };
        Ok(Self {
            shape: Shape::new(&config),
            layers: (0..config.num_layers)
                .map(|layer| LayerPlan::new(&config, &parameters, layer))
                .collect::<Result<_>>()?,
            final_norm: find("model.norm.weight")?,
            head: find(if config.tied_head { "model.embed_tokens.weight" } else { "lm_head.weight" })?,
            frequencies: config.rope_frequencies(),
            stream: Stream::default(),
            engine: match options.precision {
                Precision::F32 => Engine::F32(Buffers::new()),
                Precision::Bf16 => Engine::Bf16(Buffers::new()),
                Precision::Int8 => {
                    return Err(Failure::new(Exit::Usage, "training does not multiply in int8")
                        .hint("use f32 or bf16")
                        .into());
                }
            },
            config,
            parameters,
            options,
            meter: Meter::default(),
        })
    }

    /// Measures from now on where the time goes.
    pub fn set_meter(&mut self, meter: Meter<TrainPart>) {
        self.meter = meter;
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// The loss of a batch; changes nothing.
    ///
    /// # Errors
    /// A [`Failure`] for a batch that does not fit together or has a token beyond the vocabulary; so for all below.
    pub fn loss(&mut self, batch: &TrainBatch) -> Result<LossSum> {
        let predictions = self.predictions(batch, false)?;
        Ok(self.loss_sum(&predictions))
    }

    /// The loss of a batch, and its gradient times `scale` added to `gradients`.
    ///
    /// With `scale` one over the targets of all micro-batches together, their sum is the gradient of the mean loss.
    pub fn loss_and_gradients(
        &mut self,
        batch: &TrainBatch,
        scale: f32,
        gradients: &mut Parameters,
    ) -> Result<LossSum> {
        let objective = CrossEntropy { scale, z_loss: self.options.z_loss };
        let (_, predictions) = self.minimise(batch, &objective, gradients)?;
        Ok(self.loss_sum(&predictions))
    }

    /// What the model says of each target; `None` for rows without one. `entropy` asks for entropies too.
    pub fn predictions(&mut self, batch: &TrainBatch, entropy: bool) -> Result<Vec<Option<Prediction>>> {
        batch.check(self.config.vocab_size)?;
        let (_, predictions) = with_buffers!(self, buffers => {
            self.forward(batch, Keep::Nothing, buffers);
            match entropy {
                true => self.look(batch, &Look::<true>, &mut buffers.head),
                false => self.look(batch, &Look::<false>, &mut buffers.head),
            }
        });
        Ok(predictions)
    }

    /// The sum of an objective over a batch, its gradient added to `gradients`; and what the model said of each target.
    pub fn minimise<O: Objective>(
        &mut self,
        batch: &TrainBatch,
        objective: &O,
        gradients: &mut Parameters,
    ) -> Result<(f64, Vec<Option<Prediction>>)> {
        self.check(batch, gradients)?;
        if batch.is_empty() {
            return Ok((0.0, Vec::new()));
        }
        Ok(with_buffers!(self, buffers => {
            self.forward(batch, self.keep(), buffers);
            let width = self.shape.hidden;
            let mut d_hidden = std::mem::take(&mut self.stream.d_hidden);
            d_hidden.clear();
            d_hidden.resize(batch.len() * width, 0.0);
            let weight = &self.parameters.as_slice()[self.head].values;
            let head_gradients =
                HeadGradients { hidden: &mut d_hidden, weight: &mut gradients.as_mut_slice()[self.head].values };
            let hidden = &self.stream.hidden;
            let result = self.meter.time(TrainPart::Head, || {
                buffers.head.run(hidden, width, weight, &batch.targets, objective, Some(head_gradients))
            });
            self.backward(batch, &d_hidden, gradients, buffers);
            self.stream.d_hidden = d_hidden;
            result
        }))
    }

    /// Final hidden states, normed, `(T, H)`: what a critic's head reads. They stay until the next call.
    pub fn hidden(&mut self, batch: &TrainBatch) -> Result<&[f32]> {
        batch.check(self.config.vocab_size)?;
        with_buffers!(self, buffers => self.forward(batch, self.keep(), buffers));
        self.stream.kept = Some(batch.clone());
        Ok(&self.stream.hidden)
    }

    /// Adds to `gradients` what the gradient of the final hidden states, `(T, H)`, gives. It follows a
    /// [`TrainModel::hidden`], once.
    ///
    /// # Errors
    /// When it does not, or `hidden_gradient` has another size.
    pub fn backward_hidden(&mut self, hidden_gradient: &[f32], gradients: &mut Parameters) -> Result<()> {
        let batch = self.stream.kept.take().context("a backward follows a forward")?;
        self.check(&batch, gradients)?;
        if hidden_gradient.len() != batch.len() * self.shape.hidden {
            anyhow::bail!("{} gradients for {} rows of {}", hidden_gradient.len(), batch.len(), self.shape.hidden);
        }
        if !batch.is_empty() {
            with_buffers!(self, buffers => self.backward(&batch, hidden_gradient, gradients, buffers));
        }
        Ok(())
    }

    fn check(&self, batch: &TrainBatch, gradients: &Parameters) -> Result<()> {
        batch.check(self.config.vocab_size)?;
        if !gradients.matches(&self.parameters) {
            return Err(Failure::new(Exit::Failed, "the gradients are of another model").into());
        }
        Ok(())
    }

    fn keep(&self) -> Keep {
        if self.options.recompute { Keep::Inputs } else { Keep::Everything }
    }

    fn loss_sum(&self, predictions: &[Option<Prediction>]) -> LossSum {
        let mut sum = LossSum::default();
        for prediction in predictions.iter().flatten() {
            sum.nll -= f64::from(prediction.log_probability);
            sum.z += f64::from(self.options.z_loss) * f64::from(prediction.log_normaliser).powi(2);
            sum.targets += 1;
        }
        sum
    }

    fn look<E: Float, O: Objective>(
        &self,
        batch: &TrainBatch,
        objective: &O,
        head: &mut Head<E>,
    ) -> (f64, Vec<Option<Prediction>>) {
        let weight = &self.parameters.as_slice()[self.head].values;
        let run = || head.run(&self.stream.hidden, self.shape.hidden, weight, &batch.targets, objective, None);
        self.meter.time(TrainPart::Head, run)
    }

    /// From tokens to normed hidden states.
    fn forward<E: Float>(&mut self, batch: &TrainBatch, keep: Keep, buffers: &mut Buffers<E>) {
        let width = self.shape.hidden;
        let mut stream = std::mem::take(&mut self.stream);
        stream.kept = None;
        self.meter.time(TrainPart::Embed, || stream.fill_angles(batch, &self.frequencies));
        let layers = self.layers.len();
        stream.inputs.resize_with(layers + 1, Vec::new);
        stream.activations.resize_with(if keep == Keep::Everything { layers } else { 1 }, Activations::default);
        // Without a backward two buffers take turns.
        let place = |layer: usize| if keep == Keep::Nothing { layer % 2 } else { layer };

        let embedding = &self.parameters.as_slice()[0].values;
        let first = &mut stream.inputs[0];
        first.resize(batch.len() * width, 0.0);
        self.meter.time(TrainPart::Embed, || {
            for (x, token) in first.chunks_exact_mut(width).zip(&batch.tokens) {
                x.copy_from_slice(&embedding[*token as usize * width..][..width]);
            }
        });
        for (index, layer) in self.layers.iter().enumerate() {
            let mut out = std::mem::take(&mut stream.inputs[place(index + 1)]);
            out.resize(batch.len() * width, 0.0);
            let activations = if keep == Keep::Everything { index } else { 0 };
            let mut saved = std::mem::take(&mut stream.activations[activations]);
            let pass = stream.pass(self, batch);
            pass.forward(layer, &stream.inputs[place(index)], &mut out, &mut saved, &mut buffers.scratch);
            stream.activations[activations] = saved;
            stream.inputs[place(index + 1)] = out;
        }
        stream.hidden.resize(batch.len() * width, 0.0);
        let norm = &self.parameters.as_slice()[self.final_norm].values;
        normalise_into(&stream.inputs[place(layers)], norm, self.shape.eps, &mut stream.hidden);
        self.stream = stream;
    }

    /// From the gradient of normed hidden states to those of all parameters but the head's own.
    fn backward<E: Float>(
        &mut self,
        batch: &TrainBatch,
        d_hidden: &[f32],
        gradients: &mut Parameters,
        buffers: &mut Buffers<E>,
    ) {
        let (width, layers) = (self.shape.hidden, self.layers.len());
        let gradients = gradients.as_mut_slice();
        let mut stream = std::mem::take(&mut self.stream);
        let mut dx = std::mem::take(&mut stream.dx);
        dx.clear();
        dx.resize(batch.len() * width, 0.0);
        let norm = &self.parameters.as_slice()[self.final_norm].values;
        let d_norm = &mut gradients[self.final_norm].values;
        norm_backward(&mut dx, d_norm, d_hidden, &stream.inputs[layers], norm, self.shape.eps);

        for (index, layer) in self.layers.iter().enumerate().rev() {
            let activations = if self.options.recompute { 0 } else { index };
            let mut saved = std::mem::take(&mut stream.activations[activations]);
            let (pass, x) = (stream.pass(self, batch), &stream.inputs[index]);
            if self.options.recompute {
                pass.forward(layer, x, &mut [], &mut saved, &mut buffers.scratch);
            }
            pass.backward(layer, x, &mut dx, &mut saved, gradients, &mut buffers.scratch);
            stream.activations[activations] = saved;
        }

        // In the order of rows, so that the sum does not depend on threads.
        let embedding = &mut gradients[0].values;
        self.meter.time(TrainPart::Embed, || {
            for (dx, token) in dx.chunks_exact(width).zip(&batch.tokens) {
                rows::add(&mut embedding[*token as usize * width..][..width], dx);
            }
        });
        stream.dx = dx;
        self.stream = stream;
    }
}

/// What a forward leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    /// The input of each layer.
    Inputs,
    Everything,
}

impl Stream {
    fn fill_angles(&mut self, batch: &TrainBatch, frequencies: &[f32]) {
        let half = frequencies.len();
        let longest = batch.sequences.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        for position in self.table.len() / half..longest {
            self.table.extend(frequencies.iter().map(|frequency| (position as f32 * frequency).sin_cos()));
        }
        self.cos.clear();
        self.sin.clear();
        for sequence in &batch.sequences {
            let angles = &self.table[..sequence.len() * half];
            self.cos.extend(angles.iter().map(|(_, cos)| cos));
            self.sin.extend(angles.iter().map(|(sin, _)| sin));
        }
    }

    fn pass<'a>(&'a self, model: &'a TrainModel, batch: &'a TrainBatch) -> Pass<'a> {
        Pass {
            shape: &model.shape,
            parameters: model.parameters.as_slice(),
            sequences: &batch.sequences,
            cos: &self.cos,
            sin: &self.sin,
            meter: &model.meter,
        }
    }
}

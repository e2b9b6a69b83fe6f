//! The forward pass: token ids in, hidden states of some rows out.
//!
//! The residual stream is bf16 and is added to by the matrix products themselves. Every operation reads the fused rows
//! where they lie; the only copies are of the rows that go through the last layer.

use super::gpu::{Buffer, Gpu, Kernel, Product, View};
use super::pass::Pass;
use super::tiles::Tiles;
use super::weights::Weights;
use crate::error::{Exit, Failure};
use crate::lm::checkpoint::Checkpoint;
use crate::lm::config::ModelConfig;
use crate::lm::halving::OutOfMemory;
use crate::lm::meter::{Meter, Part};
use crate::lm::packed::Packed;
use anyhow::{Context, bail, ensure};
use candle_core::{Device, Tensor};
use std::sync::{Mutex, MutexGuard};

/// A model loaded onto a GPU.
pub(in crate::lm) struct Forward<G: Gpu> {
    config: ModelConfig,
    rope_frequencies: Vec<f32>,
    meter: Meter,
    weights: Weights<G::Memory>,
    /// One batch at a time: whoever holds this may use the device.
    state: Mutex<State<G>>,
}

struct State<G: Gpu> {
    gpu: G,
    /// Cosines and sines, `(positions, D / 2, 2)` in f32.
    angles: Option<Buffer<G::Memory>>,
    /// Everything about a batch that the host says: ids, positions, tiles, ranges, rows.
    inputs: Option<Buffer<G::Memory>>,
    activations: Option<Activations<G::Memory>>,
}

/// What a batch's rows go through. `rows` of each.
struct Activations<M> {
    rows: usize,
    /// `(T, H)`: the residual stream.
    x: Buffer<M>,
    /// `(T, H)`.
    normed: Buffer<M>,
    /// `(T, (Q + 2 K) D)`, then `(T, 2 I)`.
    wide: Buffer<M>,
    /// `(T, Q D)`, then `(T, I)`.
    narrow: Buffer<M>,
}

impl<G: Gpu> Forward<G> {
    /// Reads every tensor of the model onto the device.
    ///
    /// # Errors
    /// A [`Failure`] naming a tensor that is missing, misshapen or cut off, a size that the kernels do not have, or what does
    /// not fit into the device's memory.
    pub(in crate::lm) fn load(checkpoint: &Checkpoint, gpu: G) -> anyhow::Result<Self> {
        let config = checkpoint.config().clone();
        check(&config)?;
        let weights = Weights::load(&gpu, checkpoint)?;
        let state = State { gpu, angles: None, inputs: None, activations: None };
        let rope_frequencies = config.rope_frequencies();
        Ok(Self { config, rope_frequencies, meter: Meter::default(), weights, state: Mutex::new(state) })
    }

    pub(in crate::lm) fn set_meter(&mut self, meter: Meter) {
        self.meter = meter;
    }

    /// The final hidden states, normed, of some rows of a packed batch: `(rows.len(), H)`, f32 on the CPU with bf16's precision.
    ///
    /// # Errors
    /// A [`Failure`] for a token id beyond the vocabulary; [`OutOfMemory`]; the device's errors.
    pub(in crate::lm) fn hidden(&self, packed: &Packed, rows: &[usize]) -> anyhow::Result<Tensor> {
        let (tokens, hidden) = (packed.len(), self.config.hidden_size);
        if let Some(token) = packed.tokens().iter().find(|token| **token as usize >= self.config.vocab_size) {
            let message = format!("token {token} is beyond the model's vocabulary of {}", self.config.vocab_size);
            return Err(Failure::new(Exit::Usage, message).hint("the tokenizer belongs to another model").into());
        }
        ensure!(tokens < i32::MAX as usize, "a batch of {tokens} tokens");
        if let Some(row) = rows.iter().find(|row| **row >= tokens) {
            bail!("row {row} is beyond the batch of {tokens} tokens");
        }
        if rows.is_empty() {
            return Ok(Tensor::zeros((0, hidden), candle_core::DType::F32, &Device::Cpu)?);
        }
        let mut state = self.lock()?;
        let done = self.pass(&mut state, packed, rows);
        if done.as_ref().is_err_and(|error| error.is::<OutOfMemory>()) {
            // A smaller batch may need for something else what this one had already.
            state.activations = None;
            state.inputs = None;
        }
        done
    }

    fn pass(&self, state: &mut State<G>, packed: &Packed, rows: &[usize]) -> anyhow::Result<Tensor> {
        let (tokens, hidden) = (packed.len(), self.config.hidden_size);
        let mut pass = Pass::new(&state.gpu, &self.meter)?;
        let room = activations(&mut state.activations, &state.gpu, &self.config, tokens.max(rows.len()))?;
        let angles = angles(&mut state.angles, &state.gpu, &self.rope_frequencies, packed.positions())?;
        let inputs = Inputs::new(packed, rows, &self.config);
        let sent = inputs.send(&mut state.inputs, &state.gpu)?;

        // In the last layer every row still gives keys and values, but only the rows asked for go on.
        let (mut x, mut normed) = (&room.x, &room.normed);
        let embedding = self.weights.embedding.view();
        pass.gather(embedding, sent.ids, tokens, x.first(tokens * hidden)?, hidden, Part::Embed)?;
        let mut bias: Option<View<'_>> = None;
        let mut live = tokens;
        let last = self.weights.layers.len() - 1;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let (q, inner, width) = (layer.output.inner, layer.down.inner, layer.qkv.outputs);
            let all = normed.first(tokens * hidden)?;
            let stream = x.first(tokens * hidden)?;
            pass.rms_norm(stream, bias, layer.attention_norm.view(), all, self.config.rms_norm_eps)?;
            let qkv = room.wide.first(tokens * width)?;
            pass.product(all, &layer.qkv, qkv, false, Part::Qkv)?;
            let head_norms = layer.head_norms.as_ref().map(Buffer::view);
            let projection_bias = layer.qkv.bias.as_ref().map(Buffer::view);
            pass.rope(qkv, projection_bias, head_norms, sent.positions, angles, &self.config)?;
            let tiles = if index == last { sent.last_tiles } else { sent.tiles };
            if index == last {
                live = rows.len();
            }
            let attended = room.narrow.first(live * q)?;
            self.meter.count(Part::Attention, || {
                inputs.operations(&self.config, layer.window, (index == last).then_some(rows))
            });
            pass.attention(qkv, attended, tiles, sent.ranges, layer.window, &self.config)?;
            if index == last {
                let chosen = normed.first(live * hidden)?;
                pass.gather(stream, sent.rows, live, chosen, hidden, Part::OutputMlp)?;
                (x, normed) = (normed, x);
            }
            let (stream, all) = (x.first(live * hidden)?, normed.first(live * hidden)?);
            pass.product(attended, &layer.output, stream, true, Part::OutputMlp)?;
            let output_bias = layer.output.bias.as_ref().map(Buffer::view);
            pass.rms_norm(stream, output_bias, layer.mlp_norm.view(), all, self.config.rms_norm_eps)?;
            let gate_up = room.wide.first(live * 2 * inner)?;
            pass.product(all, &layer.gate_up, gate_up, false, Part::OutputMlp)?;
            let gated = room.narrow.first(live * inner)?;
            pass.swiglu(gate_up, layer.gate_up.bias.as_ref().map(Buffer::view), gated, inner)?;
            pass.product(gated, &layer.down, stream, true, Part::OutputMlp)?;
            bias = layer.down.bias.as_ref().map(Buffer::view);
        }
        let (stream, out) = (x.first(live * hidden)?, normed.first(live * hidden)?);
        pass.rms_norm(stream, bias, self.weights.final_norm.view(), out, self.config.rms_norm_eps)?;
        let mut bytes = vec![0; live * hidden * 2];
        normed.read(&state.gpu, &mut bytes)?;
        pass.finish()?;
        let values: Vec<f32> =
            bytes.chunks_exact(2).map(|pair| half::bf16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect();
        Ok(Tensor::from_vec(values, (live, hidden), &Device::Cpu)?)
    }

    /// Logits of chosen tokens for hidden states of `(R, H)`: `(R, tokens.len())`, f32 on the CPU.
    ///
    /// # Errors
    /// As [`Forward::hidden`].
    pub(in crate::lm) fn logits_of(&self, hidden: &Tensor, tokens: &[u32]) -> anyhow::Result<Tensor> {
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.config.vocab_size) {
            bail!("token {token} is beyond the model's vocabulary of {}", self.config.vocab_size);
        }
        let state = self.lock()?;
        let gpu = &state.gpu;
        let mut pass = Pass::new(gpu, &self.meter)?;
        let width = self.config.hidden_size;
        let mut ids = Buffer::new(gpu, tokens.len(), 4)?;
        ids.write(gpu, 0, &words(tokens.iter().copied()))?;
        let head = Buffer::bf16(gpu, tokens.len() * width)?;
        pass.gather(self.head(), ids.view(), tokens.len(), head.view(), width, Part::Head)?;
        let logits = self.products(gpu, &mut pass, hidden, head.view(), tokens.len())?;
        pass.finish()?;
        Ok(logits)
    }

    /// Logits of the whole vocabulary: `(R, V)`, f32 on the CPU.
    ///
    /// # Errors
    /// As [`Forward::hidden`].
    pub(in crate::lm) fn logits(&self, hidden: &Tensor) -> anyhow::Result<Tensor> {
        let state = self.lock()?;
        let mut pass = Pass::new(&state.gpu, &self.meter)?;
        let logits = self.products(&state.gpu, &mut pass, hidden, self.head(), self.config.vocab_size)?;
        pass.finish()?;
        Ok(logits)
    }

    /// Floating-point operations per second of a product of two square matrices of `size` rows, the best of a few.
    ///
    /// # Errors
    /// As [`Forward::hidden`].
    pub(in crate::lm) fn peak(&self, size: usize) -> anyhow::Result<f64> {
        let state = self.lock()?;
        let gpu = &state.gpu;
        let (mut x, mut weight) = (Buffer::bf16(gpu, size * size)?, Buffer::bf16(gpu, size * size)?);
        let out = Buffer::bf16(gpu, size * size)?;
        // Zeros would multiply faster than real numbers: a circle of numbers between -1 and 1 that no row repeats.
        let numbers = (0..size * size)
            .flat_map(|i| half::bf16::from_f32(((i * 7919) % 10_007) as f32 / 5003.5 - 1.0).to_le_bytes());
        let numbers: Vec<u8> = numbers.collect();
        x.write(gpu, 0, &numbers)?;
        weight.write(gpu, 0, &numbers)?;
        let (x, weight, out) = (x.view().address, weight.view().address, out.view().address);
        let product = Product { x, weight, out, rows: size, inner: size, outputs: size, add: false, wide: false };
        let mut best = f64::INFINITY;
        for _ in 0..10 {
            let start = gpu.mark()?;
            gpu.product(&product)?;
            best = best.min(gpu.seconds(&start, &gpu.mark()?)?);
        }
        Ok(2.0 * (size as f64).powi(3) / best)
    }

    fn products(
        &self,
        gpu: &G,
        pass: &mut Pass<'_, G>,
        hidden: &Tensor,
        head: View<'_>,
        tokens: usize,
    ) -> anyhow::Result<Tensor> {
        let (rows, width) = hidden.dims2()?;
        ensure!(width == self.config.hidden_size, "hidden states of {width} numbers");
        let values = hidden.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
        let mut x = Buffer::bf16(gpu, rows * width)?;
        x.write(gpu, 0, &bytes)?;
        let out = Buffer::new(gpu, rows * tokens, 4)?;
        let (x, weight, to) = (x.view().address, head.address, out.view().address);
        if rows * tokens > 0 {
            let product = Product { x, weight, out: to, rows, inner: width, outputs: tokens, add: false, wide: true };
            pass.multiply(&product, Part::Head)?;
        }
        let mut bytes = vec![0; rows * tokens * 4];
        out.read(gpu, &mut bytes)?;
        let logits: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Tensor::from_vec(logits, (rows, tokens), &Device::Cpu)?)
    }

    fn head(&self) -> View<'_> {
        self.weights.head.as_ref().unwrap_or(&self.weights.embedding).view()
    }

    fn lock(&self) -> anyhow::Result<MutexGuard<'_, State<G>>> {
        self.state.lock().ok().context("a thread failed while it used the GPU")
    }
}

/// Sizes that the kernels do not have.
fn check(config: &ModelConfig) -> anyhow::Result<()> {
    let wrong = |what: String| {
        Err(Failure::new(Exit::Usage, format!("the model cannot run on the GPU: {what}"))
            .hint("use `--device cpu`")
            .into())
    };
    if !Kernel::HEAD_DIMS.contains(&config.head_dim) {
        return wrong(format!("heads of {} numbers, expected one of {:?}", config.head_dim, Kernel::HEAD_DIMS));
    }
    if config.group_size() > Kernel::ATTENTION_ROWS {
        return wrong(format!("{} query heads share one of keys", config.group_size()));
    }
    for size in [config.hidden_size, config.intermediate_size] {
        if !size.is_multiple_of(8) {
            return wrong(format!("a layer is {size} wide, expected a multiple of 8"));
        }
    }
    Ok(())
}

/// The activations' buffers, grown if they are too small.
fn activations<'a, G: Gpu>(
    room: &'a mut Option<Activations<G::Memory>>,
    gpu: &G,
    config: &ModelConfig,
    rows: usize,
) -> anyhow::Result<&'a Activations<G::Memory>> {
    if room.as_ref().is_some_and(|room| room.rows < rows) {
        *room = None;
    }
    match room {
        Some(room) => Ok(room),
        None => {
            let (hidden, inner) = (config.hidden_size, config.intermediate_size);
            let q = config.num_heads * config.head_dim;
            Ok(room.insert(Activations {
                rows,
                x: Buffer::bf16(gpu, rows * hidden)?,
                normed: Buffer::bf16(gpu, rows * hidden)?,
                wide: Buffer::bf16(gpu, rows * config.qkv_size().max(2 * inner))?,
                narrow: Buffer::bf16(gpu, rows * q.max(inner))?,
            }))
        }
    }
}

/// Cosines and sines for all of `positions`, from a table that grows.
fn angles<'a, G: Gpu>(
    table: &'a mut Option<Buffer<G::Memory>>,
    gpu: &G,
    frequencies: &[f32],
    positions: &[u32],
) -> anyhow::Result<View<'a>> {
    let needed = positions.iter().max().map_or(0, |last| *last as usize + 1) * frequencies.len() * 2;
    if table.as_ref().is_none_or(|table| table.len() < needed) {
        *table = None;
        // Twice what is needed now: batches differ.
        let count = (needed / frequencies.len()).next_power_of_two().max(1024);
        let pairs =
            (0..count as u32).flat_map(|position| frequencies.iter().map(move |f| (position as f32 * f).sin_cos()));
        let bytes: Vec<u8> = pairs.flat_map(|(sin, cos)| [cos, sin]).flat_map(f32::to_le_bytes).collect();
        let mut buffer = Buffer::new(gpu, bytes.len() / 4, 4)?;
        buffer.write(gpu, 0, &bytes)?;
        *table = Some(buffer);
    }
    table.as_ref().map(Buffer::view).context("no angles")
}

fn words(numbers: impl Iterator<Item = u32>) -> Vec<u8> {
    numbers.flat_map(u32::to_le_bytes).collect()
}

/// A batch as the kernels read it.
struct Inputs<'a> {
    packed: &'a Packed,
    rows: &'a [usize],
    tiles: Tiles,
    last_tiles: Tiles,
}

/// Where on the device it lies.
struct Sent<'a> {
    ids: View<'a>,
    positions: View<'a>,
    rows: View<'a>,
    ranges: View<'a>,
    tiles: View<'a>,
    last_tiles: View<'a>,
}

impl<'a> Inputs<'a> {
    fn new(packed: &'a Packed, rows: &'a [usize], config: &ModelConfig) -> Self {
        let most = Kernel::ATTENTION_ROWS / config.group_size();
        Self { packed, rows, tiles: Tiles::new(packed, None, most), last_tiles: Tiles::new(packed, Some(rows), most) }
    }

    /// Copies everything to the device at once.
    fn send<'b, G: Gpu>(&self, buffer: &'b mut Option<Buffer<G::Memory>>, gpu: &G) -> anyhow::Result<Sent<'b>> {
        let rows: Vec<u32> = self.rows.iter().map(|row| *row as u32).collect();
        let parts = [
            self.packed.tokens(),
            self.packed.positions(),
            &rows,
            self.tiles.ranges.as_flattened(),
            self.tiles.tiles.as_flattened(),
            self.last_tiles.tiles.as_flattened(),
        ];
        let bytes = words(parts.iter().flat_map(|part| part.iter().copied()));
        if buffer.as_ref().is_none_or(|buffer| buffer.len() < bytes.len() / 4) {
            *buffer = None;
            *buffer = Some(Buffer::new(gpu, (bytes.len() / 4).next_power_of_two(), 4)?);
        }
        let buffer = buffer.as_mut().context("no inputs")?;
        buffer.write(gpu, 0, &bytes)?;
        let mut start = 0;
        let mut views = Vec::with_capacity(parts.len());
        for part in parts {
            views.push(buffer.part(start, part.len())?);
            start += part.len();
        }
        let &[ids, positions, rows, ranges, tiles, last_tiles] = &views[..] else { bail!("six parts") };
        Ok(Sent { ids, positions, rows, ranges, tiles, last_tiles })
    }

    /// Floating-point operations of attention by its definition: every query with every key it sees, twice.
    fn operations(&self, config: &ModelConfig, window: u32, rows: Option<&[usize]>) -> u64 {
        let most = if window == 0 { u64::MAX } else { u64::from(window) };
        let positions = self.packed.positions();
        let seen = |row: usize| (u64::from(positions[row]) + 1).min(most);
        let pairs: u64 = match rows {
            Some(rows) => rows.iter().map(|row| seen(*row)).sum(),
            None => (0..positions.len()).map(seen).sum(),
        };
        4 * pairs * (config.num_heads * config.head_dim) as u64
    }
}

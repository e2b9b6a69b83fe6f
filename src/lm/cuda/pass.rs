//! The operations of a forward pass: each checks that its arguments fit, starts its kernel and notes when it is done.

use super::gpu::{Argument, Gpu, Kernel, Product, View};
use super::weights::Linear;
use crate::lm::config::ModelConfig;
use crate::lm::meter::{Meter, Part};
use anyhow::ensure;
use std::time::Duration;

/// One batch on its way: the device, and where the time goes.
pub(super) struct Pass<'a, G: Gpu> {
    gpu: &'a G,
    meter: &'a Meter,
    marks: Vec<(Part, G::Mark)>,
    start: Option<G::Mark>,
}

impl<'a, G: Gpu> Pass<'a, G> {
    pub(super) fn new(gpu: &'a G, meter: &'a Meter) -> anyhow::Result<Self> {
        let start = if meter.runs() { Some(gpu.mark()?) } else { None };
        Ok(Self { gpu, meter, marks: Vec::new(), start })
    }

    fn done(&mut self, part: Part) -> anyhow::Result<()> {
        if self.start.is_some() {
            self.marks.push((part, self.gpu.mark()?));
        }
        Ok(())
    }

    /// Adds up the times, once the device has done everything.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let Some(mut before) = self.start else { return Ok(()) };
        for (part, mark) in self.marks {
            self.meter.add(part, Duration::from_secs_f64(self.gpu.seconds(&before, &mark)?));
            before = mark;
        }
        Ok(())
    }

    /// `out[i] = source[ids[i]]` for rows of `width`.
    pub(super) fn gather(
        &mut self,
        source: View<'_>,
        ids: View<'_>,
        count: usize,
        out: View<'_>,
        width: usize,
        part: Part,
    ) -> anyhow::Result<()> {
        ensure!(ids.len >= count && out.len == count * width && source.len.is_multiple_of(width), "a gather's sizes");
        use Argument::{Address, U32};
        let arguments = [Address(source.address), Address(ids.address), Address(out.address), U32(width as u32)];
        self.gpu.launch(Kernel::Gather, (count, 1), &arguments)?;
        self.done(part)
    }

    /// Adds a bias to rows of `x`, in place, and norms them into `out`.
    pub(super) fn rms_norm(
        &mut self,
        x: View<'_>,
        bias: Option<View<'_>>,
        weight: View<'_>,
        out: View<'_>,
        eps: f32,
    ) -> anyhow::Result<()> {
        let width = weight.len;
        let rows = x.len / width;
        ensure!(
            x.len == rows * width && out.len == x.len && bias.is_none_or(|bias| bias.len == width),
            "a norm's sizes"
        );
        use Argument::{F32, U32};
        let arguments =
            [at(Some(x)), at(bias), at(Some(weight)), at(Some(out)), U32(rows as u32), U32(width as u32), F32(eps)];
        self.gpu.launch(Kernel::RmsNorm, (rows.div_ceil(Kernel::WARPS), 1), &arguments)?;
        self.done(Part::Norm)
    }

    /// `out = x weight^T`, or `out += x weight^T`. The bias is added by whoever reads `out`.
    pub(super) fn product(
        &mut self,
        x: View<'_>,
        linear: &Linear<G::Memory>,
        out: View<'_>,
        add: bool,
        part: Part,
    ) -> anyhow::Result<()> {
        let Linear { ref weight, outputs, inner, .. } = *linear;
        let rows = x.len / inner;
        let fits = x.len == rows * inner && out.len == rows * outputs && weight.len() == outputs * inner;
        ensure!(fits, "a product's sizes");
        let (x, weight, out) = (x.address, weight.view().address, out.address);
        self.multiply(&Product { x, weight, out, rows, inner, outputs, add, wide: false }, part)
    }

    pub(super) fn multiply(&mut self, product: &Product, part: Part) -> anyhow::Result<()> {
        self.meter.count(part, || 2 * (product.rows * product.inner * product.outputs) as u64);
        self.gpu.product(product)?;
        self.done(part)
    }

    /// Bias, norms of heads and rotation of queries and keys, in place.
    pub(super) fn rope(
        &mut self,
        qkv: View<'_>,
        bias: Option<View<'_>>,
        head_norms: Option<View<'_>>,
        positions: View<'_>,
        angles: View<'_>,
        config: &ModelConfig,
    ) -> anyhow::Result<()> {
        let (rows, width, dim) = (positions.len, config.qkv_size(), config.head_dim);
        let fits = qkv.len == rows * width && bias.is_none_or(|bias| bias.len == width);
        ensure!(fits && head_norms.is_none_or(|norms| norms.len == 2 * dim), "a rotation's sizes");
        let heads = config.num_heads + config.num_kv_heads * if bias.is_some() { 2 } else { 1 };
        use Argument::{F32, U32};
        let arguments = [
            at(Some(qkv)),
            at(bias),
            at(head_norms),
            at(Some(positions)),
            at(Some(angles)),
            U32(rows as u32),
            U32(config.num_heads as u32),
            U32(config.num_kv_heads as u32),
            U32(dim as u32),
            F32(config.rms_norm_eps),
        ];
        self.gpu.launch(Kernel::Rope, ((rows * heads).div_ceil(Kernel::WARPS), 1), &arguments)?;
        self.done(Part::Attention)
    }

    /// Attention of tiles of queries, five numbers each, over the keys they see.
    pub(super) fn attention(
        &mut self,
        qkv: View<'_>,
        out: View<'_>,
        tiles: View<'_>,
        ranges: View<'_>,
        window: u32,
        config: &ModelConfig,
    ) -> anyhow::Result<()> {
        let width = config.num_heads * config.head_dim;
        ensure!(qkv.len.is_multiple_of(config.qkv_size()) && out.len.is_multiple_of(width), "attention's sizes");
        let count = tiles.len / 5;
        ensure!(tiles.len == 5 * count, "attention's tiles");
        use Argument::{F32, U32};
        let arguments = [
            at(Some(qkv)),
            at(Some(out)),
            at(Some(tiles)),
            at(Some(ranges)),
            U32(config.num_heads as u32),
            U32(config.num_kv_heads as u32),
            U32(window),
            F32(1.0 / (config.head_dim as f32).sqrt()),
        ];
        self.gpu.launch(Kernel::Attention(config.head_dim), (count, config.num_kv_heads), &arguments)?;
        self.done(Part::Attention)
    }

    /// `out = silu(gate) up`.
    pub(super) fn swiglu(
        &mut self,
        gate_up: View<'_>,
        bias: Option<View<'_>>,
        out: View<'_>,
        inner: usize,
    ) -> anyhow::Result<()> {
        let rows = out.len / inner;
        let fits =
            out.len == rows * inner && gate_up.len == 2 * out.len && bias.is_none_or(|bias| bias.len == 2 * inner);
        ensure!(fits, "a gate's sizes");
        let arguments = [at(Some(gate_up)), at(bias), at(Some(out)), Argument::U32(inner as u32)];
        let blocks = (inner / 8).div_ceil(Kernel::SwiGlu.threads() as usize);
        self.gpu.launch(Kernel::SwiGlu, (rows, blocks), &arguments)?;
        self.done(Part::OutputMlp)
    }
}

/// A view's address; null for none.
fn at(view: Option<View<'_>>) -> Argument {
    Argument::Address(view.map_or(0, |view| view.address))
}

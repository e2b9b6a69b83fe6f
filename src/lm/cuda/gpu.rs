//! What the decoder asks of a GPU: memory, kernels by name, matrix products.

use anyhow::ensure;
use std::marker::PhantomData;

/// A device with memory of its own, whose work is done in the order it is asked for.
///
/// Addresses are the device's. What `launch` and `product` are given must lie in memory that this device allocated and that
/// lives until the work is done; [`Buffer`] and the operations of [`super::pass`] see to that.
pub(in crate::lm) trait Gpu: Send {
    type Memory: Send;
    /// A moment in the device's work.
    type Mark;

    /// Memory with undefined contents, aligned to 256 bytes.
    ///
    /// # Errors
    /// [`super::super::halving::OutOfMemory`] when there is not so much.
    fn allocate(&self, bytes: usize) -> anyhow::Result<Self::Memory>;

    fn address(&self, memory: &Self::Memory) -> u64;

    /// Copies to `offset` bytes into `to`. `bytes` may be reused when this returns.
    fn write(&self, to: &mut Self::Memory, offset: usize, bytes: &[u8]) -> anyhow::Result<()>;

    /// Waits for everything asked so far, and copies from the start of `from`.
    fn read(&self, from: &Self::Memory, bytes: &mut [u8]) -> anyhow::Result<()>;

    /// Starts a kernel over a grid of blocks.
    fn launch(&self, kernel: Kernel, grid: (usize, usize), arguments: &[Argument]) -> anyhow::Result<()>;

    /// Starts a matrix product.
    fn product(&self, product: &Product) -> anyhow::Result<()>;

    /// The moment when everything asked so far is done.
    fn mark(&self) -> anyhow::Result<Self::Mark>;

    /// Seconds from one moment to a later one, both waited for.
    fn seconds(&self, from: &Self::Mark, to: &Self::Mark) -> anyhow::Result<f64>;
}

/// A kernel of `kernels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lm) enum Kernel {
    Gather,
    RmsNorm,
    Rope,
    SwiGlu,
    /// For heads of 64, 80, 96 or 128 numbers.
    Attention(usize),
}

impl Kernel {
    /// Heads that attention is compiled for.
    pub(super) const HEAD_DIMS: [usize; 4] = [64, 80, 96, 128];

    /// Query rows, each a head of a query, that one block of attention takes.
    pub(super) const ATTENTION_ROWS: usize = 64;

    /// Rows that a block of 256 threads takes where a warp takes one.
    pub(super) const WARPS: usize = 8;

    pub(super) fn threads(self) -> u32 {
        match self {
            Self::Gather | Self::Attention(_) => 128,
            Self::RmsNorm | Self::Rope | Self::SwiGlu => 256,
        }
    }

    /// Bytes of shared memory of a block: for attention two stages of 64 keys and as many values, rows padded by 8 numbers.
    pub(super) fn shared_bytes(self) -> u32 {
        match self {
            Self::Attention(dim) => 2 * 2 * 64 * (dim as u32 + 8) * 2,
            _ => 0,
        }
    }

    /// The function's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gather => "gather",
            Self::RmsNorm => "rms_norm",
            Self::Rope => "rope",
            Self::SwiGlu => "swiglu",
            Self::Attention(64) => "attention_64",
            Self::Attention(80) => "attention_80",
            Self::Attention(96) => "attention_96",
            Self::Attention(_) => "attention_128",
        }
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(in crate::lm) enum Argument {
    Address(u64),
    U32(u32),
    F32(f32),
}

impl Argument {
    /// Its bytes, where the driver looks for a value of the argument's size.
    pub(super) fn word(self) -> u64 {
        match self {
            Self::Address(address) => address,
            Self::U32(number) => u64::from(number),
            Self::F32(number) => u64::from(number.to_bits()),
        }
    }
}

/// `out = x weight^T`, or `out += x weight^T`, for `x` of `(rows, inner)` and `weight` of `(outputs, inner)` in bf16.
#[derive(Debug, Clone, Copy)]
pub(in crate::lm) struct Product {
    pub x: u64,
    pub weight: u64,
    pub out: u64,
    pub rows: usize,
    pub inner: usize,
    pub outputs: usize,
    pub add: bool,
    /// The result is f32, else bf16.
    pub wide: bool,
}

/// Numbers on the device, `size` bytes each.
pub(super) struct Buffer<M> {
    memory: M,
    address: u64,
    len: usize,
    size: usize,
}

/// A part of a [`Buffer`], which it may not outlive.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub address: u64,
    pub len: usize,
    owner: PhantomData<&'a ()>,
}

impl<M> Buffer<M> {
    pub(super) fn new<G: Gpu<Memory = M>>(gpu: &G, len: usize, size: usize) -> anyhow::Result<Self> {
        // A card does not lend nothing; 256 bytes serve for an empty buffer.
        let memory = gpu.allocate((len * size).max(256))?;
        Ok(Self { address: gpu.address(&memory), memory, len, size })
    }

    pub(super) fn bf16<G: Gpu<Memory = M>>(gpu: &G, len: usize) -> anyhow::Result<Self> {
        Self::new(gpu, len, 2)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn view(&self) -> View<'_> {
        View { address: self.address, len: self.len, owner: PhantomData }
    }

    /// The first `len` numbers.
    pub(super) fn first(&self, len: usize) -> anyhow::Result<View<'_>> {
        self.part(0, len)
    }

    pub(super) fn part(&self, start: usize, len: usize) -> anyhow::Result<View<'_>> {
        ensure!(start + len <= self.len, "{len} numbers from {start} on of a buffer of {}", self.len);
        Ok(View { address: self.address + (start * self.size) as u64, len, owner: PhantomData })
    }

    /// Writes numbers from `start` on.
    pub(super) fn write<G: Gpu<Memory = M>>(&mut self, gpu: &G, start: usize, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(
            start * self.size + bytes.len() <= self.len * self.size,
            "a buffer of {} numbers is too small",
            self.len
        );
        gpu.write(&mut self.memory, start * self.size, bytes)
    }

    pub(super) fn read<G: Gpu<Memory = M>>(&self, gpu: &G, bytes: &mut [u8]) -> anyhow::Result<()> {
        ensure!(bytes.len() <= self.len * self.size, "a buffer of {} numbers is too small", self.len);
        gpu.read(&self.memory, bytes)
    }
}

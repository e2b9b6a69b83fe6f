//! The decoder's score path on an NVIDIA GPU, in bf16 with f32 sums.
//!
//! [`forward`] is the sequence of operations ([`pass`]) and [`weights`] what they read; all are written over [`gpu::Gpu`], of which
//! [`card`] is the real one and `emulated` runs the same kernels (`kernels/*.cu`) on the CPU, slowly, for the tests. Matrix
//! products are cuBLAS's. Invariants: one stream, no atomics, nothing is copied back before the last layer is done.

#[cfg(feature = "cuda")]
mod card;
#[cfg(test)]
mod emulated;
mod forward;
mod gpu;
mod pass;
#[cfg(test)]
mod tests;
mod tiles;
mod weights;

#[cfg(feature = "cuda")]
pub(super) use card::Card;

/// The decoder on a card.
#[cfg(feature = "cuda")]
pub(super) type CudaDecoder = forward::Forward<Card>;

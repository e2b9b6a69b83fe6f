//! CPU kernels over plain slices: matrix products with packed weights, attention, and the row loops around them.
//!
//! One register tile ([`tile`]) does all the multiplying, in f32, bf16 or bytes; everything else is written once for all.
//! Instructions are chosen at run time: AVX-512 (with its bf16 extension where there is one), AVX2, or whatever the
//! compiler makes of the portable loops. A row's result never depends on which rows are computed with it.

pub(super) mod attention;
mod convert;
mod decoding;
pub(super) mod int8;
pub(crate) mod matrix;
pub(super) mod pages;
pub(super) mod peak;
pub(crate) mod tile;
pub(crate) mod vector;

//! CPU kernels over plain slices: matrix products with packed weights, attention, and the row loops around them.
//!
//! One register tile ([`tile`]) does all the multiplying, in f32 or bf16; everything else is written once for both.
//! Instructions are chosen at run time: AVX-512 (with its bf16 extension where there is one), AVX2, or whatever the
//! compiler makes of the portable loops. A row's result never depends on which rows are computed with it.

pub(super) mod attention;
pub(super) mod matrix;
pub(super) mod peak;
pub(super) mod tile;
pub(super) mod vector;

//! What a decoder remembers of one sequence: the keys and values of every layer.
//!
//! A sequence's cache is its own, so sequences enter a batch and leave it at any step, in any order, and see nothing of
//! each other.

use super::config::ModelConfig;
use super::kernels::pages::KeyValuePages;
use super::kernels::tile::Bf16;
use super::layer::Precision;
use super::ops::Heads;

/// One sequence's keys and values, in the precision that its decoder multiplies in.
pub struct KvCache {
    layers: Layers,
    len: usize,
}

enum Layers {
    F32(Vec<KeyValuePages<f32>>),
    Bf16(Vec<KeyValuePages<Bf16>>),
}

impl KvCache {
    pub(super) fn new(config: &ModelConfig, precision: Precision) -> Self {
        let heads = Heads::of(config);
        let layers = match precision {
            Precision::F32 => Layers::F32((0..config.num_layers).map(|_| KeyValuePages::new(heads)).collect()),
            Precision::Bf16 => Layers::Bf16((0..config.num_layers).map(|_| KeyValuePages::new(heads)).collect()),
        };
        Self { layers, len: 0 }
    }

    /// How many tokens of the sequence are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory that a sequence of so many tokens takes, in bytes.
    pub fn bytes(config: &ModelConfig, precision: Precision, tokens: usize) -> usize {
        let heads = Heads::of(config);
        let layer = match precision {
            Precision::F32 => KeyValuePages::<f32>::bytes(heads, tokens),
            Precision::Bf16 => KeyValuePages::<Bf16>::bytes(heads, tokens),
        };
        config.num_layers * layer
    }

    pub(super) fn grow(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// A layer's pages; `None` where the cache is of the other precision or of fewer layers.
    pub(super) fn f32(&mut self, layer: usize) -> Option<&mut KeyValuePages<f32>> {
        match &mut self.layers {
            Layers::F32(layers) => layers.get_mut(layer),
            Layers::Bf16(_) => None,
        }
    }

    pub(super) fn bf16(&mut self, layer: usize) -> Option<&mut KeyValuePages<Bf16>> {
        match &mut self.layers {
            Layers::Bf16(layers) => layers.get_mut(layer),
            Layers::F32(_) => None,
        }
    }
}

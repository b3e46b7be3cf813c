//! What a pass reads: the configuration, the weights, and their copies in bf16.

use candle_core::Tensor;

use super::bf16::Bf16Matrix;
use super::buffers::read;
use crate::decoder::{DecoderConfig, Module, Weights};
use crate::native::cache::BlockLayout;

/// A decoder's parameters; the weights are shared with the caller that loaded them.
pub struct Parameters {
    pub config: DecoderConfig,
    pub weights: Weights,
    /// The matrices in bf16, if products are computed in it.
    pub rounded: Option<Rounded>,
    pub layout: BlockLayout,
}

/// The matrices of a model in bf16.
pub struct Rounded {
    pub layers: Vec<[Bf16Matrix; Module::COUNT]>,
    pub lm_head: Bf16Matrix,
}

impl Rounded {
    /// `None` if the CPU cannot multiply bf16.
    pub fn new(weights: &Weights) -> Option<Self> {
        let round = |weight: &Tensor| read(weight, |values| Bf16Matrix::new(values, weight.dims()[1]));
        let layers = weights.layers.iter().map(|layer| {
            let [q, k, v, o, gate, up, down] = Module::ALL.map(|module| round(&layer.linear(module).weight));
            Some([q?, k?, v?, o?, gate?, up?, down?])
        });
        Some(Self { layers: layers.collect::<Option<_>>()?, lm_head: round(&weights.lm_head)? })
    }
}

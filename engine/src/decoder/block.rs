//! The forward of one decoder block, written once for the trainer and for engines that compute with tensors.
//!
//! The block decides what is computed and in which order; the caller's [`BlockOps`] decide how. The trainer's operators
//! have a backward and attend inside packed sequences, the native engine's read and write a paged cache. A new model
//! family changes this file only. (The CPU kernels in `native/cpu` compute the same block on their own.)

use candle_core::{Result, Tensor};

use super::config::DecoderConfig;
use super::module::Module;
use super::weights::{LayerWeights, Linear, Weights};

/// How one layer's operators are computed. Axes: N rows (tokens), D width, d width of a head.
pub trait BlockOps {
    /// x / rms(x) · weight over the last axis (RMSNorm, arXiv 1910.07467).
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor>;

    /// silu(gate) · up (SwiGLU, arXiv 2002.05202).
    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor>;

    /// Rotary embedding of x (N × heads·d) by the angles of the rows (arXiv 2104.09864).
    fn rope(&self, x: &Tensor) -> Result<Tensor>;

    /// W·x + b for x (N × in), plus (alpha / r)·B·A·x if an adapter covers this layer's `module`.
    fn project(&self, x: &Tensor, linear: &Linear, module: Module) -> Result<Tensor>;

    /// softmax(q·kᵀ/√d)·v for each head over each row's context, or the last `window` tokens of it; q (N × H·d), k and v
    /// (N × K·d) of the rows themselves.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> Result<Tensor>;
}

/// One layer's weights, and the constants that its norms and its attention need.
pub struct DecoderBlock<'a> {
    weights: &'a LayerWeights,
    head_dim: usize,
    rms_norm_eps: f64,
    window: Option<usize>,
}

impl<'a> DecoderBlock<'a> {
    pub fn new(config: &DecoderConfig, weights: &'a Weights, layer: usize) -> Self {
        let &DecoderConfig { head_dim, rms_norm_eps, .. } = config;
        Self { weights: &weights.layers[layer], head_dim, rms_norm_eps, window: config.window(layer) }
    }

    /// The residual stream after the block; x (N × D).
    pub fn forward(&self, x: &Tensor, ops: &impl BlockOps) -> Result<Tensor> {
        let (weights, eps) = (self.weights, self.rms_norm_eps);
        let x = (x + self.attention(&ops.rms_norm(x, &weights.input_layernorm, eps)?, ops)?)?;
        let expanded = self.mlp(&ops.rms_norm(&x, &weights.post_attention_layernorm, eps)?, ops)?;
        x + expanded
    }

    fn attention(&self, x: &Tensor, ops: &impl BlockOps) -> Result<Tensor> {
        let q = self.head_norm(self.project(x, Module::Q, ops)?, self.weights.q_norm.as_ref(), ops)?;
        let k = self.head_norm(self.project(x, Module::K, ops)?, self.weights.k_norm.as_ref(), ops)?;
        let v = self.project(x, Module::V, ops)?;
        self.project(&ops.attend(&ops.rope(&q)?, &ops.rope(&k)?, &v, self.window)?, Module::O, ops)
    }

    /// Normalises each head separately, if the architecture does.
    fn head_norm(&self, x: Tensor, weight: Option<&Tensor>, ops: &impl BlockOps) -> Result<Tensor> {
        let Some(weight) = weight else { return Ok(x) };
        let heads = x.reshape(((), self.head_dim))?;
        ops.rms_norm(&heads, weight, self.rms_norm_eps)?.reshape(x.shape())
    }

    fn mlp(&self, x: &Tensor, ops: &impl BlockOps) -> Result<Tensor> {
        let (gate, up) = (self.project(x, Module::Gate, ops)?, self.project(x, Module::Up, ops)?);
        self.project(&ops.swiglu(&gate, &up)?, Module::Down, ops)
    }

    fn project(&self, x: &Tensor, module: Module, ops: &impl BlockOps) -> Result<Tensor> {
        ops.project(x, self.weights.linear(module), module)
    }
}

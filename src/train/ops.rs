//! Differentiable operators whose backward candle lacks, or computes at a higher cost.
//!
//! Each has two implementations: a plain one from candle's operators, for any device and number format, and for f32 on a CPU
//! a fused one with one pass forward and one backward. candle's element-wise operators allocate and walk the whole tensor
//! each. The tests compare the two.

mod explicit;
mod fused;
mod plain;
#[cfg(test)]
mod tests;
mod types;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

pub use engine::decoder::Heads;

pub use self::fused::FUSED_LOGITS;
pub use self::plain::attention::{BlockedAttention, PLAIN_SCORES};
pub use self::plain::head::PLAIN_LOGITS;
pub use self::types::{Entropy, LoraDelta};
use super::packed::Segment;

/// Which implementation computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operators {
    /// For f32 on a CPU.
    Fused,
    /// For any device and number format.
    Plain,
}

/// Which rows of a micro-batch attend to which, as the operators need it.
#[derive(Clone)]
pub enum Attention {
    Fused(Heads, Arc<[Segment]>),
    Plain(Arc<BlockedAttention>),
}

impl Attention {
    /// softmax(q·kᵀ/√d)·v for each head, where each row attends to the rows that its segment allows, or to the last `window`
    /// of them. q (N × H·d), k and v (N × K·d).
    pub fn apply(&self, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> Result<Tensor> {
        match self {
            Self::Fused(heads, segments) => fused::attention(q, k, v, *heads, segments, window),
            Self::Plain(blocks) => blocks.attention(q, k, v, window),
        }
    }
}

impl Operators {
    /// The fastest for activations with the device and number format of `x`.
    pub fn of(x: &Tensor) -> Self {
        if x.device().is_cpu() && x.dtype() == DType::F32 { Self::Fused } else { Self::Plain }
    }

    /// x / rms(x) · weight over the last axis (RMSNorm, arXiv 1910.07467).
    pub fn rms_norm(self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        match self {
            Self::Fused => fused::rms_norm(x, weight, eps),
            Self::Plain => plain::rms_norm(x, weight, eps),
        }
    }

    /// silu(gate) · up (SwiGLU, arXiv 2002.05202).
    pub fn swiglu(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => fused::swiglu(gate, up),
            Self::Plain => plain::swiglu(gate, up),
        }
    }

    /// Rotary embedding (arXiv 2104.09864) of x (N × heads·d). The two halves of each head are rotated against each other,
    /// as Llama's weights expect. cos and sin (N × d/2) are in f32.
    pub fn rope(self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => fused::rope(x, cos, sin),
            Self::Plain => plain::rope(x, cos, sin),
        }
    }

    /// Prepares attention within `segments`. Fused attention only supports heads whose width is a multiple of the SIMD lanes.
    pub fn attention(self, heads: Heads, segments: Arc<[Segment]>, device: &Device) -> Result<Attention> {
        match self {
            Self::Fused if heads.dim.is_multiple_of(engine::kernels::LANES) => Ok(Attention::Fused(heads, segments)),
            _ => Ok(Attention::Plain(Arc::new(BlockedAttention::new(segments, heads, PLAIN_SCORES, device)?))),
        }
    }

    /// x·Wᵀ + b + scale·(x·Aᵀ)·Bᵀ for x (N × in). The weight gets a gradient only if it is a variable and has no update.
    pub fn linear(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        delta: Option<LoraDelta>,
    ) -> Result<Tensor> {
        match self {
            Self::Fused if !weight.is_variable() => fused::linear(x, weight, bias, delta),
            _ => plain::linear(x, weight, bias, delta),
        }
    }

    /// For hidden states x (N × D), a head W (V × D) and N target ids: ln softmax(x·Wᵀ/T) at the targets, and the entropies
    /// of these distributions in nats, both in f32. If W is a variable on a CPU, entropies have no gradient.
    pub fn head_log_probs(
        self,
        x: &Tensor,
        weight: &Tensor,
        targets: &Tensor,
        temperature: f64,
        entropy: Entropy,
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Fused if !weight.is_variable() => fused::head_log_probs(x, weight, targets, temperature, entropy),
            Self::Fused => fused::log_softmax_gather(&plain::head::scaled_logits(x, weight, temperature)?, targets),
            Self::Plain => plain::head::log_probs(x, weight, targets, temperature, entropy, PLAIN_LOGITS),
        }
    }
}

//! Log-probabilities and entropies straight from hidden states. Only the logits of some rows are in memory at a time.

use candle_core::{D, DType, Result, Tensor};

use super::linear;
use crate::train::ops::explicit;
use crate::train::ops::types::Entropy;

/// At most this many logits are in memory at a time, or those of one row. A GPU needs large products.
pub const PLAIN_LOGITS: usize = 64 << 20;

/// See [`crate::train::ops::Operators::head_log_probs`]. With a frozen head at most `max_logits` logits are in memory.
///
/// The derivatives with respect to x do not depend on the incoming gradient, so the forward computes them: with
/// p = softmax(x·Wᵀ/T), d ln p(target)/dx = −(p − onehot)·W/T and dH/dx = −(p ∘ (ln p + H))·W/T.
pub fn log_probs(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    temperature: f64,
    entropy: Entropy,
    max_logits: usize,
) -> Result<(Tensor, Tensor)> {
    if weight.is_variable() {
        return log_softmax_gather(&scaled_logits(x, weight, temperature)?, targets);
    }
    let (n, input) = (x.dim(0)?, x.detach());
    let height = (max_logits / weight.dim(0)?).clamp(1, n.max(1));
    let (mut values, mut parts) = (Vec::new(), vec![Vec::new(); entropy.slopes(x)]);
    for start in (0..n).step_by(height) {
        let rows = height.min(n - start);
        let logits = scaled_logits(&input.narrow(0, start, rows)?, weight, temperature)?;
        let chunk = LogitsChunk::new(logits, targets.narrow(0, start, rows)?.unsqueeze(1)?.contiguous()?)?;
        values.push(Tensor::cat(&[&chunk.log_probs, &chunk.entropies], 1)?);
        let project = |slope: Tensor| slope.to_dtype(weight.dtype())?.matmul(weight);
        if let Some(parts) = parts.first_mut() {
            parts.push(project(chunk.surprise_of_target()?)?);
        }
        if let Some(parts) = parts.get_mut(1) {
            parts.push(project(chunk.surprise()?)?);
        }
    }
    let slopes = parts.iter().map(|parts| Tensor::cat(parts, 0)).collect::<Result<Vec<_>>>()?;
    let both = explicit::one(x, Tensor::cat(&values, 0)?, move |[x], _, grad| {
        let mut dx = Vec::new();
        for (i, slope) in slopes.iter().enumerate() {
            let grad = (grad.narrow(1, i, 1)? * (-1.0 / temperature))?;
            dx.push(slope.to_dtype(DType::F32)?.broadcast_mul(&grad)?);
        }
        let dx = dx.into_iter().reduce(|a, b| (a + b).expect("the slopes have one shape")).expect("x has a gradient");
        Ok([dx.to_dtype(x.dtype())?])
    })?;
    let (log_probs, entropies) = (both.narrow(1, 0, 1)?.squeeze(1)?, both.narrow(1, 1, 1)?.squeeze(1)?);
    Ok((log_probs, if entropy == Entropy::Detached { entropies.detach() } else { entropies }))
}

/// What is computed from R rows of logits. All except `targets` are in f32.
struct LogitsChunk {
    /// (R × 1), as are the next two.
    targets: Tensor,
    log_probs: Tensor,
    entropies: Tensor,
    /// p (R × V).
    weights: Tensor,
    /// Logits minus the largest of their row (R × V), and the mean of that under p (R × 1). The difference is ln p + H.
    shifted: Tensor,
    mean: Tensor,
}

impl LogitsChunk {
    /// At most three tensors of R × V are in memory at a time.
    fn new(logits: Tensor, targets: Tensor) -> Result<Self> {
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        drop(logits);
        let exponentials = shifted.exp()?;
        let total = exponentials.sum_keepdim(D::Minus1)?;
        let weights = exponentials.broadcast_div(&total)?;
        drop(exponentials);
        let (log_total, mean) = (total.log()?, (&weights * &shifted)?.sum_keepdim(D::Minus1)?);
        Ok(Self {
            log_probs: (shifted.gather(&targets, 1)? - &log_total)?,
            entropies: (log_total - &mean)?,
            targets,
            weights,
            shifted,
            mean,
        })
    }

    /// p − onehot(target).
    fn surprise_of_target(&self) -> Result<Tensor> {
        let ones = self.log_probs.ones_like()?;
        self.weights.scatter_add(&self.targets, &ones.neg()?, 1)
    }

    /// p ∘ (ln p + H).
    fn surprise(self) -> Result<Tensor> {
        let Self { shifted, mean, weights, .. } = self;
        let surprise = shifted.broadcast_sub(&mean)?;
        drop(shifted);
        surprise * weights
    }
}

/// x·Wᵀ/T in f32.
pub fn scaled_logits(x: &Tensor, weight: &Tensor, temperature: f64) -> Result<Tensor> {
    linear(x, weight, None, None)?.to_dtype(DType::F32)? * (1.0 / temperature)
}

/// Log-probabilities of the targets and entropies for given logits (N × V).
pub fn log_softmax_gather(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let log_probs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let picked = log_probs.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
    let entropy = (log_probs.exp()? * log_probs)?.sum(D::Minus1)?.neg()?;
    Ok((picked, entropy))
}

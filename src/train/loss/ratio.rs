//! The ratio r = π/π_old of each token.

use candle_core::{DType, Result, Tensor};

use super::inputs::TokenInputs;

/// One ratio per token (N), with gradient.
pub fn per_token(inputs: &TokenInputs) -> Result<Tensor> {
    (inputs.log_probs - inputs.old_log_probs)?.exp()
}

/// One ratio per sequence, s = exp(mean of ln r over its tokens), repeated for each of its tokens (N). Each token's
/// gradient is that of s · π/stop_gradient(π).
///
/// This is GSPO-token (arXiv 2507.18071, equation 14), which equals GSPO if a sequence has one advantage.
pub fn per_sequence(inputs: &TokenInputs) -> Result<Tensor> {
    let detached = inputs.log_probs.detach();
    let (device, sequences) = (detached.device(), inputs.lengths.len());
    let sequence_of = inputs.lengths.iter().enumerate().flat_map(|(i, length)| vec![i as u32; *length]);
    let sequence_of = Tensor::new(sequence_of.collect::<Vec<_>>(), device)?;
    let lengths = inputs.lengths.iter().map(|length| (*length).max(1) as f32);
    let log_ratios = (&detached - inputs.old_log_probs)?;
    let sums = Tensor::zeros(sequences, DType::F32, device)?.index_add(&sequence_of, &log_ratios, 0)?;
    let means = (sums / Tensor::new(lengths.collect::<Vec<_>>(), device)?)?.index_select(&sequence_of, 0)?;
    ((inputs.log_probs - &detached)? + means)?.exp()
}

//! Estimators of the KL divergence between the policy and the base model.

use candle_core::{Result, Tensor};

use crate::config::loss::KlKind;

/// The estimate of KL(π ‖ π_ref) for each token (N), from ln π_ref and ln π.
pub fn estimate(kind: KlKind, reference: &Tensor, log_probs: &Tensor) -> Result<Tensor> {
    let difference = (reference - log_probs)?;
    match kind {
        KlKind::K1 => difference.neg(),
        KlKind::K2 => difference.sqr()? * 0.5,
        KlKind::K3 => (difference.exp()? - &difference)? - 1.0,
    }
}

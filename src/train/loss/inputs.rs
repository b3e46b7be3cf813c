//! What the parts of the loss are computed from.

use candle_core::Tensor;

/// Per-token inputs of the loss, each (N). Only `log_probs` and `entropies` have a gradient.
pub struct TokenInputs<'a> {
    /// ln π.
    pub log_probs: &'a Tensor,
    /// Entropies of π. They need a gradient only if the entropy bonus is on.
    pub entropies: &'a Tensor,
    /// ln π_old.
    pub old_log_probs: &'a Tensor,
    /// ln π_engine.
    pub rollout_log_probs: &'a Tensor,
    /// ln π_ref, if the KL term is on.
    pub ref_log_probs: Option<&'a Tensor>,
    pub advantages: &'a Tensor,
    /// From [`super::token_weights`].
    pub weights: &'a Tensor,
    /// Tokens of each sequence. The tokens of a sequence are adjacent.
    pub lengths: &'a [usize],
}

/// The policy loss of each token (N), with gradient, and which tokens were clipped (N, 0 or 1).
pub type TermOutput = (Tensor, Tensor);

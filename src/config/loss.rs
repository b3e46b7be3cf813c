//! The `[loss]` table: which policy loss is minimised, and its settings.

use serde::{Deserialize, Serialize};

use crate::advantage::AdvantageScale;
use crate::error::KeyError;

/// Settings of the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    pub kind: LossKind,
    /// The ratio is clipped to [1 − clip_ratio_low, 1 + clip_ratio_high].
    pub clip_ratio_low: f64,
    pub clip_ratio_high: f64,
    /// Dual clip: with a negative advantage A, the loss is at most `clip_ratio_c`·|A|. Values up to 1 switch it off.
    pub clip_ratio_c: f64,
    pub loss_agg_mode: LossAggMode,
    /// Weight of the estimate of KL(policy ‖ base model). With 0 the base model's forward is skipped.
    pub kl_loss_coef: f64,
    pub kl_loss_type: KlKind,
    /// Weight of the mean entropy, which is subtracted from the loss.
    pub entropy_coef: f64,
    pub rollout_is: RolloutIs,
    pub rollout_is_threshold: f64,
    /// Completions that were cut off at `max_new_tokens` do not count.
    pub mask_truncated: bool,
}

/// Policy losses by the names of their papers. Each sets the defaults of other keys; a key that is given wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// arXiv 2402.03300 with DAPO's token mean, as in verl and TRL.
    Grpo,
    /// arXiv 2503.20783: advantages are not divided by the group's deviation; the sum over tokens is divided by the longest
    /// completion allowed.
    DrGrpo,
    /// arXiv 2503.14476: a higher upper clip, token mean.
    Dapo,
    /// arXiv 2507.18071: one ratio per sequence, clipped tightly.
    Gspo,
    /// arXiv 2506.13585: the ratio is a bounded weight.
    Cispo,
    /// arXiv 2402.14740: the baseline is the mean of the other completions.
    Rloo,
    /// arXiv 2501.03262, the variant with a group baseline: advantages are divided by the batch's deviation.
    #[serde(rename = "reinforce++")]
    ReinforcePlusPlus,
}

/// How the tokens of a batch are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossAggMode {
    /// Every token of the batch has the same weight (DAPO, arXiv 2503.14476).
    TokenMean,
    /// Mean over a sequence's tokens, then over sequences (GRPO, arXiv 2402.03300).
    SeqMeanTokenMean,
    /// Sum over a sequence's tokens, then mean over sequences.
    SeqMeanTokenSum,
    /// `SeqMeanTokenSum`, divided by the longest completion allowed (Dr. GRPO, arXiv 2503.20783).
    SeqMeanTokenSumNorm,
}

/// The estimator of KL(π ‖ π_ref) for each token, where π_ref is the base model (Schulman, "Approximating KL divergence").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlKind {
    /// ln π − ln π_ref.
    K1,
    /// (ln π − ln π_ref)² / 2.
    K2,
    /// π_ref/π − ln(π_ref/π) − 1: never negative ("low_var_kl").
    K3,
}

/// Correction for tokens to which engine and trainer give different probabilities, by w = π_old/π_engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutIs {
    /// No correction.
    None,
    /// The weight of a token is min(w, threshold): truncated importance sampling.
    Truncate,
    /// The weight of a token is w, or 0 if w is above the threshold or below its inverse.
    Mask,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            kind: LossKind::Grpo,
            clip_ratio_low: 0.2,
            clip_ratio_high: 0.2,
            clip_ratio_c: 0.0,
            loss_agg_mode: LossAggMode::TokenMean,
            kl_loss_coef: 0.0,
            kl_loss_type: KlKind::K3,
            entropy_coef: 0.0,
            rollout_is: RolloutIs::Truncate,
            rollout_is_threshold: 2.0,
            mask_truncated: false,
        }
    }
}

impl LossKind {
    /// Replaces GRPO's defaults by those of this kind.
    pub fn apply(self, loss: &mut LossConfig, scale: &mut AdvantageScale) {
        loss.kind = self;
        match self {
            Self::Grpo => {}
            Self::DrGrpo => {
                loss.loss_agg_mode = LossAggMode::SeqMeanTokenSumNorm;
                *scale = AdvantageScale::None;
            }
            Self::Dapo => loss.clip_ratio_high = 0.28,
            Self::Gspo => {
                (loss.clip_ratio_low, loss.clip_ratio_high) = (3e-4, 4e-4);
                loss.loss_agg_mode = LossAggMode::SeqMeanTokenMean;
            }
            // No lower bound; the upper bound is 5.
            Self::Cispo => (loss.clip_ratio_low, loss.clip_ratio_high) = (1.0, 4.0),
            Self::Rloo => *scale = AdvantageScale::LeaveOneOut,
            Self::ReinforcePlusPlus => *scale = AdvantageScale::BatchStd,
        }
    }
}

impl LossConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        if self.rollout_is == RolloutIs::Mask && self.rollout_is_threshold < 1.0 {
            let problem = format!("must be at least 1 to mask, got {}: no token would stay", self.rollout_is_threshold);
            return Err(KeyError::new("rollout_is_threshold", problem));
        }
        KeyError::if_outside(&[
            ("clip_ratio_low", self.clip_ratio_low, 0.0, 1.0),
            ("clip_ratio_high", self.clip_ratio_high, 0.0, 1e6),
            ("clip_ratio_c", self.clip_ratio_c, 0.0, 1e6),
            ("entropy_coef", self.entropy_coef, -10.0, 10.0),
            ("kl_loss_coef", self.kl_loss_coef, 0.0, 1e6),
            ("rollout_is_threshold", self.rollout_is_threshold, f64::MIN_POSITIVE, 1e6),
        ])
    }
}

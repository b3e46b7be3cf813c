//! The registry of policy losses: the term of each [`LossKind`].

use candle_core::Result;

use super::inputs::{TermOutput, TokenInputs};
use super::{clip, ratio};
use crate::config::loss::{LossConfig, LossKind};

/// Computes the policy loss of each token.
pub type PolicyTerm = fn(&LossConfig, &TokenInputs) -> Result<TermOutput>;

/// The term of a kind of loss. Kinds that share a term differ in their defaults ([`LossKind::apply`]).
pub fn policy_term(kind: LossKind) -> PolicyTerm {
    match kind {
        LossKind::Grpo | LossKind::DrGrpo | LossKind::Dapo | LossKind::Rloo | LossKind::ReinforcePlusPlus => {
            |config, inputs| clip::pessimistic(config, inputs, &ratio::per_token(inputs)?)
        }
        LossKind::Gspo => |config, inputs| clip::pessimistic(config, inputs, &ratio::per_sequence(inputs)?),
        LossKind::Cispo => clip::weight,
    }
}

//! Arguments that operators share.

use candle_core::Tensor;

/// A low-rank update of a linear layer: ΔW = scale·B·A.
#[derive(Clone, Copy)]
pub struct LoraDelta<'a> {
    /// r × in.
    pub a: &'a Tensor,
    /// out × r.
    pub b: &'a Tensor,
    pub scale: f64,
}

/// Whether entropies have a gradient. It is not computed if the loss does not need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entropy {
    Detached,
    WithGradient,
}

impl Entropy {
    /// How many derivatives with respect to `x` a head needs: none, that of log-probabilities, or also that of entropies.
    pub fn slopes(self, x: &Tensor) -> usize {
        match (x.track_op(), self) {
            (false, _) => 0,
            (true, Self::Detached) => 1,
            (true, Self::WithGradient) => 2,
        }
    }
}

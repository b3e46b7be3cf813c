//! Log-probabilities and entropies of given logits.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use engine::math::exp;

use super::values::{check_rows, slice, tensor, with_values};

/// Only the log-probabilities have a gradient.
pub fn log_softmax_gather(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    check_rows(logits, targets)?;
    let both = logits.contiguous()?.apply_op1(FusedLogSoftmax { targets: targets.to_vec1()? })?;
    Ok((both.get(0)?, both.get(1)?.detach()))
}

/// (N × V) → (2 × N): log-probabilities of the targets, then entropies, which get no gradient.
struct FusedLogSoftmax {
    targets: Vec<u32>,
}

impl CustomOp1 for FusedLogSoftmax {
    fn name(&self) -> &'static str {
        "log-softmax-gather"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (logits, v) = (slice(storage, layout)?, layout.dims()[1]);
        let n = self.targets.len();
        let mut out = vec![0.0f32; 2 * n];
        let mut weights = vec![0.0f32; v];
        for (i, (row, &target)) in logits.chunks_exact(v).zip(&self.targets).enumerate() {
            let (max, total) = softmax_weights(row, &mut weights);
            let log_total = total.ln();
            // H = ln Z − Σ p·(x − max), with Z = Σ e^(x − max).
            let products = weights.iter().zip(row).map(|(w, x)| if *w > 0.0 { w * (x - max) } else { 0.0 });
            let mean = products.sum::<f32>() / total;
            out[i] = row[target as usize] - max - log_total;
            out[n + i] = log_total - mean;
        }
        Ok((CpuStorage::F32(out), Shape::from((2, n))))
    }

    /// d log p(target) / d logits = onehot − softmax.
    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let v = logits.dim(1)?;
        let dx = with_values([logits, grad], |[logits, grad]| {
            let mut dx = vec![0.0f32; logits.len()];
            let rows = logits.chunks_exact(v).zip(dx.chunks_exact_mut(v));
            for ((row, dx), (&target, &g)) in rows.zip(self.targets.iter().zip(grad)) {
                let (_, total) = softmax_weights(row, dx);
                dx.iter_mut().for_each(|x| *x *= -g / total);
                dx[target as usize] += g;
            }
            dx
        })?;
        Ok(Some(tensor(dx, logits)?))
    }
}

/// Fills `weights` with e^(x − max) and returns (max, their sum).
fn softmax_weights(row: &[f32], weights: &mut [f32]) -> (f32, f32) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter_mut().zip(row).for_each(|(w, &x)| *w = exp(x - max));
    (max, weights.iter().sum::<f32>())
}

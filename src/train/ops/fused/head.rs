//! Log-probabilities and entropies straight from hidden states. Only the logits of some rows are in memory at a time.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use engine::math::{exp, max};

use super::values::{check_rows, slice, tensor, with_values};
use crate::train::gemm::{Matrix, add_product};
use crate::train::ops::types::Entropy;

/// The fused head keeps at most this many logits in memory, or those of one row.
pub const FUSED_LOGITS: usize = 4 << 20;

pub fn head_log_probs(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    temperature: f64,
    entropy: Entropy,
) -> Result<(Tensor, Tensor)> {
    check_rows(x, targets)?;
    let slopes = entropy.slopes(x);
    let (weight, targets) = (weight.contiguous()?, targets.to_vec1()?);
    let both =
        x.contiguous()?.apply_op1(FusedHead { weight, targets, temperature, slopes, computed: OnceLock::new() })?;
    let entropies = both.get(1)?;
    let is_detached = entropy == Entropy::Detached;
    Ok((both.get(0)?, if is_detached { entropies.detach() } else { entropies }))
}

/// Hidden states x (N × D) → (2 × N): log-probabilities of the targets, then entropies H.
///
/// The derivatives with respect to x do not depend on the incoming gradient, so the forward computes them: with
/// p = softmax(x·Wᵀ/T), d ln p(target)/dx = (W[target] − p·W)/T and dH/dx = −(p ∘ (ln p + H))·W/T.
struct FusedHead {
    /// (V × D).
    weight: Tensor,
    targets: Vec<u32>,
    temperature: f64,
    /// How many of the two derivatives are needed, in the order above.
    slopes: usize,
    /// The derivatives, each (N × D). The forward sets them for the backward.
    computed: OnceLock<Vec<Vec<f32>>>,
}

impl CustomOp1 for FusedHead {
    fn name(&self) -> &'static str {
        "head-log-probs"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, (v, d), n) = (slice(storage, layout)?, self.weight.dims2()?, self.targets.len());
        let mut out = vec![0.0f32; 2 * n];
        let mut slopes = vec![vec![0.0f32; n * d]; self.slopes];
        let chunk = (FUSED_LOGITS / v).clamp(1, n.max(1));
        with_values([&self.weight], |[weight]| {
            for start in (0..n).step_by(chunk) {
                let rows = start..n.min(start + chunk);
                let mut logits = vec![0.0f32; rows.len() * v];
                let x = Matrix::new(&x[start * d..rows.end * d], d);
                add_product(&mut logits, 1.0 / self.temperature as f32, x, Matrix::new(weight, d).t());
                let mut surprise = vec![0.0f32; logits.len()];
                for (i, row) in rows.clone().enumerate() {
                    let (logits, surprise) = (&mut logits[i * v..][..v], &mut surprise[i * v..][..v]);
                    (out[row], out[n + row]) = probabilities(logits, surprise, self.targets[row]);
                }
                let factor = -1.0 / self.temperature as f32;
                // −p·W/T and −(p ∘ (ln p + H))·W/T. The first still lacks W[target]/T.
                for (slopes, rows_v) in slopes.iter_mut().zip([&logits, &surprise]) {
                    let part = &mut slopes[start * d..rows.end * d];
                    add_product(part, factor, Matrix::new(rows_v, v), Matrix::new(weight, d));
                }
                if let Some(slopes) = slopes.first_mut() {
                    for row in rows {
                        let target = &weight[self.targets[row] as usize * d..][..d];
                        slopes[row * d..][..d].iter_mut().zip(target).for_each(|(slope, w)| *slope -= w * factor);
                    }
                }
            }
        })?;
        // If they are set already, they are the same: the forward is deterministic.
        let _ = self.computed.set(slopes);
        Ok((CpuStorage::F32(out), Shape::from((2, n))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, d) = x.dims2()?;
        let slopes = self.computed.get().expect("the forward runs first");
        let dx = with_values([grad], |[grad]| {
            let mut dx = vec![0.0; n * d];
            for (slopes, grad) in slopes.iter().zip(grad.chunks_exact(n)) {
                for ((dx, slope), g) in dx.chunks_exact_mut(d).zip(slopes.chunks_exact(d)).zip(grad) {
                    dx.iter_mut().zip(slope).for_each(|(dx, slope)| *dx += g * slope);
                }
            }
            dx
        })?;
        Ok(Some(tensor(dx, x)?))
    }
}

/// Turns a row of logits into probabilities p and fills `surprise` with p·(ln p + H). Returns ln p(target) and H.
fn probabilities(row: &mut [f32], surprise: &mut [f32], target: u32) -> (f32, f32) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let (largest, picked) = (max(row), row[target as usize]);
            let (mut total, mut mean) = ([0.0f64; 16], [0.0f64; 16]);
            for (row, log_p) in row.chunks_mut(16).zip(surprise.chunks_mut(16)) {
                let lanes = total.iter_mut().zip(&mut mean);
                for ((x, log_p), (total, mean)) in row.iter_mut().zip(log_p).zip(lanes) {
                    *log_p = *x - largest;
                    *x = exp(*log_p);
                    *total += f64::from(*x);
                    *mean += if *x > 0.0 { f64::from(*x * *log_p) } else { 0.0 };
                }
            }
            let total: f64 = total.iter().sum();
            let (log_total, scale) = (total.ln() as f32, (1.0 / total) as f32);
            let entropy = log_total - (mean.iter().sum::<f64>() / total) as f32;
            for (p, log_p) in row.iter_mut().zip(surprise) {
                *p *= scale;
                *log_p = if *p > 0.0 { *p * (*log_p - log_total + entropy) } else { 0.0 };
            }
            (picked - largest - log_total, entropy)
        },
    )
}

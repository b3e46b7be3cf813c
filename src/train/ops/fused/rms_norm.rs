//! RMSNorm.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::values::{slice, tensor, with_values};

pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, FusedRmsNorm { eps: eps as f32 })
}

struct FusedRmsNorm {
    eps: f32,
}

impl FusedRmsNorm {
    fn inverse_rms(&self, row: &[f32]) -> f32 {
        1.0 / (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for FusedRmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(weight.len()) {
            let scale = self.inverse_rms(row);
            out.extend(row.iter().zip(weight).map(|(x, w)| x * scale * w));
        }
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    /// With s = 1/rms: dx = s·(g·w − x·s²·mean(g·w·x)), dw = Σ_rows g·x·s.
    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = with_values([x, weight, grad], |[x, weight, grad]| {
            let (mut dx, mut dw) = (Vec::with_capacity(x.len()), vec![0.0f32; weight.len()]);
            for (x, g) in x.chunks_exact(weight.len()).zip(grad.chunks_exact(weight.len())) {
                let s = self.inverse_rms(x);
                let dot = x.iter().zip(g).zip(weight).map(|((x, g), w)| x * g * w).sum::<f32>() / x.len() as f32;
                dx.extend(x.iter().zip(g).zip(weight).map(|((x, g), w)| s * (g * w - x * s * s * dot)));
                dw.iter_mut().zip(x.iter().zip(g)).for_each(|(dw, (x, g))| *dw += g * x * s);
            }
            (dx, dw)
        })?;
        Ok((Some(tensor(dx, x)?), Some(tensor(dw, weight)?)))
    }
}

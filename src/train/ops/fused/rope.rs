//! Rotary embedding.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::values::slice;

pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&cos.contiguous()?, &sin.contiguous()?, FusedRope { direction: 1.0 })
}

struct FusedRope {
    /// 1 rotates forward, −1 backward. The gradient of a rotation is the inverse rotation.
    direction: f32,
}

impl CustomOp3 for FusedRope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, cos, sin) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let (width, half) = (l1.dims()[1], l2.dims()[1]);
        let mut out = vec![0.0f32; x.len()];
        let table = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for ((x, out), (cos, sin)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(table) {
            for (x, out) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
                for i in 0..half {
                    let (left, right, sin) = (x[i], x[i + half], sin[i] * self.direction);
                    out[i] = left * cos[i] - right * sin;
                    out[i + half] = right * cos[i] + left * sin;
                }
            }
        }
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dx = grad.contiguous()?.apply_op3_no_bwd(cos, sin, &FusedRope { direction: -self.direction })?;
        Ok((Some(dx), None, None))
    }
}

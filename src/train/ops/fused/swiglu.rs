//! SwiGLU.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use engine::math::exp;

use super::values::{slice, tensor, with_values};

pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, FusedSwiGlu)
}

struct FusedSwiGlu;

impl CustomOp2 for FusedSwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut out = gate.to_vec();
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || out.iter_mut().zip(up).for_each(|(x, up)| *x = *x * sigmoid(*x) * up),
        );
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    /// silu'(x) = σ(x)·(1 + x·(1 − σ(x))).
    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dgate, dup) = with_values([gate, up, grad], |[gate, up, grad]| {
            let (mut dgate, mut dup) = (vec![0.0f32; gate.len()], vec![0.0f32; gate.len()]);
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    let inputs = gate.iter().zip(up).zip(grad);
                    for (((x, up), g), (dgate, dup)) in inputs.zip(dgate.iter_mut().zip(&mut dup)) {
                        let s = sigmoid(*x);
                        *dgate = g * up * s * (1.0 + x * (1.0 - s));
                        *dup = g * x * s;
                    }
                },
            );
            (dgate, dup)
        })?;
        Ok((Some(tensor(dgate, gate)?), Some(tensor(dup, up)?)))
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

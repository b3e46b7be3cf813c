//! The operators of [`super`] as compositions of candle's operators, for any device and number format.
//!
//! Their forward is that of `engine::decoder::ops`, which the native engine uses on a GPU. Norms, activations and the softmax
//! are computed in f32 and rounded once. Nothing here waits for the device.

pub mod attention;
#[cfg(feature = "flash-attn")]
mod flash;
pub mod head;

use candle_core::{D, DType, Result, Tensor};
use engine::decoder::ops;

use super::explicit;
use super::types::LoraDelta;

/// With s = 1/rms: dx = s·(g·w − x·s²·mean(g·w·x)), and dw = Σ_rows g·x·s if the weight is trained.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let value = ops::rms_norm(&x.detach(), &weight.detach(), eps)?;
    let is_trained = weight.track_op();
    explicit::two(x, weight, value, move |[x, weight], _, grad| {
        let (wide, grad) = (x.to_dtype(DType::F32)?, grad.to_dtype(DType::F32)?);
        let scale = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        let normed = wide.broadcast_mul(&scale)?;
        let weighed = grad.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
        let along = normed.broadcast_mul(&(&normed * &weighed)?.mean_keepdim(D::Minus1)?)?;
        let dx = (weighed - along)?.broadcast_mul(&scale)?.to_dtype(x.dtype())?;
        let dw = match is_trained {
            true => (grad * normed)?.reshape(((), weight.elem_count()))?.sum(0)?.to_dtype(weight.dtype())?,
            false => weight.zeros_like()?,
        };
        Ok([dx, dw])
    })
}

/// The backward uses silu'(x) = σ(x)·(1 + x·(1 − σ(x))).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let value = ops::swiglu(&gate.detach(), &up.detach())?;
    explicit::two(gate, up, value, |[gate, up], _, grad| {
        let (wide, grad) = (gate.to_dtype(DType::F32)?, grad.to_dtype(DType::F32)?);
        let sigmoid = candle_nn::ops::sigmoid(&wide)?;
        let silu = (wide * &sigmoid)?;
        let slope = ((&sigmoid + &silu)? - (&silu * sigmoid)?)?;
        let dgate = ((&grad * up.to_dtype(DType::F32)?)? * slope)?.to_dtype(gate.dtype())?;
        Ok([dgate, (grad * silu)?.to_dtype(up.dtype())?])
    })
}

/// The gradient is rotated back. cos and sin are in f32.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let value = ops::rope(&x.detach(), cos, sin)?;
    let (cos, sin) = (cos.clone(), sin.clone());
    explicit::one(x, value, move |_, _, grad| Ok([ops::rope(grad, &cos, &sin.neg()?)?]))
}

/// A frozen weight gets no gradient. candle's matmul would compute one as large as the weight, and drop it.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: Option<LoraDelta>) -> Result<Tensor> {
    match delta {
        None if weight.is_variable() => ops::linear(x, weight, bias),
        None => {
            let (value, weight) = (ops::linear(&x.detach(), weight, bias)?, weight.clone());
            explicit::one(x, value, move |_, _, grad| Ok([grad.contiguous()?.matmul(&weight)?]))
        }
        Some(LoraDelta { a, b, scale }) => {
            let base = ops::linear(&x.detach(), weight, bias)?;
            let change = low(&x.detach(), &a.detach(), scale)?.matmul(&b.detach().t()?)?;
            let value = (base + change.to_dtype(x.dtype())?)?;
            let weight = weight.clone();
            // With h = scale·g·B: dx = g·W + h·A, dA = hᵀ·x, dB = gᵀ·(scale·x·Aᵀ).
            explicit::three(x, a, b, value, move |[x, a, b], _, grad| {
                let dx = grad.contiguous()?.matmul(&weight)?;
                let (wide, grad) = (x.to_dtype(a.dtype())?.contiguous()?, grad.to_dtype(a.dtype())?.contiguous()?);
                let h = (grad.matmul(&b)? * scale)?;
                let dx = (dx + h.matmul(&a)?.to_dtype(x.dtype())?)?;
                Ok([dx, h.t()?.matmul(&wide)?, grad.t()?.matmul(&low(&wide, &a, scale)?)?])
            })
        }
    }
}

/// scale·x·Aᵀ (N × r) in A's number format.
fn low(x: &Tensor, a: &Tensor, scale: f64) -> Result<Tensor> {
    ops::narrowed(x, a)? * scale
}

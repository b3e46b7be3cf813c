//! The operators of [`super`] as compositions of candle's own: for any device and number format.
//!
//! Activations and frozen weights have one format, bf16 on a GPU; norms, rotations, SwiGLU, the softmax and what an adapter
//! adds are computed in f32 and rounded once. Nothing here waits for the device.

pub mod attention;
#[cfg(feature = "flash-attn")]
mod flash;
pub mod head;

use candle_core::{D, DType, Result, Tensor};

use super::{Delta, explicit};

/// dx = s·(g·w − x·s²·mean(g·w·x)) with s = 1/rms; dw = Σ_rows g·x·s where the weight is trained.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let value = candle_nn::ops::rms_norm(&x.detach().contiguous()?, &weight.detach().contiguous()?, eps as f32)?;
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

/// silu'(x) = σ(x)·(1 + x·(1 − σ(x))).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let value = (gate.detach().to_dtype(DType::F32)?.silu()?.to_dtype(up.dtype())? * up.detach())?;
    explicit::two(gate, up, value, |[gate, up], _, grad| {
        let (wide, grad) = (gate.to_dtype(DType::F32)?, grad.to_dtype(DType::F32)?);
        let sigmoid = candle_nn::ops::sigmoid(&wide)?;
        let silu = (wide * &sigmoid)?;
        let slope = ((&sigmoid + &silu)? - (&silu * sigmoid)?)?;
        let dgate = ((&grad * up.to_dtype(DType::F32)?)? * slope)?.to_dtype(gate.dtype())?;
        Ok([dgate, (grad * silu)?.to_dtype(up.dtype())?])
    })
}

/// cos and sin are in f32. Backward, the rotation is undone.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let value = rotated(&x.detach(), cos, sin)?;
    let (cos, sin) = (cos.clone(), sin.clone());
    explicit::one(x, value, move |_, _, grad| Ok([rotated(grad, &cos, &sin.neg()?)?]))
}

fn rotated(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let ((n, width), half) = (x.dims2()?, cos.dim(1)?);
    let heads = x.to_dtype(DType::F32)?.contiguous()?.reshape((1, n, width / (2 * half), 2 * half))?;
    candle_nn::rotary_emb::rope_thd(&heads, cos, sin)?.reshape((n, width))?.to_dtype(x.dtype())
}

/// A frozen weight gets no gradient: candle's own product would compute one, as large as it, and throw it away.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: Option<Delta>) -> Result<Tensor> {
    let product = |x: &Tensor| {
        let product = x.matmul(&weight.t()?)?;
        if let Some(bias) = bias { product.broadcast_add(bias) } else { Ok(product) }
    };
    match delta {
        None if weight.is_variable() => product(x),
        None => {
            let (value, weight) = (product(&x.detach().contiguous()?)?, weight.clone());
            explicit::one(x, value, move |_, _, grad| Ok([grad.contiguous()?.matmul(&weight)?]))
        }
        Some(Delta { a, b, scale }) => {
            let base = product(&x.detach().contiguous()?)?;
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

/// scale·x·Aᵀ (N × r) in A's format.
fn low(x: &Tensor, a: &Tensor, scale: f64) -> Result<Tensor> {
    x.to_dtype(a.dtype())?.contiguous()?.matmul(&a.t()?)? * scale
}

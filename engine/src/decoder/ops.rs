//! Forward operators of a decoder as compositions of candle's own, for any device and number format. On a GPU the
//! trainer and the native engine both use them.
//!
//! Activations and frozen weights have one format, bf16 on a GPU. Norms, rotations, SiLU and an adapter's update are
//! computed in f32 and rounded once. Nothing here waits for the device.

use candle_core::{DType, Result, Tensor};

/// x / rms(x) · weight over the last axis (RMSNorm, arXiv 1910.07467).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    candle_nn::ops::rms_norm(&x.contiguous()?, &weight.contiguous()?, eps as f32)
}

/// silu(gate) · up (SwiGLU, arXiv 2002.05202).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.to_dtype(DType::F32)?.silu()?.to_dtype(up.dtype())? * up
}

/// Rotary embedding (arXiv 2104.09864) of x (N × heads·d), with the halves of each head rotated as Llama's weights
/// expect; cos, sin: (N × d/2) in f32.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let ((n, width), half) = (x.dims2()?, cos.dim(1)?);
    let heads = x.to_dtype(DType::F32)?.contiguous()?.reshape((1, n, width / (2 * half), 2 * half))?;
    candle_nn::rotary_emb::rope_thd(&heads, cos, sin)?.reshape((n, width))?.to_dtype(x.dtype())
}

/// x·Wᵀ + b for x (N × in) and W (out × in).
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let product = x.contiguous()?.matmul(&weight.t()?)?;
    if let Some(bias) = bias { product.broadcast_add(bias) } else { Ok(product) }
}

/// x·Aᵀ (N × r) for x (N × in) and an adapter's A (r × in), in A's format.
pub fn narrowed(x: &Tensor, a: &Tensor) -> Result<Tensor> {
    x.to_dtype(a.dtype())?.contiguous()?.matmul(&a.t()?)
}

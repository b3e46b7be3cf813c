//! The operators of [`super`] as compositions of candle's own: for any device and number format.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, D, DType, Layout, MetalStorage, Result, Shape, Storage, Tensor};

use super::{Delta, Heads, recomputed};
use crate::train::packed::Segment;

pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let mean_square = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?;
    wide.broadcast_mul(&mean_square.sqrt()?.recip()?)?.to_dtype(x.dtype())?.broadcast_mul(weight)
}

pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    candle_nn::ops::silu(gate)? * up
}

pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let x = x.reshape((n, width / (2 * half), 2 * half))?;
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let (left, right) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let new_left = (left.broadcast_mul(&cos)? - right.broadcast_mul(&sin)?)?;
    let new_right = (right.broadcast_mul(&cos)? + left.broadcast_mul(&sin)?)?;
    Tensor::cat(&[new_left, new_right], D::Minus1)?.reshape((n, width))
}

/// Segment by segment, in blocks of rows with at most `most` scores (all heads) each; where a segment needs several blocks,
/// their scores are not kept but computed again in the backward pass.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    segments: &Arc<[Segment]>,
    most: usize,
) -> Result<Tensor> {
    let mut parts = Vec::new();
    for segment in segments.iter() {
        let own = |x: &Tensor| x.narrow(0, segment.rows.start, segment.rows.len());
        let seen = |x: &Tensor| match segment.prefix.len() {
            0 => own(x),
            len => Tensor::cat(&[x.narrow(0, segment.prefix.start, len)?, own(x)?], 0),
        };
        let (q, k, v) = (own(q)?, seen(k)?, seen(v)?);
        let height = (most / (heads.query * segment.keys())).max(1);
        if height >= segment.rows.len() {
            parts.push(block(&q, &k, &v, heads)?);
            continue;
        }
        for start in (0..segment.rows.len()).step_by(height) {
            let rows = height.min(segment.rows.len() - start);
            // Later keys are hidden from all rows of the block.
            let keys = segment.prefix.len() + start + rows;
            let (q, k, v) = (q.narrow(0, start, rows)?, k.narrow(0, 0, keys)?, v.narrow(0, 0, keys)?);
            parts.push(recomputed::three(&q, &k, &v, move |[q, k, v]| block(q, k, v, heads))?);
        }
    }
    Tensor::cat(&parts, 0)
}

/// q: (R × H·d), the last rows of a sequence; k, v: (T × K·d), all of it.
fn block(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Tensor> {
    let ((rows, _), (keys, _)) = (q.dims2()?, k.dims2()?);
    let split = |x: &Tensor, n: usize, count: usize| x.reshape((n, count, heads.dim))?.transpose(0, 1)?.contiguous();
    let repeat = |x: Tensor| {
        let shape = (heads.key_value, heads.group(), keys, heads.dim);
        x.unsqueeze(1)?.broadcast_as(shape)?.reshape((heads.query, keys, heads.dim))
    };
    let q = split(q, rows, heads.query)?;
    let (k, v) = (repeat(split(k, keys, heads.key_value)?)?, repeat(split(v, keys, heads.key_value)?)?);
    let scores = (q.matmul(&k.t()?)? * (1.0 / (heads.dim as f64).sqrt()))?.to_dtype(DType::F32)?;
    let hidden = |at: usize| if at % keys > keys - rows + at / keys { f32::NEG_INFINITY } else { 0.0 };
    let mask = Tensor::from_vec((0..rows * keys).map(hidden).collect::<Vec<f32>>(), (rows, keys), q.device())?;
    let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?.to_dtype(q.dtype())?;
    weights.matmul(&v)?.transpose(0, 1)?.reshape((rows, heads.query_width()))
}

pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: Option<Delta>) -> Result<Tensor> {
    let base = match weight.is_variable() {
        true => x.matmul(&weight.t()?)?,
        false => x.contiguous()?.apply_op1(Frozen { weight: weight.clone() })?,
    };
    let base = match bias {
        Some(bias) => base.broadcast_add(bias)?,
        None => base,
    };
    match delta {
        Some(Delta { a, b, scale }) => {
            let low = (x.to_dtype(a.dtype())?.matmul(&a.t()?)? * scale)?;
            base + low.matmul(&b.t()?)?.to_dtype(x.dtype())?
        }
        None => Ok(base),
    }
}

/// See [`super::head_log_probs`]; of a frozen head so many rows at a time that there are at most `most` logits, which are
/// not kept but computed again in the backward pass.
pub fn head_log_probs(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    temperature: f64,
    most: usize,
) -> Result<(Tensor, Tensor)> {
    let (n, vocabulary) = (x.dim(0)?, weight.dim(0)?);
    let height = (most / vocabulary).max(1);
    if weight.is_variable() || height >= n {
        return log_softmax_gather(&scaled_logits(x, weight, temperature)?, targets);
    }
    let mut parts = Vec::new();
    for start in (0..n).step_by(height) {
        let rows = height.min(n - start);
        let (weight, targets) = (weight.clone(), targets.narrow(0, start, rows)?.contiguous()?);
        parts.push(recomputed::one(&x.narrow(0, start, rows)?, move |[x]| {
            let (log_probs, entropy) = log_softmax_gather(&scaled_logits(x, &weight, temperature)?, &targets)?;
            Tensor::stack(&[log_probs, entropy], 1)
        })?);
    }
    let both = Tensor::cat(&parts, 0)?;
    Ok((both.narrow(1, 0, 1)?.squeeze(1)?, both.narrow(1, 1, 1)?.squeeze(1)?))
}

/// x·Wᵀ/T in f32.
pub fn scaled_logits(x: &Tensor, weight: &Tensor, temperature: f64) -> Result<Tensor> {
    linear(x, weight, None, None)?.to_dtype(DType::F32)? * (1.0 / temperature)
}

pub fn log_softmax_gather(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let log_probs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let picked = log_probs.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
    let entropy = (log_probs.exp()? * log_probs)?.sum(D::Minus1)?.neg()?;
    Ok((picked, entropy))
}

/// x·Wᵀ without a gradient for W: candle's own product would compute one, as large as W, and throw it away.
struct Frozen {
    weight: Tensor,
}

impl Frozen {
    fn product<S: BackendStorage>(&self, x: &S, layout: &Layout, weight: &S, of: &Layout) -> Result<(S, Shape)> {
        let ((rows, input), output) = (layout.shape().dims2()?, of.dims()[0]);
        let out = x.matmul(weight, (1, rows, output, input), layout, &of.transpose(0, 1)?)?;
        Ok((out, Shape::from((rows, output))))
    }
}

fn elsewhere<T>() -> Result<T> {
    candle_core::bail!("weights and activations are on different devices")
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (storage, of) = self.weight.storage_and_layout();
        let Storage::Cpu(weight) = &*storage else { return elsewhere() };
        self.product(x, layout, weight, of)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (storage, of) = self.weight.storage_and_layout();
        let Storage::Cuda(weight) = &*storage else { return elsewhere() };
        self.product(x, layout, weight, of)
    }

    fn metal_fwd(&self, x: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let (storage, of) = self.weight.storage_and_layout();
        let Storage::Metal(weight) = &*storage else { return elsewhere() };
        self.product(x, layout, weight, of)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.matmul(&self.weight)?))
    }
}

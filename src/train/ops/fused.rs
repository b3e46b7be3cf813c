//! One pass over f32 slices on a CPU, forward and backward, for the operators of [`super`].

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor};
use engine::math::{exp, max};

use super::attention::Attention;
use super::{Delta, Entropy, Heads, LOGITS};
use crate::train::gemm::{Matrix, add_product};
use crate::train::packed::Segment;

pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps: eps as f32 })
}

pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&cos.contiguous()?, &sin.contiguous()?, Rope { direction: 1.0 })
}

pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, segments: &Arc<[Segment]>) -> Result<Tensor> {
    let op = Attention { heads, segments: Arc::clone(segments), log_sums: OnceLock::new() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: Option<Delta>) -> Result<Tensor> {
    let (weight, bias) = (weight.contiguous()?, bias.map(Tensor::contiguous).transpose()?);
    match delta {
        None => x.contiguous()?.apply_op1(Frozen { weight, bias }),
        Some(Delta { a, b, scale }) => {
            let op = LoraLinear { frozen: Frozen { weight, bias }, scale: scale as f32 };
            x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, op)
        }
    }
}

pub fn log_softmax_gather(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    check_rows(logits, targets)?;
    let both = logits.contiguous()?.apply_op1(LogSoftmaxGather { targets: targets.to_vec1()? })?;
    Ok((both.get(0)?, both.get(1)?.detach()))
}

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
    let both = x.contiguous()?.apply_op1(Head { weight, targets, temperature, slopes, computed: OnceLock::new() })?;
    let entropies = both.get(1)?;
    let is_detached = entropy == Entropy::Detached;
    Ok((both.get(0)?, if is_detached { entropies.detach() } else { entropies }))
}

fn check_rows(x: &Tensor, targets: &Tensor) -> Result<()> {
    if x.dim(0)? != targets.dim(0)? {
        candle_core::bail!("{} rows for {} targets", x.dim(0)?, targets.dim(0)?);
    }
    Ok(())
}

/// The slice that a contiguous f32 layout covers.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| candle_core::Error::Msg("not contiguous".into()))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `f` with the values of CPU tensors of f32.
pub(super) fn with_values<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let tensors = tensors.map(Tensor::contiguous);
    let mut guards = Vec::with_capacity(N);
    for tensor in &tensors {
        guards.push(tensor.as_ref().map_err(|e| candle_core::Error::Msg(e.to_string()))?.storage_and_layout());
    }
    let mut values = [&[] as &[f32]; N];
    for (values, (storage, layout)) in values.iter_mut().zip(&guards) {
        *values = match &**storage {
            Storage::Cpu(storage) => slice(storage, layout)?,
            _ => candle_core::bail!("fused operators are for the CPU"),
        };
    }
    Ok(f(values))
}

pub(super) fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

fn sum(values: impl Iterator<Item = f32>) -> f32 {
    values.sum()
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x·Wᵀ + b, of which only x has a gradient.
struct Frozen {
    /// (out × in).
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Frozen {
    /// (N × out).
    fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let (output, input) = self.weight.dims2()?;
        let mut out = match &self.bias {
            Some(bias) => with_values([bias], |[bias]| bias.repeat(x.len() / input))?,
            None => vec![0.0; x.len() / input * output],
        };
        with_values([&self.weight], |[weight]| {
            add_product(&mut out, 1.0, Matrix::new(x, input), Matrix::new(weight, input).t());
        })?;
        Ok(out)
    }

    /// g·W.
    fn backward(&self, grad: &[f32]) -> Result<Vec<f32>> {
        let (output, input) = self.weight.dims2()?;
        let mut dx = vec![0.0; grad.len() / output * input];
        with_values([&self.weight], |[weight]| {
            add_product(&mut dx, 1.0, Matrix::new(grad, output), Matrix::new(weight, input));
        })?;
        Ok(dx)
    }

    fn shape(&self, x: &Layout) -> Result<Shape> {
        Ok(Shape::from((x.dims()[0], self.weight.dims()[0])))
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.forward(slice(storage, layout)?)?), self.shape(layout)?))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(tensor(with_values([grad], |[grad]| self.backward(grad))??, x)?))
    }
}

/// x·Wᵀ + b + scale·(x·Aᵀ)·Bᵀ; x, A (r × in) and B (out × r) have gradients.
struct LoraLinear {
    frozen: Frozen,
    scale: f32,
}

impl CustomOp3 for LoraLinear {
    fn name(&self) -> &'static str {
        "lora-linear"
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
        let (x, a, b) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let (rank, input) = (l2.dims()[0], l2.dims()[1]);
        let mut out = self.frozen.forward(x)?;
        let low = self.low(x, a, rank, input);
        add_product(&mut out, 1.0, Matrix::new(&low, rank), Matrix::new(b, rank).t());
        Ok((CpuStorage::F32(out), self.frozen.shape(l1)?))
    }

    /// With h = scale·g·B: dx = g·W + h·A, dA = hᵀ·x, dB = gᵀ·(scale·x·Aᵀ).
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((rank, input), output) = (a.dims2()?, b.dim(0)?);
        let (dx, da, db) = with_values([x, a, b, grad], |[x, a, b, grad]| {
            let low = self.low(x, a, rank, input);
            let g = Matrix::new(grad, output);
            let mut h = vec![0.0; low.len()];
            add_product(&mut h, self.scale, g, Matrix::new(b, rank));
            let mut dx = self.frozen.backward(grad)?;
            add_product(&mut dx, 1.0, Matrix::new(&h, rank), Matrix::new(a, input));
            let (mut da, mut db) = (vec![0.0; a.len()], vec![0.0; b.len()]);
            add_product(&mut da, 1.0, Matrix::new(&h, rank).t(), Matrix::new(x, input));
            add_product(&mut db, 1.0, g.t(), Matrix::new(&low, rank));
            Ok::<_, candle_core::Error>((dx, da, db))
        })??;
        Ok((Some(tensor(dx, x)?), Some(tensor(da, a)?), Some(tensor(db, b)?)))
    }
}

impl LoraLinear {
    /// scale·x·Aᵀ (N × r).
    fn low(&self, x: &[f32], a: &[f32], rank: usize, input: usize) -> Vec<f32> {
        let mut low = vec![0.0; x.len() / input * rank];
        add_product(&mut low, self.scale, Matrix::new(x, input), Matrix::new(a, input).t());
        low
    }
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn inverse_rms(&self, row: &[f32]) -> f32 {
        1.0 / (sum(row.iter().map(|x| x * x)) / row.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
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
                let dot = sum(x.iter().zip(g).zip(weight).map(|((x, g), w)| x * g * w)) / x.len() as f32;
                dx.extend(x.iter().zip(g).zip(weight).map(|((x, g), w)| s * (g * w - x * s * s * dot)));
                dw.iter_mut().zip(x.iter().zip(g)).for_each(|(dw, (x, g))| *dw += g * x * s);
            }
            (dx, dw)
        })?;
        Ok((Some(tensor(dx, x)?), Some(tensor(dw, weight)?)))
    }
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
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

struct Rope {
    /// 1 rotates forward, −1 back: the backward of a rotation is its inverse.
    direction: f32,
}

impl CustomOp3 for Rope {
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
        let dx = grad.contiguous()?.apply_op3_no_bwd(cos, sin, &Rope { direction: -self.direction })?;
        Ok((Some(dx), None, None))
    }
}

/// (N × V) → (2 × N): log-probabilities of the targets, then entropies; only the former carry a gradient.
struct LogSoftmaxGather {
    targets: Vec<u32>,
}

impl CustomOp1 for LogSoftmaxGather {
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
            let mean = sum(weights.iter().zip(row).map(|(w, x)| if *w > 0.0 { w * (x - max) } else { 0.0 })) / total;
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

/// log-probabilities of targets, and entropies, straight from hidden states x (N × D): (2 × N). The logits stand in
/// memory for some rows at a time only.
///
/// How the two depend on x does not depend on the gradient that comes back, so the forward computes it at once: with
/// p = softmax(x·Wᵀ/T), d log p(target)/dx = (W[target] − p·W)/T and dH/dx = −(p ∘ (ln p + H))·W/T.
struct Head {
    /// (V × D).
    weight: Tensor,
    targets: Vec<u32>,
    temperature: f64,
    /// How many of the two derivatives are needed.
    slopes: usize,
    /// They, each (N × D).
    computed: OnceLock<Vec<Vec<f32>>>,
}

impl CustomOp1 for Head {
    fn name(&self) -> &'static str {
        "head-log-probs"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, (v, d), n) = (slice(storage, layout)?, self.weight.dims2()?, self.targets.len());
        let mut out = vec![0.0f32; 2 * n];
        let mut slopes = vec![vec![0.0f32; n * d]; self.slopes];
        let chunk = (LOGITS / v).clamp(1, n.max(1));
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
        // A forward that is run again gives the same.
        let _ = self.computed.set(slopes);
        Ok((CpuStorage::F32(out), Shape::from((2, n))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, d) = x.dims2()?;
        let slopes = self.computed.get().expect("the forward came before");
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

/// Turns a row of logits into probabilities p and fills `surprise` with p·(ln p + H); returns ln p(target) and H.
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

/// Fills `weights` with e^(x − max) and returns (max, their sum).
fn softmax_weights(row: &[f32], weights: &mut [f32]) -> (f32, f32) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter_mut().zip(row).for_each(|(w, &x)| *w = exp(x - max));
    (max, sum(weights.iter().copied()))
}

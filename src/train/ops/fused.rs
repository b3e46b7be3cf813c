//! One pass over f32 slices on a CPU, forward and backward, for the operators of [`super`].

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor};

pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps: eps as f32 })
}

pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&cos.contiguous()?, &sin.contiguous()?, Rope { direction: 1.0 })
}

pub fn causal_softmax(scores: &Tensor) -> Result<Tensor> {
    scores.contiguous()?.apply_op1(CausalSoftmax)
}

pub fn log_softmax_gather(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    if logits.dim(0)? != targets.dim(0)? {
        candle_core::bail!("{} rows of logits for {} targets", logits.dim(0)?, targets.dim(0)?);
    }
    let both = logits.contiguous()?.apply_op1(LogSoftmaxGather { targets: targets.to_vec1()? })?;
    Ok((both.get(0)?, both.get(1)?.detach()))
}

/// The slice that a contiguous f32 layout covers.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| candle_core::Error::Msg("not contiguous".into()))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `f` with the values of a CPU tensor of f32.
fn with_values<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => Err(candle_core::Error::Msg("fused operators are for the CPU".into())),
    }
}

fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

fn sum(values: impl Iterator<Item = f32>) -> f32 {
    values.sum()
}

/// e^x within 2 units in the last place, as straight-line code that the compiler turns into vector instructions (the
/// library's expf is a call for each value). 2^k comes from the exponent bits, the rest from a Taylor polynomial
/// on [−ln2/2, ln2/2]. Below −87 the result is 0.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.0, 88.0);
    let k = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (clamped - k * 0.693_359_4) + k * 2.121_944_4e-4;
    let tail = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
    let poly = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * tail)));
    let power = f32::from_bits((((k as i32) + 127) << 23) as u32);
    if x < -87.0 { 0.0 } else { poly * power }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
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
        let (dx, dw) = with_values(x, |x| {
            with_values(weight, |weight| {
                with_values(grad, |grad| {
                    let (mut dx, mut dw) = (Vec::with_capacity(x.len()), vec![0.0f32; weight.len()]);
                    for (x, g) in x.chunks_exact(weight.len()).zip(grad.chunks_exact(weight.len())) {
                        let s = self.inverse_rms(x);
                        let dot = sum(x.iter().zip(g).zip(weight).map(|((x, g), w)| x * g * w)) / x.len() as f32;
                        dx.extend(x.iter().zip(g).zip(weight).map(|((x, g), w)| s * (g * w - x * s * s * dot)));
                        dw.iter_mut().zip(x.iter().zip(g)).for_each(|(dw, (x, g))| *dw += g * x * s);
                    }
                    (dx, dw)
                })
            })
        })???;
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
        let out = gate.iter().zip(up).map(|(&g, &u)| g * sigmoid(g) * u).collect();
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    /// silu'(x) = σ(x)·(1 + x·(1 − σ(x))).
    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dgate, dup) = with_values(gate, |gate| {
            with_values(up, |up| {
                with_values(grad, |grad| {
                    let (mut dgate, mut dup) = (vec![0.0f32; gate.len()], vec![0.0f32; gate.len()]);
                    for i in 0..gate.len().min(up.len()).min(grad.len()) {
                        let (x, s) = (gate[i], sigmoid(gate[i]));
                        dgate[i] = grad[i] * up[i] * s * (1.0 + x * (1.0 - s));
                        dup[i] = grad[i] * x * s;
                    }
                    (dgate, dup)
                })
            })
        })???;
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
        let half = l2.dims()[1];
        let mut out = vec![0.0f32; x.len()];
        let table = cos.chunks_exact(half).zip(sin.chunks_exact(half)).cycle();
        for ((x, out), (cos, sin)) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)).zip(table) {
            for i in 0..half {
                let (left, right, sin) = (x[i], x[i + half], sin[i] * self.direction);
                out[i] = left * cos[i] - right * sin;
                out[i + half] = right * cos[i] + left * sin;
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

struct CausalSoftmax;

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let scores = slice(storage, layout)?;
        let t = layout.dims()[layout.dims().len() - 1];
        let mut out = vec![0.0f32; scores.len()];
        for (at, (row, out)) in scores.chunks_exact(t).zip(out.chunks_exact_mut(t)).enumerate() {
            let seen = at % t + 1;
            let (row, out) = (&row[..seen], &mut out[..seen]);
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            out.iter_mut().zip(row).for_each(|(o, &x)| *o = exp(x - max));
            let scale = 1.0 / sum(out.iter().copied());
            out.iter_mut().for_each(|o| *o *= scale);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// dx = y·(g − Σ g·y); y is 0 where a row sees nothing.
    fn bwd(&self, _: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let t = y.dim(candle_core::D::Minus1)?;
        let dx = with_values(y, |y| {
            with_values(grad, |grad| {
                let mut dx = vec![0.0f32; y.len()];
                let rows = y.chunks_exact(t).zip(grad.chunks_exact(t)).zip(dx.chunks_exact_mut(t));
                for (at, ((y, g), dx)) in rows.enumerate() {
                    let seen = at % t + 1;
                    let dot = sum(y[..seen].iter().zip(&g[..seen]).map(|(y, g)| y * g));
                    dx[..seen].iter_mut().zip(y.iter().zip(g)).for_each(|(dx, (y, g))| *dx = y * (g - dot));
                }
                dx
            })
        })??;
        Ok(Some(tensor(dx, y)?))
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
        let dx = with_values(logits, |logits| {
            with_values(grad, |grad| {
                let mut dx = vec![0.0f32; logits.len()];
                let rows = logits.chunks_exact(v).zip(dx.chunks_exact_mut(v));
                for ((row, dx), (&target, &g)) in rows.zip(self.targets.iter().zip(grad)) {
                    let (_, total) = softmax_weights(row, dx);
                    dx.iter_mut().for_each(|x| *x *= -g / total);
                    dx[target as usize] += g;
                }
                dx
            })
        })??;
        Ok(Some(tensor(dx, logits)?))
    }
}

/// Fills `weights` with e^(x − max) and returns (max, their sum).
fn softmax_weights(row: &[f32], weights: &mut [f32]) -> (f32, f32) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter_mut().zip(row).for_each(|(w, &x)| *w = exp(x - max));
    (max, sum(weights.iter().copied()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (super::exp(x), f64::from(x).exp());
            assert!(((f64::from(got) - want) / want).abs() < 2.5e-7, "exp({x}) = {got}, not {want}");
        }
        assert_eq!(super::exp(-100.0), 0.0);
    }
}

//! Differentiable building blocks that candle has no backward for.
//!
//! Each has a plain composition of candle's operators, which runs anywhere, and for f32 on a CPU one fused pass forward and
//! one backward (`ops/fused.rs`): candle's element-wise operators each allocate and walk the whole tensor. A test
//! holds the two against each other, values and gradients.

mod fused;

use candle_core::{D, DType, Result, Tensor};

fn is_fusable(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// x / rms(x) · weight over the last axis (RMSNorm, arXiv 1910.07467).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if is_fusable(x) { fused::rms_norm(x, weight, eps) } else { plain::rms_norm(x, weight, eps) }
}

/// silu(gate) · up (SwiGLU, arXiv 2002.05202).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if is_fusable(gate) { fused::swiglu(gate, up) } else { plain::swiglu(gate, up) }
}

/// Rotary embedding (arXiv 2104.09864) of x (B × H × T × d), halves rotated as Llama's weights expect; cos, sin: (T × d/2).
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    if is_fusable(x) { fused::rope(x, cos, sin) } else { plain::rope(x, cos, sin) }
}

/// Softmax over the last axis of scores (… × T × T), where row i sees columns 0..=i.
pub fn causal_softmax(scores: &Tensor) -> Result<Tensor> {
    if is_fusable(scores) { fused::causal_softmax(scores) } else { plain::causal_softmax(scores) }
}

/// For logits (N × V) and N target ids: the targets' log-probabilities, and the entropies (nats, without gradient).
pub fn log_softmax_gather(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    if is_fusable(logits) {
        fused::log_softmax_gather(logits, targets)
    } else {
        plain::log_softmax_gather(logits, targets)
    }
}

mod plain {
    use super::*;

    pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let scale = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        wide.broadcast_mul(&scale)?.to_dtype(x.dtype())?.broadcast_mul(weight)
    }

    pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        candle_nn::ops::silu(gate)? * up
    }

    pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (left, right) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let new_left = (left.broadcast_mul(cos)? - right.broadcast_mul(sin)?)?;
        let new_right = (right.broadcast_mul(cos)? + left.broadcast_mul(sin)?)?;
        Tensor::cat(&[new_left, new_right], D::Minus1)
    }

    pub fn causal_softmax(scores: &Tensor) -> Result<Tensor> {
        let t = scores.dim(D::Minus1)?;
        let mask: Vec<f32> = (0..t * t).map(|at| if at % t > at / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (t, t), scores.device())?;
        let masked = scores.to_dtype(DType::F32)?.broadcast_add(&mask)?;
        candle_nn::ops::softmax(&masked, D::Minus1)?.to_dtype(scores.dtype())
    }

    pub fn log_softmax_gather(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
        let log_probs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
        let picked = log_probs.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
        let flat = log_probs.detach();
        let entropy = (flat.exp()? * flat)?.sum(D::Minus1)?.neg()?;
        Ok((picked, entropy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn random(shape: &[usize], seed: u64) -> Var {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-2.0f32..2.0)).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Values and the gradient of a random projection agree between two ways to compute the same thing.
    fn check(inputs: &[&Var], one: impl Fn() -> Result<Tensor>, other: impl Fn() -> Result<Tensor>) {
        let (x, y) = (one().unwrap(), other().unwrap());
        assert_close(&x, &y);
        let probe = random(x.dims(), 99);
        let grads = |out: &Tensor| (out * probe.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let (grads_x, grads_y) = (grads(&x), grads(&y));
        for var in inputs {
            assert_close(grads_x.get(var).expect("a gradient"), grads_y.get(var).expect("a gradient"));
        }
    }

    fn assert_close(x: &Tensor, y: &Tensor) {
        assert_eq!(x.dims(), y.dims());
        let difference =
            (x - y).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 2e-5, "differ by {difference}");
    }

    #[test]
    fn fused_rms_norm_is_the_plain_one() {
        let (x, w) = (random(&[2, 3, 8], 1), random(&[8], 2));
        check(&[&x, &w], || fused::rms_norm(&x, &w, 1e-5), || plain::rms_norm(&x, &w, 1e-5));
    }

    #[test]
    fn fused_swiglu_is_the_plain_one() {
        let (gate, up) = (random(&[3, 5], 3), random(&[3, 5], 4));
        check(&[&gate, &up], || fused::swiglu(&gate, &up), || plain::swiglu(&gate, &up));
    }

    #[test]
    fn fused_rope_is_the_plain_one() {
        let x = random(&[2, 3, 4, 6], 5);
        let (cos, sin) = (random(&[4, 3], 6).detach(), random(&[4, 3], 7).detach());
        check(&[&x], || fused::rope(&x, &cos, &sin), || plain::rope(&x, &cos, &sin));
    }

    #[test]
    fn fused_causal_softmax_is_the_plain_one() {
        let x = random(&[2, 2, 5, 5], 8);
        check(&[&x], || fused::causal_softmax(&x), || plain::causal_softmax(&x));
    }

    #[test]
    fn fused_log_softmax_is_the_plain_one() {
        let x = random(&[4, 7], 9);
        let targets = Tensor::new(&[0u32, 6, 3, 3], &Device::Cpu).unwrap();
        check(
            &[&x],
            || Ok(fused::log_softmax_gather(&x, &targets)?.0),
            || Ok(plain::log_softmax_gather(&x, &targets)?.0),
        );
        let entropies = [fused::log_softmax_gather(&x, &targets), plain::log_softmax_gather(&x, &targets)];
        let [a, b] = entropies.map(|pair| pair.unwrap().1);
        assert_close(&a, &b);
    }
}

//! Differentiable building blocks that candle has no backward for.
//!
//! Each has a plain composition of candle's operators, which runs anywhere, and for f32 on a CPU one fused pass forward and
//! one backward (`ops/fused.rs`): candle's element-wise operators each allocate and walk the whole tensor. A test
//! holds the two against each other, values and gradients.

mod attention;
mod explicit;
mod fused;
mod plain;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

pub use engine::decoder::Heads;

pub use self::plain::attention::{Blocks, SCORES};
pub use self::plain::head::LOGITS as PLAIN_LOGITS;
use super::packed::Segment;

/// Logits that one fused head keeps in memory at a time.
pub const LOGITS: usize = 4 << 20;

/// A low-rank update of a linear layer: scale·B·A.
#[derive(Clone, Copy)]
pub struct Delta<'a> {
    /// r × in.
    pub a: &'a Tensor,
    /// out × r.
    pub b: &'a Tensor,
    pub scale: f64,
}

/// Whether entropies pass a gradient on: where no loss needs it, it is not computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entropy {
    Detached,
    WithGradient,
}

impl Entropy {
    /// How many derivatives of a head's two values are needed to pass gradients on to `x`.
    fn slopes(self, x: &Tensor) -> usize {
        match (x.track_op(), self) {
            (false, _) => 0,
            (true, Self::Detached) => 1,
            (true, Self::WithGradient) => 2,
        }
    }
}

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operators {
    /// f32 on a CPU.
    Fused,
    /// Anything, anywhere.
    Plain,
}

/// Who attends to whom in a micro-batch, as the operators take it.
#[derive(Clone)]
pub enum Attention {
    Fused(Heads, Arc<[Segment]>),
    Plain(Arc<Blocks>),
}

impl Attention {
    /// softmax(q·kᵀ/√d)·v for each head, where each row sees what its segment says. q (N × H·d), k and v (N × K·d).
    pub fn apply(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused(heads, segments) => fused::attention(q, k, v, *heads, segments),
            Self::Plain(blocks) => blocks.attention(q, k, v),
        }
    }
}

impl Operators {
    /// The fastest for activations like `x`.
    pub fn of(x: &Tensor) -> Self {
        if x.device().is_cpu() && x.dtype() == DType::F32 { Self::Fused } else { Self::Plain }
    }

    /// x / rms(x) · weight over the last axis (RMSNorm, arXiv 1910.07467).
    pub fn rms_norm(self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        match self {
            Self::Fused => fused::rms_norm(x, weight, eps),
            Self::Plain => plain::rms_norm(x, weight, eps),
        }
    }

    /// silu(gate) · up (SwiGLU, arXiv 2002.05202).
    pub fn swiglu(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => fused::swiglu(gate, up),
            Self::Plain => plain::swiglu(gate, up),
        }
    }

    /// Rotary embedding (arXiv 2104.09864) of x (N × heads·d), halves of each head rotated as Llama's weights expect;
    /// cos, sin: (N × d/2) in f32.
    pub fn rope(self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => fused::rope(x, cos, sin),
            Self::Plain => plain::rope(x, cos, sin),
        }
    }

    /// Lays out who attends to whom.
    pub fn attention(self, heads: Heads, segments: Arc<[Segment]>, device: &Device) -> Result<Attention> {
        match self {
            Self::Fused if heads.dim.is_multiple_of(engine::kernels::LANES) => Ok(Attention::Fused(heads, segments)),
            _ => Ok(Attention::Plain(Arc::new(Blocks::new(segments, heads, SCORES, device)?))),
        }
    }

    /// x·Wᵀ + b + scale·(x·Aᵀ)·Bᵀ for x (N × in). A weight that is not a variable, or has an update, gets no gradient.
    pub fn linear(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: Option<Delta>) -> Result<Tensor> {
        match self {
            Self::Fused if !weight.is_variable() => fused::linear(x, weight, bias, delta),
            _ => plain::linear(x, weight, bias, delta),
        }
    }

    /// For hidden states (N × D), a head W (V × D) and N target ids: their `ln softmax(x·Wᵀ/T)`, and the entropies in nats,
    /// in f32. Where W is a variable on a CPU, entropies never have a gradient.
    pub fn head_log_probs(
        self,
        x: &Tensor,
        weight: &Tensor,
        targets: &Tensor,
        temperature: f64,
        entropy: Entropy,
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Fused if !weight.is_variable() => fused::head_log_probs(x, weight, targets, temperature, entropy),
            Self::Fused => fused::log_softmax_gather(&plain::head::scaled_logits(x, weight, temperature)?, targets),
            Self::Plain => plain::head::log_probs(x, weight, targets, temperature, entropy, PLAIN_LOGITS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed::Packed;
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
        let x = random(&[5, 12], 5);
        let (cos, sin) = (random(&[5, 3], 6).detach(), random(&[5, 3], 7).detach());
        check(&[&x], || fused::rope(&x, &cos, &sin), || plain::rope(&x, &cos, &sin));
    }

    /// Lengths around and beyond the sizes of a block; a prompt of two completions, and a sequence by itself.
    #[test]
    fn fused_attention_is_the_plain_one() {
        for (prompt, completions, alone) in [(1, [1, 2], 3), (17, [5, 60], 49), (70, [130, 1], 16)] {
            let mut packed = Packed::default();
            let prefix = packed.push(&vec![0; prompt]);
            for len in completions {
                packed.push_after(&prefix, &vec![0; len]);
            }
            packed.push(&vec![0; alone]);
            let (n, segments): (_, Arc<[Segment]>) = (packed.tokens.len(), packed.segments.into());
            for heads in [Heads { query: 4, key_value: 2, dim: 16 }, Heads { query: 2, key_value: 2, dim: 32 }] {
                let q = random(&[n, heads.query_width()], 20);
                let (k, v) = (random(&[n, heads.key_value_width()], 21), random(&[n, heads.key_value_width()], 22));
                let fused = || fused::attention(&q, &k, &v, heads, &segments);
                // Blocks of one query, of some, and of whole segments.
                for most in [1, 1000, usize::MAX] {
                    let blocks = Arc::new(Blocks::new(Arc::clone(&segments), heads, most, &Device::Cpu).unwrap());
                    check(&[&q, &k, &v], fused, || blocks.attention(&q, &k, &v));
                }
            }
        }
    }

    #[test]
    fn fused_linear_is_the_plain_one() {
        let (x, weight, bias) = (random(&[7, 6], 30), random(&[5, 6], 31).detach(), random(&[5], 32).detach());
        let (a, b) = (random(&[2, 6], 33), random(&[5, 2], 34));
        let delta = || Some(Delta { a: &a, b: &b, scale: 0.7 });
        check(
            &[&x, &a, &b],
            || fused::linear(&x, &weight, Some(&bias), delta()),
            || plain::linear(&x, &weight, Some(&bias), delta()),
        );
        check(&[&x], || fused::linear(&x, &weight, None, None), || plain::linear(&x, &weight, None, None));
    }

    /// Both outputs, log-probabilities and entropies, pass their gradients on.
    #[test]
    fn the_fused_head_is_the_plain_one() {
        let (x, weight) = (random(&[4, 6], 40), random(&[9, 6], 41).detach());
        let targets = Tensor::new(&[0u32, 8, 3, 3], &Device::Cpu).unwrap();
        let both = |(log_probs, entropy): (Tensor, Tensor)| Tensor::cat(&[log_probs, entropy], 0);
        let plain = || {
            let logits = (plain::linear(&x, &weight, None, None)? * (1.0 / 0.8))?;
            both(plain::head::log_softmax_gather(&logits, &targets)?)
        };
        check(&[&x], || both(fused::head_log_probs(&x, &weight, &targets, 0.8, Entropy::WithGradient)?), plain);
        // Three rows of nine logits at a time, and all at once.
        for most in [27, usize::MAX] {
            let head = || plain::head::log_probs(&x, &weight, &targets, 0.8, Entropy::WithGradient, most);
            check(&[&x], || both(head()?), plain);
            let detached = || plain::head::log_probs(&x, &weight, &targets, 0.8, Entropy::Detached, most);
            check(
                &[&x],
                || Ok(detached()?.0),
                || {
                    Ok(plain::head::log_softmax_gather(
                        &((plain::linear(&x, &weight, None, None)? * (1.0 / 0.8))?),
                        &targets,
                    )?
                    .0)
                },
            );
        }
    }

    /// Shapes of heads that the fused attention does not take: a width of 8, and a single key-value head.
    #[test]
    fn blocks_of_any_height_give_the_same() {
        let mut packed = Packed::default();
        let prefix = packed.push(&[0; 7]);
        for len in [9, 1, 4] {
            packed.push_after(&prefix, &vec![0; len]);
        }
        packed.push(&[0; 5]);
        let segments: Arc<[Segment]> = packed.segments.into();
        for heads in [Heads { query: 3, key_value: 1, dim: 8 }, Heads { query: 6, key_value: 2, dim: 2 }] {
            let q = random(&[26, heads.query_width()], 50);
            let (k, v) = (random(&[26, heads.key_value_width()], 51), random(&[26, heads.key_value_width()], 52));
            let blocks = |most| Arc::new(Blocks::new(Arc::clone(&segments), heads, most, &Device::Cpu).unwrap());
            let (small, large) = (blocks(3 * 16 * heads.query), blocks(usize::MAX));
            check(&[&q, &k, &v], || small.attention(&q, &k, &v), || large.attention(&q, &k, &v));
        }
    }

    #[test]
    fn fused_log_softmax_is_the_plain_one() {
        let x = random(&[4, 7], 9);
        let targets = Tensor::new(&[0u32, 6, 3, 3], &Device::Cpu).unwrap();
        check(
            &[&x],
            || Ok(fused::log_softmax_gather(&x, &targets)?.0),
            || Ok(plain::head::log_softmax_gather(&x, &targets)?.0),
        );
        let entropies = [fused::log_softmax_gather(&x, &targets), plain::head::log_softmax_gather(&x, &targets)];
        let [a, b] = entropies.map(|pair| pair.unwrap().1);
        assert_close(&a, &b);
    }
}

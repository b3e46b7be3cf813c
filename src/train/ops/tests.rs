//! Fused and plain operators agree, in values and gradients.

use candle_core::{Device, Var};

use super::*;
use crate::train::packed::Packed;

fn random(shape: &[usize], seed: u64) -> Var {
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-2.0f32..2.0)).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// Two ways to compute the same tensor agree in its values and in the gradient of a random projection.
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
    let difference = (x - y).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(difference < 2e-5, "differ by {difference}");
}

#[test]
fn fused_rms_norm_equals_plain() {
    let (x, w) = (random(&[2, 3, 8], 1), random(&[8], 2));
    check(&[&x, &w], || fused::rms_norm(&x, &w, 1e-5), || plain::rms_norm(&x, &w, 1e-5));
}

#[test]
fn fused_swiglu_equals_plain() {
    let (gate, up) = (random(&[3, 5], 3), random(&[3, 5], 4));
    check(&[&gate, &up], || fused::swiglu(&gate, &up), || plain::swiglu(&gate, &up));
}

#[test]
fn fused_rope_equals_plain() {
    let x = random(&[5, 12], 5);
    let (cos, sin) = (random(&[5, 3], 6).detach(), random(&[5, 3], 7).detach());
    check(&[&x], || fused::rope(&x, &cos, &sin), || plain::rope(&x, &cos, &sin));
}

/// Lengths below and above the size of a block: a prompt with two completions, and a sequence without a prompt. Windows of
/// one token, of less and more than a block, of the longest sequence, and none.
#[test]
fn fused_attention_equals_plain() {
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
            for window in [None, Some(1), Some(7), Some(64), Some(90), Some(200)] {
                let fused = || fused::attention(&q, &k, &v, heads, &segments, window);
                // Blocks of one query, of several, and of whole segments.
                for max_scores in [1, 1000, usize::MAX] {
                    let blocks = BlockedAttention::new(Arc::clone(&segments), heads, max_scores, &Device::Cpu).unwrap();
                    let blocks = Arc::new(blocks);
                    check(&[&q, &k, &v], fused, || blocks.attention(&q, &k, &v, window));
                }
                check(&[&q], fused, || by_definition(&q, &k, &v, heads, &segments, window));
            }
        }
    }
}

/// Attention with each row's softmax written out.
fn by_definition(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    segments: &[Segment],
    window: Option<usize>,
) -> Result<Tensor> {
    let mut rows = Vec::new();
    for segment in segments {
        for index in segment.prefix.len()..segment.keys() {
            let seen = (0..=index).filter(|key| window.is_none_or(|window| index - key < window));
            let seen: Vec<u32> = seen.map(|key| segment.row(key) as u32).collect();
            let seen = Tensor::new(seen, q.device())?;
            let head = |head: usize| {
                let of = |x: &Tensor, head: usize| x.narrow(1, head * heads.dim, heads.dim);
                let [k, v] = [k, v].map(|x| of(x, head / heads.group())?.contiguous()?.index_select(&seen, 0));
                let scores = (of(q, head)?.narrow(0, segment.row(index), 1)?.matmul(&k?.t()?)?
                    * (1.0 / (heads.dim as f64).sqrt()))?;
                candle_nn::ops::softmax(&scores, 1)?.matmul(&v?)
            };
            rows.push(Tensor::cat(&(0..heads.query).map(head).collect::<Result<Vec<_>>>()?, 1)?);
        }
    }
    Tensor::cat(&rows, 0)
}

#[test]
fn fused_linear_equals_plain() {
    let (x, weight, bias) = (random(&[7, 6], 30), random(&[5, 6], 31).detach(), random(&[5], 32).detach());
    let (a, b) = (random(&[2, 6], 33), random(&[5, 2], 34));
    let delta = || Some(LoraDelta { a: &a, b: &b, scale: 0.7 });
    check(
        &[&x, &a, &b],
        || fused::linear(&x, &weight, Some(&bias), delta()),
        || plain::linear(&x, &weight, Some(&bias), delta()),
    );
    check(&[&x], || fused::linear(&x, &weight, None, None), || plain::linear(&x, &weight, None, None));
}

/// Both outputs, log-probabilities and entropies, have a gradient.
#[test]
fn fused_head_equals_plain() {
    let (x, weight) = (random(&[4, 6], 40), random(&[9, 6], 41).detach());
    let targets = Tensor::new(&[0u32, 8, 3, 3], &Device::Cpu).unwrap();
    let both = |(log_probs, entropy): (Tensor, Tensor)| Tensor::cat(&[log_probs, entropy], 0);
    let plain = || {
        let logits = (plain::linear(&x, &weight, None, None)? * (1.0 / 0.8))?;
        both(plain::head::log_softmax_gather(&logits, &targets)?)
    };
    check(&[&x], || both(fused::head_log_probs(&x, &weight, &targets, 0.8, Entropy::WithGradient)?), plain);
    // Three rows of nine logits at a time, and all rows at once.
    for max_logits in [27, usize::MAX] {
        let head = || plain::head::log_probs(&x, &weight, &targets, 0.8, Entropy::WithGradient, max_logits);
        check(&[&x], || both(head()?), plain);
        let detached = || plain::head::log_probs(&x, &weight, &targets, 0.8, Entropy::Detached, max_logits);
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

/// Head shapes that fused attention does not support, with widths of 8 and 2.
#[test]
fn blocks_of_any_height_agree() {
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
        let blocks = |max_scores| {
            Arc::new(BlockedAttention::new(Arc::clone(&segments), heads, max_scores, &Device::Cpu).unwrap())
        };
        let (small, large) = (blocks(3 * 16 * heads.query), blocks(usize::MAX));
        for window in [None, Some(3), Some(16)] {
            let attention = |blocks: &Arc<BlockedAttention>| blocks.attention(&q, &k, &v, window);
            check(&[&q, &k, &v], || attention(&small), || attention(&large));
        }
    }
}

#[test]
fn fused_log_softmax_equals_plain() {
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

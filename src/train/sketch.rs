//! A short sketch of a gradient. The inner product of two sketches is that of the gradients, in expectation.
//!
//! A count sketch (Charikar, Chen and Farach-Colton, 2002; as a projection: feature hashing, arXiv 0902.2206): each entry of the gradient
//! has a random sign and is added to a random one of [`DIM`] numbers, the same at every step. The cosine of two gradients is kept to
//! within about 1/√DIM.

use candle_core::{DType, Result};

use super::optim::NamedGrads;
use crate::seed::mix_seed;

/// Numbers of a sketch.
pub const DIM: usize = 128;

/// The sketch of a gradient over all its variables.
pub fn sketch(grads: &NamedGrads) -> Result<Vec<f32>> {
    let mut sums = [0.0; DIM];
    for (name, grad) in grads {
        let seed = name.bytes().fold(0, |seed, byte| mix_seed(seed, u64::from(byte)));
        let values: Vec<f32> = grad.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        for (index, value) in (0..).zip(values) {
            let random = mix_seed(seed, index);
            let sign = if random & 1 == 0 { 1.0 } else { -1.0 };
            sums[(random >> 32) as usize % DIM] += sign * f64::from(value);
        }
    }
    Ok(sums.iter().map(|sum| *sum as f32).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
    }

    /// Two gradients of 4,000 numbers in two variables, whose cosine is chosen. The error of a sketch's is about 1/√128 = 0.09.
    #[test]
    fn cosines_are_kept() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut random = || -> Vec<f32> { (0..4000).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let grads = |values: &[f32]| -> NamedGrads {
            let tensor =
                |part: &[f32], rows| Tensor::from_slice(part, (rows, part.len() / rows), &Device::Cpu).unwrap();
            [("a".into(), tensor(&values[..1000], 10)), ("b".into(), tensor(&values[1000..], 50))].into()
        };
        let (one, other) = (random(), random());
        for share in [0.0f32, 0.5, 1.0] {
            let mixed: Vec<f32> =
                one.iter().zip(&other).map(|(a, b)| share * a + (1.0 - share * share).sqrt() * b).collect();
            let cosine = |a: &[f32], b: &[f32]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            let sketches = [&one, &mixed].map(|it| sketch(&grads(it)).unwrap());
            let (found, expected) = (cosine(&sketches[0], &sketches[1]), cosine(&one, &mixed));
            assert!((found - expected).abs() < 0.2, "{found}, not {expected}");
        }
        // A sum of gradients has the sum of the sketches.
        let sum: Vec<f32> = one.iter().zip(&other).map(|(a, b)| a + b).collect();
        let [a, b, both] = [&one, &other, &sum].map(|it| sketch(&grads(it)).unwrap());
        assert!(a.iter().zip(&b).zip(&both).all(|((a, b), both)| (a + b - both).abs() < 1e-3));
    }
}

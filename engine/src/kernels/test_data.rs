//! Inputs for the kernels' tests.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Uniform on [−1, 1).
pub fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

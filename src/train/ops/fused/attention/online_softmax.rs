//! The softmax of some queries, one key block after the other.

use engine::kernels::{LANES, Split, matmul};
use engine::math::{exp, max};

use super::key_block::KeyBlock;

/// The attention of some queries over the key blocks so far. Sums are relative to the largest score so far.
pub struct OnlineSoftmax {
    d: usize,
    /// The largest score of each query.
    max: Vec<f32>,
    /// Σ e^(score − max) of each query.
    sum: Vec<f32>,
    /// Σ e^(score − max)·v, (queries × d).
    mixed: Vec<f32>,
}

impl OnlineSoftmax {
    pub fn new(queries: usize, d: usize) -> Self {
        Self { d, max: vec![f32::NEG_INFINITY; queries], sum: vec![0.0; queries], mixed: vec![0.0; queries * d] }
    }

    /// Adds the scores (queries × padded) of a block. `position` is the first query's index in its sequence.
    pub fn add(&mut self, scores: &mut [f32], block: &KeyBlock, position: usize, window: Option<usize>) {
        let Self { d, max: maxima, sum: sums, mixed } = self;
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (i, row) in scores.chunks_exact_mut(block.padded).enumerate() {
                    block.mask(row, position + i, window);
                    let largest = max(row).max(maxima[i]);
                    // The query's window begins after this block. −∞ − (−∞) below would be NaN.
                    if largest == f32::NEG_INFINITY {
                        row.fill(0.0);
                        continue;
                    }
                    let shrink = exp(maxima[i] - largest);
                    maxima[i] = largest;
                    let mut lanes = [0.0f32; LANES];
                    for chunk in row.chunks_exact_mut(LANES) {
                        for (lane, x) in lanes.iter_mut().zip(chunk) {
                            *x = exp(*x - largest);
                            *lane += *x;
                        }
                    }
                    sums[i] = sums[i] * shrink + lanes.iter().sum::<f32>();
                    mixed[i * *d..][..*d].iter_mut().for_each(|x| *x *= shrink);
                }
            },
        );
        matmul(mixed, scores, &block.v, *d, true, Split::Alone);
    }

    /// Writes the output of query `i` and returns its ln Σ e^score.
    pub fn finish(&self, i: usize, out: &mut [f32]) -> f32 {
        out.iter_mut().zip(&self.mixed[i * self.d..]).for_each(|(out, mixed)| *out = mixed / self.sum[i]);
        self.max[i] + self.sum[i].ln()
    }
}

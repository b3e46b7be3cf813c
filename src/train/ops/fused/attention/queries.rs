//! The backward over the key blocks of some queries.

use engine::kernels::{Split, matmul};
use engine::math::exp;

use super::key_block::{KeyBlock, transpose};

/// Some queries of one head; each matrix is (queries × d).
pub struct Queries {
    /// Scaled by 1/√d.
    pub q: Vec<f32>,
    pub grad: Vec<f32>,
    pub out: Vec<f32>,
    /// ln Σ e^score of each query.
    pub log_sums: Vec<f32>,
    /// The first query's index in its sequence.
    pub position: usize,
    pub window: Option<usize>,
    pub d: usize,
}

impl Queries {
    /// Adds the gradients that come from one key block. `dq` is of the scaled queries.
    pub fn backward(&self, block: &KeyBlock, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let (d, width) = (self.d, block.padded);
        let size = self.log_sums.len() * width;
        let (mut p, mut ds) = (vec![0.0; size], vec![0.0; size]);
        matmul(&mut p, &self.q, &block.kt, width, false, Split::Alone);
        matmul(&mut ds, &self.grad, &block.vt, width, false, Split::Alone);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (i, (p, ds)) in p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).enumerate() {
                    block.mask(p, self.position + i, self.window);
                    let row = i * d..(i + 1) * d;
                    let dot: f32 = self.grad[row.clone()].iter().zip(&self.out[row]).map(|(g, o)| g * o).sum();
                    for (p, ds) in p.iter_mut().zip(ds) {
                        *p = exp(*p - self.log_sums[i]);
                        *ds = *p * (*ds - dot);
                    }
                }
            },
        );
        matmul(dq, &ds, &block.k, d, true, Split::Alone);
        matmul(dv, &transpose(&p, width)[..block.len * self.log_sums.len()], &self.grad, d, true, Split::Alone);
        matmul(dk, &transpose(&ds, width)[..block.len * self.log_sums.len()], &self.q, d, true, Split::Alone);
    }
}

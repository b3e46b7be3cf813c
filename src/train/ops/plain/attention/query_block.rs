//! The attention weights of one block of queries.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use engine::decoder::Heads;

/// R consecutive queries of a segment, for all heads.
pub struct QueryBlock {
    /// Row of the first query.
    pub start: usize,
    /// R.
    pub rows: usize,
    /// The keys that some of the queries attend to, S of them.
    pub keys: Range<usize>,
    pub heads: Heads,
    /// The block's first column of the mask.
    pub mask_start: usize,
}

impl QueryBlock {
    /// Of keys or values (K × T × d), those that the block attends to (K × S × d).
    pub fn seen(&self, x: &Tensor) -> Result<Tensor> {
        x.narrow(1, self.keys.start, self.keys.len())
    }

    /// softmax(q·kᵀ/√d) in f32, (K × H/K·R × S).
    pub fn weights(&self, q: &Tensor, k: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let scores = (q.matmul(&self.seen(k)?.t()?)?.to_dtype(DType::F32)? * scale(self.heads))?;
        let hidden = mask.narrow(0, 0, self.rows)?.narrow(1, self.mask_start, self.keys.len())?;
        let masked = scores.reshape((self.heads.query, self.rows, self.keys.len()))?.broadcast_add(&hidden)?;
        candle_nn::ops::softmax_last_dim(&masked)?.reshape(scores.shape())
    }
}

/// 1/√d.
pub fn scale(heads: Heads) -> f64 {
    1.0 / (heads.dim as f64).sqrt()
}

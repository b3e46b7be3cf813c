//! Attention of one key-value head, forward and backward.

use std::ops::Range;

use engine::decoder::{Heads, first_seen};
use engine::kernels::{LANES, Split, matmul};

use super::key_block::{KeyBlock, transpose};
use super::online_softmax::OnlineSoftmax;
use super::queries::Queries;
use crate::train::packed::Segment;

/// Queries and keys of a block.
const QUERIES: usize = 48;
const KEYS: usize = 64;

/// The forward's result for one key-value head: (N × H/K·d) and (N × H/K).
pub type HeadOut = (Vec<f32>, Vec<f32>);
/// The backward's result for one key-value head: dq (N × H/K·d), dk and dv (N × d).
pub type HeadGrads = (Vec<f32>, Vec<f32>, Vec<f32>);

/// The values of q (N × H·d), k and v (N × K·d).
#[derive(Clone, Copy)]
pub struct QkvSlices<'a> {
    pub heads: Heads,
    pub window: Option<usize>,
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

impl QkvSlices<'_> {
    /// N.
    pub fn rows(&self) -> usize {
        self.q.len() / self.heads.query_width()
    }

    /// The keys and values that a segment's rows attend to, in blocks.
    fn key_blocks(&self, head: usize, segment: &Segment) -> Vec<KeyBlock> {
        let d = self.heads.dim;
        let block = |start: usize| {
            let len = KEYS.min(segment.keys() - start);
            let padded = len.next_multiple_of(LANES);
            let gather_keys = |source: &[f32]| {
                let mut rows = Vec::with_capacity(padded * d);
                for index in start..start + len {
                    let at = segment.row(index) * self.heads.key_value_width() + head * d;
                    rows.extend_from_slice(&source[at..at + d]);
                }
                rows.resize(padded * d, 0.0);
                rows
            };
            let (k, v) = (gather_keys(self.k), gather_keys(self.v));
            let (kt, vt) = (transpose(&k, d), transpose(&v, d));
            KeyBlock { start, len, padded, k, v, kt, vt }
        };
        (0..segment.keys()).step_by(KEYS).map(block).collect()
    }

    /// The key blocks that queries at `positions` of their sequence attend to.
    fn seen(&self, positions: Range<usize>) -> Range<usize> {
        first_seen(positions.start, self.window) / KEYS..positions.end.div_ceil(KEYS)
    }

    /// Some rows of one query head of (N × H·d), times `factor`.
    fn gather(&self, source: &[f32], rows: Range<usize>, head: usize, factor: f32) -> Vec<f32> {
        let (d, width) = (self.heads.dim, self.heads.query_width());
        rows.flat_map(|row| &source[row * width + head * d..][..d]).map(|x| x * factor).collect()
    }

    /// 1/√d.
    fn scale(&self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }

    /// Attention of the query heads that share key-value head `kv_head`.
    pub fn forward(&self, kv_head: usize, segments: &[Segment]) -> HeadOut {
        let (d, group, n) = (self.heads.dim, self.heads.group(), self.rows());
        let (mut out, mut log_sums) = (vec![0.0; n * group * d], vec![0.0; n * group]);
        let mut scores = Vec::new();
        for segment in segments {
            let blocks = self.key_blocks(kv_head, segment);
            for member in 0..group {
                for start in segment.rows.clone().step_by(QUERIES) {
                    let rows = start..segment.rows.end.min(start + QUERIES);
                    let position = segment.prefix.len() + start - segment.rows.start;
                    let q = self.gather(self.q, rows.clone(), kv_head * group + member, self.scale());
                    let mut running = OnlineSoftmax::new(rows.len(), d);
                    for block in &blocks[self.seen(position..position + rows.len())] {
                        scores.resize(rows.len() * block.padded, 0.0);
                        matmul(&mut scores, &q, &block.kt, block.padded, false, Split::Alone);
                        running.add(&mut scores, block, position, self.window);
                    }
                    for (i, row) in rows.enumerate() {
                        let at = row * group + member;
                        log_sums[at] = running.finish(i, &mut out[at * d..][..d]);
                    }
                }
            }
        }
        (out, log_sums)
    }

    /// The gradients of those heads. With P = softmax(S): dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − Σ dO ∘ O), dQ = dS·K, dK = dSᵀ·Q.
    pub fn backward(
        &self,
        kv_head: usize,
        segments: &[Segment],
        log_sums: &[f32],
        out: &[f32],
        grad: &[f32],
    ) -> HeadGrads {
        let (d, group, n) = (self.heads.dim, self.heads.group(), self.rows());
        let (mut dq, mut dk, mut dv) = (vec![0.0; n * group * d], vec![0.0; n * d], vec![0.0; n * d]);
        for segment in segments {
            let blocks = self.key_blocks(kv_head, segment);
            let mut key_grads: Vec<_> =
                blocks.iter().map(|block| (vec![0.0f32; block.len * d], vec![0.0f32; block.len * d])).collect();
            for member in 0..group {
                let head = kv_head * group + member;
                for start in segment.rows.clone().step_by(QUERIES) {
                    let rows = start..segment.rows.end.min(start + QUERIES);
                    let position = segment.prefix.len() + start - segment.rows.start;
                    let queries = Queries {
                        q: self.gather(self.q, rows.clone(), head, self.scale()),
                        grad: self.gather(grad, rows.clone(), head, 1.0),
                        out: self.gather(out, rows.clone(), head, 1.0),
                        log_sums: rows.clone().map(|row| log_sums[row * group + member]).collect(),
                        position,
                        window: self.window,
                        d,
                    };
                    let mut dq_rows = vec![0.0; rows.len() * d];
                    let seen = self.seen(position..position + rows.len());
                    for (block, (dk, dv)) in blocks[seen.clone()].iter().zip(&mut key_grads[seen]) {
                        queries.backward(block, &mut dq_rows, dk, dv);
                    }
                    for (row, values) in rows.zip(dq_rows.chunks_exact(d)) {
                        let target = &mut dq[(row * group + member) * d..][..d];
                        target.iter_mut().zip(values).for_each(|(dq, value)| *dq = value * self.scale());
                    }
                }
            }
            for (block, (block_dk, block_dv)) in blocks.iter().zip(key_grads) {
                add_key_rows(&mut dk, &block_dk, segment, block.start, d);
                add_key_rows(&mut dv, &block_dv, segment, block.start, d);
            }
        }
        (dq, dk, dv)
    }
}

/// Adds `part`, gradients of the keys from index `start` of a segment's sequence, to the rows of those keys in `sum` (N × d).
fn add_key_rows(sum: &mut [f32], part: &[f32], segment: &Segment, start: usize, d: usize) {
    for (index, part) in part.chunks_exact(d).enumerate() {
        let row = &mut sum[segment.row(start + index) * d..][..d];
        row.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
}

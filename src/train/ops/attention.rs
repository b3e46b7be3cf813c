//! Causal attention over packed sequences on a CPU, in blocks: memory grows with the number of rows, not with its square.
//!
//! Forward and backward follow FlashAttention (arXiv 2205.14135, Algorithms 1 and 4): the softmax is kept as a running
//! maximum and sum, and computed again in the backward from the logarithm of its sum.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use engine::kernels::{LANES, Split, matmul};
use engine::math::{exp, max};
use rayon::prelude::*;

use super::Heads;
use super::fused::{slice, tensor, with_values};
use crate::train::packed::Segment;

/// Queries and keys of a block.
const QUERIES: usize = 48;
const KEYS: usize = 64;

/// Attention of q (N × H·d), k and v (N × K·d).
pub struct Attention {
    pub heads: Heads,
    pub segments: Arc<[Segment]>,
    /// ln Σ e^score for each head and row (K × N × H/K); the forward leaves it for the backward.
    pub log_sums: OnceLock<Vec<f32>>,
}

/// What one key-value head gives in the forward: (N × H/K·d) and (N × H/K).
type HeadOut = (Vec<f32>, Vec<f32>);
/// What it gives in the backward: dq (N × H/K·d), dk and dv (N × d).
type HeadGrads = (Vec<f32>, Vec<f32>, Vec<f32>);

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
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
        let inputs = Inputs { heads: self.heads, q: slice(s1, l1)?, k: slice(s2, l2)?, v: slice(s3, l3)? };
        let each = (0..self.heads.key_value).into_par_iter().map(|head| inputs.forward(head, &self.segments));
        let (outs, sums): (Vec<Vec<f32>>, Vec<Vec<f32>>) = each.collect::<Vec<HeadOut>>().into_iter().unzip();
        // A forward that is run again gives the same sums.
        let _ = self.log_sums.set(sums.concat());
        Ok((CpuStorage::F32(interleave(&outs, inputs.rows())), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let log_sums = self.log_sums.get().expect("the forward came before");
        let grads = with_values([q, k, v, out, grad], |[q_values, k_values, v_values, out, grad]| {
            let inputs = Inputs { heads: self.heads, q: q_values, k: k_values, v: v_values };
            let n = inputs.rows() * self.heads.group();
            let one = |(head, sums): (usize, &[f32])| inputs.backward(head, &self.segments, sums, out, grad);
            let each: Vec<HeadGrads> = log_sums.par_chunks_exact(n).enumerate().map(one).collect();
            let mut all = (Vec::new(), Vec::new(), Vec::new());
            for (dq, dk, dv) in each {
                all.0.push(dq);
                all.1.push(dk);
                all.2.push(dv);
            }
            let join = |parts: Vec<Vec<f32>>| interleave(&parts, inputs.rows());
            (join(all.0), join(all.1), join(all.2))
        })?;
        Ok((Some(tensor(grads.0, q)?), Some(tensor(grads.1, k)?), Some(tensor(grads.2, v)?)))
    }
}

/// Parts (N × w each) side by side: (N × parts·w).
fn interleave(parts: &[Vec<f32>], rows: usize) -> Vec<f32> {
    let width = parts.first().map_or(0, |part| part.len() / rows.max(1));
    let mut out = Vec::with_capacity(rows * width * parts.len());
    for row in 0..rows {
        parts.iter().for_each(|part| out.extend_from_slice(&part[row * width..][..width]));
    }
    out
}

#[derive(Clone, Copy)]
struct Inputs<'a> {
    heads: Heads,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// The keys and values of one block of one head.
struct KeyBlock {
    /// Index of the first key in its sequence.
    start: usize,
    /// Real keys, and that padded to a multiple of [`LANES`].
    len: usize,
    padded: usize,
    /// (padded × d); what is behind the last key is 0.
    k: Vec<f32>,
    v: Vec<f32>,
    /// (d × padded).
    kt: Vec<f32>,
    vt: Vec<f32>,
}

impl KeyBlock {
    /// Hides what a query at `place` of its sequence must not see in its row of scores.
    fn mask(&self, row: &mut [f32], place: usize) {
        let seen = (place + 1).saturating_sub(self.start).min(self.len);
        row[seen..].fill(f32::NEG_INFINITY);
    }
}

impl Inputs<'_> {
    fn rows(&self) -> usize {
        self.q.len() / self.heads.query_width()
    }

    fn key_blocks(&self, head: usize, segment: &Segment) -> Vec<KeyBlock> {
        let d = self.heads.dim;
        let block = |start: usize| {
            let len = KEYS.min(segment.keys() - start);
            let padded = len.next_multiple_of(LANES);
            let gather = |source: &[f32]| {
                let mut rows = Vec::with_capacity(padded * d);
                for index in start..start + len {
                    let at = segment.row(index) * self.heads.key_value_width() + head * d;
                    rows.extend_from_slice(&source[at..at + d]);
                }
                rows.resize(padded * d, 0.0);
                rows
            };
            let (k, v) = (gather(self.k), gather(self.v));
            let (kt, vt) = (transpose(&k, d), transpose(&v, d));
            KeyBlock { start, len, padded, k, v, kt, vt }
        };
        (0..segment.keys()).step_by(KEYS).map(block).collect()
    }

    /// Rows of one query head of (N × H·d), times `factor`.
    fn gather(&self, source: &[f32], rows: std::ops::Range<usize>, head: usize, factor: f32) -> Vec<f32> {
        let (d, width) = (self.heads.dim, self.heads.query_width());
        rows.flat_map(|row| &source[row * width + head * d..][..d]).map(|x| x * factor).collect()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }

    fn forward(&self, kv_head: usize, segments: &[Segment]) -> HeadOut {
        let (d, group, n) = (self.heads.dim, self.heads.group(), self.rows());
        let (mut out, mut log_sums) = (vec![0.0; n * group * d], vec![0.0; n * group]);
        let mut scores = Vec::new();
        for segment in segments {
            let blocks = self.key_blocks(kv_head, segment);
            for member in 0..group {
                for start in segment.rows.clone().step_by(QUERIES) {
                    let rows = start..segment.rows.end.min(start + QUERIES);
                    let place = segment.prefix.len() + start - segment.rows.start;
                    let q = self.gather(self.q, rows.clone(), kv_head * group + member, self.scale());
                    let mut running = Running::new(rows.len(), d);
                    for block in blocks.iter().take_while(|block| block.start < place + rows.len()) {
                        scores.resize(rows.len() * block.padded, 0.0);
                        matmul(&mut scores, &q, &block.kt, block.padded, false, Split::Alone);
                        running.add(&mut scores, block, place);
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

    /// With P = softmax(S): dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − Σ dO ∘ O), dQ = dS·K, dK = dSᵀ·Q.
    fn backward(&self, kv_head: usize, segments: &[Segment], sums: &[f32], out: &[f32], grad: &[f32]) -> HeadGrads {
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
                    let place = segment.prefix.len() + start - segment.rows.start;
                    let queries = Queries {
                        q: self.gather(self.q, rows.clone(), head, self.scale()),
                        grad: self.gather(grad, rows.clone(), head, 1.0),
                        out: self.gather(out, rows.clone(), head, 1.0),
                        sums: rows.clone().map(|row| sums[row * group + member]).collect(),
                        place,
                        d,
                    };
                    let mut dq_rows = vec![0.0; rows.len() * d];
                    let seen = blocks.iter().zip(&mut key_grads);
                    for (block, (dk, dv)) in seen.take_while(|(block, _)| block.start < place + rows.len()) {
                        queries.backward(block, &mut dq_rows, dk, dv);
                    }
                    for (row, values) in rows.zip(dq_rows.chunks_exact(d)) {
                        let target = &mut dq[(row * group + member) * d..][..d];
                        target.iter_mut().zip(values).for_each(|(dq, value)| *dq = value * self.scale());
                    }
                }
            }
            for (block, (block_dk, block_dv)) in blocks.iter().zip(key_grads) {
                for (sum, part) in [(&mut dk, block_dk), (&mut dv, block_dv)] {
                    for (index, part) in part.chunks_exact(d).enumerate() {
                        let row = &mut sum[segment.row(block.start + index) * d..][..d];
                        row.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                    }
                }
            }
        }
        (dq, dk, dv)
    }
}

/// Σ e^score·v of some queries so far, relative to their largest score.
struct Running {
    d: usize,
    max: Vec<f32>,
    sum: Vec<f32>,
    /// (queries × d).
    mixed: Vec<f32>,
}

impl Running {
    fn new(queries: usize, d: usize) -> Self {
        Self { d, max: vec![f32::NEG_INFINITY; queries], sum: vec![0.0; queries], mixed: vec![0.0; queries * d] }
    }

    /// Takes in the scores (queries × padded) of a block; the first query stands at `place` of its sequence.
    fn add(&mut self, scores: &mut [f32], block: &KeyBlock, place: usize) {
        let Self { d, max: maxima, sum: sums, mixed } = self;
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (i, row) in scores.chunks_exact_mut(block.padded).enumerate() {
                    block.mask(row, place + i);
                    let largest = max(row).max(maxima[i]);
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

    /// Writes the mean of the values of query `i`; returns ln Σ e^score.
    fn finish(&self, i: usize, out: &mut [f32]) -> f32 {
        out.iter_mut().zip(&self.mixed[i * self.d..]).for_each(|(out, mixed)| *out = mixed / self.sum[i]);
        self.max[i] + self.sum[i].ln()
    }
}

/// Some queries of one head in the backward; q is scaled, each matrix (queries × d).
struct Queries {
    q: Vec<f32>,
    grad: Vec<f32>,
    out: Vec<f32>,
    sums: Vec<f32>,
    /// Place of the first query in its sequence.
    place: usize,
    d: usize,
}

impl Queries {
    fn backward(&self, block: &KeyBlock, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let (d, width) = (self.d, block.padded);
        let size = self.sums.len() * width;
        let (mut p, mut ds) = (vec![0.0; size], vec![0.0; size]);
        matmul(&mut p, &self.q, &block.kt, width, false, Split::Alone);
        matmul(&mut ds, &self.grad, &block.vt, width, false, Split::Alone);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (i, (p, ds)) in p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).enumerate() {
                    block.mask(p, self.place + i);
                    let row = i * d..(i + 1) * d;
                    let dot: f32 = self.grad[row.clone()].iter().zip(&self.out[row]).map(|(g, o)| g * o).sum();
                    for (p, ds) in p.iter_mut().zip(ds) {
                        *p = exp(*p - self.sums[i]);
                        *ds = *p * (*ds - dot);
                    }
                }
            },
        );
        matmul(dq, &ds, &block.k, d, true, Split::Alone);
        matmul(dv, &transpose(&p, width)[..block.len * self.sums.len()], &self.grad, d, true, Split::Alone);
        matmul(dk, &transpose(&ds, width)[..block.len * self.sums.len()], &self.q, d, true, Split::Alone);
    }
}

/// (rows × cols) → (cols × rows).
fn transpose(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    let mut out = vec![0.0; values.len()];
    for (row, values) in values.chunks_exact(cols).enumerate() {
        values.iter().enumerate().for_each(|(col, value)| out[col * rows + row] = *value);
    }
    out
}

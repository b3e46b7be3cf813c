//! Causal attention over packed sequences, in blocks: memory grows with the number of rows, not with its square.
//!
//! Forward and backward follow FlashAttention (arXiv 2205.14135, Algorithms 1 and 4). The forward keeps the softmax as a
//! running maximum and sum; the backward computes it again from the logarithm of the sum.

mod key_block;
mod online_softmax;
mod qkv;
mod queries;

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use engine::decoder::Heads;
use rayon::prelude::*;

use self::qkv::{HeadGrads, HeadOut, QkvSlices};
use super::values::{slice, tensor, with_values};
use crate::train::packed::Segment;

pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    segments: &Arc<[Segment]>,
    window: Option<usize>,
) -> Result<Tensor> {
    let op = FusedAttention { heads, segments: Arc::clone(segments), window, log_sums: OnceLock::new() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// Attention of q (N × H·d), k and v (N × K·d).
struct FusedAttention {
    heads: Heads,
    segments: Arc<[Segment]>,
    window: Option<usize>,
    /// ln Σ e^score for each head and row (K × N × H/K). The forward sets them for the backward.
    log_sums: OnceLock<Vec<f32>>,
}

impl CustomOp3 for FusedAttention {
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
        let (heads, window) = (self.heads, self.window);
        let inputs = QkvSlices { heads, window, q: slice(s1, l1)?, k: slice(s2, l2)?, v: slice(s3, l3)? };
        let each = (0..self.heads.key_value).into_par_iter().map(|head| inputs.forward(head, &self.segments));
        let (outs, sums): (Vec<Vec<f32>>, Vec<Vec<f32>>) = each.collect::<Vec<HeadOut>>().into_iter().unzip();
        // If they are set already, they are the same: the forward is deterministic.
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
        let log_sums = self.log_sums.get().expect("the forward runs first");
        let grads = with_values([q, k, v, out, grad], |[q_values, k_values, v_values, out, grad]| {
            let (heads, window) = (self.heads, self.window);
            let inputs = QkvSlices { heads, window, q: q_values, k: k_values, v: v_values };
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

/// Joins parts (N × w each) along the second axis: (N × parts·w).
fn interleave(parts: &[Vec<f32>], rows: usize) -> Vec<f32> {
    let width = parts.first().map_or(0, |part| part.len() / rows.max(1));
    let mut out = Vec::with_capacity(rows * width * parts.len());
    for row in 0..rows {
        parts.iter().for_each(|part| out.extend_from_slice(&part[row * width..][..width]));
    }
    out
}

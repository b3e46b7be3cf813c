//! Causal attention over packed sequences in blocks of queries, for any device. Only one block's scores are in memory at a
//! time, forward and backward.
//!
//! The graph keeps the inputs and the value. The backward computes each block's weights again, following FlashAttention
//! (arXiv 2205.14135, Algorithm 4). A block contains all keys of its queries, so no running maximum is needed. Query heads
//! that share a key-value head are stacked as rows of one product, so keys are never repeated.
//!
//! Axes: R queries of a block, S keys that they attend to, T keys of a segment.

mod key_grads;
mod query_block;

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};
use engine::decoder::{Heads, first_seen};

use self::key_grads::{KeyGrads, add_part};
use self::query_block::{QueryBlock, scale};
use crate::train::ops::explicit;
use crate::train::packed::Segment;

/// A block has at most this many scores over all heads, or those of one query.
pub const PLAIN_SCORES: usize = 32 << 20;

/// Which rows of a micro-batch attend to which, and how it is cut into blocks.
pub struct BlockedAttention {
    heads: Heads,
    segments: Arc<[Segment]>,
    /// Largest number of queries of a block.
    height: usize,
    /// Largest number of keys of a segment.
    longest: usize,
    /// 0, 1, … (longest + height) in f32.
    positions: Tensor,
    #[cfg(feature = "flash-attn")]
    flash: Option<super::flash::Varlen>,
}

impl BlockedAttention {
    /// Blocks of at most `max_scores` scores. Everything the device needs is sent to it here, not while it computes.
    pub fn new(segments: Arc<[Segment]>, heads: Heads, max_scores: usize, device: &Device) -> Result<Self> {
        let longest = segments.iter().map(Segment::keys).max().unwrap_or(1);
        let rows = segments.iter().map(|segment| segment.rows.len()).max().unwrap_or(1);
        let height = (max_scores / (heads.query * longest)).clamp(1, rows);
        let positions = Tensor::arange(0.0, (longest + height) as f32, device)?;
        Ok(Self {
            #[cfg(feature = "flash-attn")]
            flash: super::flash::Varlen::new(&segments, heads, device)?,
            heads,
            segments,
            height,
            longest,
            positions,
        })
    }

    /// softmax(q·kᵀ/√d)·v over each row's context, or over the last `window` keys of it. q (N × H·d), k and v (N × K·d).
    pub fn attention(self: &Arc<Self>, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> Result<Tensor> {
        let value = self.value([&q.detach(), &k.detach(), &v.detach()], window)?;
        let blocks = Arc::clone(self);
        explicit::three(q, k, v, value, move |qkv, out, grad| blocks.backward(qkv.each_ref(), out, grad, window))
    }

    /// The forward, by FlashAttention's kernel if possible.
    #[cfg(feature = "flash-attn")]
    fn value(&self, qkv: [&Tensor; 3], window: Option<usize>) -> Result<Tensor> {
        match (&self.flash, window) {
            (Some(flash), None) if super::flash::takes(qkv[0]) => flash.forward(qkv[0], qkv[1], qkv[2]),
            _ => self.forward(qkv, window),
        }
    }

    /// The forward.
    #[cfg(not(feature = "flash-attn"))]
    fn value(&self, qkv: [&Tensor; 3], window: Option<usize>) -> Result<Tensor> {
        self.forward(qkv, window)
    }

    fn forward(&self, [q, k, v]: [&Tensor; 3], window: Option<usize>) -> Result<Tensor> {
        let (mask, mut parts) = (self.mask(window)?, Vec::new());
        for segment in self.segments.iter() {
            let (k, v) = (self.keys(k, segment)?, self.keys(v, segment)?);
            for block in self.blocks(segment, window) {
                let weights = block.weights(&self.queries(q, &block)?, &k, &mask)?.to_dtype(q.dtype())?;
                parts.push(self.rows(&weights.matmul(&block.seen(&v)?)?)?);
            }
        }
        Tensor::cat(&parts, 0)
    }

    /// With P = softmax(S): dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − Σ dO ∘ O), dQ = dS·K, dK = dSᵀ·Q.
    fn backward(
        &self,
        [q, k, v]: [&Tensor; 3],
        out: &Tensor,
        grad: &Tensor,
        window: Option<usize>,
    ) -> Result<[Tensor; 3]> {
        let (mask, mut dq) = (self.mask(window)?, Vec::new());
        let (mut dk, mut dv) = (KeyGrads::default(), KeyGrads::default());
        for segment in self.segments.iter() {
            let (k, v) = (self.keys(k, segment)?, self.keys(v, segment)?);
            let (mut dq_rows, mut dk_all, mut dv_all) = (Vec::new(), None, None);
            for block in self.blocks(segment, window).into_iter().rev() {
                let [q, out, grad] = [q, out, grad].map(|x| self.queries(x, &block));
                let (q, out, grad) = (q?, out?, grad?);
                let weights = block.weights(&q, &k, &mask)?;
                add_part(&mut dv_all, weights.to_dtype(q.dtype())?.t()?.matmul(&grad)?, &block.keys, segment.keys())?;
                let dot = (grad.to_dtype(DType::F32)? * out.to_dtype(DType::F32)?)?.sum_keepdim(D::Minus1)?;
                let dweights = grad.matmul(&block.seen(&v)?.t()?)?.to_dtype(DType::F32)?.broadcast_sub(&dot)?;
                let dscores = ((weights * dweights)? * scale(self.heads))?.to_dtype(q.dtype())?;
                dq_rows.push(self.rows(&dscores.matmul(&block.seen(&k)?)?)?);
                add_part(&mut dk_all, dscores.t()?.matmul(&q)?, &block.keys, segment.keys())?;
            }
            dq.extend(dq_rows.into_iter().rev());
            dk.add(segment, dk_all)?;
            dv.add(segment, dv_all)?;
        }
        Ok([Tensor::cat(&dq, 0)?, dk.rows(k)?, dv.rows(v)?])
    }

    /// The blocks of a segment.
    fn blocks(&self, segment: &Segment, window: Option<usize>) -> Vec<QueryBlock> {
        let block = |start: usize| {
            let rows = self.height.min(segment.rows.end - start);
            let position = segment.prefix.len() + start - segment.rows.start;
            let keys = first_seen(position, window)..position + rows;
            QueryBlock { start, rows, mask_start: self.longest + rows - keys.len(), keys, heads: self.heads }
        };
        segment.rows.clone().step_by(self.height).map(block).collect()
    }

    /// (height × longest + height): in row i, columns up to longest + i are 0, or the last `window` of them, and the others
    /// are −1e30. A block of R queries uses the S columns before column longest + R, so that its last query attends to its
    /// last key.
    fn mask(&self, window: Option<usize>) -> Result<Tensor> {
        let last = self.positions.narrow(0, self.longest, self.height)?.unsqueeze(1)?;
        let columns = self.positions.unsqueeze(0)?;
        let mut is_hidden = columns.broadcast_gt(&last)?;
        if let Some(window) = window {
            is_hidden = (is_hidden + columns.broadcast_le(&(last - window as f64)?)?)?;
        }
        is_hidden.to_dtype(DType::F32)? * -1e30
    }

    /// The keys or values that a segment attends to, (K × T × d).
    fn keys(&self, x: &Tensor, segment: &Segment) -> Result<Tensor> {
        let own = x.narrow(0, segment.rows.start, segment.rows.len())?;
        let seen = match segment.prefix.len() {
            0 => own,
            len => Tensor::cat(&[x.narrow(0, segment.prefix.start, len)?, own], 0)?,
        };
        seen.reshape(((), self.heads.key_value, self.heads.dim))?.transpose(0, 1)?.contiguous()
    }

    /// The rows of a block of (N × H·d), as (K × H/K·R × d).
    fn queries(&self, x: &Tensor, block: &QueryBlock) -> Result<Tensor> {
        let Heads { key_value, dim, .. } = self.heads;
        let x = x.narrow(0, block.start, block.rows)?.reshape((block.rows, key_value, self.heads.group(), dim))?;
        x.permute((1, 2, 0, 3))?.reshape((key_value, self.heads.group() * block.rows, dim))
    }

    /// The inverse of [`Self::queries`] for one block: (R × H·d).
    fn rows(&self, x: &Tensor) -> Result<Tensor> {
        let Heads { key_value, dim, .. } = self.heads;
        let x = x.reshape((key_value, self.heads.group(), (), dim))?;
        x.permute((2, 0, 1, 3))?.reshape(((), self.heads.query_width()))
    }
}

//! Causal attention over packed sequences in blocks of queries, for any device: scores stand in memory for one block at a
//! time, forward and backward.
//!
//! Of the forward only its inputs and its value are kept; the backward computes each block's weights again and follows
//! FlashAttention (arXiv 2205.14135, Algorithm 4). A block sees all the keys of its queries, so no running maximum is
//! needed. Query heads that share a key-value head stand below each other as rows of one product: keys are never repeated.
//!
//! R queries of a block, S keys they see.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::train::ops::{Heads, explicit};
use crate::train::packed::Segment;

/// Scores of all heads that a block has at most.
pub const SCORES: usize = 32 << 20;

/// Who attends to whom in a micro-batch, and how it is cut into blocks.
pub struct Blocks {
    heads: Heads,
    segments: Arc<[Segment]>,
    /// Most queries of a block.
    height: usize,
    /// Most keys of a segment.
    longest: usize,
    /// 0, 1, … (longest + height) in f32.
    places: Tensor,
    #[cfg(feature = "flash-attn")]
    flash: Option<super::flash::Varlen>,
}

impl Blocks {
    /// Blocks of at most `most` scores; what the device needs to know is sent to it here, and not while it computes.
    pub fn new(segments: Arc<[Segment]>, heads: Heads, most: usize, device: &Device) -> Result<Self> {
        let longest = segments.iter().map(Segment::keys).max().unwrap_or(1);
        let rows = segments.iter().map(|segment| segment.rows.len()).max().unwrap_or(1);
        let height = (most / (heads.query * longest)).clamp(1, rows);
        let places = Tensor::arange(0.0, (longest + height) as f32, device)?;
        Ok(Self {
            #[cfg(feature = "flash-attn")]
            flash: super::flash::Varlen::new(&segments, heads, device)?,
            heads,
            segments,
            height,
            longest,
            places,
        })
    }

    /// softmax(q·kᵀ/√d)·v. q (N × H·d), k and v (N × K·d).
    pub fn attention(self: &Arc<Self>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let value = self.value(&q.detach(), &k.detach(), &v.detach())?;
        let blocks = Arc::clone(self);
        explicit::three(q, k, v, value, move |[q, k, v], out, grad| blocks.backward(&q, &k, &v, out, grad))
    }

    #[cfg(feature = "flash-attn")]
    fn value(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        match &self.flash {
            Some(flash) if super::flash::takes(q) => flash.forward(q, k, v),
            _ => self.forward(q, k, v),
        }
    }

    #[cfg(not(feature = "flash-attn"))]
    fn value(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.forward(q, k, v)
    }

    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (mask, mut parts) = (self.mask()?, Vec::new());
        for segment in self.segments.iter() {
            let (k, v) = (self.keys(k, segment)?, self.keys(v, segment)?);
            for block in self.blocks(segment) {
                let weights = block.weights(&self.queries(q, &block)?, &k, &mask)?.to_dtype(q.dtype())?;
                parts.push(self.rows(&weights.matmul(&block.seen(&v)?)?)?);
            }
        }
        Tensor::cat(&parts, 0)
    }

    /// With P = softmax(S): dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − Σ dO ∘ O), dQ = dS·K, dK = dSᵀ·Q.
    fn backward(&self, q: &Tensor, k: &Tensor, v: &Tensor, out: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
        let (mask, mut dq) = (self.mask()?, Vec::new());
        let (mut dk, mut dv) = (KeyGrads::default(), KeyGrads::default());
        for segment in self.segments.iter() {
            let (k, v) = (self.keys(k, segment)?, self.keys(v, segment)?);
            // From the last block, which sees all keys.
            let (mut dq_rows, mut dk_all, mut dv_all) = (Vec::new(), None, None);
            for block in self.blocks(segment).into_iter().rev() {
                let [q, out, grad] = [q, out, grad].map(|x| self.queries(x, &block));
                let (q, out, grad) = (q?, out?, grad?);
                let weights = block.weights(&q, &k, &mask)?;
                add(&mut dv_all, weights.to_dtype(q.dtype())?.t()?.matmul(&grad)?)?;
                let dot = (grad.to_dtype(DType::F32)? * out.to_dtype(DType::F32)?)?.sum_keepdim(D::Minus1)?;
                let dweights = grad.matmul(&block.seen(&v)?.t()?)?.to_dtype(DType::F32)?.broadcast_sub(&dot)?;
                let dscores = ((weights * dweights)? * scale(self.heads))?.to_dtype(q.dtype())?;
                dq_rows.push(self.rows(&dscores.matmul(&block.seen(&k)?)?)?);
                add(&mut dk_all, dscores.t()?.matmul(&q)?)?;
            }
            dq.extend(dq_rows.into_iter().rev());
            dk.add(segment, dk_all)?;
            dv.add(segment, dv_all)?;
        }
        Ok([Tensor::cat(&dq, 0)?, dk.rows(k)?, dv.rows(v)?])
    }

    fn blocks(&self, segment: &Segment) -> Vec<Block> {
        let block = |start: usize| {
            let rows = self.height.min(segment.rows.end - start);
            let keys = segment.prefix.len() + start + rows - segment.rows.start;
            Block { start, rows, keys, heads: self.heads, hidden_from: self.longest + rows - keys }
        };
        segment.rows.clone().step_by(self.height).map(block).collect()
    }

    /// (height × longest + height): row i sees the columns up to longest + i; all others get −1e30. A block takes the
    /// columns that end with its last key.
    fn mask(&self) -> Result<Tensor> {
        let last = self.places.narrow(0, self.longest, self.height)?.unsqueeze(1)?;
        self.places.unsqueeze(0)?.broadcast_gt(&last)?.to_dtype(DType::F32)? * -1e30
    }

    /// The keys or values that a segment sees, (K × T × d).
    fn keys(&self, x: &Tensor, segment: &Segment) -> Result<Tensor> {
        let own = x.narrow(0, segment.rows.start, segment.rows.len())?;
        let seen = match segment.prefix.len() {
            0 => own,
            len => Tensor::cat(&[x.narrow(0, segment.prefix.start, len)?, own], 0)?,
        };
        seen.reshape(((), self.heads.key_value, self.heads.dim))?.transpose(0, 1)?.contiguous()
    }

    /// A block of (N × H·d): (K × H/K·R × d).
    fn queries(&self, x: &Tensor, block: &Block) -> Result<Tensor> {
        let Heads { key_value, dim, .. } = self.heads;
        let x = x.narrow(0, block.start, block.rows)?.reshape((block.rows, key_value, self.heads.group(), dim))?;
        x.permute((1, 2, 0, 3))?.reshape((key_value, self.heads.group() * block.rows, dim))
    }

    /// The way back: (R × H·d).
    fn rows(&self, x: &Tensor) -> Result<Tensor> {
        let Heads { key_value, dim, .. } = self.heads;
        let x = x.reshape((key_value, self.heads.group(), (), dim))?;
        x.permute((2, 0, 1, 3))?.reshape(((), self.heads.query_width()))
    }
}

/// Consecutive queries.
struct Block {
    /// Row of the first.
    start: usize,
    /// R.
    rows: usize,
    /// S.
    keys: usize,
    heads: Heads,
    /// Where its columns of the mask begin.
    hidden_from: usize,
}

impl Block {
    /// The keys or values of (K × T × d) that the block sees.
    fn seen(&self, x: &Tensor) -> Result<Tensor> {
        x.narrow(1, 0, self.keys)
    }

    /// softmax(q·kᵀ/√d) in f32, (K × H/K·R × S).
    fn weights(&self, q: &Tensor, k: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let scores = (q.matmul(&self.seen(k)?.t()?)?.to_dtype(DType::F32)? * scale(self.heads))?;
        let hidden = mask.narrow(0, 0, self.rows)?.narrow(1, self.hidden_from, self.keys)?;
        let masked = scores.reshape((self.heads.query, self.rows, self.keys))?.broadcast_add(&hidden)?;
        candle_nn::ops::softmax_last_dim(&masked)?.reshape(scores.shape())
    }
}

fn scale(heads: Heads) -> f64 {
    1.0 / (heads.dim as f64).sqrt()
}

/// Adds the gradient of the first keys (K × S × d) to that of all keys in f32; the first to come has all of them.
fn add(sum: &mut Option<Tensor>, part: Tensor) -> Result<()> {
    let part = part.to_dtype(DType::F32)?;
    *sum = Some(match sum.take() {
        None => part,
        Some(sum) => {
            let behind = sum.dim(1)? - part.dim(1)?;
            (sum + part.pad_with_zeros(1, 0, behind)?)?
        }
    });
    Ok(())
}

/// The gradients of keys or values in f32, by the first row of their segment. A prompt gets one from each completion.
#[derive(Default)]
struct KeyGrads(BTreeMap<usize, Tensor>);

impl KeyGrads {
    /// `grad` (K × T × d): of the prefix and the segment's own.
    fn add(&mut self, segment: &Segment, grad: Option<Tensor>) -> Result<()> {
        let Some(grad) = grad else { return Ok(()) };
        let (heads, _, dim) = grad.dims3()?;
        let grad = grad.transpose(0, 1)?.reshape(((), heads * dim))?;
        let own = grad.narrow(0, segment.prefix.len(), segment.rows.len())?;
        self.0.insert(segment.rows.start, own);
        if segment.prefix.is_empty() {
            return Ok(());
        }
        match self.0.get_mut(&segment.prefix.start) {
            Some(sum) if sum.dim(0)? == segment.prefix.len() => {
                *sum = (&*sum + grad.narrow(0, 0, segment.prefix.len())?)?;
                Ok(())
            }
            _ => candle_core::bail!("rows {:?} go on from no segment: this is a bug", segment.rows),
        }
    }

    /// (N × K·d), as `like` is.
    fn rows(self, like: &Tensor) -> Result<Tensor> {
        Tensor::cat(&self.0.into_values().collect::<Vec<_>>(), 0)?.to_dtype(like.dtype())
    }
}

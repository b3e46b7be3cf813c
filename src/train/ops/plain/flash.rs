//! The forward of attention by FlashAttention 2 (arXiv 2307.08691), on a GPU and in bf16 or f16. The backward is that of
//! [`super::attention`], which needs the value alone.

use candle_core::{DType, Device, Result, Tensor};

use crate::train::ops::Heads;
use crate::train::packed::Segment;

/// Largest head that the kernels take.
const WIDEST: usize = 256;

/// Sequences of different lengths, as the kernel takes them: of each its queries, and all its keys one after the other.
pub struct Varlen {
    heads: Heads,
    /// Rows of the keys of every segment, prefix first; `None` where they are all rows in their order.
    keys: Option<Tensor>,
    /// Where each segment's queries and keys begin, and behind them where the last ends.
    query_starts: Tensor,
    key_starts: Tensor,
    most_queries: usize,
    most_keys: usize,
}

/// Whether the kernel computes attention of such queries.
pub fn takes(q: &Tensor) -> bool {
    matches!(q.dtype(), DType::BF16 | DType::F16)
}

impl Varlen {
    /// `None` where the kernel cannot be used.
    pub fn new(segments: &[Segment], heads: Heads, device: &Device) -> Result<Option<Self>> {
        if !device.is_cuda() || heads.dim > WIDEST || !heads.dim.is_multiple_of(8) {
            return Ok(None);
        }
        let shares = segments.iter().any(|segment| !segment.prefix.is_empty());
        let row = |segment: &Segment| (0..segment.keys()).map(|i| segment.row(i) as u32).collect::<Vec<_>>();
        let keys: Vec<u32> = segments.iter().flat_map(row).collect();
        let (queries, all_keys) = (|segment: &Segment| segment.rows.len(), Segment::keys);
        Ok(Some(Self {
            heads,
            keys: shares.then(|| Tensor::new(keys, device)).transpose()?,
            query_starts: Tensor::new(starts(segments, queries), device)?,
            key_starts: Tensor::new(starts(segments, all_keys), device)?,
            most_queries: segments.iter().map(queries).max().unwrap_or(0),
            most_keys: segments.iter().map(all_keys).max().unwrap_or(0),
        }))
    }

    /// q (N × H·d), k and v (N × K·d), none of them tracked. The kernel aligns the last query with the last key.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let Heads { query, key_value, dim } = self.heads;
        let keys = |x: &Tensor| {
            let x = x.reshape(((), key_value, dim))?;
            if let Some(rows) = &self.keys { x.index_select(rows, 0) } else { x.contiguous() }
        };
        let (starts, most) = ((&self.query_starts, &self.key_starts), (self.most_queries, self.most_keys));
        let (q_heads, scale) = (q.reshape(((), query, dim))?.contiguous()?, 1.0 / (dim as f32).sqrt());
        let (k, v) = (keys(k)?, keys(v)?);
        candle_flash_attn::flash_attn_varlen(&q_heads, &k, &v, starts.0, starts.1, most.0, most.1, scale, true)?
            .reshape(q.shape())
    }
}

/// 0, and the sum of the lengths up to each segment.
fn starts(segments: &[Segment], length: impl Fn(&Segment) -> usize) -> Vec<u32> {
    let sums = segments.iter().scan(0, |sum, segment| {
        *sum += length(segment) as u32;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}

//! The forward of attention by the kernels of FlashAttention 2 (arXiv 2307.08691), on a GPU in bf16 or f16. The backward is
//! that of [`super::attention`], which only needs the forward's value.

use candle_core::{DType, Device, Result, Tensor};
use engine::decoder::Heads;

use crate::train::packed::Segment;

/// The largest head width that the kernels support.
const WIDEST: usize = 256;

/// Sequences of different lengths in the kernel's layout: the queries of all segments, and for each segment all its keys.
pub struct Varlen {
    heads: Heads,
    /// The rows of each segment's keys, prefix first. `None` if these are all rows in order.
    keys: Option<Tensor>,
    /// Where each segment's queries and keys begin, and at the end where the last segment ends.
    query_starts: Tensor,
    key_starts: Tensor,
    max_queries: usize,
    max_keys: usize,
}

/// Whether the kernel supports the number format of `q`.
pub fn takes(q: &Tensor) -> bool {
    matches!(q.dtype(), DType::BF16 | DType::F16)
}

impl Varlen {
    /// `None` if the kernel cannot be used.
    pub fn new(segments: &[Segment], heads: Heads, device: &Device) -> Result<Option<Self>> {
        if !device.is_cuda() || heads.dim > WIDEST || !heads.dim.is_multiple_of(8) {
            return Ok(None);
        }
        let shares = segments.iter().any(|segment| !segment.prefix.is_empty());
        let rows = |segment: &Segment| (0..segment.keys()).map(|i| segment.row(i) as u32).collect::<Vec<_>>();
        let keys: Vec<u32> = segments.iter().flat_map(rows).collect();
        let (queries, all_keys) = (|segment: &Segment| segment.rows.len(), Segment::keys);
        Ok(Some(Self {
            heads,
            keys: shares.then(|| Tensor::new(keys, device)).transpose()?,
            query_starts: Tensor::new(starts(segments, queries), device)?,
            key_starts: Tensor::new(starts(segments, all_keys), device)?,
            max_queries: segments.iter().map(queries).max().unwrap_or(0),
            max_keys: segments.iter().map(all_keys).max().unwrap_or(0),
        }))
    }

    /// Attention of q (N × H·d), k and v (N × K·d), none of them tracked by the graph. The kernel's causal mask aligns the last
    /// query with the last key.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let Heads { query, key_value, dim } = self.heads;
        let keys = |x: &Tensor| {
            let x = x.reshape(((), key_value, dim))?;
            if let Some(rows) = &self.keys { x.index_select(rows, 0) } else { x.contiguous() }
        };
        let (starts, longest) = ((&self.query_starts, &self.key_starts), (self.max_queries, self.max_keys));
        let (q_heads, scale) = (q.reshape(((), query, dim))?.contiguous()?, 1.0 / (dim as f32).sqrt());
        let (k, v) = (keys(k)?, keys(v)?);
        candle_flash_attn::flash_attn_varlen(&q_heads, &k, &v, starts.0, starts.1, longest.0, longest.1, scale, true)?
            .reshape(q.shape())
    }
}

/// The cumulative sums of the segments' lengths, from 0.
fn starts(segments: &[Segment], length: impl Fn(&Segment) -> usize) -> Vec<u32> {
    let sums = segments.iter().scan(0, |sum, segment| {
        *sum += length(segment) as u32;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}

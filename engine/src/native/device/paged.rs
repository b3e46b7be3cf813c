//! Attention over the cache by PagedAttention's kernels (arXiv 2309.06180), those of mistral.rs.

use candle_core::{DType, Result, Tensor};
use mistralrs_paged_attn::{paged_attention, reshape_and_cache};

use super::metadata::AttentionMetadata;
use crate::decoder::Heads;
use crate::native::cache::BLOCK_TOKENS;

/// The head widths that the kernels were compiled for.
const WIDTHS: [usize; 8] = [64, 80, 96, 112, 128, 192, 256, 512];

/// Up to this many tokens a kernel holds the scores of a whole context in shared memory (4 bytes each; cards of compute
/// capability 8.0 or newer have at least 99 KiB).
const SHORT: usize = 16_384;

/// From this many pairs of row and head on, the kernels do not split contexts. With fewer pairs they do, and any length
/// fits.
const UNDIVIDED: usize = 512;

pub fn supports(heads: Heads) -> bool {
    WIDTHS.contains(&heads.dim)
}

/// The shapes of a block's keys (K × d/x × T × x), where x numbers are 16 bytes, and values (K × d × T) of T tokens.
pub fn shapes(heads: Heads, dtype: DType) -> (Vec<usize>, Vec<usize>) {
    let x = 16 / dtype.size_in_bytes();
    (vec![heads.key_value, heads.dim / x, BLOCK_TOKENS, x], vec![heads.key_value, heads.dim, BLOCK_TOKENS])
}

pub fn write(
    (keys, values): (&Tensor, &Tensor),
    (k, v): (&Tensor, &Tensor),
    heads: Heads,
    slots: &Tensor,
) -> Result<()> {
    let by_heads = |x: &Tensor| x.contiguous()?.reshape(((), heads.key_value, heads.dim));
    reshape_and_cache(&by_heads(k)?, &by_heads(v)?, None, None, keys, values, slots)
}

pub fn attend(
    (keys, values): (&Tensor, &Tensor),
    q: &Tensor,
    heads: Heads,
    metadata: &AttentionMetadata,
) -> Result<Tensor> {
    let n = q.dim(0)?;
    let q = q.contiguous()?.reshape((n, heads.query, heads.dim))?;
    let scale = 1.0 / (heads.dim as f32).sqrt();
    // Whether the kernels split contexts depends on the number of rows.
    let height = if metadata.max_context_len > SHORT { (UNDIVIDED / heads.query).max(1) } else { n };
    let some = |start: usize| {
        let rows = height.min(n - start);
        let [q, tables, lengths] =
            [&q, &metadata.block_tables, &metadata.context_lens].map(|all| all.narrow(0, start, rows));
        // A soft cap of 1 means none.
        paged_attention(
            &q?,
            None,
            None,
            keys,
            values,
            &tables?,
            &lengths?,
            None,
            metadata.max_context_len,
            scale,
            1.0,
            None,
        )
    };
    let all = (0..n).step_by(height).map(some).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&all, 0)?.reshape((n, heads.query_width()))
}

//! Attention over the cache by candle's operators, on any device. It gathers the keys and values of every row.

use candle_core::{D, DType, Result, Tensor};

use super::metadata::AttentionMetadata;
use crate::decoder::Heads;
use crate::native::cache::BLOCK_TOKENS;

/// Numbers of keys that are gathered at a time.
const GATHERED: usize = 8 << 20;

/// The shapes of a block's keys and values: token by token.
pub fn shapes(heads: Heads) -> (Vec<usize>, Vec<usize>) {
    let shape = vec![BLOCK_TOKENS, heads.key_value_width()];
    (shape.clone(), shape)
}

/// Writes the rows of `x` (N × K·d) to `slots` (N).
pub fn write(memory: &Tensor, x: &Tensor, slots: &Tensor) -> Result<()> {
    let (blocks, tokens, width) = memory.dims3()?;
    let slots = slots.unsqueeze(1)?.broadcast_as(x.shape())?.contiguous()?;
    memory.reshape((blocks * tokens, width))?.scatter_set(&slots, &x.contiguous()?, 0)
}

pub fn attend(
    (keys, values): (&Tensor, &Tensor),
    q: &Tensor,
    heads: Heads,
    window: Option<usize>,
    metadata: &AttentionMetadata,
) -> Result<Tensor> {
    let (n, width) = (q.dim(0)?, heads.key_value_width());
    let tokens = metadata.max_context_len.next_multiple_of(BLOCK_TOKENS);
    let positions = Tensor::arange(0, tokens as u32, q.device())?.unsqueeze(0)?;
    let height = (GATHERED / (tokens * width)).clamp(1, n);
    let some = |start: usize| {
        let rows = height.min(n - start);
        let blocks = metadata.block_tables.narrow(0, start, rows)?.flatten_all()?;
        // (rows × K × tokens × d).
        let gather = |memory: &Tensor| {
            let gathered = memory.index_select(&blocks, 0)?.reshape((rows, tokens, heads.key_value, heads.dim))?;
            gathered.transpose(1, 2)?.contiguous()
        };
        let lengths = metadata.context_lens.narrow(0, start, rows)?.unsqueeze(1)?;
        let is_seen = is_seen(&positions, &lengths, window)?.reshape((rows, 1, 1, tokens))?;
        let q = q.narrow(0, start, rows)?.contiguous()?.reshape((rows, heads.key_value, heads.group(), heads.dim))?;
        let scores = (q.matmul(&gather(keys)?.t()?)?.to_dtype(DType::F32)? / (heads.dim as f64).sqrt())?;
        let hidden = Tensor::new(f32::NEG_INFINITY, q.device())?.broadcast_as(scores.shape())?;
        let weights = is_seen.broadcast_as(scores.shape())?.where_cond(&scores, &hidden)?;
        let weights = candle_nn::ops::softmax(&weights, D::Minus1)?.to_dtype(q.dtype())?;
        // A hidden value may be NaN, which a weight of 0 would not remove.
        let values = gather(values)?;
        let is_seen = is_seen.reshape((rows, 1, tokens, 1))?.broadcast_as(values.shape())?;
        let values = is_seen.where_cond(&values, &values.zeros_like()?)?;
        weights.matmul(&values)?.reshape((rows, heads.query_width()))
    };
    Tensor::cat(&(0..n).step_by(height).map(some).collect::<Result<Vec<_>>>()?, 0)
}

/// Whether a row of a context of `lengths` tokens (rows × 1) attends to the token at each of `positions` (1 × tokens).
fn is_seen(positions: &Tensor, lengths: &Tensor, window: Option<usize>) -> Result<Tensor> {
    let is_before_end = positions.broadcast_lt(lengths)?;
    let Some(window) = window else { return Ok(is_before_end) };
    // The row's own position is its length − 1.
    let window = Tensor::new(window as u32, positions.device())?;
    is_before_end * positions.broadcast_add(&window)?.broadcast_ge(lengths)?
}

//! What attention over the cache needs to know about the rows of a pass, in vLLM's terms.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use crate::native::cache::BLOCK_TOKENS;

/// The context of each of N rows; the same in every layer.
pub struct AttentionMetadata {
    /// Block numbers of each row's sequence (N × the longest table), padded with 0.
    pub block_tables: Tensor,
    /// How many tokens each row attends to, itself included (N).
    pub context_lens: Tensor,
    /// Where each row's key and value are stored: block number · [`BLOCK_TOKENS`] + offset in the block (N), as i64.
    pub slot_mapping: Tensor,
    /// The largest of `context_lens`.
    pub max_context_len: usize,
}

impl AttentionMetadata {
    /// For rows at `positions` of sequences with the block tables `tables`.
    pub fn new(positions: &[u32], tables: &[Arc<[u32]>], device: &Device) -> Result<Self> {
        assert_eq!(positions.len(), tables.len(), "one table per row");
        let (n, longest) = (positions.len(), positions.iter().max().map_or(0, |last| *last as usize + 1));
        let width = longest.div_ceil(BLOCK_TOKENS);
        let padded = tables.iter().flat_map(|table| table.iter().copied().chain(std::iter::repeat(0)).take(width));
        let slot = |(position, table): (&u32, &Arc<[u32]>)| {
            let (block, offset) = (*position as usize / BLOCK_TOKENS, i64::from(*position) % BLOCK_TOKENS as i64);
            i64::from(table[block]) * BLOCK_TOKENS as i64 + offset
        };
        let slot_mapping: Vec<i64> = positions.iter().zip(tables).map(slot).collect();
        let context_lens: Vec<u32> = positions.iter().map(|position| position + 1).collect();
        Ok(Self {
            block_tables: Tensor::from_vec(padded.collect::<Vec<u32>>(), (n, width), device)?,
            context_lens: Tensor::from_vec(context_lens, n, device)?,
            slot_mapping: Tensor::from_vec(slot_mapping, n, device)?,
            max_context_len: longest,
        })
    }
}

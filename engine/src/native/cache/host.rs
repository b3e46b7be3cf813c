//! Blocks in main memory.

use super::store::{BLOCK_TOKENS, BlockStore};
use crate::decoder::DecoderConfig;

/// The sizes of a block, and in main memory also where its numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl BlockLayout {
    pub fn of(config: &DecoderConfig) -> Self {
        Self { layers: config.num_hidden_layers, kv_heads: config.num_key_value_heads, head_dim: config.head_dim }
    }

    /// Numbers in a block.
    pub fn block_len(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * BLOCK_TOKENS
    }

    /// Bytes of a block in f32.
    pub fn block_bytes(&self) -> usize {
        4 * self.block_len()
    }

    /// Where the keys (`values` 0) or values (`values` 1) of a layer and head are.
    fn part(&self, layer: usize, head: usize, values: usize) -> std::ops::Range<usize> {
        let len = self.head_dim * BLOCK_TOKENS;
        let start = ((layer * self.kv_heads + head) * 2 + values) * len;
        start..start + len
    }
}

/// Keys and values of [`BLOCK_TOKENS`] tokens in f32, for every layer and head.
#[derive(Debug, Clone)]
pub struct HostBlock(Box<[f32]>);

impl HostBlock {
    /// (head_dim × [`BLOCK_TOKENS`]): feature by feature.
    pub fn keys(&self, layout: &BlockLayout, layer: usize, head: usize) -> &[f32] {
        &self.0[layout.part(layer, head, 0)]
    }

    /// ([`BLOCK_TOKENS`] × head_dim): token by token.
    pub fn values(&self, layout: &BlockLayout, layer: usize, head: usize) -> &[f32] {
        &self.0[layout.part(layer, head, 1)]
    }

    pub fn keys_mut(&mut self, layout: &BlockLayout, layer: usize, head: usize) -> &mut [f32] {
        &mut self.0[layout.part(layer, head, 0)]
    }

    pub fn values_mut(&mut self, layout: &BlockLayout, layer: usize, head: usize) -> &mut [f32] {
        &mut self.0[layout.part(layer, head, 1)]
    }
}

/// Memory is allocated when a block is first needed, and then reused.
impl BlockStore for BlockLayout {
    type Block = HostBlock;

    const GROWS: bool = true;

    fn add(&mut self) -> HostBlock {
        HostBlock(vec![0.0; self.block_len()].into())
    }

    /// Slots after the last token are multiplied by 0, so they must not hold NaN or infinity.
    fn clear(&mut self, block: &mut HostBlock) {
        block.0.fill(0.0);
    }

    fn copy(&mut self, from: &HostBlock, to: &mut HostBlock) {
        to.0.copy_from_slice(&from.0);
    }
}

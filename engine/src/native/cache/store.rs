//! Where the keys and values of blocks are kept: main memory or a device.

/// Tokens in a cache block.
pub const BLOCK_TOKENS: usize = 16;

/// The number of blocks with which a request of `tokens`, prompt and completion together, can always finish: its own, a
/// copy of the block in which the completion leaves the prompt, and one to continue into.
pub fn blocks_of_request(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS) + 2
}

/// The memory behind a [`BlockPool`](super::BlockPool).
pub trait BlockStore: Send + 'static {
    /// Keys and values of [`BLOCK_TOKENS`] tokens, for every layer and head.
    type Block: Send + Sync;

    /// Whether it can hold more blocks than at the start.
    const GROWS: bool;

    /// A block that was never used.
    fn add(&mut self) -> Self::Block;

    /// Prepares a used block for its next holder, who must not see what it held.
    fn clear(&mut self, block: &mut Self::Block);

    /// Copies the content of `from` to `to`.
    fn copy(&mut self, from: &Self::Block, to: &mut Self::Block);
}

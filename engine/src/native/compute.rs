//! What continuous batching runs: a model that computes chunks of sequences over a paged cache.

use std::sync::Arc;

use super::cache::BlockStore;
use super::live_adapter::LiveAdapter;
use crate::sampler::{SampledToken, Sampler};

/// A model, on a CPU or on a device.
pub trait Compute: Send + 'static {
    type Store: BlockStore;

    /// Prompt tokens that one step computes at most, in addition to the sequences that decode.
    const PREFILL_TOKENS: usize;

    /// Computes all chunks: writes their keys and values to their blocks, and fills each chunk's output.
    ///
    /// # Errors
    /// If the device fails. The content of the blocks is then undefined.
    fn forward(&mut self, chunks: Vec<SequenceChunk<BlockOf<Self>>>, adapter: &LiveAdapter) -> candle_core::Result<()>;

    /// Frees the cache's memory. No block may be in use, and nothing may be computed before [`Compute::resume`].
    fn suspend(&mut self);

    /// Allocates the memory again; the blocks' content is lost.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn resume(&mut self) -> candle_core::Result<()>;
}

/// The blocks of a model's cache.
pub type BlockOf<C> = <<C as Compute>::Store as BlockStore>::Block;

/// Consecutive tokens of one sequence that a step computes: a prefill chunk, or the single token of a decoding
/// sequence. The cache holds all tokens before them.
pub struct SequenceChunk<'a, B> {
    pub tokens: &'a [u32],
    /// Position of the first of `tokens`.
    pub start: usize,
    /// The sequence's blocks, up to the last of `tokens`. The blocks that are written have no other holder.
    pub blocks: &'a mut [Arc<B>],
    pub output: ChunkOutput<'a>,
}

/// What to compute from the logits after a chunk's last token.
pub enum ChunkOutput<'a> {
    Nothing,
    Logits(&'a mut Vec<f32>),
    /// The next token.
    Sample(&'a mut Sampler, &'a mut SampledToken),
}

/// The outputs that need logits, each with the row of its chunk's last token; the rows of all chunks are concatenated.
pub fn requested<'p, 'a, B>(chunks: &'p mut [SequenceChunk<'a, B>]) -> Vec<(usize, &'p mut ChunkOutput<'a>)> {
    let ends = chunks.iter_mut().scan(0, |end, chunk| {
        *end += chunk.tokens.len();
        Some((*end - 1, &mut chunk.output))
    });
    ends.filter(|(_, output)| !matches!(output, ChunkOutput::Nothing)).collect()
}

//! What a scheduler runs: a model that computes pieces of sequences over a paged cache.

use std::sync::Arc;

use super::cache::Store;
use super::live_adapter::LiveAdapter;
use crate::sampler::{Draw, Sampler};

/// A model, wherever it computes.
pub trait Compute: Send + 'static {
    type Store: Store;

    /// Tokens of prompts that are computed in one step, beside the sequences that decode.
    const PREFILL_TOKENS: usize;

    /// Computes all pieces: writes their keys and values into their blocks and gives each what it wants.
    ///
    /// # Errors
    /// If the device fails; then what the blocks hold is not known.
    fn forward(&mut self, pieces: Vec<Piece<BlockOf<Self>>>, adapter: &LiveAdapter) -> candle_core::Result<()>;

    /// Gives the memory of the cache back, of which no block is in use; until [`Compute::resume`] nothing is computed.
    fn suspend(&mut self);

    /// Takes it again; what it held is gone.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn resume(&mut self) -> candle_core::Result<()>;
}

/// What a model's cache consists of.
pub type BlockOf<C> = <<C as Compute>::Store as Store>::Block;

/// Consecutive tokens of one sequence that are computed now; the cache holds all tokens before them.
pub struct Piece<'a, B> {
    pub tokens: &'a [u32],
    /// Position of the first of `tokens`.
    pub start: usize,
    /// The sequence's blocks, up to the last of `tokens`; those that are written are held by nobody else.
    pub blocks: &'a mut [Arc<B>],
    pub want: Want<'a>,
}

/// What is wanted of the logits behind a piece's last token.
pub enum Want<'a> {
    Nothing,
    Logits(&'a mut Vec<f32>),
    /// The next token.
    Sample(&'a mut Sampler, &'a mut Draw),
}

/// The pieces that want something, each with its last row, where the rows of all pieces follow each other.
pub fn wanted<'p, 'a, B>(pieces: &'p mut [Piece<'a, B>]) -> Vec<(usize, &'p mut Want<'a>)> {
    let ends = pieces.iter_mut().scan(0, |end, piece| {
        *end += piece.tokens.len();
        Some((*end - 1, &mut piece.want))
    });
    ends.filter(|(_, want)| !matches!(want, Want::Nothing)).collect()
}

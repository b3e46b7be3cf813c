//! The native engine's model on any device: a forward pass over chunks of many sequences by candle's operators.
//!
//! - `layer.rs` the operators of a block · `metadata.rs` the rows' contexts · `blocks.rs` the cache's block numbers
//! - `cache.rs` keys and values, with attention by `plain.rs` (operators) or `paged.rs` (kernels)
//! - `sampling.rs` draws the next tokens
//!
//! Every row is a separate query with its own context, whether it decodes or belongs to a prompt. The host sends ids,
//! positions and block tables before a pass. After it, it reads tokens and log-probabilities, and the logits of
//! finished prompts and of rows with truncated sampling. In between it waits for nothing.

mod blocks;
mod cache;
mod layer;
mod metadata;
#[cfg(feature = "cuda")]
mod paged;
mod plain;
mod sampling;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::cache::BLOCK_TOKENS;
use super::compute::{Compute, SequenceChunk, requested};
use super::live_adapter::LiveAdapter;
use crate::decoder::{DecoderBlock, DecoderConfig, Rope, Weights, ops};
use blocks::DeviceBlock;
pub use blocks::DeviceBlocks;
use cache::DeviceCache;
use layer::{DeviceOps, StepInput};
use metadata::AttentionMetadata;
use sampling::DeviceSampler;

/// Logits that are in memory at a time.
pub const LOGITS: usize = 64 << 20;

type DeviceChunk<'a> = SequenceChunk<'a, DeviceBlock>;

/// The decoder; its weights are shared with the caller that loaded them.
pub struct DeviceModel {
    config: DecoderConfig,
    weights: Weights,
    rope: Rope,
    /// cos and sin of the rotary angles (positions × head_dim/2), for the positions used so far.
    angles: Option<(Tensor, Tensor)>,
    cache: DeviceCache,
    sampler: DeviceSampler,
}

impl DeviceModel {
    /// With a cache of `blocks` blocks, in the weights' number format.
    ///
    /// # Errors
    /// If the device has no room for the cache.
    pub fn new(config: DecoderConfig, weights: Weights, blocks: usize) -> Result<Self> {
        let (device, dtype) = (weights.norm.device(), weights.norm.dtype());
        let cache = DeviceCache::new(&config, blocks, dtype, device)?;
        let sampler = DeviceSampler::new(config.vocab_size, device)?;
        Ok(Self { rope: config.rope(), angles: None, config, weights, cache, sampler })
    }

    fn device(&self) -> &Device {
        self.weights.norm.device()
    }

    /// Copies what a step needs to the device.
    fn input(&mut self, chunks: &[DeviceChunk]) -> Result<StepInput> {
        let positions = chunks.iter().flat_map(|chunk| chunk.start..chunk.start + chunk.tokens.len());
        let positions: Vec<u32> = positions.map(|position| position as u32).collect();
        let (cos, sin) = self.angles(positions.iter().max().map_or(0, |last| *last as usize + 1))?;
        let device = self.device();
        let tokens: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.tokens).copied().collect();
        let at = Tensor::new(positions.as_slice(), device)?;
        let tables = chunks.iter().flat_map(|chunk| {
            let table: Arc<[u32]> = chunk.blocks.iter().map(|block| block.index).collect();
            chunk.tokens.iter().map(move |_| Arc::clone(&table))
        });
        Ok(StepInput {
            tokens: Tensor::from_vec(tokens, positions.len(), device)?,
            angles: (cos.index_select(&at, 0)?, sin.index_select(&at, 0)?),
            metadata: AttentionMetadata::new(&positions, &tables.collect::<Vec<_>>(), device)?,
        })
    }

    /// cos and sin of at least `positions` positions.
    fn angles(&mut self, positions: usize) -> Result<(Tensor, Tensor)> {
        if let Some(angles) = self.angles.as_ref().filter(|(cos, _)| cos.dims()[0] >= positions) {
            return Ok(angles.clone());
        }
        let (shape, device) = ((positions.next_power_of_two(), self.config.head_dim / 2), self.device());
        let (cos, sin) = self.rope.tables(shape.0);
        let angles = (Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?);
        Ok(self.angles.insert(angles).clone())
    }

    /// The residual stream after the last block, (N × D). Writes the rows' keys and values to the cache.
    fn hidden(&self, input: &StepInput, adapter: &LiveAdapter) -> Result<Tensor> {
        let embedded = self.weights.embed_tokens.index_select(&input.tokens, 0)?;
        (0..self.config.num_hidden_layers).try_fold(embedded, |x, layer| {
            let ops = DeviceOps { cache: &self.cache, layer, input, adapter };
            DecoderBlock::new(&self.config, &self.weights, layer).forward(&x, &ops)
        })
    }

    /// Fills the chunks' outputs, some at a time, so that at most [`LOGITS`] logits are in memory.
    fn answer(&self, chunks: &mut [DeviceChunk], hidden: &Tensor) -> Result<()> {
        let mut requested = requested(chunks);
        for requested in requested.chunks_mut((LOGITS / self.config.vocab_size).max(1)) {
            let rows: Vec<u32> = requested.iter().map(|(row, _)| *row as u32).collect();
            let rows = Tensor::new(rows.as_slice(), hidden.device())?;
            let normed = ops::rms_norm(&hidden.index_select(&rows, 0)?, &self.weights.norm, self.config.rms_norm_eps)?;
            let logits = ops::linear(&normed, &self.weights.lm_head, None)?.to_dtype(DType::F32)?;
            self.sampler.fill(&logits, requested.iter_mut().map(|(_, output)| &mut **output).collect())?;
        }
        Ok(())
    }
}

impl Compute for DeviceModel {
    type Store = DeviceBlocks;

    const PREFILL_TOKENS: usize = 2048;

    fn forward(&mut self, mut chunks: Vec<DeviceChunk>, adapter: &LiveAdapter) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.cache.copy(&copies(&mut chunks))?;
        let input = self.input(&chunks)?;
        let hidden = self.hidden(&input, adapter)?;
        self.answer(&mut chunks, &hidden)
    }

    fn suspend(&mut self) {
        self.cache.free();
    }

    fn resume(&mut self) -> Result<()> {
        self.cache.allocate()
    }
}

/// The copies to make before the chunks are written, (from, to).
fn copies(chunks: &mut [DeviceChunk]) -> Vec<(u32, u32)> {
    let mut copies = Vec::new();
    for chunk in chunks {
        for block in &mut chunk.blocks[chunk.start / BLOCK_TOKENS..] {
            let block = Arc::get_mut(block).expect("a block that is written has one holder");
            copies.extend(block.copy_of.take().map(|from| (from, block.index)));
        }
    }
    copies
}

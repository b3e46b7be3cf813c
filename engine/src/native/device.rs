//! The native engine's model on any device: a forward pass over a batch of tokens by candle's operators.
//!
//! - `device/cache.rs` keys and values, and attention over them · `device/plain.rs`, `device/paged.rs` two ways to do it
//! - `device/sampling.rs` draws the next tokens
//!
//! Every row is a query of its own with its own context, whether it decodes or belongs to a prompt. The host sends ids,
//! positions and block tables before a pass and reads tokens and log-probabilities behind it, and the logits of a prompt's
//! end and of rows with cuts; between them it waits for nothing.

mod cache;
mod metadata;
#[cfg(feature = "cuda")]
mod paged;
mod plain;
mod sampling;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::cache::Store;
use super::compute::{Compute, Piece as Pieced, wanted};
use super::live_adapter::LiveAdapter;
use crate::decoder::{BlockOps, DecoderBlock, DecoderConfig, Linear, Module, Rope, Weights, ops};
use crate::kernels::LANES;
use cache::Cache;
use metadata::AttentionMetadata;
use sampling::DeviceSampler;

/// Logits that stand in memory at a time.
pub const LOGITS: usize = 64 << 20;

/// A place in a device's cache.
#[derive(Debug)]
pub struct Slot {
    index: u32,
    /// The place that it shall hold a copy of before it is written.
    copy_of: Option<u32>,
}

/// Gives out the places of a cache, by number.
#[derive(Debug, Default)]
pub struct Slots {
    used: u32,
}

impl Store for Slots {
    type Block = Slot;

    const GROWS: bool = false;

    fn add(&mut self) -> Slot {
        self.used += 1;
        Slot { index: self.used - 1, copy_of: None }
    }

    /// Attention looks at no key or value behind a row's context, whatever stands there.
    fn clear(&mut self, block: &mut Slot) {
        block.copy_of = None;
    }

    /// Nobody writes `from` before the pass that writes `to`: there the copy is made.
    fn copy(&mut self, from: &Slot, to: &mut Slot) {
        to.copy_of = Some(from.index);
    }
}

type Piece<'a> = Pieced<'a, Slot>;

/// The decoder; its weights are shared with whoever loaded them.
pub struct DeviceModel {
    config: DecoderConfig,
    weights: Weights,
    rope: Rope,
    /// cos and sin of the rotary angles (positions × head_dim/2), for as many positions as there were so far.
    angles: Option<(Tensor, Tensor)>,
    cache: Cache,
    sampler: DeviceSampler,
}

/// The rows of a pass, in the order of the pieces: N tokens.
struct Rows {
    /// Ids (N).
    tokens: Tensor,
    /// cos and sin of the rotary angles, each (N × head_dim/2).
    angles: (Tensor, Tensor),
    metadata: AttentionMetadata,
}

impl DeviceModel {
    /// With a cache of `blocks` blocks, in the weights' number format.
    ///
    /// # Errors
    /// If the device has no room for the cache.
    pub fn new(config: DecoderConfig, weights: Weights, blocks: usize) -> Result<Self> {
        let (device, dtype) = (weights.norm.device(), weights.norm.dtype());
        let cache = Cache::new(&config, blocks, dtype, device)?;
        let sampler = DeviceSampler::new(config.vocab_size, device)?;
        Ok(Self { rope: config.rope(), angles: None, config, weights, cache, sampler })
    }

    fn device(&self) -> &Device {
        self.weights.norm.device()
    }

    /// Lays the pieces out on the device.
    fn rows(&mut self, pieces: &[Piece]) -> Result<Rows> {
        let positions = pieces.iter().flat_map(|piece| piece.start..piece.start + piece.tokens.len());
        let positions: Vec<u32> = positions.map(|position| position as u32).collect();
        let (cos, sin) = self.angles(positions.iter().max().map_or(0, |last| *last as usize + 1))?;
        let device = self.device();
        let tokens: Vec<u32> = pieces.iter().flat_map(|piece| piece.tokens).copied().collect();
        let at = Tensor::new(positions.as_slice(), device)?;
        let tables = pieces.iter().flat_map(|piece| {
            let table: Arc<[u32]> = piece.blocks.iter().map(|block| block.index).collect();
            piece.tokens.iter().map(move |_| Arc::clone(&table))
        });
        Ok(Rows {
            tokens: Tensor::from_vec(tokens, positions.len(), device)?,
            angles: (cos.index_select(&at, 0)?, sin.index_select(&at, 0)?),
            metadata: AttentionMetadata::new(&positions, &tables.collect::<Vec<_>>(), device)?,
        })
    }

    /// cos and sin of at least that many positions.
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
    fn hidden(&self, rows: &Rows, adapter: &LiveAdapter) -> Result<Tensor> {
        let (head_dim, rms_norm_eps) = (self.config.head_dim, self.config.rms_norm_eps);
        let embedded = self.weights.embed_tokens.index_select(&rows.tokens, 0)?;
        self.weights.layers.iter().enumerate().try_fold(embedded, |x, (layer, weights)| {
            let ops = LayerOps { cache: &self.cache, layer, rows, adapter };
            DecoderBlock { weights, head_dim, rms_norm_eps }.forward(&x, &ops)
        })
    }

    /// Gives the pieces what they want, so many at a time that [`LOGITS`] stand in memory.
    fn answer(&self, pieces: &mut [Piece], hidden: &Tensor) -> Result<()> {
        let mut wanted = wanted(pieces);
        for wanted in wanted.chunks_mut((LOGITS / self.config.vocab_size).max(1)) {
            let rows: Vec<u32> = wanted.iter().map(|(row, _)| *row as u32).collect();
            let rows = Tensor::new(rows.as_slice(), hidden.device())?;
            let normed = ops::rms_norm(&hidden.index_select(&rows, 0)?, &self.weights.norm, self.config.rms_norm_eps)?;
            let logits = ops::linear(&normed, &self.weights.lm_head, None)?.to_dtype(DType::F32)?;
            self.sampler.give(&logits, wanted.iter_mut().map(|(_, want)| &mut **want).collect())?;
        }
        Ok(())
    }
}

impl Compute for DeviceModel {
    type Store = Slots;

    const PREFILL_TOKENS: usize = 2048;

    fn forward(&mut self, mut pieces: Vec<Piece>, adapter: &LiveAdapter) -> Result<()> {
        if pieces.is_empty() {
            return Ok(());
        }
        self.cache.copy(&copies(&mut pieces))?;
        let rows = self.rows(&pieces)?;
        let hidden = self.hidden(&rows, adapter)?;
        self.answer(&mut pieces, &hidden)
    }

    fn suspend(&mut self) {
        self.cache.give_back();
    }

    fn resume(&mut self) -> Result<()> {
        self.cache.take()
    }
}

/// The copies to make before the pieces are written, (from, to).
fn copies(pieces: &mut [Piece]) -> Vec<(u32, u32)> {
    let mut copies = Vec::new();
    for piece in pieces {
        for block in &mut piece.blocks[piece.start / LANES..] {
            let block = Arc::get_mut(block).expect("a block that is written has one holder");
            copies.extend(block.copy_of.take().map(|from| (from, block.index)));
        }
    }
    copies
}

/// One layer's operators in one pass.
struct LayerOps<'a> {
    cache: &'a Cache,
    layer: usize,
    rows: &'a Rows,
    adapter: &'a LiveAdapter,
}

impl BlockOps for LayerOps<'_> {
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        ops::rms_norm(x, weight, eps)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        ops::swiglu(gate, up)
    }

    fn rope(&self, x: &Tensor) -> Result<Tensor> {
        let (cos, sin) = &self.rows.angles;
        ops::rope(x, cos, sin)
    }

    fn project(&self, x: &Tensor, Linear { weight, bias }: &Linear, module: Module) -> Result<Tensor> {
        let base = ops::linear(x, weight, bias.as_ref())?;
        let Some(update) = self.adapter.update(self.layer, module) else { return Ok(base) };
        base + ops::narrowed(x, &update.a)?.matmul(&update.b.t()?)?.to_dtype(x.dtype())?
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.cache.write(self.layer, k, v, &self.rows.metadata)?;
        self.cache.attend(self.layer, q, &self.rows.metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::cache::Pool;

    #[test]
    fn a_copy_that_was_never_written_is_forgotten_with_its_holder() {
        let mut pool = Pool::new(Slots::default(), 2);
        let original = pool.take().unwrap();
        let mut copy = Arc::clone(&original);
        assert!(pool.make_unique(&mut copy));
        assert_eq!((copy.index, copy.copy_of), (1, Some(original.index)));
        pool.release(copy);
        let next = pool.take().unwrap();
        assert_eq!((next.index, next.copy_of), (1, None));
    }
}

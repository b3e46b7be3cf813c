//! Keys and values on a device, in blocks of 16 tokens, and attention over them.

use candle_core::{DType, Device, Result, Tensor};

use super::metadata::AttentionMetadata;
#[cfg(feature = "cuda")]
use super::paged;
use super::plain;
use crate::decoder::{DecoderConfig, Heads};

/// Who reads and writes the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// candle's operators.
    Plain,
    /// PagedAttention's kernels.
    #[cfg(feature = "cuda")]
    Paged,
}

impl Way {
    #[cfg(not(feature = "cuda"))]
    fn best(_: Heads, _: &Device) -> Self {
        Self::Plain
    }

    #[cfg(feature = "cuda")]
    fn best(heads: Heads, device: &Device) -> Self {
        match device.is_cuda() {
            true if paged::supports(heads) => Self::Paged,
            true => {
                tracing::warn!(
                    width = heads.dim,
                    "PagedAttention has no kernel for heads of this width: attention is slow"
                );
                Self::Plain
            }
            false => Self::Plain,
        }
    }
}

/// The keys and values of every layer.
pub struct Cache {
    way: Way,
    heads: Heads,
    dtype: DType,
    device: Device,
    /// Of each layer's keys, and of its values; the first index is a block's number.
    shapes: (Vec<usize>, Vec<usize>),
    count: usize,
    /// Empty while the memory is given back.
    layers: Vec<(Tensor, Tensor)>,
}

impl Cache {
    /// # Errors
    /// If the device has no room.
    pub fn new(config: &DecoderConfig, blocks: usize, dtype: DType, device: &Device) -> Result<Self> {
        let heads = config.heads();
        let way = Way::best(heads, device);
        let (keys, values) = match way {
            Way::Plain => plain::shapes(heads),
            #[cfg(feature = "cuda")]
            Way::Paged => paged::shapes(heads, dtype),
        };
        let with_blocks = |shape: Vec<usize>| [vec![blocks.max(1)], shape].concat();
        let (shapes, count) = ((with_blocks(keys), with_blocks(values)), config.num_hidden_layers);
        let mut cache = Self { way, heads, dtype, device: device.clone(), shapes, count, layers: Vec::new() };
        cache.take()?;
        Ok(cache)
    }

    /// Takes the memory, if it is not there.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn take(&mut self) -> Result<()> {
        // A place that was never written may hold anything, also what is no number.
        let zeros = |shape: &[usize]| Tensor::zeros(shape, self.dtype, &self.device);
        let (keys, values) = &self.shapes;
        if self.layers.is_empty() {
            let layers = (0..self.count).map(|_| Ok((zeros(keys)?, zeros(values)?)));
            self.layers = layers.collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Gives the memory back.
    pub fn give_back(&mut self) {
        self.layers.clear();
    }

    /// Copies whole blocks, (from, to): all are read before the first is written.
    pub fn copy(&self, copies: &[(u32, u32)]) -> Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        let from: Vec<u32> = copies.iter().map(|(from, _)| *from).collect();
        let from = Tensor::new(from.as_slice(), &self.device)?;
        for memory in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
            let blocks = memory.index_select(&from, 0)?;
            for (i, (_, to)) in copies.iter().enumerate() {
                memory.slice_set(&blocks.narrow(0, i, 1)?, 0, *to as usize)?;
            }
        }
        Ok(())
    }

    /// Puts the rows' keys and values (N × K·d) where they belong.
    pub fn write(&self, layer: usize, k: &Tensor, v: &Tensor, metadata: &AttentionMetadata) -> Result<()> {
        let (keys, values) = &self.layers[layer];
        match self.way {
            Way::Plain => plain::write(keys, k, &metadata.slot_mapping)
                .and_then(|()| plain::write(values, v, &metadata.slot_mapping)),
            #[cfg(feature = "cuda")]
            Way::Paged => paged::write((keys, values), (k, v), self.heads, &metadata.slot_mapping),
        }
    }

    /// softmax(q·kᵀ/√d)·v for each head, where each row of q (N × H·d) sees its own context.
    pub fn attend(&self, layer: usize, q: &Tensor, metadata: &AttentionMetadata) -> Result<Tensor> {
        let (keys, values) = &self.layers[layer];
        match self.way {
            Way::Plain => plain::attend((keys, values), q, self.heads, metadata),
            #[cfg(feature = "cuda")]
            Way::Paged => paged::attend((keys, values), q, self.heads, metadata),
        }
    }
}

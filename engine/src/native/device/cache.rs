//! The memory of the cache on a device, and attention over it.

use candle_core::{DType, Device, Result, Tensor};

use super::metadata::AttentionMetadata;
#[cfg(feature = "cuda")]
use super::paged;
use super::plain;
use crate::decoder::{DecoderConfig, Heads};

/// How the cache is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    /// candle's operators.
    Plain,
    /// PagedAttention's kernels.
    #[cfg(feature = "cuda")]
    Paged,
}

impl Backend {
    #[cfg(not(feature = "cuda"))]
    fn best(_: &DecoderConfig, _: &Device) -> Self {
        Self::Plain
    }

    #[cfg(feature = "cuda")]
    fn best(config: &DecoderConfig, device: &Device) -> Self {
        let has_windows = (0..config.num_hidden_layers).any(|layer| config.window(layer).is_some());
        let lacking = match (paged::supports(config.heads()), has_windows) {
            _ if !device.is_cuda() => return Self::Plain,
            (true, false) => return Self::Paged,
            (false, _) => format!("heads of width {}", config.head_dim),
            (true, true) => "sliding windows".to_string(),
        };
        tracing::warn!("PagedAttention has no kernel for {lacking}: attention is slow");
        Self::Plain
    }
}

/// The keys and values of every layer.
pub struct DeviceCache {
    backend: Backend,
    heads: Heads,
    dtype: DType,
    device: Device,
    /// Of each layer's keys and of its values. The first axis is the block number.
    shapes: (Vec<usize>, Vec<usize>),
    count: usize,
    /// Keys and values per layer; empty while the memory is freed.
    layers: Vec<(Tensor, Tensor)>,
}

impl DeviceCache {
    /// # Errors
    /// If the device has no room.
    pub fn new(config: &DecoderConfig, blocks: usize, dtype: DType, device: &Device) -> Result<Self> {
        let heads = config.heads();
        let backend = Backend::best(config, device);
        let (keys, values) = match backend {
            Backend::Plain => plain::shapes(heads),
            #[cfg(feature = "cuda")]
            Backend::Paged => paged::shapes(heads, dtype),
        };
        let with_blocks = |shape: Vec<usize>| [vec![blocks.max(1)], shape].concat();
        let (shapes, count) = ((with_blocks(keys), with_blocks(values)), config.num_hidden_layers);
        let mut cache = Self { backend, heads, dtype, device: device.clone(), shapes, count, layers: Vec::new() };
        cache.allocate()?;
        Ok(cache)
    }

    /// Allocates the memory, unless it is allocated.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn allocate(&mut self) -> Result<()> {
        // Not uninitialised: a slot that was never written could hold NaN.
        let zeros = |shape: &[usize]| Tensor::zeros(shape, self.dtype, &self.device);
        let (keys, values) = &self.shapes;
        if self.layers.is_empty() {
            let layers = (0..self.count).map(|_| Ok((zeros(keys)?, zeros(values)?)));
            self.layers = layers.collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Frees the memory.
    pub fn free(&mut self) {
        self.layers.clear();
    }

    /// Copies whole blocks, (from, to). All are read before the first is written.
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

    /// Stores the rows' keys and values (N × K·d) in their slots.
    pub fn write(&self, layer: usize, k: &Tensor, v: &Tensor, metadata: &AttentionMetadata) -> Result<()> {
        let (keys, values) = &self.layers[layer];
        match self.backend {
            Backend::Plain => plain::write(keys, k, &metadata.slot_mapping)
                .and_then(|()| plain::write(values, v, &metadata.slot_mapping)),
            #[cfg(feature = "cuda")]
            Backend::Paged => paged::write((keys, values), (k, v), self.heads, &metadata.slot_mapping),
        }
    }

    /// softmax(q·kᵀ/√d)·v for each head, where each row of q (N × H·d) attends to its own context, or to the last
    /// `window` tokens of it.
    pub fn attend(
        &self,
        layer: usize,
        q: &Tensor,
        window: Option<usize>,
        metadata: &AttentionMetadata,
    ) -> Result<Tensor> {
        let (keys, values) = &self.layers[layer];
        match self.backend {
            Backend::Plain => plain::attend((keys, values), q, self.heads, window, metadata),
            #[cfg(feature = "cuda")]
            Backend::Paged => paged::attend((keys, values), q, self.heads, metadata),
        }
    }
}

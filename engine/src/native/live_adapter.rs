//! A LoRA adapter that is applied in addition to the weights: W·x + (alpha / r)·B·(A·x) (arXiv 2106.09685).
//!
//! Nothing is merged. The base weights stay shared with the trainer, and a publish replaces a pointer.

use candle_core::{DType, Device, Tensor};

use crate::adapter::LowRankPair;
use crate::decoder::{DecoderConfig, Module};
use crate::{Adapter, EngineError};

/// An adapter's matrices on the model's device, in f32.
pub struct LiveAdapter {
    layers: Vec<[Option<LinearUpdate>; Module::COUNT]>,
}

/// The update of one linear layer.
pub struct LinearUpdate {
    /// A (r × in).
    pub a: Tensor,
    /// B (out × r), times alpha / r.
    pub b: Tensor,
}

impl LiveAdapter {
    /// # Errors
    /// [`EngineError::Adapter`] if a tensor has another shape than the model's layer, or belongs to none;
    /// [`EngineError::Generate`] if the device has no room for it.
    pub fn new(adapter: &Adapter, config: &DecoderConfig, device: &Device) -> Result<Self, EngineError> {
        let mut layers: Vec<_> = (0..config.num_hidden_layers).map(|_| [const { None }; Module::COUNT]).collect();
        for ((layer, module), pair) in adapter.pairs(config)? {
            layers[layer][module as usize] = Some(LinearUpdate::new(pair, adapter.config.scale(), device)?);
        }
        Ok(Self { layers })
    }

    /// The update of a linear layer, if the adapter covers it.
    pub fn update(&self, layer: usize, module: Module) -> Option<&LinearUpdate> {
        self.layers[layer][module as usize].as_ref()
    }
}

impl LinearUpdate {
    fn new(LowRankPair { a, b }: LowRankPair, scale: f64, device: &Device) -> candle_core::Result<Self> {
        let place = |tensor: Tensor| tensor.to_dtype(DType::F32)?.contiguous()?.to_device(device);
        Ok(Self { a: place(a)?, b: place((b.to_dtype(DType::F32)? * scale)?)? })
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }
}

//! The operators of one decoder block in one step.

use candle_core::{Result, Tensor};

use super::cache::DeviceCache;
use super::metadata::AttentionMetadata;
use crate::decoder::{BlockOps, Linear, Module, ops};
use crate::native::live_adapter::LiveAdapter;

/// The rows of a step, in the order of the chunks: N tokens.
pub struct StepInput {
    /// Ids (N).
    pub tokens: Tensor,
    /// cos and sin of the rotary angles, each (N × head_dim/2).
    pub angles: (Tensor, Tensor),
    pub metadata: AttentionMetadata,
}

/// Candle's operators, and attention over the cache.
pub struct DeviceOps<'a> {
    pub cache: &'a DeviceCache,
    pub layer: usize,
    pub input: &'a StepInput,
    pub adapter: &'a LiveAdapter,
}

impl BlockOps for DeviceOps<'_> {
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        ops::rms_norm(x, weight, eps)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        ops::swiglu(gate, up)
    }

    fn rope(&self, x: &Tensor) -> Result<Tensor> {
        let (cos, sin) = &self.input.angles;
        ops::rope(x, cos, sin)
    }

    fn project(&self, x: &Tensor, Linear { weight, bias }: &Linear, module: Module) -> Result<Tensor> {
        let base = ops::linear(x, weight, bias.as_ref())?;
        let Some(update) = self.adapter.update(self.layer, module) else { return Ok(base) };
        base + ops::narrowed(x, &update.a)?.matmul(&update.b.t()?)?.to_dtype(x.dtype())?
    }

    /// Writes the rows' keys and values to the cache first.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> Result<Tensor> {
        self.cache.write(self.layer, k, v, &self.input.metadata)?;
        self.cache.attend(self.layer, q, window, &self.input.metadata)
    }
}

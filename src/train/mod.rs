//! What learns: the model's forward, the LoRA adapter, the loss, the optimiser, and the two trainers.
//!
//! - [`model`]: the decoder's forward · [`ops`]: differentiable building blocks · [`lora`]: the trainable adapter
//! - [`loss`]: GRPO per token, and how tokens are weighed · [`optim`]: AdamW · [`lr_schedule`]: its learning rate · [`parallel`]: gradients over threads
//! - [`packed`]: sequences without padding, prompts shared · `gemm`: matrix products of slices
//! - `backward`: a loss's gradients, activations kept or computed again · [`memory`], [`flops`]: how much memory and arithmetic that takes
//! - [`bpe`]: the tokenizer of a small model
//! - [`trainer`]: one GRPO step on a batch · [`stats`]: its numbers · [`worker`]: the OS thread that owns a trainer · [`sft`]: supervised training

mod backward;
pub mod bpe;
pub mod flops;
pub mod gemm;
pub mod lora;
pub mod loss;
pub mod lr_schedule;
pub mod memory;
pub mod model;
pub mod ops;
pub mod optim;
pub mod packed;
pub mod parallel;
pub mod sft;
pub mod stats;
pub mod trainer;
pub mod worker;

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

/// So many steps in a row with a gradient that is not finite end a run.
pub const MAX_SKIPPED: usize = 3;

/// Tensors as the bytes of a safetensors file, names in order, so that equal tensors give equal bytes.
pub fn tensors_to_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    safetensors::serialize(tensors, None).map_err(|e| candle_core::Error::Msg(e.to_string()))
}

//! Training: the model's forward, the LoRA adapter, the loss, the optimiser, and the two trainers.
//!
//! - [`trainer`]: one GRPO step on a batch · [`sample`]: what it learns from · [`worker`]: the OS thread that owns a trainer
//! - [`sft`]: supervised training · [`bpe`]: the tokenizer of a small model
//! - [`micro_batch`]: cuts a batch · [`packed`]: sequences without padding, with shared prompts · `collate`: their tensors
//! - [`model`]: the decoder's forward · [`lora`]: the trainable adapter · [`ops`]: differentiable operators
//! - [`gemm`]: matrix products of slices · `backward`: gradients, with activations kept or computed again
//! - [`loss`]: the losses and how tokens are weighted · [`optim`]: AdamW · [`lr_schedule`]: its learning rate
//! - [`parallel`]: gradients over threads · [`sketch`]: a short form of a gradient · [`stats`]: the numbers of a step
//! - [`memory`], [`flops`]: how much memory and arithmetic a step takes

mod backward;
pub mod bpe;
mod collate;
pub mod flops;
mod from_base;
pub mod gemm;
pub mod give_up;
pub mod lora;
pub mod loss;
pub mod lr_schedule;
pub mod memory;
pub mod micro_batch;
pub mod model;
pub mod ops;
pub mod optim;
pub mod packed;
pub mod parallel;
pub mod sample;
pub mod sft;
pub mod sketch;
pub mod stats;
pub mod trainer;
pub mod worker;

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

/// A run ends after this many consecutive steps whose gradient is not finite.
pub const MAX_SKIPPED: usize = 3;

/// Tensors as the bytes of a safetensors file. Names are sorted, so equal tensors give equal bytes.
pub fn tensors_to_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    safetensors::serialize(tensors, None).map_err(|e| candle_core::Error::Msg(e.to_string()))
}

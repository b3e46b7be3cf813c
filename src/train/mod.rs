//! What learns: the model's forward, the LoRA adapter, the loss, the optimiser, and the two trainers.
//!
//! - [`model`]: the decoder's forward · [`ops`]: differentiable building blocks · [`lora`]: the trainable adapter
//! - [`loss`]: GRPO per token, and how tokens are weighed · [`optim`]: AdamW · [`parallel`]: gradients over threads
//! - [`bpe`]: the tokenizer of a small model
//! - [`trainer`]: one GRPO step on a batch · [`stats`]: its numbers · [`worker`]: the OS thread that owns a trainer · [`sft`]: supervised training

pub mod bpe;
pub mod lora;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optim;
pub mod parallel;
pub mod sft;
pub mod stats;
pub mod trainer;
pub mod worker;

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};

/// Tensors as the bytes of a safetensors file, names in order, so that equal tensors give equal bytes.
pub fn tensors_to_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    safetensors::serialize(tensors, None).map_err(|e| candle_core::Error::Msg(e.to_string()))
}

/// Sequences as one right-padded tensor (B × T) of ids, and T.
pub fn pad(sequences: &[&[u32]], device: &Device) -> Result<(Tensor, usize)> {
    let width = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut ids = Vec::with_capacity(sequences.len() * width);
    for sequence in sequences {
        ids.extend_from_slice(sequence);
        ids.resize(ids.len() + width - sequence.len(), 0);
    }
    Ok((Tensor::from_vec(ids, (sequences.len(), width), device)?, width))
}

//! How a model is loaded.

use crate::{CacheFormat, Precision, Quantization};

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// One sequence at a time in each of `replicas` copies of the model: the only way that is correct in 0.8.1.
    ///
    /// A small model's products are too small to be split over threads, so one copy per core is faster by the number of
    /// cores. A large model uses all cores by itself.
    Cpu {
        /// Copies of the model, each with its own weights and thread; at least one.
        replicas: usize,
    },
    /// A CUDA device, with PagedAttention and up to `max_sequences` sequences together.
    Gpu {
        /// Which device, from 0.
        index: usize,
        /// How many sequences decode together.
        max_sequences: usize,
        cache: Cache,
    },
}

/// The paged key-value cache on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Its memory in MiB, allocated when a model is loaded.
    pub mb: usize,
    /// Tokens in a block: 8, 16 or 32.
    pub block_size: usize,
    pub format: CacheFormat,
}

/// When a publish frees the old model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The new model is built while the old one answers, then replaces it: both are in memory for a while.
    SideBySide,
    /// The old model finishes its requests and is freed, then the new one is built: requests wait, but memory for one
    /// model is enough.
    Reload,
}

/// How a model is loaded; the same for every publish of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MistralSettings {
    pub device: Device,
    pub precision: Precision,
    pub quantization: Quantization,
    pub swap: Swap,
}

impl MistralSettings {
    /// On a CPU in f32, side by side.
    pub fn cpu(replicas: usize) -> Self {
        let device = Device::Cpu { replicas };
        Self { device, precision: Precision::F32, quantization: Quantization::None, swap: Swap::SideBySide }
    }

    /// How many copies of the model are loaded.
    pub fn replicas(&self) -> usize {
        match self.device {
            Device::Cpu { replicas } => replicas.max(1),
            Device::Gpu { .. } => 1,
        }
    }

    /// How many sequences may be in a model at a time.
    ///
    /// On a CPU exactly one. 0.8.1's single-query attention (`flash_attn_cpu_single_q`) shares one scratch area between
    /// the sequences of a batch, so all but one get wrong logits; and its own limit (`max_num_seqs` 1) does not
    /// separate requests. `tests/engines/` compares concurrent sequences with the trainer's forward, and fails if
    /// this limit is removed too early.
    pub fn max_sequences(&self) -> usize {
        match self.device {
            Device::Cpu { .. } => 1,
            Device::Gpu { max_sequences, .. } => max_sequences.max(1),
        }
    }
}

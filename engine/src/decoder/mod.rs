//! A decoder's configuration and weights, with Hugging Face names: loaded once, shared by the trainer and by engines
//! that run in this process.
//!
//! One structure computes Llama 2 and 3, SmolLM2, Mistral, Qwen2, Qwen2.5 and Qwen3: they differ in biases, in the
//! normalisation of queries and keys, and in their rotary angles, which `config.json` tells.

mod block;
mod config;
mod file;
mod module;
pub mod ops;
mod rope;
mod weights;

pub use block::{BlockOps, DecoderBlock};
pub use config::{Architecture, DecoderConfig, Heads};
pub use module::Module;
pub use rope::Rope;
pub use weights::{LayerWeights, Linear, Weights, has_weights, number_formats, weight_files};

//! A Llama-family decoder's configuration and weights, with Hugging Face names: loaded once, shared by the trainer
//! and by engines that run in this process.

mod config;
mod weights;

pub use config::DecoderConfig;
pub use weights::{LayerWeights, Weights, module_path, weight_files};

//! A decoder's configuration, weights and block, with Hugging Face names. They are loaded once, and shared by the
//! trainer and the engines in this process.
//!
//! One structure computes Llama 2 and 3, SmolLM2, Mistral, Qwen2, Qwen2.5 and Qwen3. They differ in biases, in the
//! normalisation of queries and keys, in their rotary angles and in their sliding windows; `config.json` says which.
//!
//! - `architecture.rs` families · `config.rs` sizes and constants · `config_file.rs` reading `config.json` ·
//!   `config_keys.rs` all keys that it may have · `rope_keys.rs`, `windows.rs`, `token_ids.rs` some of them ·
//!   `heads.rs`
//! - `module.rs` names of linear layers · `weights.rs` tensors · `weight_files.rs`, `file.rs` reading safetensors files
//! - `block.rs` the forward of a block · `ops.rs` its operators by candle · `rope.rs` rotary angles

mod architecture;
mod block;
mod config;
mod config_file;
mod config_keys;
mod file;
mod heads;
mod module;
pub mod ops;
mod rope;
mod rope_keys;
mod token_ids;
mod weight_files;
mod weights;
mod windows;

pub use architecture::Architecture;
pub use block::{BlockOps, DecoderBlock};
pub use config::DecoderConfig;
pub use heads::Heads;
pub use module::Module;
pub use rope::Rope;
pub use weight_files::{has_weights, number_formats, weight_files};
pub use weights::{LayerWeights, Linear, Weights};
pub use windows::{SlidingWindows, first_seen};

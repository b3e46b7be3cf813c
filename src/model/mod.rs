//! Models: where they come from, and what is read of them.
//!
//! - [`hub`]: from a name to a folder · [`folder`]: writing a model folder · [`presets`]: shapes of known models
//! - [`tokenizer`]: text to ids and back · [`chat_template`]: from messages to text · [`device`]: the trainer's device
//! - [`base`]: a base model in memory

pub mod base;
pub mod chat_template;
pub mod device;
pub mod folder;
pub mod hub;
pub mod presets;
pub mod tokenizer;

//! Curriculum-driven GRPO post-training of language models.
//!
//! Data flows one way: rows → [`scheduler`] → [`rollout`] → [`reward`] → [`advantage`] → [`batch`] → [`train`] → publish;
//! [`pipeline`] is the only module that sees every stage. `ARCHITECTURE.md` has the map and the invariants.
//!
//! Without the `train` feature only the pure parts are built: [`curriculum`], [`advantage`] and [`task`] need no async
//! runtime, no tensors and no engine, and can serve somebody else's trainer.

pub mod advantage;
pub mod batch;
pub mod commands;
pub mod curriculum;
pub mod error;
pub mod files;
pub mod task;

#[cfg(feature = "train")]
pub mod config;
#[cfg(feature = "train")]
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;

//! Curriculum-driven GRPO post-training of language models.
//!
//! Data flows one way: rows → [`scheduler`] → [`rollout`] → [`reward`] → [`advantage`] → [`batch`] → [`train`] → publish;
//! [`pipeline`] is the only module that sees every stage. `ARCHITECTURE.md` has the map and the invariants.
//!
//! Without the `train` feature only the pure parts are built: [`curriculum`], [`advantage`], [`task`] and [`report`] need no async
//! runtime, no tensors and no engine, and can serve somebody else's trainer.

pub mod advantage;
pub mod batch;
pub mod commands;
pub mod curriculum;
pub mod error;
pub mod files;
pub mod metric_names;
pub mod report;
pub mod task;

#[cfg(feature = "train")]
pub mod agreement;
#[cfg(feature = "train")]
pub mod budget;
#[cfg(feature = "train")]
pub mod checkpoint;
#[cfg(feature = "train")]
pub mod config;
#[cfg(feature = "train")]
pub mod curriculum_bench;
#[cfg(feature = "train")]
pub mod dataset;
#[cfg(feature = "train")]
pub mod eval;
#[cfg(feature = "train")]
pub mod gpu;
#[cfg(feature = "train")]
pub mod hub;
#[cfg(feature = "train")]
pub mod learner;
#[cfg(feature = "train")]
pub mod metrics;
#[cfg(feature = "train")]
pub mod model_folder;
#[cfg(feature = "train")]
pub mod pipeline;
#[cfg(feature = "train")]
pub mod predict;
#[cfg(feature = "train")]
pub mod presets;
#[cfg(feature = "train")]
pub mod progress;
#[cfg(feature = "train")]
pub mod reward;
#[cfg(feature = "train")]
pub mod rollout;
#[cfg(feature = "train")]
pub mod run_dir;
#[cfg(feature = "train")]
pub mod run_log;
#[cfg(feature = "train")]
pub mod scheduler;
#[cfg(feature = "train")]
pub mod setup;
#[cfg(feature = "train")]
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;
#[cfg(feature = "train")]
pub mod types;

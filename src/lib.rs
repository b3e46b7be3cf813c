//! Curriculum-driven GRPO post-training of language models.
//!
//! Data flows one way: rows → [`scheduler`] → rollout → reward → [`advantage`] → batch → trainer → publish; the module `pipeline`
//! joins the stages. `ARCHITECTURE.md` has the map and the invariants.
//!
//! Without the `train` feature only the pure parts are built, for use in another trainer: [`curriculum`], [`advantage`], [`task`],
//! [`scheduler`], [`simulator`] and [`report`] need no async runtime, no tensors and no engine.

pub mod advantage;
pub mod curriculum;
pub mod error;
pub mod files;
pub mod metric_names;
pub mod report;
pub mod scheduler;
pub mod seed;
pub mod simulator;
pub mod task;

#[cfg(feature = "train")]
pub mod commands;
#[cfg(feature = "train")]
pub mod config;
#[cfg(feature = "train")]
pub mod curriculum_bench;
#[cfg(feature = "train")]
pub mod memory;
#[cfg(feature = "train")]
pub mod model;
#[cfg(feature = "train")]
pub mod panics;
#[cfg(feature = "train")]
pub mod pipeline;
#[cfg(feature = "train")]
pub mod processes;
#[cfg(feature = "train")]
pub mod reward;
#[cfg(feature = "train")]
pub mod run_dir;
#[cfg(feature = "train")]
pub mod serve;
#[cfg(feature = "train")]
pub mod signals;
#[cfg(feature = "train")]
pub mod table;
#[cfg(feature = "train")]
pub mod terminal;
#[cfg(feature = "train")]
pub mod train;

//! Whole runs with the scripted engine. Most train with the real trainer, and those in [`stages`] with a scripted one.

mod batches;
mod determinism;
mod faults;
mod filter;
#[cfg(unix)]
mod graders;
mod hangs;
mod off_policy;
#[cfg(all(feature = "mistralrs", not(feature = "cuda")))]
mod one_device;
mod panics;
mod prefill;
mod resume;
mod scale;
mod stages;

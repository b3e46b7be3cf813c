//! Memory: as predicted, given back, and flat over many steps. These tests are slow; `cargo test --release --test main memory::`
//! runs them alone.

mod long_runs;
mod predicted;
#[cfg(all(feature = "mistralrs", not(feature = "cuda")))]
mod publishes;
mod training;

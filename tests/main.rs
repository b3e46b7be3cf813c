//! Every integration test, in one binary: each binary links the whole program.

mod fixtures;

mod cli;
mod pipeline;
mod trainer;

#[cfg(feature = "mistralrs")]
mod engines;

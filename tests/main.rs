//! Every integration test, in one binary: each binary links the whole program.

#![allow(clippy::print_stdout)]

mod fixtures;

mod architectures;
mod cli;
mod dependencies;
mod engines;
mod memory;
mod pipeline;
mod settings;
mod templates;
mod tokenizer;
mod trainer;

//! Configuration files: raw TOML plus `--set` overrides become one checked value, once.
//!
//! - [`run`]: what `train`, `eval` and `bench` read · [`sft`]: what `sft` reads · a file for each table that has no other home, with its checks
//! - [`load()`]: from a file to a checked value · [`resolve`]: what a value leaves open is decided once
//!
//! An unknown key is an error that names the most similar known one. Paths in a file are relative to that file. Paths in
//! `--set` are relative to the current folder. A loaded configuration holds absolute paths.

pub mod bench;
pub mod ckpt;
pub mod data;
pub mod engine;
pub mod eval;
pub mod grader;
pub mod grader_spec;
mod load;
pub mod log;
pub mod lora;
pub mod loss;
pub mod optim;
mod paths;
pub mod pipeline;
pub mod remote;
pub mod resolve;
pub mod reward;
pub mod run;
pub mod sft;
pub mod trainer;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

use crate::error::{InputError, KeyError};
pub use load::load;

/// A configuration type: every key has a default, and all values are checked before anything runs.
pub trait Config: Default + Serialize + DeserializeOwned {
    /// Dotted keys that hold a path, or a list of paths.
    const PATHS: &'static [&'static str];
    /// Those of them that may also hold the name of a model on the hub.
    const MODELS: &'static [&'static str];
    /// Dotted keys of tables whose keys are names from the data.
    const BY_NAME: &'static [&'static str];
    /// Dotted keys that hold a [`grader_spec::GraderSpec`].
    const GRADERS: &'static [&'static str] = &[];

    /// Keys of earlier versions, each with today's.
    const OLD_NAMES: &'static [(&'static str, &'static str)] = &[];

    /// Rewrites keys of earlier versions as today's.
    fn modernise(_given: &mut Table) {}

    /// The values of keys that `given` does not have.
    fn defaults(_given: &Table) -> Self {
        Self::default()
    }

    /// # Errors
    /// A key whose value cannot work, and what would be right.
    fn check(&self) -> Result<(), KeyError>;
}

/// A configuration as TOML, every key written out.
pub fn to_toml<C: Config>(config: &C) -> Result<String, InputError> {
    toml::to_string_pretty(config).map_err(|e| InputError::new("configuration", e))
}

/// Whether `model` reads as `owner/name` or `owner/name@revision`, and not as a path. It becomes the name of a folder of the hub's
/// cache, so no part of it leads to another folder, and no name has the `--` that stands for `/` there.
pub fn is_hub_id(model: &str) -> bool {
    let (model, revision) = model.split_once('@').unwrap_or((model, "main"));
    let is_revision = |letter: char| letter.is_ascii_alphanumeric() || "._-/%+".contains(letter);
    if !revision.chars().all(is_revision)
        || revision.replace("%2F", "/").split('/').any(|part| part.is_empty() || part == ".." || part == ".")
    {
        return false;
    }
    let is_part = |part: &str| {
        let mut letters = part.chars();
        letters.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && letters.all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !part.contains("--")
    };
    model.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}

#[cfg(test)]
mod tests;

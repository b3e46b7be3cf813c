//! `dump-rl init-model`: a model of a known architecture with random weights and a new tokenizer.
//!
//! Speed and memory depend on shapes only, so they can be measured without downloading a model.

mod random;
mod weights;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use engine::decoder::{Architecture, DecoderConfig};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::InputError;
use crate::model::folder::{check_empty, write_folder};
use crate::model::presets;
use crate::task::kk;
use crate::terminal;
use crate::train::bpe::{self, END_OF_TURN};

/// The most tokens of the tokenizer.
const VOCABULARY: usize = 1024;
/// Puzzles of each size that the tokenizer learns from. Every model gets the same tokenizer.
const PUZZLES: usize = 50;

/// Writes a model of the architecture `arch` into `out`, which must be empty or absent.
///
/// # Errors
/// If the architecture is not known, `out` is not empty, or the disk is too small. Nothing is left behind.
pub fn run(arch: &str, out: &Path, seed: u64) -> Result<()> {
    let Some((name, config)) = presets::architecture(arch) else {
        let known = presets::architectures().join(", ");
        let problem = format!("{arch:?} is not known; known are {known}; of Qwen2.5 the size alone will do, as in 7b");
        return Err(InputError::new("--arch", problem).into());
    };
    check_empty(out)?;
    check_space(out, 2 * config.parameters() as u64)?;
    let since = Instant::now();
    let mut bytes = 0;
    write_folder(out, |dir| {
        let config = DecoderConfig { eos_token_id: write_tokenizer(config.vocab_size, dir)?.into(), ..config };
        fs::write(dir.join("config.json"), serde_json::to_string_pretty(&settings(&config)?)? + "\n")?;
        bytes = weights::write(&config, seed, dir)?;
        Ok(())
    })?;
    let (size, seconds) = (bytes as f64 / 1e9, since.elapsed().as_secs_f64());
    terminal::say(format_args!("{}: {name}, random, {size:.2} GB in {seconds:.1} s", out.display()));
    Ok(())
}

/// # Errors
/// If fewer than `bytes` bytes are free on the disk of `out`.
fn check_space(out: &Path, bytes: u64) -> Result<(), InputError> {
    let there = std::path::absolute(out).ok();
    let there = there.as_deref().and_then(|out| out.ancestors().find(|folder| folder.exists()));
    // If the system does not report it, writing will fail when the disk is full.
    let Some(free) = there.and_then(free_bytes) else { return Ok(()) };
    if free < bytes {
        let [free, bytes] = [free, bytes].map(|bytes| bytes as f64 / 1e9);
        let problem = format!(
            "the model takes {bytes:.2} GB, and {free:.2} GB are free here; choose another disk with --out DIR"
        );
        return Err(InputError::new(out.display(), problem));
    }
    Ok(())
}

/// Bytes that this process can still write to the disk of `folder`, if the system reports it.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

/// Not known here: a full disk is noticed while writing.
#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// Trains a tokenizer of at most `vocabulary` tokens on puzzles. Returns the id that ends a turn.
fn write_tokenizer(vocabulary: usize, dir: &Path) -> Result<u32> {
    let (rows, _) = kk::splits(3..=14, PUZZLES, 0, 0)?;
    let texts: Vec<String> = rows.into_iter().flat_map(|row| row.prompt).map(|message| message.content).collect();
    bpe::train(&texts, vocabulary.min(VOCABULARY), dir).map_err(anyhow::Error::from_boxed)?;
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).map_err(anyhow::Error::from_boxed)?;
    tokenizer.token_to_id(END_OF_TURN).ok_or_else(|| anyhow::anyhow!("the tokenizer lost {END_OF_TURN}: this is a bug"))
}

/// `config.json`, with the keys that other programs need too.
fn settings(config: &DecoderConfig) -> Result<Value> {
    let mut settings = serde_json::to_value(config)?;
    let more = match config.architecture() {
        Architecture::Qwen2 | Architecture::Qwen3 => json!({
            "use_sliding_window": false, "max_window_layers": config.num_hidden_layers,
        }),
        Architecture::Llama | Architecture::Mistral => json!({}),
    };
    let both = json!({
        "torch_dtype": "bfloat16", "initializer_range": weights::STD, "attention_dropout": 0.0, "use_cache": true,
    });
    for more in [more, both] {
        let entries = more.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
        settings.as_object_mut().into_iter().for_each(|settings| settings.extend(entries.clone()));
    }
    Ok(settings)
}

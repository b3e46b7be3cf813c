//! `dump-rl bench`: how fast things are, on shapes that `[bench]` in the configuration names.
//!
//! Every bench prints a table and, with `--json`, writes its results as a JSON list.

mod card;
pub mod check;
pub mod pipeline;
pub mod rollout;
pub mod sync;
pub mod train;

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use comfy_table::Table;
use engine::{Adapter, Precision, Quantization};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::config::bench::{BenchConfig, Lengths};
use crate::config::engine::DeviceKind;
use crate::config::resolve::EngineChoice;
use crate::error::InputError;
use crate::model::base::Base;
use crate::seed::mix_seed;
use crate::terminal;
use crate::train::memory::Batch;
use crate::train::tensors_to_bytes;
use crate::train::trainer::Trainer;
use crate::train::trainer::state::TrainerState;

/// One combination of the grid.
#[derive(Debug, Clone, Copy)]
struct Case {
    prompts: usize,
    group_size: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    lengths: Lengths,
}

/// What a result is about: its first fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subject {
    pub bench: String,
    pub engine: EngineChoice,
    pub device: DeviceKind,
    /// What the engine computes in.
    pub dtype: Precision,
    /// How the engine's matrices are quantized.
    pub quantization: Quantization,
    pub model: String,
}

impl Subject {
    fn new(bench: &str, base: &Base) -> Self {
        let Base { config, resolved, .. } = base;
        Self {
            bench: bench.into(),
            engine: resolved.engine,
            device: resolved.device,
            dtype: resolved.engine_precision,
            quantization: config.engine.quantization,
            model: config.model.display().to_string(),
        }
    }

    /// The engine and its number formats, as tables show them.
    fn sampler(&self) -> String {
        match self.quantization {
            Quantization::None => format!("{:?} {:?}", self.engine, self.dtype),
            packed => format!("{:?} {:?} {packed:?}", self.engine, self.dtype),
        }
        .to_lowercase()
    }
}

impl Case {
    fn shape(&self) -> Batch {
        Batch {
            prompts: self.prompts,
            group_size: self.group_size,
            prompt_tokens: self.prompt_tokens,
            new_tokens: self.new_tokens,
            fewest_tokens: match self.lengths {
                Lengths::Fixed => self.new_tokens,
                Lengths::Drawn => 1,
            },
        }
    }
}

/// Every combination.
///
/// # Errors
/// If a combination does not fit a context of `context` tokens.
fn cases(bench: &BenchConfig, context: usize) -> Result<Vec<Case>, InputError> {
    let mut cases = Vec::new();
    for &prompts in &bench.prompts {
        for &group_size in &bench.group_sizes {
            for &prompt_tokens in &bench.prompt_tokens {
                for &new_tokens in &bench.new_tokens {
                    if prompt_tokens + new_tokens > context {
                        let problem = format!(
                            "{prompt_tokens} prompt tokens and {new_tokens} new ones do not fit the model's context of \
                             {context}"
                        );
                        return Err(InputError::new("bench.new_tokens", problem));
                    }
                    cases.push(Case { prompts, group_size, prompt_tokens, new_tokens, lengths: bench.lengths });
                }
            }
        }
    }
    Ok(cases)
}

/// An adapter that changes every layer it covers. Each `seed` gives another one.
fn random_adapter(base: &Base, seed: u64) -> Result<Adapter> {
    /// The largest entry of B, which is 0 in a fresh adapter. With this value the adapter adds some tenths of a layer's output.
    const MOST: f32 = 0.03;
    let fresh = base.trainer()?.adapter()?;
    let mut rng = ChaCha8Rng::seed_from_u64(mix_seed(seed, 0xADA9));
    let mut tensors = fresh.tensors()?;
    for (_, tensor) in tensors.iter_mut().filter(|(name, _)| name.ends_with("lora_B.weight")) {
        let values: Vec<f32> = (0..tensor.elem_count()).map(|_| rng.random_range(-MOST..MOST)).collect();
        *tensor = Tensor::from_vec(values, tensor.dims(), &Device::Cpu)?;
    }
    Ok(Adapter::new(fresh.config, tensors_to_bytes(&tensors)?))
}

/// A trainer whose policy is `adapter`.
fn trainer_of(base: &Base, adapter: &Adapter) -> Result<Trainer> {
    let trainer = base.trainer()?;
    let state = TrainerState { adapter: adapter.clone(), ..trainer.state()? };
    trainer.restore(&state)
}

/// Writes `json` and prints the table. The file comes first: it must not depend on who reads the table.
fn report<T: Serialize>(json: Option<&Path>, measured: &[T], table: impl FnOnce(&[T]) -> Table) -> Result<()> {
    write_json(json, measured)?;
    terminal::give(|out| writeln!(out, "{}", table(measured)))
}

fn write_json<T: Serialize>(path: Option<&Path>, measured: &[T]) -> Result<()> {
    if let Some(path) = path {
        let text = serde_json::to_string_pretty(measured)? + "\n";
        crate::files::write_atomic(path, text.as_bytes()).map_err(|e| InputError::new(path.display(), e))?;
    }
    Ok(())
}

/// The `q`-quantile of `values`, which must not be empty.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q).round() as usize]
}

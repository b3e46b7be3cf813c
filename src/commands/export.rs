//! `dump-rl export`: a run's newest policy, as a PEFT adapter or merged into its base model.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use engine::Adapter;
use engine::decoder::{DecoderConfig, Module, weight_files};

use crate::checkpoint::Checkpoint;
use crate::config::{self, run::RunConfig};
use crate::error::InputError;
use crate::hub;
use crate::train::lora::save_adapter;

/// What a model folder holds beside its weights, where it does.
const BESIDE: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
];

/// Writes the newest policy of the run in `run` to `out`: PEFT's two files, or with `merge` a model folder.
///
/// # Errors
/// If there is no run or checkpoint, `out` is not empty, or the base model does not fit the adapter.
pub fn run(run: &Path, out: &Path, merge: bool) -> Result<()> {
    let config: RunConfig = config::load(&run.join("config.toml"), &[])?;
    let checkpoint = Checkpoint::load_latest(run)?;
    let (step, adapter) = (checkpoint.step(), checkpoint.trainer.adapter);
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(InputError::new(out.display(), "is not empty; choose another folder with --out DIR").into());
    }
    let base = &hub::folder(&config.model)?;
    let decoder = DecoderConfig::load(base)?;
    fs::create_dir_all(out).map_err(|e| InputError::new(out.display(), e))?;
    for name in BESIDE.iter().filter(|name| base.join(name).is_file()) {
        copy(&base.join(name), &out.join(name))?;
    }
    if merge {
        merge_weights(base, &decoder, &adapter, out)?;
    } else {
        save_adapter(&adapter, out)?;
    }
    let what = if merge { "the merged model" } else { "the adapter" };
    println!("{what} of step {step} is in {}", out.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display())).map(drop)
}

/// Writes the base's weight files again, W + (alpha / r)·B·A in place of W, in the number format they have: one file
/// is in memory at a time.
fn merge_weights(base: &Path, decoder: &DecoderConfig, adapter: &Adapter, out: &Path) -> Result<()> {
    let mut deltas = adapter.tensors()?;
    let names = |layer: usize, module: Module| format!("model.layers.{layer}.{}", module.path());
    let adapted: Vec<String> = (0..decoder.num_hidden_layers)
        .flat_map(|layer| Module::ALL.map(|module| names(layer, module)))
        .filter(|path| deltas.contains_key(&format!("base_model.model.{path}.lora_A.weight")))
        .collect();
    for file in weight_files(base)? {
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu)?;
        for path in &adapted {
            let Some(weight) = tensors.get_mut(&format!("{path}.weight")) else { continue };
            let mut take = |side: &str| {
                let name = format!("base_model.model.{path}.lora_{side}.weight");
                deltas.remove(&name).with_context(|| format!("the adapter lacks {name}"))
            };
            let (a, b) = (take("A")?, take("B")?);
            let delta = (b.matmul(&a)? * adapter.config.scale())?;
            ensure!(
                delta.dims() == weight.dims(),
                "{path}: the adapter is for {:?}, the model has {:?}",
                delta.dims(),
                weight.dims()
            );
            *weight = (weight.to_dtype(DType::F32)? + delta)?.to_dtype(weight.dtype())?;
        }
        let target = out.join(file.file_name().unwrap_or_default());
        write_tensors(&target, tensors.into_iter().collect())?;
    }
    ensure!(deltas.is_empty(), "the base model lacks the layers of {:?}", deltas.keys().next());
    for name in ["config.json", "model.safetensors.index.json"] {
        if base.join(name).is_file() {
            copy(&base.join(name), &out.join(name))?;
        }
    }
    Ok(())
}

/// With the `format` that transformers looks for.
fn write_tensors(path: &PathBuf, tensors: std::collections::BTreeMap<String, Tensor>) -> Result<()> {
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let temporary = crate::files::temporary_name(path);
    safetensors::serialize_to_file(&tensors, Some(metadata), &temporary)?;
    Ok(fs::rename(&temporary, path)?)
}

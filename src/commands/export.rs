//! `dump-rl export`: a run's newest policy, as a PEFT adapter or merged into its base model.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use engine::adapter::tensor_names;
use engine::decoder::{DecoderConfig, Module, Weights, weight_files};
use engine::{Adapter, LoraConfig};

use crate::config;
use crate::config::run::RunConfig;
use crate::error::InputError;
use crate::model::folder::{check_empty, copy, copy_beside, write_folder, write_tensors};
use crate::model::hub;
use crate::run_dir::checkpoint::latest_policy;
use crate::run_dir::{base_model, fingerprints};
use crate::terminal;
use crate::train::lora::{Lora, save_adapter};

/// Writes the newest policy of the run in `run` to `out`: PEFT's two files with the tokenizer, or with `merge` a model folder. `model`
/// is where the base model is now, if not where the run had it.
///
/// # Errors
/// If there is no run or checkpoint, `out` is not empty, or the base model is not that of the run: nothing is written.
pub fn run(run: &Path, out: &Path, merge: bool, model: Option<&str>) -> Result<()> {
    let sets: Vec<String> = model.map(|model| format!("model={model}")).into_iter().collect();
    let config: RunConfig = config::load(&run.join("config.toml"), &sets)?;
    let (step, adapter) = latest_policy(run)?;
    check_empty(out)?;
    base_model::check_here(&config.model, "--model DIR")?;
    let base = &hub::folder(&config.model)?;
    fingerprints::check_model(run, base)?;
    let decoder = DecoderConfig::load(base)?;
    let adapter = named(adapter, &config);
    check_fits(&adapter, base, &decoder)?;
    if merge {
        Weights::check(base, &decoder)?;
    }
    write_folder(out, |out| {
        copy_beside(base, out)?;
        match merge {
            true => merge_weights(base, &decoder, &adapter, out),
            false => Ok(save_adapter(&adapter, out)?),
        }
    })?;
    let what = if merge { "the merged model" } else { "the adapter" };
    terminal::say(format_args!("{what} of step {step} is in {}", out.display()));
    Ok(())
}

/// The adapter with the present name of its base model.
fn named(adapter: Adapter, config: &RunConfig) -> Adapter {
    let base_model_name_or_path = hub::without_revision(&config.model.to_string_lossy()).to_string();
    Adapter { config: Arc::new(LoraConfig { base_model_name_or_path, ..(*adapter.config).clone() }), ..adapter }
}

/// # Errors
/// If the adapter has other layers or shapes than the model.
fn check_fits(adapter: &Adapter, base: &Path, decoder: &DecoderConfig) -> Result<(), InputError> {
    match Lora::from_adapter(adapter, decoder, &Device::Cpu) {
        Ok(_) => Ok(()),
        Err(e) => Err(InputError::new(base.display(), format!("the run's adapter is for another model: {e}"))),
    }
}

/// Writes the base's weight files with W + (alpha / r)·B·A in place of W, in their own number format. One file is in memory at a
/// time.
fn merge_weights(base: &Path, decoder: &DecoderConfig, adapter: &Adapter, out: &Path) -> Result<()> {
    let updates = adapter.tensors()?;
    let layers = (0..decoder.num_hidden_layers).flat_map(|layer| Module::ALL.map(|module| (layer, module)));
    let layers: Vec<(usize, Module)> = layers.collect();
    for file in weight_files(base)? {
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu)?;
        for &(layer, module) in &layers {
            let name = format!("model.layers.{layer}.{}.weight", module.path());
            let Some(weight) = tensors.get_mut(&name) else { continue };
            if let [Some(a), Some(b)] = tensor_names(layer, module).map(|name| updates.get(&name)) {
                *weight = merged(weight, a, b, adapter.config.scale())?;
            }
        }
        let target = out.join(file.file_name().with_context(|| file.display().to_string())?);
        write_tensors(&target, &tensors.into_iter().collect())?;
    }
    for name in ["config.json", "model.safetensors.index.json"] {
        if base.join(name).is_file() {
            copy(&base.join(name), &out.join(name))?;
        }
    }
    Ok(())
}

/// W + scale·B·A in W's number format. The sum is computed in f32.
fn merged(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> candle_core::Result<Tensor> {
    let delta = (b.matmul(a)? * scale)?;
    (weight.to_dtype(DType::F32)? + delta)?.to_dtype(weight.dtype())
}

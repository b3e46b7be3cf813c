//! What every engine must guarantee (see `engine::Engine`), checked on real engines with a real model.

mod checks;
#[cfg(all(feature = "mistralrs", not(feature = "cuda")))]
mod mistral;
mod native;
mod scripted;

use std::path::Path;
use std::sync::Arc;

use dump_rl::config::loss::LossConfig;
use dump_rl::config::optim::OptimConfig;
use dump_rl::config::trainer::TrainerConfig;
use dump_rl::train::sample::Sample;
use dump_rl::train::trainer::{Trainer, TrainerSettings};
use engine::adapter::LINEAR_LAYERS;
use engine::decoder::{DecoderConfig, Weights};
use engine::{Completion, Engine, LoraConfig, Request, Sampling};

#[cfg(all(feature = "mistralrs", not(feature = "cuda")))]
pub use checks::check_groups;

pub fn trainer(model: &Path) -> Trainer {
    let decoder = DecoderConfig::load(model).unwrap();
    let weights = Weights::load(model, &decoder, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let lora = LoraConfig::new(4, 8.0, LINEAR_LAYERS.map(String::from).to_vec(), "tiny".into());
    let optim = OptimConfig { lr: 0.05, ..OptimConfig::default() };
    let settings = TrainerSettings {
        loss: LossConfig::default(),
        optim,
        trainer: TrainerConfig::default(),
        temperature: 1.0,
        max_new_tokens: 32,
        updates_per_step: 1,
        total_updates: 2,
        sketches_gradients: false,
        workers: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
    };
    Trainer::new(candle_core::Device::Cpu, decoder, weights, Arc::new(lora), settings, 1).unwrap()
}

fn request(number: u32, group_size: usize, stop_tokens: &[u32]) -> Request {
    let prompt: Vec<u32> = (0..12 + 5 * number).map(|i| 3 + (i * 7 + number * 31) % 250).collect();
    let sampling = Sampling { max_new_tokens: 32, ..Sampling::new(1.0, stop_tokens.to_vec()) };
    Request { prompt: prompt.into(), group_size, seed: u64::from(number), sampling }
}

/// Sends several requests at once. Returns each with its group of completions.
async fn generate_together<E: Engine>(
    engine: &Arc<E>,
    numbers: std::ops::Range<u32>,
) -> Vec<(Request, Vec<Completion>)> {
    let running: Vec<_> = numbers
        .map(|number| {
            let (engine, request) = (engine.clone(), request(number, 4, &[2]));
            tokio::spawn(async move { (request.clone(), engine.generate(request).await.unwrap()) })
        })
        .collect();
    let mut answers = Vec::new();
    for task in running {
        answers.push(task.await.unwrap());
    }
    answers
}

fn samples(request: &Request, completions: &[Completion]) -> Vec<Sample> {
    let sample = |(i, c): (usize, &Completion)| Sample {
        group: request.seed,
        source: 0,
        prompt: request.prompt.clone(),
        completion: c.tokens.clone(),
        rollout_log_probs: c.full_log_probs.clone(),
        advantage: if i % 2 == 0 { 1.0 } else { -1.0 },
        policy_step: c.policy.step,
        truncated: false,
    };
    completions.iter().enumerate().map(sample).collect()
}

/// Trains a step on the engine's own completions, so that the next adapter differs from the first on every layer.
async fn next_adapter<E: Engine>(engine: &Arc<E>, trainer: &mut Trainer, step: u64) -> engine::Adapter {
    let answers = generate_together(engine, 0..2).await;
    let batch: Vec<Sample> = answers.iter().flat_map(|(request, completions)| samples(request, completions)).collect();
    trainer.step(step, &batch).unwrap().adapter
}

//! The trainer compared with PyTorch, transformers and PEFT (`golden/grpo.py` makes the numbers), and what must hold whatever the
//! numbers are.

mod bad_gradients;
mod checkpoint;
mod invariance;
mod losses;
mod on_plain_operators;
mod reference;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use dump_rl::config::loss::{LossAggMode, LossConfig};
use dump_rl::config::optim::OptimConfig;
use dump_rl::config::trainer::TrainerConfig;
use dump_rl::train::model::Model;
use dump_rl::train::optim::{NamedGrads, global_norm};
use dump_rl::train::sample::Sample;
use dump_rl::train::stats::StepStats;
use dump_rl::train::trainer::state::TrainerState;
use dump_rl::train::trainer::{Trainer, TrainerSettings};
use engine::Adapter;
use engine::decoder::{DecoderConfig, Weights};
use serde::Deserialize;

use crate::fixtures::root;

const TEMPERATURE: f64 = 0.8;
/// Relative error allowed against PyTorch in f32; about ten times what was measured.
const TOLERANCE: f64 = 2e-5;
/// Error allowed in f16, whose unit of rounding is 5e-4: for log-probabilities in nats, for gradients relative to their norm.
const HALF_TOLERANCE: f32 = 2e-2;
const MODES: [(LossAggMode, &str); 2] =
    [(LossAggMode::TokenMean, "token-mean"), (LossAggMode::SeqMeanTokenMean, "seq-mean-token-mean")];

/// `golden/grpo/expected.json`.
#[derive(Deserialize)]
struct Expected {
    log_probs: Vec<Vec<f32>>,
    base_log_probs: Vec<Vec<f32>>,
    entropy: f64,
    losses: BTreeMap<String, BTreeMap<String, f64>>,
    updates: Vec<BTreeMap<String, f64>>,
    mismatch: BTreeMap<String, f64>,
}

/// One line of `golden/grpo/batch.json`.
#[derive(Deserialize)]
struct Line {
    prompt: Vec<u32>,
    completion: Vec<u32>,
    rollout_log_probs: Vec<f32>,
    advantage: f32,
}

fn golden(name: &str) -> PathBuf {
    root().join("tests/golden/grpo").join(name)
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(name)).expect(name)).expect(name)
}

fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).expect(name).into_iter().collect()
}

fn expected() -> Expected {
    json("expected.json")
}

fn batch() -> Vec<Sample> {
    let sample = |group: u64, line: &Line| Sample {
        group,
        source: 0,
        prompt: line.prompt.clone().into(),
        completion: line.completion.clone(),
        rollout_log_probs: line.rollout_log_probs.clone(),
        advantage: line.advantage,
        policy_step: 0,
        truncated: false,
    };
    let lines = json::<Vec<Line>>("batch.json");
    let groups = lines.chunk_by(|a, b| a.prompt == b.prompt);
    (0..).zip(groups).flat_map(|(group, lines)| lines.iter().map(move |line| sample(group, line))).collect()
}

pub fn adapter() -> Adapter {
    let config = json("adapter/adapter_config.json");
    Adapter::new(Arc::new(config), std::fs::read(golden("adapter/adapter_model.safetensors")).unwrap())
}

fn model() -> Model {
    let config = DecoderConfig::load(&golden("model")).unwrap();
    let weights = Weights::load(&golden("model"), &config, DType::F32, &Device::Cpu).unwrap();
    Model::new(config, weights)
}

/// The settings of the golden run.
pub fn settings() -> TrainerSettings {
    TrainerSettings {
        loss: LossConfig { kl_loss_coef: 0.1, ..LossConfig::default() },
        optim: OptimConfig { lr: 1e-2, weight_decay: 0.01, max_grad_norm: 0.5, ..OptimConfig::default() },
        trainer: TrainerConfig::default(),
        temperature: TEMPERATURE,
        max_new_tokens: 32,
        updates_per_step: 1,
        total_updates: 2,
        sketches_gradients: false,
        workers: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
    }
}

fn settings_with(change: impl FnOnce(&mut LossConfig)) -> TrainerSettings {
    let mut settings = settings();
    change(&mut settings.loss);
    settings
}

pub fn settings_of(change: impl FnOnce(&mut TrainerConfig)) -> TrainerSettings {
    let mut settings = settings();
    change(&mut settings.trainer);
    settings
}

/// The settings without a KL term. Then completions without advantage are left out.
fn settings_without_kl() -> TrainerSettings {
    settings_with(|loss| loss.kl_loss_coef = 0.0)
}

/// A trainer whose adapter changes nothing.
fn fresh_trainer(settings: TrainerSettings) -> Trainer {
    let Model { config, weights, .. } = model();
    Trainer::new(Device::Cpu, config, weights, adapter().config, settings, 1).unwrap()
}

/// A trainer that starts from PEFT's adapter.
fn trainer(settings: TrainerSettings) -> Trainer {
    let fresh = fresh_trainer(settings);
    let state = TrainerState { adapter: adapter(), ..fresh.state().unwrap() };
    fresh.restore(&state).unwrap()
}

fn metric(stats: &StepStats, name: &str) -> f64 {
    stats.metrics().into_iter().find(|(n, _)| *n == name).expect(name).1
}

/// The gradient of the batch as the trainer computes it.
fn trainer_gradients(settings: TrainerSettings, samples: &[Sample]) -> NamedGrads {
    gradients_of(trainer(unclipped(settings)), samples)
}

fn unclipped(mut settings: TrainerSettings) -> TrainerSettings {
    (settings.optim.max_grad_norm, settings.trainer.ppo_epochs) = (0.0, 1);
    settings
}

/// The gradient of a trainer that does not clip it. After one update the first moment is a tenth of the gradient.
fn gradients_of(mut trainer: Trainer, samples: &[Sample]) -> NamedGrads {
    trainer.step(0, samples).unwrap();
    let moments = candle_core::safetensors::load_buffer(&trainer.state().unwrap().optimizer, &Device::Cpu).unwrap();
    let first = |(name, m): (String, Tensor)| Some((name.strip_suffix(".m")?.to_string(), (m / (1.0 - 0.9)).unwrap()));
    moments.into_iter().filter_map(first).collect()
}

/// The largest ‖got − want‖ / ‖want‖ of any tensor, and the tensor's name.
fn worst_error(got: &BTreeMap<String, Tensor>, want: &BTreeMap<String, Tensor>) -> (f64, String) {
    assert!(got.keys().eq(want.keys()), "{:?} are not {:?}", got.keys(), want.keys());
    let norm = |x: &Tensor| global_norm(&BTreeMap::from([(String::new(), x.clone())])).unwrap();
    let error = |(name, want): (&String, &Tensor)| (norm(&(&got[name] - want).unwrap()) / norm(want), name.clone());
    want.iter().map(error).max_by(|a, b| a.0.total_cmp(&b.0)).expect("tensors")
}

fn check_tensors(got: &BTreeMap<String, Tensor>, want: &BTreeMap<String, Tensor>, tolerance: f64) {
    let (error, name) = worst_error(got, want);
    assert!(error < tolerance, "{name} differs by {error:e} of its norm");
}

fn check_adapter(got: &Adapter, want: &BTreeMap<String, Tensor>, tolerance: f64) {
    check_tensors(&got.tensors().unwrap(), want, tolerance);
}

fn check(name: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * want.abs(), "{name} is {got}, not {want}");
}

fn check_mismatch(stats: &StepStats, expected: &Expected) {
    for (name, want) in &expected.mismatch {
        // The mean difference is a difference of nearly equal numbers, so it loses digits.
        let tolerance = if name == "rollout_corr/kl" { 1e-3 } else { TOLERANCE };
        check(name, metric(stats, name), *want, tolerance);
    }
}

fn check_log_probs(got: &[Vec<f32>], want: &[Vec<f32>]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(g, w)| check("log-probability", f64::from(*g), f64::from(*w), TOLERANCE));
    }
}

//! The trainer against PyTorch, transformers and PEFT (`golden/grpo.py` makes the numbers), and what it must keep whatever
//! the numbers: the same step however the batch is cut, resumed or half spoilt.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use dump_rl::advantage::{AdvantageScale, divide_by_batch_std, group_advantages};
use dump_rl::config::loss::{LossAggMode, LossConfig, LossKind, RolloutIs};
use dump_rl::config::optim::OptimConfig;
use dump_rl::config::trainer::{Recompute, TrainerConfig};
use dump_rl::memory::process::memory_mb;
use dump_rl::train::lora::Lora;
use dump_rl::train::loss::{self, TokenInputs};
use dump_rl::train::lr_schedule::learning_rate;
use dump_rl::train::memory;
use dump_rl::train::model::{Model, Rows};
use dump_rl::train::ops::Entropy;
use dump_rl::train::optim::{NamedGrads, global_norm};
use dump_rl::train::packed::Packed;
use dump_rl::train::parallel;
use dump_rl::train::sample::Sample;
use dump_rl::train::stats::StepStats;
use dump_rl::train::trainer::state::TrainerState;
use dump_rl::train::trainer::{Trainer, TrainerSettings};
use engine::decoder::{DecoderConfig, Weights};
use engine::{Adapter, LoraConfig};
use serde::Deserialize;

use crate::fixtures::root;

const TEMPERATURE: f64 = 0.8;
/// Relative error allowed against PyTorch in f32; about ten times what was measured.
const TOLERANCE: f64 = 2e-5;
/// What f16, with a unit of rounding of 5e-4, is allowed: log-probabilities in nats, gradients of their norm.
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
    let sample = |line: Line| Sample {
        prompt: line.prompt.into(),
        completion: line.completion,
        rollout_log_probs: line.rollout_log_probs,
        advantage: line.advantage,
        policy_step: 0,
        truncated: false,
    };
    json::<Vec<Line>>("batch.json").into_iter().map(sample).collect()
}

fn adapter() -> Adapter {
    let config = json("adapter/adapter_config.json");
    Adapter::new(Arc::new(config), std::fs::read(golden("adapter/adapter_model.safetensors")).unwrap())
}

fn model() -> Model {
    let config = DecoderConfig::load(&golden("model")).unwrap();
    let weights = Weights::load(&golden("model"), &config, DType::F32, &Device::Cpu).unwrap();
    Model::new(config, weights)
}

/// The settings of the golden run.
fn settings() -> TrainerSettings {
    TrainerSettings {
        loss: LossConfig { kl_loss_coef: 0.1, ..LossConfig::default() },
        optim: OptimConfig { lr: 1e-2, weight_decay: 0.01, max_grad_norm: 0.5, ..OptimConfig::default() },
        trainer: TrainerConfig::default(),
        temperature: TEMPERATURE,
        max_new_tokens: 32,
        updates_per_step: 1,
        total_updates: 2,
    }
}

fn settings_with(change: impl FnOnce(&mut LossConfig)) -> TrainerSettings {
    let mut settings = settings();
    change(&mut settings.loss);
    settings
}

fn settings_of(change: impl FnOnce(&mut TrainerConfig)) -> TrainerSettings {
    let mut settings = settings();
    change(&mut settings.trainer);
    settings
}

/// Without KL term, so that completions without advantage are left out.
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

/// The gradient of a trainer that does not clip it: a tenth of it is the first moment after one update.
fn gradients_of(mut trainer: Trainer, samples: &[Sample]) -> NamedGrads {
    trainer.step(0, samples).unwrap();
    let moments = candle_core::safetensors::load_buffer(&trainer.state().unwrap().optimizer, &Device::Cpu).unwrap();
    let first = |(name, m): (String, Tensor)| Some((name.strip_suffix(".m")?.to_string(), (m / (1.0 - 0.9)).unwrap()));
    moments.into_iter().filter_map(first).collect()
}

/// ‖got − want‖ / ‖want‖ of the worst tensor, and its name.
fn worst_error(got: &BTreeMap<String, Tensor>, want: &BTreeMap<String, Tensor>) -> (f64, String) {
    assert!(got.keys().eq(want.keys()), "{:?} are not {:?}", got.keys(), want.keys());
    let norm = |x: &Tensor| global_norm(&BTreeMap::from([(String::new(), x.clone())])).unwrap();
    let error = |(name, want): (&String, &Tensor)| (norm(&(&got[name] - want).unwrap()) / norm(want), name.clone());
    want.iter().map(error).max_by(|a, b| a.0.total_cmp(&b.0)).expect("tensors")
}

fn check_tensors(got: &BTreeMap<String, Tensor>, want: &BTreeMap<String, Tensor>, tolerance: f64) {
    let (error, name) = worst_error(got, want);
    assert!(error < tolerance, "{name} is off by {error:e} of its norm");
}

fn check_adapter(got: &Adapter, want: &BTreeMap<String, Tensor>, tolerance: f64) {
    check_tensors(&got.tensors().unwrap(), want, tolerance);
}

fn check(name: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * want.abs(), "{name} is {got}, not {want}");
}

fn check_log_probs(got: &[Vec<f32>], want: &[Vec<f32>]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(g, w)| check("log-probability", f64::from(*g), f64::from(*w), TOLERANCE));
    }
}

fn check_mismatch(stats: &StepStats, expected: &Expected) {
    for (name, want) in &expected.mismatch {
        // The mean difference is itself a difference of nearly equal numbers.
        let tolerance = if name == "rollout_corr/kl" { 1e-3 } else { TOLERANCE };
        check(name, metric(stats, name), *want, tolerance);
    }
}

#[test]
fn log_probs_are_those_of_transformers_and_peft() {
    check_log_probs(&trainer(settings()).score(&batch()).unwrap(), &expected().log_probs);
    check_log_probs(&fresh_trainer(settings()).score(&batch()).unwrap(), &expected().base_log_probs);
}

#[test]
fn losses_and_entropy_are_those_of_pytorch() {
    for (mode, name) in MODES {
        let (expected, mut trainer) = (expected(), trainer(settings_with(|loss| loss.loss_agg_mode = mode)));
        let stats = trainer.step(0, &batch()).unwrap().stats;
        let losses = &expected.losses[name];
        check("pg_loss", metric(&stats, "actor/pg_loss"), losses["pg_loss"], TOLERANCE);
        check("kl_loss", metric(&stats, "actor/kl_loss"), losses["kl_loss"], TOLERANCE);
        check("grad_norm", metric(&stats, "actor/grad_norm"), losses["grad_norm"], TOLERANCE);
        check("entropy", metric(&stats, "actor/entropy"), expected.entropy, TOLERANCE);
        check_mismatch(&stats, &expected);
    }
}

#[test]
fn gradients_are_those_of_pytorch() {
    for (mode, name) in MODES {
        let want = tensors(&format!("grads_{name}.safetensors"));
        check_tensors(&trainer_gradients(settings_with(|loss| loss.loss_agg_mode = mode), &batch()), &want, TOLERANCE);
    }
}

#[test]
fn an_update_is_that_of_pytorch() {
    let mut trainer = trainer(settings());
    let output = trainer.step(0, &batch()).unwrap();
    check_adapter(&output.adapter, &tensors("after1.safetensors"), TOLERANCE);
    assert_eq!(output.adapter.hash, trainer.adapter().unwrap().hash);
}

/// As a GPU computes it, candle's own operators in place of the fused ones, with every number in f32.
fn plain_trainer(settings: TrainerSettings) -> Trainer {
    trainer(settings).on_plain_operators()
}

#[test]
fn a_step_on_candle_s_operators_is_that_of_pytorch() {
    check_log_probs(&plain_trainer(settings()).score(&batch()).unwrap(), &expected().log_probs);
    for recompute in [Recompute::Always, Recompute::Never] {
        let settings = settings_of(|trainer| trainer.recompute = recompute);
        let grads = gradients_of(plain_trainer(unclipped(settings.clone())), &batch());
        check_tensors(&grads, &tensors("grads_token-mean.safetensors"), TOLERANCE);
        let output = plain_trainer(settings).step(0, &batch()).unwrap();
        check_adapter(&output.adapter, &tensors("after1.safetensors"), TOLERANCE);
        check_mismatch(&output.stats, &expected());
        let losses = &expected().losses["token-mean"];
        for name in ["pg_loss", "kl_loss", "grad_norm"] {
            check(name, metric(&output.stats, &format!("actor/{name}")), losses[name], TOLERANCE);
        }
    }
    let twice = settings_of(|trainer| trainer.ppo_epochs = 2);
    let output = plain_trainer(twice).step(0, &batch()).unwrap();
    check_adapter(&output.adapter, &tensors("after2.safetensors"), 1e-4);
}

/// Prompts that several completions share, entropies with a gradient, and a loss with one ratio a sequence.
#[test]
fn candle_s_operators_give_what_the_fused_ones_give() {
    let mut samples = batch();
    let prompt = samples[0].prompt.clone();
    samples.iter_mut().for_each(|sample| sample.prompt = prompt.clone());
    let gspo = settings_with(|loss| (loss.kind, loss.entropy_coef) = (LossKind::Gspo, 0.1));
    for settings in [settings(), settings_without_kl(), gspo].map(unclipped) {
        let (mut plain, mut fused) = (plain_trainer(settings.clone()), trainer(settings.clone()));
        check_tensors(
            &gradients_of(plain_trainer(settings.clone()), &samples),
            &gradients_of(trainer(settings), &samples),
            1e-5,
        );
        let [plain, fused] = [&mut plain, &mut fused].map(|trainer| trainer.step(0, &samples).unwrap().stats.metrics());
        for ((name, plain), (_, fused)) in plain.into_iter().zip(fused) {
            assert!((plain - fused).abs() <= 1e-6 + TOLERANCE * fused.abs(), "{name}: {plain} is not {fused}");
        }
    }
}

/// Frozen weights and activations in 16 bits, as on a GPU; f16 is the format of 16 bits that candle multiplies on a CPU.
/// Adapter, its gradients and moments stay in f32.
#[test]
fn frozen_weights_may_have_16_bits() {
    let settings = unclipped(settings());
    let weights = Weights::load(&golden("model"), &model().config, DType::F16, &Device::Cpu).unwrap();
    let half = || {
        let fresh =
            Trainer::new(Device::Cpu, model().config, weights.clone(), adapter().config, settings.clone(), 1).unwrap();
        let state = TrainerState { adapter: adapter(), ..fresh.state().unwrap() };
        fresh.restore(&state).unwrap()
    };
    let grads = gradients_of(half(), &batch());
    check_tensors(&grads, &tensors("grads_token-mean.safetensors"), f64::from(HALF_TOLERANCE));
    let mut half = half();
    for (got, want) in half.score(&batch()).unwrap().iter().flatten().zip(expected().log_probs.iter().flatten()) {
        assert!((got - want).abs() < HALF_TOLERANCE, "{got} is not {want}");
    }
    let output = half.step(0, &batch()).unwrap();
    let losses = &expected().losses["token-mean"];
    check("grad_norm", metric(&output.stats, "actor/grad_norm"), losses["grad_norm"], f64::from(HALF_TOLERANCE));
    assert!(output.adapter.tensors().unwrap().values().all(|tensor| tensor.dtype() == DType::F32));
    let moments = candle_core::safetensors::load_buffer(&half.state().unwrap().optimizer, &Device::Cpu).unwrap();
    assert!(moments.values().all(|moment| moment.dtype() == DType::F32));
}

/// In the second update the ratio leaves 1 and is clipped, against log-probabilities from before the first.
#[test]
fn two_updates_on_a_batch_are_those_of_pytorch() {
    let output = trainer(settings_of(|trainer| trainer.ppo_epochs = 2)).step(0, &batch()).unwrap();
    check_adapter(&output.adapter, &tensors("after2.safetensors"), 1e-4);
    check_mismatch(&output.stats, &expected());
    let updates = expected().updates;
    for (name, key) in [
        ("actor/pg_loss", "pg_loss"),
        ("actor/kl_loss", "kl_loss"),
        ("actor/pg_clipfrac", "clip_fraction"),
        ("actor/grad_norm", "grad_norm"),
    ] {
        let mean = updates.iter().map(|update| update[key]).sum::<f64>() / updates.len() as f64;
        check(name, metric(&output.stats, name), mean, TOLERANCE);
    }
}

/// The whole batch as rows, each vector with an entry for every completion token.
struct Flat {
    rows: Rows,
    positions: Tensor,
    targets: Tensor,
    advantages: Vec<f32>,
    rollout: Vec<f32>,
    /// Under the golden adapter, and moved by a fixed amount each, so that ratios lie on both sides of the clip.
    old: Vec<f32>,
    base: Vec<f32>,
    /// Tokens of each completion.
    lengths: Vec<usize>,
}

impl Flat {
    fn new(model: &Model, samples: &[Sample]) -> Self {
        let mut packed = Packed::default();
        let mut rows = |s: &Sample| {
            let first = packed.push(&[&s.prompt[..], &s.completion].concat()).start + s.prompt.len() - 1;
            (first..first + s.completion.len()).map(|at| at as u32).collect::<Vec<u32>>()
        };
        let positions: Vec<u32> = samples.iter().flat_map(&mut rows).collect();
        let targets: Vec<u32> = samples.iter().flat_map(|s| s.completion.clone()).collect();
        let Expected { log_probs, base_log_probs, .. } = expected();
        let flat = Self {
            rows: model.rows(&packed).unwrap(),
            positions: Tensor::new(positions, &Device::Cpu).unwrap(),
            targets: Tensor::new(targets, &Device::Cpu).unwrap(),
            advantages: samples.iter().flat_map(|s| vec![s.advantage; s.completion.len()]).collect(),
            rollout: samples.iter().flat_map(|s| s.rollout_log_probs.clone()).collect(),
            old: log_probs.concat(),
            base: base_log_probs.concat(),
            lengths: samples.iter().map(|s| s.completion.len()).collect(),
        };
        flat.moved([0.0, -0.35, 0.05, 0.4, -0.1])
    }

    /// The old log-probabilities are the golden ones and these offsets, in turn.
    fn moved(mut self, offsets: [f32; 5]) -> Self {
        let old = expected().log_probs.concat().into_iter().zip(offsets.into_iter().cycle());
        self.old = old.map(|(log_prob, offset)| log_prob + offset).collect();
        self
    }

    fn log_probs(&self, model: &Model, lora: &Lora) -> Tensor {
        self.with_entropies(model, lora).0
    }

    fn with_entropies(&self, model: &Model, lora: &Lora) -> (Tensor, Tensor) {
        let hidden = model.hidden(&self.rows, Some(lora)).unwrap();
        model.log_probs(&hidden, &self.positions, &self.targets, TEMPERATURE, Entropy::WithGradient).unwrap()
    }

    /// The loss of `loss::policy_loss`, without entropies.
    fn loss(&self, config: &LossConfig, log_probs: &Tensor) -> loss::TokenLoss {
        self.whole_loss(config, log_probs, &log_probs.zeros_like().unwrap())
    }

    /// One weight a completion, repeated for each of its tokens.
    fn for_each_token(&self, values: &[f32]) -> Vec<f32> {
        values.iter().zip(&self.lengths).flat_map(|(value, length)| vec![*value; *length]).collect()
    }

    fn whole_loss(&self, config: &LossConfig, log_probs: &Tensor, entropies: &Tensor) -> loss::TokenLoss {
        let vector = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let weights = loss::token_weights(config.loss_agg_mode, &self.lengths, settings().max_new_tokens);
        let weights = self.for_each_token(&weights);
        let inputs = TokenInputs {
            log_probs,
            old_log_probs: &vector(&self.old),
            rollout_log_probs: &vector(&self.rollout),
            ref_log_probs: Some(&vector(&self.base)),
            advantages: &vector(&self.advantages),
            weights: &vector(&weights),
            entropies,
            lengths: &self.lengths,
        };
        loss::policy_loss(config, &inputs).unwrap()
    }

    /// The same number in f64, one token at a time.
    fn scalar_loss(&self, config: &LossConfig, log_probs: &Tensor) -> f64 {
        let token = |(i, log_prob): (usize, f32)| {
            let [now, old, rollout, base] = [log_prob, self.old[i], self.rollout[i], self.base[i]].map(f64::from);
            let (ratio, advantage) = ((now - old).exp(), f64::from(self.advantages[i]));
            let bounded = ratio.clamp(1.0 - config.clip_ratio_low, 1.0 + config.clip_ratio_high);
            let weight = (old - rollout).exp().min(config.rollout_is_threshold);
            let k3 = (base - now).exp() - (base - now) - 1.0;
            -(ratio * advantage).min(bounded * advantage) * weight + config.kl_loss_coef * k3
        };
        let log_probs = log_probs.to_vec1::<f32>().unwrap();
        let tokens = log_probs.len() as f64;
        log_probs.into_iter().enumerate().map(token).sum::<f64>() / tokens
    }
}

fn set_entry(var: &Var, index: usize, value: f32) {
    let mut values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values[index] = value;
    var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
}

/// For the largest gradient of each tensor, with some ratios clipped and some importance weights truncated.
#[test]
fn gradients_are_finite_differences_of_the_loss() {
    const STEP: f32 = 4e-3;
    let (model, config) = (model(), settings().loss);
    let lora = Lora::from_adapter(&adapter(), &model.config, &Device::Cpu).unwrap();
    let flat = Flat::new(&model, &batch());
    let log_probs = flat.log_probs(&model, &lora);
    let loss = flat.loss(&config, &log_probs);
    let sums = loss.read().unwrap();
    let clipped = sums.clipped_weight / sums.weight;
    assert!(clipped > 0.1 && clipped < 0.9, "{clipped}");
    check("loss", f64::from(loss.total.to_scalar::<f32>().unwrap()), flat.scalar_loss(&config, &log_probs), TOLERANCE);
    for (name, grad) in parallel::gradients(&loss.total, &lora.vars()).unwrap() {
        let grads = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let index = (0..grads.len()).max_by(|&a, &b| grads[a].abs().total_cmp(&grads[b].abs())).unwrap();
        let var = &lora.vars()[&name];
        let start = var.flatten_all().unwrap().to_vec1::<f32>().unwrap()[index];
        let (above, below) = (start + STEP, start - STEP);
        let [high, low] = [above, below].map(|value| {
            set_entry(var, index, value);
            flat.scalar_loss(&config, &flat.log_probs(&model, &lora))
        });
        set_entry(var, index, start);
        check(&name, (high - low) / f64::from(above - below), f64::from(grads[index]), 5e-3);
    }
}

/// Built from the public parts, the golden gradient comes out as well: no old policy, one padded micro-batch.
#[test]
fn parts_put_together_by_hand_give_the_golden_gradient() {
    let (model, samples) = (model(), batch());
    let lora = Lora::from_adapter(&adapter(), &model.config, &Device::Cpu).unwrap();
    let mut flat = Flat::new(&model, &samples);
    let log_probs = flat.log_probs(&model, &lora);
    flat.old = log_probs.detach().to_vec1().unwrap();
    let loss = flat.loss(&settings().loss, &log_probs);
    check(
        "loss",
        f64::from(loss.total.to_scalar::<f32>().unwrap()),
        expected().losses["token-mean"]["total"],
        TOLERANCE,
    );
    let grads = parallel::gradients(&loss.total, &lora.vars()).unwrap();
    check_tensors(&grads, &tensors("grads_token-mean.safetensors"), TOLERANCE);
}

/// One line of `golden/grpo/losses.json`.
#[derive(Deserialize)]
struct LossCase {
    settings: serde_json::Map<String, serde_json::Value>,
    advantages: Vec<f32>,
    total: f64,
    pg_loss: f64,
    kl_loss: f64,
    clip_fraction: f64,
    grad_norms: Vec<f64>,
    grad_sums: Vec<f64>,
}

impl LossCase {
    /// The defaults of the kind, with the case's settings in their place.
    fn config(&self) -> (LossConfig, AdvantageScale) {
        let (mut config, mut scale) = (LossConfig::default(), AdvantageScale::default());
        serde_json::from_value::<LossKind>(self.settings["kind"].clone()).unwrap().apply(&mut config, &mut scale);
        let mut all = serde_json::to_value(config).unwrap();
        all.as_object_mut().unwrap().extend(self.settings.clone());
        (serde_json::from_value(all).unwrap(), scale)
    }
}

/// The advantages of the golden rewards: two groups.
fn golden_advantages(scale: AdvantageScale) -> Vec<f32> {
    let groups: [&[f32]; 2] = [&[1.0, -0.5, 0.25], &[2.0, -1.0]];
    let mut all: Vec<f32> = groups.iter().flat_map(|rewards| group_advantages(rewards, scale)).collect();
    if scale == AdvantageScale::BatchStd {
        divide_by_batch_std(&mut all);
    }
    all
}

/// ‖got − want‖ ≤ 1e-4 ‖want‖.
fn check_numbers(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let (error, size) =
        (norm(&mut got.iter().zip(want).map(|(got, want)| got - want)), norm(&mut want.iter().copied()));
    assert!(error <= 1e-4 * size, "{name} is off by {:e} of its norm", error / size);
}

/// Every kind of loss with its own defaults, every way to average, every estimate of KL, and every option; ratios lie on both
/// sides of each clip.
#[test]
fn every_loss_is_that_of_pytorch() {
    let (model, samples) = (model(), batch());
    let lora = Lora::from_adapter(&adapter(), &model.config, &Device::Cpu).unwrap();
    let mut flat = Flat::new(&model, &samples).moved([0.0, -0.35, 0.05, 0.4, -0.3]);
    let cases: Vec<LossCase> = json("losses.json");
    let kinds: BTreeSet<&str> = cases.iter().filter_map(|case| case.settings["kind"].as_str()).collect();
    assert_eq!(kinds.len(), 7);
    for case in &cases {
        let (config, scale) = case.config();
        let name = format!("{:?}", case.settings);
        let advantages = golden_advantages(scale);
        advantages.iter().zip(&case.advantages).for_each(|(g, w)| check(&name, f64::from(*g), f64::from(*w), 1e-5));
        flat.advantages = flat.for_each_token(&advantages);
        let (log_probs, entropies) = flat.with_entropies(&model, &lora);
        let loss = flat.whole_loss(&config, &log_probs, &entropies);
        check(&name, f64::from(loss.total.to_scalar::<f32>().unwrap()), case.total, 1e-4);
        let sums = loss.read().unwrap();
        check(&name, sums.pg_loss, case.pg_loss, 1e-4);
        check(&name, sums.kl_loss, case.kl_loss, 1e-4);
        check(&name, sums.clipped_weight / sums.weight, case.clip_fraction, 1e-4);
        let grads = parallel::gradients(&loss.total, &lora.vars()).unwrap();
        let flat_grads: Vec<Vec<f32>> =
            grads.values().map(|grad| grad.flatten_all().unwrap().to_vec1().unwrap()).collect();
        let of_each = |f: fn(&[f32]) -> f64| flat_grads.iter().map(|grad| f(grad)).collect::<Vec<f64>>();
        check_numbers(
            &name,
            &of_each(|grad| grad.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt()),
            &case.grad_norms,
        );
        check_numbers(&name, &of_each(|grad| grad.iter().map(|x| f64::from(*x)).sum()), &case.grad_sums);
    }
}

fn bits(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<&str, (Vec<usize>, Vec<u32>)> {
    let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
    tensors.iter().map(|(name, x)| (name.as_str(), (x.dims().to_vec(), bits(x)))).collect()
}

/// PEFT's own file has a metadata entry that ours lacks; the tensors are its bits, and our file is read back to itself.
#[test]
fn an_adapter_survives_reading_and_writing_bit_for_bit() {
    let (config, peft) = (model().config, adapter());
    let rewrite = |adapter: &Adapter| Lora::from_adapter(adapter, &config, &Device::Cpu).unwrap().to_adapter().unwrap();
    let ours = rewrite(&peft);
    assert_eq!(bits(&ours.tensors().unwrap()), bits(&peft.tensors().unwrap()));
    let again = rewrite(&ours);
    assert_eq!(again.bytes, ours.bytes);
    assert_eq!(again.hash, ours.hash);
}

/// Two updates of 1e-3 an entry differ by rounding alone, which AdamW enlarges where a gradient is near 0.
#[test]
fn how_the_batch_is_cut_does_not_change_the_step() {
    let cut = |tokens| {
        let mut cut = settings_of(|trainer| (trainer.micro_batch_tokens, trainer.ppo_epochs) = (tokens, 2));
        cut.optim.lr = 1e-3;
        cut
    };
    check_tensors(&trainer_gradients(cut(64), &batch()), &trainer_gradients(cut(4096), &batch()), TOLERANCE);
    let step = |tokens| trainer(cut(tokens)).step(0, &batch()).unwrap().adapter.tensors().unwrap();
    let (small, large) = (step(64), step(4096));
    for (name, want) in &large {
        let difference = (&small[name] - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-6, "{name} differs by {difference}");
    }
}

/// Blocks that are computed again give the same bits as those that were kept.
#[test]
fn recomputing_changes_no_bit() {
    let step = |recompute| {
        let mut trainer = trainer(settings_of(|trainer| (trainer.recompute, trainer.ppo_epochs) = (recompute, 2)));
        let output = trainer.step(0, &batch()).unwrap();
        (output.adapter.hash, output.stats.metrics())
    };
    assert_eq!(step(Recompute::Always), step(Recompute::Never));
}

/// The rows of a micro-batch decide, not its budget: a sequence is never cut.
#[test]
fn what_a_micro_batch_really_takes_decides_whether_it_is_computed_again() {
    let limit = memory::of_machine() / 4 / memory::kept_bytes(&model().config, 1);
    let auto = trainer(settings());
    assert!(!auto.recomputes(1) && auto.recomputes(limit + 1));
    let never = trainer(settings_of(|trainer| trainer.recompute = Recompute::Never));
    assert!(!never.recomputes(limit + 1));
}

/// Completions of one prompt that stand beside each other share its rows; apart, each has its own.
#[test]
fn sharing_a_prompt_does_not_change_the_gradients() {
    let mut samples = batch();
    let (prompt, other) = (samples[0].prompt.clone(), samples[1].clone());
    samples.iter_mut().for_each(|sample| sample.prompt = prompt.clone());
    let shared = trainer_gradients(settings(), &samples);
    // One token each: every completion in a micro-batch of its own.
    let apart = settings_of(|trainer| trainer.micro_batch_tokens = 1);
    check_tensors(&shared, &trainer_gradients(apart, &samples), TOLERANCE);
    assert_ne!(other.prompt, prompt, "the batch has several prompts");
}

/// Two updates on halves of the batch are not one on the whole, and both halves are held against the first policy.
#[test]
fn mini_batches_update_one_after_the_other() {
    let prompts = |samples: &[Sample]| samples.chunk_by(|a, b| a.prompt == b.prompt).count();
    let halves = settings_of(|trainer| trainer.ppo_mini_batch_size = prompts(&batch()).div_ceil(2));
    let mut trainer_of_halves = trainer(halves);
    let output = trainer_of_halves.step(0, &batch()).unwrap();
    assert_eq!(trainer_of_halves.state().unwrap().updates, 2);
    check_mismatch(&output.stats, &expected());
    assert!(metric(&output.stats, "actor/ppo_kl") != 0.0, "the second half saw the first update");
}

#[test]
fn truncated_completions_can_be_left_out() {
    let mut samples = batch();
    samples[0].truncated = true;
    let masked = trainer_gradients(settings_with(|loss| loss.mask_truncated = true), &samples);
    check_tensors(&masked, &trainer_gradients(settings(), &samples[1..]), TOLERANCE);
}

/// A KL term too small to see makes every completion count, so none is left out.
#[test]
fn leaving_out_completions_without_advantage_changes_nothing() {
    for (mode, _) in MODES {
        let gradients = |kl_loss_coef| {
            let change = |loss: &mut LossConfig| (loss.kl_loss_coef, loss.loss_agg_mode) = (kl_loss_coef, mode);
            trainer_gradients(settings_with(change), &batch())
        };
        check_tensors(&gradients(0.0), &gradients(1e-12), 1e-5);
    }
}

#[test]
fn a_batch_without_any_advantage_changes_nothing() {
    let mut samples = batch();
    samples.iter_mut().for_each(|sample| sample.advantage = 0.0);
    let mut trainer = trainer(settings_without_kl());
    let before = trainer.adapter().unwrap().hash;
    let output = trainer.step(0, &samples).unwrap();
    assert_eq!(output.adapter.hash, before);
    assert_eq!(output.stats.skipped_updates, 0);
    assert_eq!(trainer.state().unwrap().updates, 0);
}

/// A spoilt batch is counted and forgotten: the next step is the one that would have been made without it.
fn check_spoilt(settings: TrainerSettings, spoil: impl Fn(&mut Sample)) {
    let mut samples = batch();
    spoil(&mut samples[0]);
    let mut spoilt = trainer(settings.clone());
    let before = spoilt.adapter().unwrap().hash;
    let output = spoilt.step(0, &samples).unwrap();
    assert_eq!(output.stats.skipped_updates, settings.trainer.ppo_epochs);
    assert_eq!(output.adapter.hash, before);
    assert_eq!(spoilt.state().unwrap().updates, 0);
    let next = spoilt.step(1, &batch()).unwrap();
    assert_eq!(next.stats.skipped_updates, 0);
    assert_eq!(next.adapter.hash, trainer(settings).step(1, &batch()).unwrap().adapter.hash);
}

#[test]
fn a_nan_leaves_the_policy_as_it_was() {
    let twice = settings_of(|trainer| trainer.ppo_epochs = 2);
    let uncorrected = settings_with(|loss| (loss.rollout_is, loss.kl_loss_coef) = (RolloutIs::None, 0.0));
    for settings in [settings(), settings_without_kl(), twice, uncorrected] {
        check_spoilt(settings.clone(), |sample| sample.advantage = f32::NAN);
        check_spoilt(settings.clone(), |sample| sample.advantage = f32::INFINITY);
        if settings.loss.rollout_is == RolloutIs::Truncate {
            check_spoilt(settings, |sample| sample.rollout_log_probs[3] = f32::NAN);
        }
    }
}

/// An engine that gives a sampled token probability 0 is off, but its weight is truncated like any other.
#[test]
fn an_infinite_importance_weight_is_truncated() {
    let gradients = |log_prob| {
        let mut samples = batch();
        samples[0].rollout_log_probs[3] = log_prob;
        trainer_gradients(settings(), &samples)
    };
    check_tensors(&gradients(f32::NEG_INFINITY), &gradients(-60.0), 1e-9);
}

/// Steps without a gradient, with one that is not finite, and with fewer prompts than were asked for.
#[test]
fn the_rate_goes_by_the_run_whatever_was_left_out() {
    let mut settings = settings_of(|trainer| trainer.ppo_mini_batch_size = 1);
    settings.loss.kl_loss_coef = 0.0;
    (settings.updates_per_step, settings.total_updates, settings.optim.warmup_steps) = (5, 100, 50);
    let (optim, good) = (settings.optim.clone(), batch());
    let with = |change: fn(&mut Sample)| {
        let mut samples = batch();
        samples.iter_mut().for_each(change);
        samples
    };
    let mut same_prompt = batch();
    same_prompt.iter_mut().for_each(|sample| sample.prompt = good[0].prompt.clone());
    let steps = [with(|s| s.advantage = 0.0), with(|s| s.advantage = f32::NAN), same_prompt, good];
    let mut trainer = trainer(settings);
    // Which update of the run each step ends with: five prompts, of which the third step has one.
    for (step, (samples, update)) in steps.iter().zip([4, 9, 10, 19]).enumerate() {
        let stats = trainer.step(step as u64, samples).unwrap().stats;
        check("lr", metric(&stats, "actor/lr"), learning_rate(&optim, update, 100), 1e-12);
    }
}

#[test]
fn without_a_token_to_train_on_there_is_no_entropy() {
    let mut samples = batch();
    samples.iter_mut().for_each(|sample| sample.advantage = 0.0);
    let stats = trainer(settings_without_kl()).step(0, &samples).unwrap().stats;
    assert!(stats.metrics().iter().all(|(name, _)| *name != "actor/entropy"));
}

/// An adapter is refused with what was expected and what was found.
#[test]
fn an_adapter_for_something_else_is_refused() {
    let refused = |change: &dyn Fn(&mut LoraConfig), words: [&str; 3]| {
        let mut config = (*adapter().config).clone();
        change(&mut config);
        let fresh = fresh_trainer(settings());
        let adapter = Adapter::new(Arc::new(config), adapter().bytes.to_vec());
        let state = TrainerState { adapter, ..fresh.state().unwrap() };
        let error = fresh.restore(&state).err().expect("a refusal").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let base = adapter().config.base_model_name_or_path.clone();
    let found = |what| format!("found {what}");
    refused(&|c| c.r = 2, ["rank", "expected 4", &found("2")]);
    refused(&|c| c.lora_alpha = 3.0, ["alpha", "expected 8", &found("3")]);
    refused(
        &|c| c.base_model_name_or_path = "other".into(),
        ["base model", &format!("expected {base}"), &found("other")],
    );
    refused(&|c| drop(c.target_modules.pop()), ["target modules", "expected", "found"]);
}

/// The right settings, but tensors that are missing, left over or of another shape.
#[test]
fn an_adapter_with_other_tensors_is_refused() {
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>), words: [&str; 2]| {
        let mut tensors = adapter().tensors().unwrap();
        change(&mut tensors);
        let bytes = dump_rl::train::tensors_to_bytes(&tensors).unwrap();
        let fresh = fresh_trainer(settings());
        let state = TrainerState { adapter: Adapter::new(adapter().config, bytes), ..fresh.state().unwrap() };
        let error = fresh.restore(&state).err().expect("a refusal").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    const NAME: &str = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight";
    refused(&|tensors| drop(tensors.remove(NAME)), [NAME, "is missing"]);
    refused(
        &|tensors| drop(tensors.insert(NAME.replace("layers.1", "layers.9"), tensors[NAME].clone())),
        ["layers.9", "no target module"],
    );
    refused(
        &|tensors| drop(tensors.insert(NAME.into(), tensors[NAME].t().unwrap().contiguous().unwrap())),
        ["expected shape [64, 4]", "found [4, 64]"],
    );
}

#[test]
fn a_restored_trainer_continues_bit_for_bit() {
    let mut settings = settings_of(|trainer| trainer.ppo_epochs = 2);
    (settings.optim.warmup_steps, settings.updates_per_step) = (8, 2);
    let mut going_on = trainer(settings.clone());
    going_on.step(0, &batch()).unwrap();
    let state = going_on.state().unwrap();
    assert_eq!(state.updates, 2);
    let mut resumed = fresh_trainer(settings).restore(&state).unwrap();
    assert_eq!(resumed.adapter().unwrap().hash, state.adapter.hash);
    for step in 1..3 {
        let (one, other) = (going_on.step(step, &batch()).unwrap(), resumed.step(step, &batch()).unwrap());
        assert_eq!(one.adapter.bytes, other.adapter.bytes);
        assert_eq!(one.stats.metrics(), other.stats.metrics());
    }
    let (one, other) = (going_on.state().unwrap(), resumed.state().unwrap());
    assert_eq!((one.optimizer, one.updates), (other.optimizer, other.updates));
}

/// What a step on candle's operators takes is what is predicted for a GPU: where the head takes most, and where a block does.
#[cfg(target_os = "linux")]
#[test]
fn memory_of_candle_s_operators_is_predicted() {
    for vocabulary in [2048, 16384] {
        let test = ["--exact", "trainer::a_step_in_a_process_of_its_own", "--ignored", "--nocapture"];
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(test).env(VOCABULARY, vocabulary.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let measured = said.lines().find_map(|line| line.split("took ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
        let measured = measured.unwrap_or_else(|| panic!("no measurement: {said}"));
        // Two completions, each a micro-batch where there is a core for it.
        let training = memory::Training {
            workers: std::thread::available_parallelism().unwrap().get().min(2),
            micro_batch_tokens: usize::MAX,
            recompute: Recompute::Always,
            plain: true,
            number: 4,
        };
        let (prompts, group_size, prompt_tokens, new_tokens) = (1, 2, PROMPT, COMPLETION);
        let batch = memory::Batch { prompts, group_size, prompt_tokens, new_tokens, fewest_tokens: new_tokens };
        let predicted = training.activation_bytes(&wide_config(vocabulary), batch) as f64 / 1e6;
        println!("{vocabulary} tokens: {predicted:.0} MB predicted, {measured:.0} MB measured");
        let ratio = predicted / measured;
        assert!((0.9..1.3).contains(&ratio), "{vocabulary} tokens: {predicted} MB predicted, {measured} MB measured");
    }
}

const VOCABULARY: &str = "DUMP_RL_TEST_VOCABULARY";
const PROMPT: usize = 64;
const COMPLETION: usize = 1000;

fn wide_config(vocabulary: usize) -> DecoderConfig {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 256,
        "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    });
    DecoderConfig::parse(&config.to_string()).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "run by another test"]
fn a_step_in_a_process_of_its_own() {
    let config = wide_config(std::env::var(VOCABULARY).expect(VOCABULARY).parse().unwrap());
    let random = |_: &str, shape: &[usize]| Ok(Tensor::randn(0f32, 0.02, shape, &Device::Cpu)?);
    let weights = Weights::from_named(&config, random).unwrap();
    let settings = settings_of(|trainer| {
        (trainer.micro_batch_tokens, trainer.recompute) = (usize::MAX, Recompute::Always);
    });
    let mut trainer =
        Trainer::new(Device::Cpu, config, weights, adapter().config, settings, 1).unwrap().on_plain_operators();
    let sample = |advantage| Sample {
        prompt: vec![1; PROMPT].into(),
        completion: vec![2; COMPLETION],
        rollout_log_probs: vec![-7.0; COMPLETION],
        advantage,
        policy_step: 0,
        truncated: false,
    };
    let before = memory_mb("VmRSS");
    trainer.step(0, &[sample(1.0), sample(-1.0)]).unwrap();
    println!("took {} MB", memory_mb("VmHWM") - before);
}

//! Every loss and its gradient, computed from the trainer's parts.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor, Var};
use dump_rl::advantage::{AdvantageScale, divide_by_batch_std, group_advantages};
use dump_rl::config::loss::{LossConfig, LossKind};
use dump_rl::train::lora::Lora;
use dump_rl::train::loss::{self, TokenInputs};
use dump_rl::train::model::{Model, Rows};
use dump_rl::train::ops::Entropy;
use dump_rl::train::packed::Packed;
use dump_rl::train::parallel;
use dump_rl::train::sample::Sample;
use serde::Deserialize;

use super::{
    Expected, TEMPERATURE, TOLERANCE, adapter, batch, check, check_tensors, expected, json, model, settings, tensors,
};

/// The whole batch as rows. Each vector has one entry per completion token.
struct Flat {
    rows: Rows,
    positions: Tensor,
    targets: Tensor,
    advantages: Vec<f32>,
    rollout: Vec<f32>,
    /// Log-probabilities under the golden adapter, each changed by a fixed offset, so that ratios lie on both sides of the clip.
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
        flat.with_offsets([0.0, -0.35, 0.05, 0.4, -0.1])
    }

    /// Makes the old log-probabilities the golden ones plus these offsets, in turn.
    fn with_offsets(mut self, offsets: [f32; 5]) -> Self {
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

    /// Repeats the value of each completion for each of its tokens.
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

    /// The same loss in f64, token by token.
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

fn set_entry(var: &Var, index: usize, value: f32) {
    let mut values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values[index] = value;
    var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
}

/// The public parts, put together without an old policy and as one micro-batch, give the golden gradient too.
#[test]
fn the_parts_give_the_golden_gradient() {
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

/// Every kind of loss with its defaults, every way to average, every estimate of KL, and every option. Ratios lie on both sides of
/// each clip.
#[test]
fn every_loss_is_that_of_pytorch() {
    let (model, samples) = (model(), batch());
    let lora = Lora::from_adapter(&adapter(), &model.config, &Device::Cpu).unwrap();
    let mut flat = Flat::new(&model, &samples).with_offsets([0.0, -0.35, 0.05, 0.4, -0.3]);
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

/// One entry of `golden/grpo/losses.json`.
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
    /// The defaults of the kind, overridden by the case's settings.
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
    assert!(error <= 1e-4 * size, "{name} differs by {:e} of its norm", error / size);
}

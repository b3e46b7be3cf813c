//! `dump-rl bench train`: the time and memory of a policy step, and what part of the device's peak rate it reaches.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use comfy_table::Table;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::card::{MemoryWatch, peak_tflops, shown_mb};
use super::{Case, cases, quantile, write_json};
use crate::config::bench::{BenchConfig, Lengths};
use crate::config::engine::DeviceKind;
use crate::config::run::RunConfig;
use crate::config::trainer::Recompute;
use crate::error::InputError;
use crate::memory::process::peak_mb;
use crate::memory::{Workload, predict};
use crate::model::base::Base;
use crate::model::device;
use crate::pipeline::setup::bench_base;
use crate::train::flops::{self, Passes};
use crate::train::sample::Sample;
use crate::train::trainer::Trainer;
use crate::{table, terminal};

/// One combination of the grid.
#[derive(Debug, Clone, Serialize)]
struct TrainResult {
    bench: String,
    engine: String,
    device: DeviceKind,
    model: String,
    /// Prompts × group size.
    sequences: usize,
    prompts: usize,
    group_size: usize,
    prompt_tokens: usize,
    /// Per completion. With drawn lengths, the longest possible.
    new_tokens: usize,
    lengths: Lengths,
    micro_batch_tokens: usize,
    recompute: Recompute,
    /// Prompt and completion of every sequence, although a group's prompt is computed once.
    tokens: usize,
    /// Of a whole policy step with its optimiser update (median over the repeats).
    seconds: f64,
    tokens_per_s: f64,
    /// The arithmetic that a step needs, without recomputed blocks (`train::flops`), divided by `seconds`.
    gflops_per_s: f64,
    /// The device's peak rate, and the part of it that `gflops_per_s` is. `null` if the peak is not known.
    peak_tflops: Option<f64>,
    mfu: Option<f64>,
    /// Of the process so far, including the model's weights.
    peak_rss_mb: f64,
    /// Peak of the memory in use on the card so far. `null` without a card.
    peak_device_mb: Option<f64>,
    /// The predicted memory of trainer and program: what `--dry-run` says, without the engine.
    predicted_mb: f64,
}

/// Measures every combination, prints a table and writes `json`.
///
/// # Errors
/// A model that cannot be loaded, lengths that do not fit its context, or a step that fails.
pub fn run(config: RunConfig, json: Option<&Path>) -> Result<()> {
    let memory = MemoryWatch::start(&config.engine);
    let base = bench_base(config)?;
    let cases = shapes(&base.config.bench, base.decoder.max_position_embeddings)?;
    let mut trainer = base.trainer()?;
    let mut measured = Vec::new();
    for case in cases {
        measured.push(measure(&base, &mut trainer, case, &memory)?);
        // Written after each, so that results stay if a longer case runs out of memory.
        write_json(json, &measured)?;
    }
    terminal::give(|out| writeln!(out, "{}", table(&measured)))
}

/// The grid, or the sequence lengths in `train_tokens`.
fn shapes(bench: &BenchConfig, context: usize) -> Result<Vec<Case>, InputError> {
    let of_length = |&tokens: &usize| {
        let prompt_tokens = bench.prompt_tokens[0].min(tokens / 2);
        let (prompt_tokens, new_tokens) = (vec![prompt_tokens], vec![tokens - prompt_tokens]);
        cases(&BenchConfig { prompt_tokens, new_tokens, ..bench.clone() }, context)
    };
    match bench.train_tokens[..] {
        [] => cases(bench, context),
        _ => Ok(bench.train_tokens.iter().map(of_length).collect::<Result<Vec<_>, _>>()?.concat()),
    }
}

/// How often a step computes a batch of `prompts` prompts.
fn passes(config: &RunConfig, prompts: usize) -> Passes {
    let is_cut = (1..prompts).contains(&config.trainer.ppo_mini_batch_size);
    let forwards = usize::from(is_cut) + usize::from(config.loss.kl_loss_coef > 0.0);
    Passes { updates: config.trainer.ppo_epochs, forwards }
}

fn measure(base: &Base, trainer: &mut Trainer, case: Case, memory: &MemoryWatch) -> Result<TrainResult> {
    let batch = batch(case, base.decoder.vocab_size as u32);
    let (mut seconds, mut recomputed) = (Vec::new(), false);
    // The first step is a warm-up.
    for step in 0..=base.config.bench.repeats as u64 {
        let since = Instant::now();
        recomputed = trainer.step(step, &batch)?.stats.recomputed;
        seconds.push(since.elapsed().as_secs_f64());
    }
    let tokens = batch.iter().map(|sample| sample.prompt.len() + sample.completion.len()).sum();
    let seconds = quantile(&mut seconds[1..], 0.5);
    let (config, adapter) = (&base.config, predict::adapter_parameters(&base.config, &base.decoder));
    let gflops_per_s = 1e-9 * flops::of_step(&base.decoder, adapter, &batch, passes(config, case.prompts)) / seconds;
    let peak_tflops = peak_tflops(&config.bench, &config.engine);
    let machine = device::machine(&config.engine, Some(&base.device));
    let workload = Workload::new(config, &base.decoder, machine, case.prompt_tokens)?;
    Ok(TrainResult {
        bench: "train".into(),
        engine: "trainer".into(),
        device: base.config.engine.device,
        model: base.config.model.display().to_string(),
        sequences: case.prompts * case.group_size,
        prompts: case.prompts,
        group_size: case.group_size,
        prompt_tokens: case.prompt_tokens,
        new_tokens: case.new_tokens,
        lengths: case.lengths,
        micro_batch_tokens: base.config.trainer.micro_batch_tokens,
        recompute: if recomputed { Recompute::Always } else { Recompute::Never },
        tokens,
        seconds,
        tokens_per_s: tokens as f64 / seconds,
        gflops_per_s,
        peak_tflops,
        mfu: peak_tflops.map(|peak| 1e-3 * gflops_per_s / peak),
        peak_rss_mb: peak_mb(),
        peak_device_mb: memory.peak_mb(),
        predicted_mb: 1e-6 * predict::bench(&workload, case.shape()) as f64,
    })
}

/// Random tokens. Every completion has an advantage, so all are trained on.
fn batch(case: Case, vocabulary: u32) -> Vec<Sample> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut samples = Vec::new();
    for group in 0..case.prompts as u64 {
        let prompt: Vec<u32> = (0..case.prompt_tokens).map(|_| rng.random_range(0..vocabulary)).collect();
        let length = match case.lengths {
            Lengths::Fixed => case.new_tokens,
            Lengths::Drawn => rng.random_range(1..=case.new_tokens),
        };
        for index in 0..case.group_size {
            samples.push(Sample {
                group,
                source: 0,
                prompt: prompt.clone().into(),
                completion: (0..length).map(|_| rng.random_range(0..vocabulary)).collect(),
                rollout_log_probs: vec![-(vocabulary as f32).ln(); length],
                advantage: if index % 2 == 0 { 1.0 } else { -1.0 },
                policy_step: 0,
                truncated: false,
            });
        }
    }
    samples
}

fn table(measured: &[TrainResult]) -> Table {
    let mut table = table::table([
        "prompts × group",
        "tokens",
        "micro-batch",
        "recompute",
        "step s",
        "tok/s",
        "GFLOP/s",
        "MFU",
        "peak MB",
        "card MB",
        "predicted MB",
    ]);
    for m in measured {
        table.add_row([
            format!("{} × {}", m.prompts, m.group_size),
            format!("{} + {}", m.prompt_tokens, m.new_tokens),
            m.micro_batch_tokens.to_string(),
            format!("{:?}", m.recompute).to_lowercase(),
            format!("{:.2}", m.seconds),
            format!("{:.0}", m.tokens_per_s),
            format!("{:.0}", m.gflops_per_s),
            m.mfu.map_or("–".into(), |mfu| format!("{:.1} %", 100.0 * mfu)),
            format!("{:.0}", m.peak_rss_mb),
            shown_mb(m.peak_device_mb),
            format!("{:.0}", m.predicted_mb),
        ]);
    }
    table
}

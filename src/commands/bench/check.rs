//! `dump-rl bench check`: does the engine, with many completions at a time, compute what the trainer computes?
//!
//! The completions differ in prompt, length and tokens, under an adapter that changes every layer. Each is scored by the
//! trainer's forward on the engine's device. On a GPU a few are also scored on the CPU in f32, where the trainer is tested.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use comfy_table::Table;
use engine::{Adapter, Engine, Precision, Quantization, Request, Sampling};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{Case, Subject, cases, random_adapter, report, trainer_of};
use crate::config::engine::{DeviceKind, EngineKind};
use crate::config::run::RunConfig;
use crate::memory::process::peak_mb;
use crate::model::base::Base;
use crate::pipeline::learner::logprob_check::{Bound, LogProbDifference, sample_together};
use crate::pipeline::setup::bench_base;
use crate::pipeline::start_engine::{WithEngine, with_engine};
use crate::seed::mix_seed;
use crate::table;
use crate::train::sample::Sample;

/// Completions that are scored on the CPU as well.
const ON_CPU: usize = 4;

/// The engine compared with one forward.
#[derive(Debug, Clone, Serialize)]
struct CheckResult {
    #[serde(flatten)]
    subject: Subject,
    /// What the engine is compared with.
    reference: String,
    sequences: usize,
    /// Of the longest prompt and the longest completion.
    prompt_tokens: usize,
    new_tokens: usize,
    tokens: usize,
    max_difference: f64,
    mean_difference: f64,
    relative_error: f64,
    max_difference_bound: f64,
    relative_error_bound: f64,
    passed: bool,
    /// Of sampling.
    seconds: f64,
    tokens_per_s: f64,
    peak_rss_mb: f64,
}

/// Samples, compares, prints a table and writes `json`.
///
/// # Errors
/// If the engine differs by more than the bound of its number formats. Errors of loading and sampling.
pub async fn run(config: RunConfig, json: Option<&Path>) -> Result<()> {
    let base = bench_base(config)?;
    let case = cases(&base.config.bench, base.decoder.max_position_embeddings)?[0];
    let adapter = random_adapter(&base, 1)?;
    let requests = requests(&base, case);
    let (samples, seconds) = with_engine(base.clone(), adapter.clone(), Together { requests }).await?;
    let measured = compare(&base, &adapter, case, &samples, seconds)?;
    report(json, &measured, table)?;
    verdict(&measured)
}

/// # Errors
/// If a comparison did not pass.
fn verdict(measured: &[CheckResult]) -> Result<()> {
    match measured.iter().find(|it| !it.passed) {
        Some(it) => bail!(
            "the engine does not compute what the model says: its log-probabilities differ from those of {} by up to {:.3}, \
             relative error {:.3}; for {} the bounds are {} and {}. Do not train with this engine on this device",
            it.reference,
            it.max_difference,
            it.relative_error,
            it.subject.sampler(),
            it.max_difference_bound,
            it.relative_error_bound
        ),
        None => Ok(()),
    }
}

/// Prompts and completions of half to all of the case's tokens. No stop token ends a completion.
fn requests(base: &Base, case: Case) -> Vec<Request> {
    let (vocabulary, seed, temperature) =
        (base.decoder.vocab_size as u32, base.config.seed, base.config.engine.temperature);
    let mut rng = ChaCha8Rng::seed_from_u64(mix_seed(seed, 0xC4EC));
    let request = |index: usize| {
        let mut up_to = |most: usize| rng.random_range(most.div_ceil(2)..=most);
        let (prompt_tokens, max_new_tokens) = (up_to(case.prompt_tokens), up_to(case.new_tokens));
        let prompt: Vec<u32> = (0..prompt_tokens).map(|_| rng.random_range(0..vocabulary)).collect();
        let sampling = Sampling { max_new_tokens, ..Sampling::new(temperature, Vec::new()) };
        Request { prompt: prompt.into(), group_size: case.group_size, seed: mix_seed(seed, index as u64), sampling }
    };
    (0..case.prompts).map(request).collect()
}

struct Together {
    requests: Vec<Request>,
}

impl WithEngine for Together {
    /// The completions, and the seconds they took.
    type Output = (Vec<Sample>, f64);

    async fn call<E: Engine>(self, engine: Arc<E>) -> Result<Self::Output> {
        let since = Instant::now();
        let samples = sample_together(&engine, None, self.requests).await?;
        Ok((samples, since.elapsed().as_secs_f64()))
    }
}

/// Called after the engine was dropped, so that its memory is free.
fn compare(base: &Base, adapter: &Adapter, case: Case, samples: &[Sample], seconds: f64) -> Result<Vec<CheckResult>> {
    let subject = Subject::new("check", base);
    let bound = Bound::of(subject.dtype, subject.quantization);
    let sampled: usize = samples.iter().map(|sample| sample.completion.len()).sum();
    let against = |reference: &str, base: &Base, samples: &[Sample]| -> Result<CheckResult> {
        let difference = LogProbDifference::new(samples, &trainer_of(base, adapter)?.score(samples)?);
        Ok(CheckResult {
            subject: subject.clone(),
            reference: reference.into(),
            sequences: difference.completions,
            prompt_tokens: case.prompt_tokens,
            new_tokens: case.new_tokens,
            tokens: difference.tokens,
            max_difference: difference.max_difference,
            mean_difference: difference.mean_difference,
            relative_error: difference.relative_error,
            max_difference_bound: bound.max_difference,
            relative_error_bound: bound.relative_error,
            passed: bound.holds(&difference),
            seconds,
            tokens_per_s: sampled as f64 / seconds,
            peak_rss_mb: peak_mb(),
        })
    };
    let config = &base.config;
    let own = against(&format!("the trainer on {:?}", config.engine.device).to_lowercase(), base, samples)?;
    if config.engine.device == DeviceKind::Cpu {
        return Ok(vec![own]);
    }
    let mut on_cpu = config.clone();
    (on_cpu.engine.device, on_cpu.engine.dtype) = (DeviceKind::Cpu, Precision::F32);
    // No engine is started on the CPU, and not every engine could run there.
    (on_cpu.engine.kind, on_cpu.engine.quantization) = (EngineKind::Auto, Quantization::None);
    let known = against("the trainer on cpu in f32", &bench_base(on_cpu)?, &every(samples, ON_CPU))?;
    Ok(vec![own, known])
}

/// About `count` samples, evenly spread over the list.
fn every(samples: &[Sample], count: usize) -> Vec<Sample> {
    samples.iter().step_by(samples.len().div_ceil(count).max(1)).cloned().collect()
}

fn table(measured: &[CheckResult]) -> Table {
    let mut table = table::table([
        "engine",
        "against",
        "completions",
        "tokens",
        "max difference",
        "mean",
        "relative error",
        "bounds",
        "",
    ]);
    for m in measured {
        table.add_row([
            format!("{} on {:?}", m.subject.sampler(), m.subject.device).to_lowercase(),
            m.reference.clone(),
            m.sequences.to_string(),
            m.tokens.to_string(),
            format!("{:.2e}", m.max_difference),
            format!("{:.2e}", m.mean_difference),
            format!("{:.2e}", m.relative_error),
            format!("{} / {}", m.max_difference_bound, m.relative_error_bound),
            if m.passed { "passed" } else { "FAILED" }.into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use engine::scripted::Scripted;

    use super::*;
    use crate::config::bench::BenchConfig;

    /// An engine that reports the same probability for every token.
    #[tokio::test]
    async fn an_engine_with_made_up_log_probabilities_fails() -> Result<()> {
        let bench =
            BenchConfig { prompts: vec![3], group_sizes: vec![2], new_tokens: vec![9], ..BenchConfig::default() };
        let config = RunConfig { model: "data/kk-tiny".into(), bench, ..RunConfig::default() };
        let base = bench_base(config)?;
        let case = cases(&base.config.bench, base.decoder.max_position_embeddings)?[0];
        let engine = Scripted::new(|request, index, _| {
            (0..9).map(|at| (request.seed as u32 + at) % (7 + index as u32)).collect()
        });
        let (samples, seconds) = Together { requests: requests(&base, case) }.call(Arc::new(engine)).await?;
        let measured = compare(&base, &random_adapter(&base, 1)?, case, &samples, seconds)?;
        assert_eq!((measured.len(), measured[0].sequences, measured[0].passed), (1, 6, false));
        let problem = verdict(&measured).expect_err("it is wrong").to_string();
        assert!(problem.contains("for native f32 the bounds are 0.01 and 0.005. Do not train"), "{problem}");
        Ok(())
    }
}

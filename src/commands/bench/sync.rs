//! `dump-rl bench sync`: how long it takes until the engine samples from a new policy.
//!
//! As in a synchronous run, each round is a publish followed by completions from the new policy.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use engine::{Adapter, Engine};
use serde::Serialize;

use super::card::{MemoryWatch, shown_mb};
use super::rollout::requests;
use super::{Case, Subject, cases, quantile, random_adapter, report};
use crate::config::resolve::Sharing;
use crate::config::run::RunConfig;
use crate::memory::predict;
use crate::memory::process::peak_mb;
use crate::model::base::Base;
use crate::pipeline::learner::logprob_check::sample_together;
use crate::pipeline::setup::bench_base;
use crate::pipeline::start_engine::{WithEngine, with_engine};
use crate::table;

/// The engine on the first combination of the grid.
#[derive(Debug, Clone, Serialize)]
struct SyncResult {
    #[serde(flatten)]
    subject: Subject,
    /// What `engine.sync` was resolved to: how trainer and engine share the device.
    sync: Sharing,
    /// Sampled after each publish.
    sequences: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    /// Parameters of the adapter, and the size of its file.
    adapter_parameters: usize,
    adapter_mb: f64,
    publishes: usize,
    /// Of a publish (median).
    seconds: f64,
    seconds_min: f64,
    seconds_max: f64,
    /// Of the completions after a publish (median).
    generate_seconds: f64,
    /// Tokens of those completions, divided by the time of publish and completions together.
    tokens_per_s: f64,
    peak_rss_mb: f64,
    /// Peak of the memory in use on the card. `null` without a card.
    peak_device_mb: Option<f64>,
}

/// Measures, prints a table and writes `json`.
///
/// # Errors
/// An engine that is not built in or cannot load the model; a publish that fails or loads another adapter.
pub async fn run(config: RunConfig, json: Option<&Path>) -> Result<()> {
    let memory = MemoryWatch::start(&config.engine);
    let base = bench_base(config)?;
    let case = cases(&base.config.bench, base.decoder.max_position_embeddings)?[0];
    let adapter = random_adapter(&base, 0)?;
    let measured = with_engine(base.clone(), adapter, MeasurePublishes { base, case, memory }).await?;
    report(json, &[measured], |measured| table(&measured[0]))
}

struct MeasurePublishes {
    base: Base,
    case: Case,
    memory: MemoryWatch,
}

/// Seconds of a publish, seconds of the completions after it, and their tokens.
struct Round {
    publish: f64,
    generate: f64,
    tokens: usize,
}

impl WithEngine for MeasurePublishes {
    type Output = SyncResult;

    async fn call<E: Engine>(self, engine: Arc<E>) -> Result<SyncResult> {
        let Self { base, case, memory } = &self;
        // The first round is a warm-up.
        let (mut rounds, mut size) = (Vec::new(), 0);
        for step in 0..=base.config.bench.repeats as u64 {
            let adapter = random_adapter(base, step + 1)?;
            size = adapter.bytes.len();
            rounds.push(self.round(&engine, step + 1, adapter).await?);
        }
        let rounds = &rounds[1..];
        let of = |f: fn(&Round) -> f64, q: f64| quantile(&mut rounds.iter().map(f).collect::<Vec<_>>(), q);
        let (publish, generate) = (of(|round| round.publish, 0.5), of(|round| round.generate, 0.5));
        let config = &base.config;
        Ok(SyncResult {
            subject: Subject::new("sync", base),
            sync: base.resolved.sharing,
            sequences: case.prompts * case.group_size,
            prompt_tokens: case.prompt_tokens,
            new_tokens: case.new_tokens,
            adapter_parameters: predict::adapter_parameters(config, &base.decoder),
            adapter_mb: size as f64 / 1e6,
            publishes: rounds.len(),
            seconds: publish,
            seconds_min: of(|round| round.publish, 0.0),
            seconds_max: of(|round| round.publish, 1.0),
            generate_seconds: generate,
            tokens_per_s: of(|round| round.tokens as f64, 0.5) / (publish + generate),
            peak_rss_mb: peak_mb(),
            peak_device_mb: memory.peak_mb(),
        })
    }
}

impl MeasurePublishes {
    async fn round<E: Engine>(&self, engine: &Arc<E>, step: u64, adapter: Adapter) -> Result<Round> {
        let (hash, since) = (adapter.hash.clone(), Instant::now());
        if self.base.resolved.sharing == Sharing::Alternate {
            engine.suspend().await.context("unloading the engine")?;
        }
        let loaded = engine.publish(step, adapter).await.context("publishing")?;
        let publish = since.elapsed().as_secs_f64();
        ensure!(loaded.adapter == hash, "the engine loaded {}, not the adapter that was published", loaded.adapter);
        let since = Instant::now();
        let requests = requests(self.case, self.base.decoder.vocab_size as u32, step);
        let samples = sample_together(engine, None, requests).await?;
        let stale = samples.iter().find(|sample| sample.policy_step != step);
        ensure!(stale.is_none(), "after step {step} was published, the engine still answered by an older policy");
        let tokens = samples.iter().map(|sample| sample.completion.len()).sum();
        Ok(Round { publish, generate: since.elapsed().as_secs_f64(), tokens })
    }
}

fn table(m: &SyncResult) -> Table {
    let mut table = table::table([
        "engine",
        "sync",
        "adapter MB",
        "publish s min / median / max",
        "sequences",
        "tokens",
        "generate s",
        "tok/s with publish",
        "peak MB",
        "card MB",
    ]);
    table.add_row([
        m.subject.sampler(),
        m.sync.name().to_string(),
        format!("{:.1}", m.adapter_mb),
        format!("{:.3} / {:.3} / {:.3}", m.seconds_min, m.seconds, m.seconds_max),
        m.sequences.to_string(),
        format!("{} + {}", m.prompt_tokens, m.new_tokens),
        format!("{:.2}", m.generate_seconds),
        format!("{:.0}", m.tokens_per_s),
        format!("{:.0}", m.peak_rss_mb),
        shown_mb(m.peak_device_mb),
    ]);
    table
}

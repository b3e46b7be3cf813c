//! `dump-rl bench rollout`: how fast each engine samples, on the same prompts.
//!
//! Every engine runs in its own process, so that its peak memory can be measured.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use engine::{Adapter, Engine, EngineError, Request, Sampling};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::config::bench::Lengths;
use crate::config::engine::{EngineConfig, EngineKind};
use crate::config::resolve::check_engine;
use crate::config::run::RunConfig;
use crate::error::InputError;
use crate::memory::process::{peak_mb, resident_mb};
use crate::model::base::Base;
use crate::pipeline::setup::bench_base;
use crate::pipeline::start_engine::{WithEngine, with_engine};
use crate::processes::{Kind, Running};
use crate::seed::mix_seed;
use crate::table;

use super::{Case, Subject, cases, quantile, report};

/// One engine on one combination of the grid. Times are medians over the repeats.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutResult {
    #[serde(flatten)]
    pub subject: Subject,
    /// Prompts × group size.
    pub sequences: usize,
    pub prompts: usize,
    pub group_size: usize,
    pub prompt_tokens: usize,
    /// Per completion. With drawn lengths, the longest possible.
    pub new_tokens: usize,
    pub lengths: Lengths,
    /// Tokens that were generated in `seconds`, which includes prefill.
    pub generated_tokens: usize,
    pub seconds: f64,
    pub tokens_per_s: f64,
    /// The rate without prefill: tokens after each completion's first, divided by the time that this run takes longer than one
    /// that ends with the first tokens. `null` if completions have one token.
    pub decode_tokens_per_s: Option<f64>,
    /// Prompt tokens per second, of distinct prompts that share nothing.
    pub prefill_tokens_per_s: f64,
    /// Of one prompt alone.
    pub time_to_first_token_ms: f64,
    /// `null` if the engine does not report it.
    pub step_p50_ms: Option<f64>,
    pub step_p99_ms: Option<f64>,
    /// Of an idle engine.
    pub publish_ms: f64,
    /// Of an engine that decodes. `null` if the run ends before the first publish.
    pub publish_decoding_ms: Option<f64>,
    /// `tokens_per_s` while a policy is published every 100 ms.
    pub publishing_tokens_per_s: f64,
    /// The base weights, which the trainer loads before the engine starts.
    pub weights_mb: f64,
    /// How much the process grew when the engine started. An engine that shares the weights needs almost nothing.
    pub start_mb: f64,
    /// Of the process so far, including loading the model and earlier measurements.
    pub peak_rss_mb: f64,
}

/// Measures every engine, prints a table and writes `json`.
///
/// # Errors
/// An engine that is not built in or cannot load the model; lengths that do not fit its context.
pub async fn run(file: &Path, sets: &[String], config: RunConfig, json: Option<&Path>) -> Result<()> {
    let engines = engines(&config);
    let measured = match engines[..] {
        [engine] => measure(config, engine).await?,
        _ => {
            let each = engines.iter().map(|engine| in_own_process(file, sets, *engine));
            each.collect::<Result<Vec<_>>>()?.concat()
        }
    };
    report(json, &measured, table)
}

/// The configured engines, or all that are built in and have the settings.
fn engines(config: &RunConfig) -> Vec<EngineKind> {
    if !config.bench.engines.is_empty() {
        return config.bench.engines.clone();
    }
    if config.engine.is_remote() {
        return vec![EngineKind::Remote];
    }
    let has_settings = |kind: &EngineKind| {
        let engine = EngineConfig { kind: *kind, ..config.engine.clone() };
        check_engine(&engine).is_ok()
    };
    let mistral = cfg!(feature = "mistralrs").then_some(EngineKind::Mistralrs);
    let all = [EngineKind::Native].into_iter().chain(mistral);
    let engines: Vec<_> = all.filter(has_settings).collect();
    // If no engine has the settings, the native one reports what is wrong.
    if engines.is_empty() { vec![EngineKind::Native] } else { engines }
}

/// Runs this program again for one engine.
fn in_own_process(file: &Path, sets: &[String], engine: EngineKind) -> Result<Vec<RolloutResult>> {
    let json = std::env::temp_dir().join(format!("dump-rl-bench-{}.json", std::process::id()));
    let only = format!("bench.engines=[{}]", serde_json::to_string(&engine)?);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "rollout"]).arg(file).arg("--json").arg(&json);
    command.args(sets.iter().chain([&only]).flat_map(|set| ["--set", set]));
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let _running = Running::new(Some(child.id()), Kind::Program);
    let status = child.wait()?;
    match status.code() {
        Some(0) => {}
        Some(2) => return Err(InputError::new(format!("engine {engine:?}"), "could not be measured, see above").into()),
        _ => bail!("measuring {engine:?} failed: {status}"),
    }
    let measured = std::fs::read(&json).with_context(|| format!("reading {}", json.display()))?;
    drop(std::fs::remove_file(&json));
    Ok(serde_json::from_slice(&measured)?)
}

async fn measure(mut config: RunConfig, engine: EngineKind) -> Result<Vec<RolloutResult>> {
    config.engine.kind = engine;
    let base = bench_base(config)?;
    let adapter = base.trainer()?.adapter()?;
    let cases = cases(&base.config.bench, base.decoder.max_position_embeddings)?;
    let before_mb = resident_mb();
    with_engine(base.clone(), adapter.clone(), MeasureRollouts { base, cases, adapter, before_mb }).await
}

struct MeasureRollouts {
    base: Base,
    cases: Vec<Case>,
    adapter: Adapter,
    /// Memory of the process before the engine was started.
    before_mb: f64,
}

impl WithEngine for MeasureRollouts {
    type Output = Vec<RolloutResult>;

    async fn call<E: Engine>(self, engine: Arc<E>) -> Result<Self::Output> {
        let start_mb = resident_mb() - self.before_mb;
        let mut measured = Vec::new();
        for &case in &self.cases {
            measured.push(RolloutResult { start_mb, ..self.case(&engine, case).await? });
        }
        Ok(measured)
    }
}

impl MeasureRollouts {
    async fn case<E: Engine>(&self, engine: &Arc<E>, case: Case) -> Result<RolloutResult> {
        let vocabulary = self.base.decoder.vocab_size as u32;
        let run = |case: Case, seed: u64| timed(engine, requests(case, vocabulary, seed));
        let repeats = self.base.config.bench.repeats as u64;
        // A warm-up: buffers, threads, and the caches of a model that is used for the first time.
        run(Case { new_tokens: case.new_tokens.min(8), ..case }, 0).await?;
        engine.take_step_times();
        let (mut whole, mut start) = (Vec::new(), Vec::new());
        let (mut prefill, mut first, mut publish) = (Vec::new(), Vec::new(), Vec::new());
        for repeat in 1..=repeats {
            whole.push(run(case, repeat).await?);
        }
        let steps = engine.take_step_times();
        for repeat in 1..=repeats {
            let begin = Case { new_tokens: 1, lengths: Lengths::Fixed, ..case };
            start.push(run(begin, 3000 + repeat).await?.seconds);
            let one = Case { group_size: 1, ..begin };
            prefill.push(run(one, 1000 + repeat).await?.seconds);
            first.push(run(Case { prompts: 1, ..one }, 2000 + repeat).await?.seconds);
            let since = Instant::now();
            engine.publish(repeat, self.adapter.clone()).await.context("publishing")?;
            publish.push(since.elapsed().as_secs_f64());
        }
        let (publishing, mut busy) = self.while_publishing(engine, run(case, repeats + 1)).await?;
        whole.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let Timed { tokens, seconds } = whole[whole.len() / 2];
        let decoding = seconds - quantile(&mut start, 0.5);
        let sequences = case.prompts * case.group_size;
        let bytes = self.base.weights.norm.dtype().size_in_bytes();
        Ok(RolloutResult {
            subject: Subject::new("rollout", &self.base),
            sequences,
            prompts: case.prompts,
            group_size: case.group_size,
            prompt_tokens: case.prompt_tokens,
            new_tokens: case.new_tokens,
            lengths: case.lengths,
            generated_tokens: tokens,
            seconds,
            tokens_per_s: tokens as f64 / seconds,
            decode_tokens_per_s: decode_rate(tokens - sequences, decoding),
            prefill_tokens_per_s: (case.prompts * case.prompt_tokens) as f64 / quantile(&mut prefill, 0.5),
            time_to_first_token_ms: 1e3 * quantile(&mut first, 0.5),
            step_p50_ms: step_ms(&steps, 0.5),
            step_p99_ms: step_ms(&steps, 0.99),
            publish_ms: 1e3 * quantile(&mut publish, 0.5),
            publish_decoding_ms: (!busy.is_empty()).then(|| 1e3 * quantile(&mut busy, 0.5)),
            publishing_tokens_per_s: publishing.tokens as f64 / publishing.seconds,
            weights_mb: 1e-6 * (self.base.decoder.parameters() * bytes) as f64,
            start_mb: 0.0,
            peak_rss_mb: peak_mb(),
        })
    }

    /// Publishes repeatedly until `run` ends. Also returns the seconds of each publish.
    async fn while_publishing<E: Engine>(
        &self,
        engine: &Arc<E>,
        run: impl Future<Output = Result<Timed>>,
    ) -> Result<(Timed, Vec<f64>)> {
        let mut latencies = Vec::new();
        let publishing = async {
            let mut step = u64::from(u32::MAX);
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                step += 1;
                let since = Instant::now();
                if let Err(error) = engine.publish(step, self.adapter.clone()).await {
                    return error;
                }
                latencies.push(since.elapsed().as_secs_f64());
            }
        };
        let timed = tokio::select! {
            timed = run => timed,
            error = publishing => Err(error).context("publishing"),
        };
        Ok((timed?, latencies))
    }
}

/// Random prompts. Two of them share nothing, and no stop token ends a completion.
pub(super) fn requests(case: Case, vocabulary: u32, seed: u64) -> Vec<Request> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut request = |index: usize| {
        let prompt: Vec<u32> = (0..case.prompt_tokens).map(|_| rng.random_range(0..vocabulary)).collect();
        let max_new_tokens = match case.lengths {
            Lengths::Fixed => case.new_tokens,
            Lengths::Drawn => rng.random_range(1..=case.new_tokens),
        };
        let sampling = Sampling { max_new_tokens, ..Sampling::new(1.0, Vec::new()) };
        Request { prompt: prompt.into(), group_size: case.group_size, seed: mix_seed(seed, index as u64), sampling }
    };
    (0..case.prompts).map(&mut request).collect()
}

struct Timed {
    tokens: usize,
    seconds: f64,
}

/// Sends all requests at once and waits for the last answer.
async fn timed<E: Engine>(engine: &Arc<E>, requests: Vec<Request>) -> Result<Timed> {
    let since = Instant::now();
    let mut running = JoinSet::new();
    for request in requests {
        let engine = engine.clone();
        running.spawn(async move {
            let completions = engine.generate(request).await?;
            Ok::<usize, EngineError>(completions.iter().map(|completion| completion.tokens.len()).sum())
        });
    }
    let mut tokens = 0;
    while let Some(answer) = running.join_next().await {
        tokens += answer??;
    }
    Ok(Timed { tokens, seconds: since.elapsed().as_secs_f64() })
}

/// Tokens per second. `None` if there is nothing to measure.
fn decode_rate(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

fn step_ms(steps: &[Duration], q: f64) -> Option<f64> {
    let mut ms: Vec<f64> = steps.iter().map(|step| 1e3 * step.as_secs_f64()).collect();
    (!ms.is_empty()).then(|| quantile(&mut ms, q))
}

fn table(measured: &[RolloutResult]) -> Table {
    let mut table = table::table([
        "engine",
        "prompts × group",
        "tokens",
        "tok/s",
        "decode tok/s",
        "prefill tok/s",
        "first token ms",
        "step p50 / p99 ms",
        "publish ms idle / decoding",
        "tok/s publishing",
        "start MB",
        "peak MB",
    ]);
    for m in measured {
        let or_dash = |ms: Option<f64>| ms.map_or("–".into(), |ms| format!("{ms:.2}"));
        table.add_row([
            m.subject.sampler(),
            format!("{} × {}", m.prompts, m.group_size),
            format!("{} + {}", m.prompt_tokens, m.new_tokens),
            format!("{:.0}", m.tokens_per_s),
            m.decode_tokens_per_s.map_or("–".into(), |rate| format!("{rate:.0}")),
            format!("{:.0}", m.prefill_tokens_per_s),
            format!("{:.1}", m.time_to_first_token_ms),
            format!("{} / {}", or_dash(m.step_p50_ms), or_dash(m.step_p99_ms)),
            format!("{:.2} / {}", m.publish_ms, or_dash(m.publish_decoding_ms)),
            format!("{:.0}", m.publishing_tokens_per_s),
            format!("{:.0}", m.start_mb),
            format!("{:.0}", m.peak_rss_mb),
        ]);
    }
    table
}

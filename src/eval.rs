//! Held-out evaluation: the same prompts and seeds every time, so that two evaluations differ by the policy alone.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use engine::{Engine, Request, Sampling};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::dataset::Dataset;
use crate::metric_names::EvalMetric;
use crate::task::Grade;
use crate::tokenizer::ChatTokenizer;

/// How to evaluate.
#[derive(Clone)]
pub struct EvalSettings {
    pub sampling: Sampling,
    /// k: completions of each prompt.
    pub samples: usize,
    pub seed: u64,
}

/// Means over a distribution's test prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceScore {
    pub source: String,
    pub prompts: usize,
    pub reward: f64,
    pub answer_reward: f64,
    pub format_reward: f64,
    /// Share of completions that are right.
    pub avg_at_k: f64,
    /// Share of prompts with at least one right completion.
    pub pass_at_k: f64,
    /// Mean tokens of a completion.
    pub length: f64,
}

impl SourceScore {
    /// Metric names and values; `k` completions a prompt.
    pub fn metrics(&self, k: usize) -> Vec<(String, f64)> {
        let source = &self.source;
        vec![
            (EvalMetric::Reward.of(source), self.reward),
            (EvalMetric::AnswerReward.of(source), self.answer_reward),
            (EvalMetric::FormatReward.of(source), self.format_reward),
            (EvalMetric::Avg(k).of(source), self.avg_at_k),
            (EvalMetric::Pass(k).of(source), self.pass_at_k),
            (EvalMetric::MeanLength.of(source), self.length),
        ]
    }
}

/// Samples every test prompt and grades it. Never touches the curriculum.
///
/// # Errors
/// The engine's first failure.
pub async fn evaluate<E: Engine>(
    engine: &Arc<E>,
    data: &Arc<Dataset>,
    tokenizer: &Arc<ChatTokenizer>,
    settings: &EvalSettings,
) -> Result<Vec<SourceScore>> {
    let prompts = data.sources.iter().enumerate().flat_map(|(s, source)| (0..source.items.len()).map(move |i| (s, i)));
    let (send, receive) = async_channel::unbounded();
    for prompt in prompts {
        send.try_send(prompt).map_err(|e| anyhow!("{e}"))?;
    }
    drop(send);
    let mut workers = JoinSet::new();
    for _ in 0..engine.concurrency(settings.samples).max(1) {
        let (engine, data, tokenizer) = (engine.clone(), data.clone(), tokenizer.clone());
        let (settings, receive) = (settings.clone(), receive.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            while let Ok((source, item)) = receive.recv().await {
                done.push((source, one_prompt(&*engine, &data, &tokenizer, &settings, (source, item)).await?));
            }
            Ok::<_, anyhow::Error>(done)
        });
    }
    let mut by_source: Vec<Vec<Vec<Sampled>>> = data.sources.iter().map(|_| Vec::new()).collect();
    while let Some(done) = workers.join_next().await {
        done??.into_iter().for_each(|(source, graded)| by_source[source].push(graded));
    }
    Ok(data.sources.iter().zip(by_source).map(|(source, prompts)| summarise(&source.name, &prompts)).collect())
}

/// A grade and the completion's length in tokens.
type Sampled = (Grade, usize);

async fn one_prompt<E: Engine>(
    engine: &E,
    data: &Dataset,
    tokenizer: &ChatTokenizer,
    settings: &EvalSettings,
    (source, index): (usize, usize),
) -> Result<Vec<Sampled>> {
    let item = &data.sources[source].items[index];
    let seed = engine::sampler::mix_seed(settings.seed, ((source as u64) << 32) + index as u64);
    let request = Request {
        prompt: item.prompt.clone(),
        group_size: settings.samples,
        seed,
        sampling: settings.sampling.clone(),
    };
    let completions = engine.generate(request).await?;
    let grade =
        |c: &engine::Completion| Ok((item.grader.grade(&tokenizer.decode_completion(&c.tokens)?), c.tokens.len()));
    completions.iter().map(grade).collect()
}

fn summarise(source: &str, prompts: &[Vec<Sampled>]) -> SourceScore {
    let all = prompts.iter().flatten();
    let n = all.clone().count().max(1) as f64;
    // Integers and few distinct values: the sum does not depend on the order in which prompts were answered.
    let mean = |f: fn(&Sampled) -> f64| all.clone().map(f).sum::<f64>() / n;
    let solved = prompts.iter().filter(|graded| graded.iter().any(|(grade, _)| grade.is_right())).count();
    SourceScore {
        source: source.to_string(),
        prompts: prompts.len(),
        reward: mean(|(grade, _)| f64::from(grade.score())),
        answer_reward: mean(|(grade, _)| f64::from(grade.answer_score)),
        format_reward: mean(|(grade, _)| f64::from(grade.format_score)),
        avg_at_k: mean(|(grade, _)| f64::from(u8::from(grade.is_right()))),
        pass_at_k: solved as f64 / prompts.len().max(1) as f64,
        length: mean(|(_, length)| *length as f64),
    }
}

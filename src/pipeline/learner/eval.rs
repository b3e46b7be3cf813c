//! Evaluation on held-out rows. Prompts and seeds are always the same, so two evaluations differ only by their policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};
use engine::{Completion, Engine, Request, Sampling};
use tokio::task::JoinSet;

use crate::pipeline::activity::{Activity, Work};
use crate::pipeline::inputs::Inputs;
use crate::reward::GradingError;
use crate::run_dir::score::SourceScore;
use crate::seed::mix_seed;
use crate::task::Grade;

/// How to evaluate.
#[derive(Clone)]
struct EvalSettings {
    sampling: Sampling,
    /// k: completions of each prompt.
    samples: usize,
    seed: u64,
}

impl EvalSettings {
    fn of(inputs: &Inputs) -> Self {
        let eval = &inputs.config.eval;
        let sampling = Sampling { temperature: eval.temperature, ..inputs.sampling() };
        Self { sampling, samples: eval.samples, seed: mix_seed(inputs.config.data[0].seed, 0xE7A1) }
    }
}

/// This many prompts in a row that cannot be graded end an evaluation.
const MAX_FAILURES: usize = 3;

/// Samples and grades every test prompt. The curriculum never sees the result. A prompt that cannot be graded is left out, with a
/// warning.
///
/// # Errors
/// The first failure of the engine; the grader's error, if `MAX_FAILURES` prompts in a row or all of a distribution cannot be graded.
pub async fn evaluate<E: Engine>(
    engine: &Arc<E>,
    inputs: &Arc<Inputs>,
    activity: &Arc<Activity>,
) -> Result<Vec<SourceScore>> {
    let (data, settings) = (&inputs.test, EvalSettings::of(inputs));
    let prompts =
        data.sources.iter().enumerate().flat_map(|(s, source)| (0..source.known().len()).map(move |i| (s, i)));
    let (send, receive) = async_channel::unbounded();
    for prompt in prompts {
        send.try_send(prompt).map_err(|e| anyhow!("{e}"))?;
    }
    drop(send);
    let mut workers = JoinSet::new();
    let failures = Arc::new(AtomicUsize::new(0));
    for _ in 0..engine.concurrency(settings.samples).max(1) {
        let (engine, inputs, settings, receive) = (engine.clone(), inputs.clone(), settings.clone(), receive.clone());
        let (failures, activity) = (failures.clone(), activity.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            while let Ok((source, item)) = receive.recv().await {
                let _working = activity.begin(Work::Evaluating);
                match one_prompt(&*engine, &inputs, &settings, (source, item)).await? {
                    Ok(graded) => {
                        failures.store(0, Ordering::Relaxed);
                        done.push((source, graded));
                    }
                    Err(error) => ungraded(error, &failures, &inputs.test.sources[source].name, item)?,
                }
            }
            Ok::<_, anyhow::Error>(done)
        });
    }
    let mut by_source: Vec<Vec<Vec<Sampled>>> = data.sources.iter().map(|_| Vec::new()).collect();
    while let Some(done) = workers.join_next().await {
        done.context("an evaluation panicked")??
            .into_iter()
            .for_each(|(source, graded)| by_source[source].push(graded));
    }
    if let Some((source, _)) = data.sources.iter().zip(&by_source).find(|(_, prompts)| prompts.is_empty()) {
        return Err(anyhow!("no test row of {} could be graded; run.log has the grader's errors", source.name));
    }
    Ok(data.sources.iter().zip(by_source).map(|(source, prompts)| summarise(&source.name, &prompts)).collect())
}

fn ungraded(error: GradingError, failures: &AtomicUsize, source: &str, item: usize) -> Result<()> {
    if failures.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FAILURES {
        let context =
            || format!("{MAX_FAILURES} test rows in a row could not be graded; the last was row {item} of {source}");
        return Err(error).with_context(context);
    }
    tracing::warn!(row = item, source, %error, "a test row could not be graded, and is left out of this evaluation");
    Ok(())
}

/// A grade and the completion's length in tokens.
type Sampled = (Grade, usize);

async fn one_prompt<E: Engine>(
    engine: &E,
    inputs: &Inputs,
    settings: &EvalSettings,
    (source, index): (usize, usize),
) -> Result<Result<Vec<Sampled>, GradingError>> {
    let item = inputs.test.item(source, index)?;
    let seed = mix_seed(settings.seed, ((source as u64) << 32) + index as u64);
    let request = Request {
        prompt: item.prompt.clone(),
        group_size: settings.samples,
        seed,
        sampling: settings.sampling.clone(),
    };
    let completions = engine.generate(request).await?;
    let decode =
        |completion: &Completion| inputs.tokenizer.decode_completion(&completion.tokens).map(|text| item.graded(&text));
    let texts = completions.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let grades = item.grader.grade(&item.row, &texts).await;
    let lengths = completions.iter().map(|completion| completion.tokens.len());
    Ok(grades.map(|grades| grades.into_iter().zip(lengths).collect()))
}

fn summarise(source: &str, prompts: &[Vec<Sampled>]) -> SourceScore {
    let all = prompts.iter().flatten();
    let n = all.clone().count().max(1) as f64;
    // Sorted, so that the sum does not depend on the order in which prompts were answered.
    let mean = |f: fn(&Sampled) -> f64| {
        let mut values: Vec<f64> = all.clone().map(f).collect();
        values.sort_by(f64::total_cmp);
        values.iter().sum::<f64>() / n
    };
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

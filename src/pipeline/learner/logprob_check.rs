//! Does an engine compute what the trainer computes? Many different completions are sampled together and scored again.
//!
//! One completion alone, or equal ones together, would hide the typical fault of a batch: sequences that are mixed up.

use std::sync::Arc;

use anyhow::{Context, Result};
use engine::{Completion, Engine, EngineError, Precision, Quantization, Request};
use tokio::task::JoinSet;

use crate::train::sample::Sample;

/// A larger difference between log-probabilities of engine and trainer points to a fault. The limit depends on the engine's number
/// format. In nats.
pub fn mismatch_limit(engine: Precision, quantization: Quantization) -> f64 {
    match (quantization, engine) {
        (Quantization::None, Precision::F32) => 0.01,
        // Eight significant bits in every product.
        (Quantization::None, Precision::Bf16) | (Quantization::Q8_0, _) => 1.0,
        (Quantization::Q6K, _) => 2.0,
        (Quantization::Q5K | Quantization::Q4K, _) => 4.0,
    }
}

/// How far log-probabilities of the same tokens are from each other.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LogProbDifference {
    pub completions: usize,
    pub tokens: usize,
    /// Largest difference of a token, in nats. NaN counts as infinite.
    pub max_difference: f64,
    pub mean_difference: f64,
    /// Of the worst completion: the root mean square of its tokens' differences, divided by the standard deviation of their
    /// log-probabilities. It is close to 1 for a completion that is mixed up with another one, for any model.
    pub relative_error: f64,
}

/// The largest differences that are accepted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    pub max_difference: f64,
    pub relative_error: f64,
}

impl Bound {
    /// For an engine that computes in `precision` with quantized weights, compared with a forward on weights that are not
    /// quantized, in the same precision or in f32. The prompts may be random tokens. There quantized weights differ more than on
    /// text that a model was trained on (docs/gpu.md has the measurements).
    pub fn of(precision: Precision, quantization: Quantization) -> Self {
        const ON_RANDOM_TOKENS: f64 = 4.0;
        let limit = mismatch_limit(precision, quantization);
        let (max_difference, relative_error) = match (quantization, precision) {
            (Quantization::None, Precision::F32) => (limit, 0.005),
            (Quantization::None, Precision::Bf16) => (limit, 0.08),
            (Quantization::Q8_0, _) => (limit * ON_RANDOM_TOKENS, 0.2),
            (Quantization::Q6K | Quantization::Q5K, _) => (limit * ON_RANDOM_TOKENS, 1.0),
            (Quantization::Q4K, _) => (limit * ON_RANDOM_TOKENS, 1.25),
        };
        Self { max_difference, relative_error }
    }

    pub fn holds(&self, difference: &LogProbDifference) -> bool {
        difference.max_difference <= self.max_difference && difference.relative_error <= self.relative_error
    }
}

impl LogProbDifference {
    /// Compares the engine's log-probabilities in `samples` with `scores`, those of a forward.
    pub fn new(samples: &[Sample], scores: &[Vec<f32>]) -> Self {
        assert_eq!(samples.len(), scores.len(), "one list per completion");
        let mut all = Self { completions: samples.len(), ..Self::default() };
        let mut sum = 0.0;
        for (sample, scores) in samples.iter().zip(scores) {
            let differences = differences(&sample.rollout_log_probs, scores);
            all.tokens += differences.len();
            sum += differences.iter().sum::<f64>();
            all.max_difference = differences.iter().fold(all.max_difference, |most, it| most.max(*it));
            let square = differences.iter().map(|it| it * it).sum::<f64>();
            all.relative_error = all.relative_error.max((square / variation(scores).max(f64::MIN_POSITIVE)).sqrt());
        }
        all.mean_difference = sum / all.tokens.max(1) as f64;
        all
    }
}

/// The absolute difference of each token.
fn differences(engine: &[f32], forward: &[f32]) -> Vec<f64> {
    assert_eq!(engine.len(), forward.len(), "one log-probability per token");
    let difference = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
    let size = |it: f64| if it.is_nan() { f64::INFINITY } else { it };
    engine.iter().zip(forward).map(difference).map(size).collect()
}

/// Σ (x − mean)².
fn variation(values: &[f32]) -> f64 {
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len().max(1) as f64;
    values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum()
}

/// Sends all requests at once, to one server if `server` names it. Returns the completions as samples, in the order of the requests.
///
/// # Errors
/// The first request that fails.
pub async fn sample_together<E: Engine>(
    engine: &Arc<E>,
    server: Option<Arc<str>>,
    requests: Vec<Request>,
) -> Result<Vec<Sample>> {
    let mut running = JoinSet::new();
    for (index, request) in requests.into_iter().enumerate() {
        let (engine, server) = (engine.clone(), server.clone());
        running.spawn(async move {
            let prompt = request.prompt.clone();
            let completions = match server {
                Some(server) => engine.generate_at(&server, request).await?,
                None => engine.generate(request).await?,
            };
            Ok::<_, EngineError>((index, completions.into_iter().map(|it| sample(prompt.clone(), it)).collect()))
        });
    }
    let mut answers: Vec<(usize, Vec<Sample>)> = Vec::new();
    while let Some(answer) = running.join_next().await {
        answers.push(answer.context("a request panicked")??);
    }
    answers.sort_by_key(|(index, _)| *index);
    Ok(answers.into_iter().flat_map(|(_, samples)| samples).collect())
}

/// A completion as a sample to be scored, without an advantage.
pub fn sample(prompt: Arc<[u32]>, completion: Completion) -> Sample {
    Sample {
        group: 0,
        source: 0,
        prompt,
        completion: completion.tokens,
        rollout_log_probs: completion.full_log_probs,
        advantage: 0.0,
        policy_step: completion.policy.step,
        truncated: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(engine: &[&[f32]], forward: &[&[f32]], [max, mean, relative]: [f64; 3]) {
        let sample = |log_probs: &&[f32]| Sample {
            group: 0,
            source: 0,
            prompt: [1].into(),
            completion: vec![0; log_probs.len()],
            rollout_log_probs: log_probs.to_vec(),
            advantage: 0.0,
            policy_step: 0,
            truncated: false,
        };
        let samples: Vec<Sample> = engine.iter().map(sample).collect();
        let found = LogProbDifference::new(&samples, &forward.iter().map(|it| it.to_vec()).collect::<Vec<_>>());
        for (found, want) in
            [(found.max_difference, max), (found.mean_difference, mean), (found.relative_error, relative)]
        {
            assert!(found == want || (found - want).abs() < 1e-9, "{found} for {want}");
        }
    }

    #[test]
    fn the_worst_completion_decides() {
        check(&[&[-1.0, -3.0], &[-2.0]], &[&[-1.0, -3.0], &[-2.0]], [0.0; 3]);
        // Varies by 2 around −2: Σ (x − mean)² = 2; differences of 1 and 0.
        check(&[&[-2.0, -3.0], &[-1.0, -3.0]], &[&[-1.0, -3.0], &[-1.0, -3.0]], [1.0, 0.25, 0.5f64.sqrt()]);
        check(&[&[f32::NAN, -3.0]], &[&[-1.0, -3.0]], [f64::INFINITY; 3]);
    }

    /// With quantized weights: the worst values that were measured on right completions, and the smallest that were measured on kk-tiny
    /// and random models when completions were scored with another prompt (docs/gpu.md).
    #[test]
    fn right_completions_are_in_bounds_and_those_of_another_prompt_are_not() {
        let check = |precision, quantization, right: (f64, f64), wrong: (f64, f64)| {
            let bound = Bound::of(precision, quantization);
            let holds = |(max_difference, relative_error)| {
                bound.holds(&LogProbDifference { max_difference, relative_error, ..LogProbDifference::default() })
            };
            assert!(holds(right) && !holds(wrong) && !holds((f64::INFINITY, f64::INFINITY)), "{quantization:?}");
        };
        check(Precision::F32, Quantization::None, (1e-4, 1e-4), (0.005, 0.09));
        check(Precision::Bf16, Quantization::None, (0.2, 0.024), (0.2, 0.29));
        check(Precision::Bf16, Quantization::None, (0.2, 0.024), (15.7, 0.024));
        check(Precision::F32, Quantization::Q8_0, (0.9, 0.11), (2.5, 1.27));
        check(Precision::Bf16, Quantization::Q6K, (5.1, 0.77), (2.5, 1.2));
        check(Precision::F32, Quantization::Q5K, (5.4, 0.60), (2.3, 1.18));
        check(Precision::F32, Quantization::Q4K, (11.3, 1.10), (2.3, 1.43));
    }
}

//! Floating-point operations that the mathematics of a policy step needs, computed from sizes.
//!
//! A multiplication and an addition count as two operations. As in model FLOPs utilisation (PaLM, arXiv 2204.02311,
//! appendix B), blocks that the backward pass computes again do not count, nor do norms, activations and the softmax.
//! Frozen weights get no gradient, so each weight takes 2 operations per row forward and 2 backward. A prompt counts once
//! for all its completions.

use std::collections::BTreeMap;

use engine::decoder::{DecoderConfig, Module};

use super::sample::Sample;

/// How many passes a step makes over its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// Forward and backward.
    pub updates: usize,
    /// Forward only: for a reference model, or for the policy from before the first of several updates.
    pub forwards: usize,
}

/// The work that a batch takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Work {
    /// Tokens that go through the blocks.
    rows: usize,
    /// Pairs of a token and one that it attends to.
    pairs: usize,
    /// Tokens that go through the head.
    predictions: usize,
}

impl Work {
    /// In a layer where a token attends to at most `window` tokens. Samples of one prompt must be adjacent. The last token of
    /// a completion predicts nothing.
    fn of(samples: &[Sample], window: Option<usize>) -> Self {
        let mut work = Self::default();
        let causal_pairs = |n: usize| {
            let within = window.map_or(n, |window| n.min(window));
            within * (within + 1) / 2 + (n - within) * within
        };
        for group in samples.chunk_by(|a, b| a.prompt == b.prompt) {
            let prompt = group[0].prompt.len();
            work.rows += prompt;
            work.pairs += causal_pairs(prompt);
            for sample in group {
                let own = sample.completion.len().saturating_sub(1);
                work.rows += own;
                work.pairs += causal_pairs(prompt + own) - causal_pairs(prompt);
                work.predictions += sample.completion.len();
            }
        }
        work
    }
}

/// Operations of a step on `samples`, with an adapter of `adapter` parameters.
pub fn of_step(model: &DecoderConfig, adapter: usize, samples: &[Sample], passes: Passes) -> f64 {
    let Work { rows, predictions, .. } = Work::of(samples, None);
    let shapes = Module::ALL.map(|module| model.linear_shape(module));
    let weights = model.num_hidden_layers * shapes.iter().map(|(input, output)| input * output).sum::<usize>();
    let head = model.vocab_size * model.hidden_size;
    // The products of queries with keys, and of weights with values.
    let attention = 2 * pairs(model, samples) * model.num_attention_heads * model.head_dim;
    let frozen = 2.0 * (rows as f64 * weights as f64 + predictions as f64 * head as f64);
    let (attention, adapter) = (2.0 * attention as f64, 2.0 * rows as f64 * adapter as f64);
    let update = 2.0 * frozen + 3.0 * (attention + adapter);
    passes.updates as f64 * update + passes.forwards as f64 * (frozen + attention + adapter)
}

/// Pairs of a token and one that it attends to, in all layers.
fn pairs(model: &DecoderConfig, samples: &[Sample]) -> usize {
    let mut layers = BTreeMap::new();
    (0..model.num_hidden_layers).for_each(|layer| *layers.entry(model.window(layer)).or_insert(0) += 1);
    layers.into_iter().map(|(window, layers): (_, usize)| layers * Work::of(samples, window).pairs).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::presets;

    fn samples(prompt: usize, completions: &[usize]) -> Vec<Sample> {
        let sample = |length: &usize| Sample {
            group: 0,
            source: 0,
            prompt: vec![1; prompt].into(),
            completion: vec![2; *length],
            rollout_log_probs: vec![0.0; *length],
            advantage: 1.0,
            policy_step: 0,
            truncated: false,
        };
        completions.iter().map(sample).collect()
    }

    #[test]
    fn a_shared_prompt_counts_once() {
        // 3 + 1 + 2 rows. The i-th token of a sequence attends to i tokens: 1 + 2 + 3, then 4, then 4 + 5.
        let work = |pairs| Work { rows: 6, pairs, predictions: 5 };
        assert_eq!(Work::of(&samples(3, &[2, 3]), None), work(19));
        // To at most 2 tokens: 1 + 2 + 2, then 2, then 2 + 2.
        assert_eq!(Work::of(&samples(3, &[2, 3]), Some(2)), work(11));
    }

    /// With short sequences, a step takes about four operations per parameter and token. Full training would take six.
    #[test]
    fn a_step_takes_four_operations_per_weight_and_token() {
        let (_, model) = presets::architecture("7b").expect("a preset");
        let samples = samples(1, &[64; 8]);
        let tokens = 8.0 * 64.0;
        let weights = (model.parameters() - model.vocab_size * model.hidden_size) as f64;
        let once = Passes { updates: 1, forwards: 0 };
        let found = of_step(&model, 0, &samples, once) / (4.0 * tokens * weights);
        assert!((0.98..1.02).contains(&found), "{found}");
        let reference =
            of_step(&model, 0, &samples, Passes { forwards: 1, ..once }) / of_step(&model, 0, &samples, once);
        assert!((1.49..1.51).contains(&reference), "{reference}");
    }
}

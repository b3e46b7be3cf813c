//! Floating-point operations of a policy step, from sizes alone: what the mathematics needs, not what is computed.
//!
//! A multiplication and an addition are two. As in model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B) blocks that are
//! computed again in the backward pass do not count, nor do norms, activations and the softmax. Frozen weights have no
//! gradient of their own: 2 operations a weight and row forward, 2 back. A prompt counts once for all its completions.

use engine::decoder::{DecoderConfig, Module};

use super::trainer::Sample;

/// How often a step goes over its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// Forward and backward.
    pub updates: usize,
    /// Forward alone: a reference model, or the policy from before the first of several updates.
    pub forwards: usize,
}

/// What a batch makes a model compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Work {
    /// Positions that go through the blocks.
    rows: usize,
    /// Pairs of a position and one that it attends to.
    pairs: usize,
    /// Positions whose logits are needed.
    heads: usize,
}

impl Work {
    /// Samples of one prompt follow each other. The last token of a completion predicts nothing.
    fn of(samples: &[Sample]) -> Self {
        let mut work = Self::default();
        let up_to = |n: usize| n * (n + 1) / 2;
        for group in samples.chunk_by(|a, b| a.prompt == b.prompt) {
            let prompt = group[0].prompt.len();
            work.rows += prompt;
            work.pairs += up_to(prompt);
            for sample in group {
                let own = sample.completion.len().saturating_sub(1);
                work.rows += own;
                work.pairs += up_to(prompt + own) - up_to(prompt);
                work.heads += sample.completion.len();
            }
        }
        work
    }
}

/// Of a step on `samples` with an adapter of `adapter` numbers.
pub fn of_step(model: &DecoderConfig, adapter: usize, samples: &[Sample], passes: Passes) -> f64 {
    let Work { rows, pairs, heads } = Work::of(samples);
    let shapes = Module::ALL.map(|module| model.linear_shape(module));
    let weights = model.num_hidden_layers * shapes.iter().map(|(input, output)| input * output).sum::<usize>();
    let head = model.vocab_size * model.hidden_size;
    // Queries by keys, and weights by values.
    let attention = 2 * model.num_hidden_layers * model.num_attention_heads * model.head_dim;
    let frozen = 2.0 * (rows as f64 * weights as f64 + heads as f64 * head as f64);
    let (attention, adapter) = (2.0 * pairs as f64 * attention as f64, 2.0 * rows as f64 * adapter as f64);
    let update = 2.0 * frozen + 3.0 * (attention + adapter);
    passes.updates as f64 * update + passes.forwards as f64 * (frozen + attention + adapter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::presets;

    fn samples(prompt: usize, completions: &[usize]) -> Vec<Sample> {
        let sample = |length: &usize| Sample {
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
        // Rows 3 + 1 + 2; position i attends to i: 1 + 2 + 3, then 4, then 4 + 5.
        assert_eq!(Work::of(&samples(3, &[2, 3])), Work { rows: 6, pairs: 19, heads: 5 });
    }

    /// Short sequences: about four operations a parameter and token; six would be full training.
    #[test]
    fn a_step_takes_four_operations_a_weight_and_token() {
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

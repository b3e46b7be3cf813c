//! The memory of a whole run on a CPU, and of the trainer on any device.
//!
//! The tests compare the trainer's part, and a whole run on a CPU with completions of the greatest length, with what they
//! measure.

use engine::Precision;
use engine::decoder::{DecoderConfig, Module};
use engine::native::BLOCK_TOKENS;

use super::Workload;
use crate::config::engine::DeviceKind;
use crate::config::resolve::{EngineChoice, Sharing};
use crate::config::run::RunConfig;
use crate::train::memory::{self, Batch};

/// What the program itself takes, with a tokenizer and rows. NVIDIA's libraries, where they are linked, take 145 to 160 MB more
/// (measured), on any device.
const PROGRAM_BYTES: usize = if cfg!(feature = "cuda") { 240 << 20 } else { 90 << 20 };

/// A line of the prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub what: &'static str,
    pub bytes: usize,
}

/// The batch of a policy step, with prompts and completions of the greatest length.
pub fn longest_batch(workload: &Workload) -> Batch {
    Batch {
        prompts: workload.config.batch_size,
        group_size: workload.config.group_size,
        prompt_tokens: workload.prompt_tokens,
        new_tokens: workload.config.engine.max_new_tokens,
        fewest_tokens: 1,
    }
}

/// What the trainer takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainerBytes {
    pub weights: usize,
    /// The adapter with its gradients and the optimiser.
    pub adapter: usize,
    pub activations: usize,
}

impl TrainerBytes {
    /// Memory of earlier batches of other shapes that the allocator has not returned yet.
    pub fn freed(&self) -> usize {
        self.activations / 6
    }
}

/// What the trainer takes for a step on `batch`, without the program itself.
pub fn trainer(workload: &Workload, batch: Batch) -> TrainerBytes {
    let Workload { config, model, resolved, .. } = workload;
    let adapter = adapter_parameters(config, model);
    let training = memory::Training {
        workers: resolved.trainer_workers,
        micro_batch_tokens: config.trainer.micro_batch_tokens,
        recompute: config.trainer.recompute,
        plain: resolved.device == DeviceKind::Cuda,
        number: weight_bytes(workload),
    };
    let activations = training.activation_bytes(model, batch);
    // The values, two moments, two temporaries of an update, and for each worker a sum of gradients and one more to add.
    let copies = 5 + 2 * training.workers;
    TrainerBytes { weights: model.parameters() * weight_bytes(workload), adapter: 4 * copies * adapter, activations }
}

/// What a whole run takes on a CPU. For a GPU see [`super::budget`].
pub fn run(workload: &Workload) -> Vec<Part> {
    let Workload { config, model, resolved, prompt_tokens, .. } = *workload;
    let trainer = trainer(workload, longest_batch(workload));
    let mut parts = vec![
        Part { what: "base weights", bytes: trainer.weights },
        Part { what: "adapter, optimiser and gradients", bytes: trainer.adapter },
        Part { what: "activations of the trainer", bytes: trainer.activations },
        Part { what: "freed memory that the allocator still holds", bytes: trainer.freed() },
    ];
    match resolved.engine {
        EngineChoice::Mistralrs => {
            let weights = resolved.replicas * model.parameters() * weight_bytes(workload);
            parts.push(match resolved.sharing {
                Sharing::SideBySide => {
                    Part { what: "weights of the engine, twice while a policy is published", bytes: 2 * weights }
                }
                Sharing::Reload | Sharing::Alternate => Part { what: "weights of the engine", bytes: weights },
            });
        }
        EngineChoice::Native => {
            if resolved.engine_precision == Precision::Bf16 {
                parts.push(Part { what: "weights of the engine in bf16", bytes: 2 * model.parameters() });
            }
            let token = 4 * cached_numbers(model);
            let longest = prompt_tokens + config.engine.max_new_tokens;
            let used = cached_tokens(workload) * token;
            let most = (resolved.cache_mb << 20).max(engine::native::cache_bytes(model, longest));
            parts.push(Part { what: "key-value cache, at most", bytes: used.min(most) });
        }
        EngineChoice::Remote => {}
    }
    parts.push(Part { what: "the program, tokenizer and rows", bytes: PROGRAM_BYTES });
    parts
}

/// The most tokens in the native engine's cache, in whole blocks. A group's prompt is stored once. The prompts of an evaluation
/// stay in the cache until the next publish, in case they come again.
fn cached_tokens(workload: &Workload) -> usize {
    let Workload { config, prompt_tokens, eval_prompt_tokens, .. } = *workload;
    let sequences = config.engine.max_sequences;
    let groups = sequences.div_ceil(config.group_size) + 1;
    // Each sequence has its own copy of the block in which the prompt ends.
    let own = config.engine.max_new_tokens.next_multiple_of(BLOCK_TOKENS) + BLOCK_TOKENS;
    let prompts = groups * prompt_tokens.next_multiple_of(BLOCK_TOKENS);
    prompts.max(eval_prompt_tokens) + sequences * own
}

/// The trainer and the program itself: what `bench train` takes.
pub fn bench(workload: &Workload, batch: Batch) -> usize {
    let TrainerBytes { weights, adapter, activations } = trainer(workload, batch);
    PROGRAM_BYTES + weights + adapter + activations
}

/// Estimated seconds of generation and of training in a policy step on a CPU, if every completion has the greatest length.
/// `rate`: floating-point operations per second in large matrix products. Attention is not counted.
///
/// The share of the rate that the engine and the trainer reach was measured on SmolLM2-135M (docs/benchmarks.md).
pub fn seconds(workload: &Workload, rate: f64) -> (f64, f64) {
    const SHARE: f64 = 0.5;
    let batch = longest_batch(workload);
    let sampled = (batch.prompts * (batch.prompt_tokens + batch.group_size * batch.new_tokens)) as f64;
    let forward = 2.0 * sampled * workload.model.parameters() as f64 / (SHARE * rate);
    // Forward and backward. Frozen weights have no gradient.
    (forward, 2.0 * forward * workload.config.trainer.ppo_epochs as f64)
}

/// Parameters of the adapter.
pub fn adapter_parameters(config: &RunConfig, model: &DecoderConfig) -> usize {
    let modules = config.lora.target_modules.iter().filter_map(|name| Module::from_name(name));
    let widths = modules.map(|module| model.linear_shape(module)).map(|(input, output)| input + output);
    config.lora.rank * model.num_hidden_layers * widths.sum::<usize>()
}

/// Numbers in the key-value cache per token.
pub fn cached_numbers(model: &DecoderConfig) -> usize {
    2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim
}

/// Bytes per weight of the trainer, and of mistral.rs, which computes in the same format.
pub fn weight_bytes(workload: &Workload) -> usize {
    match workload.resolved.trainer_precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::engine::EngineKind;
    use crate::config::resolve::Machine;
    use crate::model::presets;

    /// A small model runs once per core, and twice during a publish that builds the new model beside the old one.
    #[test]
    fn every_copy_that_mistral_rs_runs_is_counted() {
        let check = |name: &str, copies: usize| {
            let model = presets::find(name).expect("a known model");
            let mut config = RunConfig::default();
            config.engine.kind = EngineKind::Mistralrs;
            let machine = Machine { cores: 4, has_bf16: false, card: None };
            let parts = run(&Workload::new(&config, &model, machine, 64).expect("settings that fit"));
            let engine = parts.iter().find(|part| part.what.starts_with("weights of the engine")).expect("weights");
            assert_eq!(engine.bytes, 2 * copies * 4 * model.parameters(), "{name}");
        };
        check("kk-tiny", 4);
        check("qwen2.5-7b", 1);
    }

    /// As in the native engine: a cache has the size that is allowed, or the size of the longest request if that is larger.
    #[test]
    fn a_cache_is_as_large_as_allowed_but_holds_the_longest_request() {
        let model = presets::find("qwen2.5-7b").expect("a known model");
        let check = |cache_mb: usize, bytes: usize| {
            let mut config = RunConfig::default();
            (config.engine.kind, config.engine.cache_mb) = (EngineKind::Native, cache_mb);
            (config.engine.max_sequences, config.engine.max_new_tokens) = (64, 2048);
            let machine = Machine { cores: 2, has_bf16: false, card: None };
            let parts = run(&Workload::new(&config, &model, machine, 1024).expect("settings that fit"));
            let cache = parts.iter().find(|part| part.what == "key-value cache, at most").expect("a cache");
            assert_eq!(cache.bytes, bytes);
        };
        check(4096, 4096 << 20);
        // 3072 tokens and two blocks of 16 tokens more; a token has 8 bytes of key and value × 28 layers × 4 heads × 128.
        check(1, (3072 + 32) * 8 * 28 * 4 * 128);
        // The prompts of 8 groups of 8 and one to come, and each completion with a block where its prompt ends.
        check(1 << 20, (9 * 1024 + 64 * (2048 + 16)) * 8 * 28 * 4 * 128);
    }
}

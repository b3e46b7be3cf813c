//! How trainer and engine share the memory of one GPU.
//!
//! A [`Need`] is what a way of [`Sharing`] takes at its worst moment. [`Workload::fit`] takes the first that fits the card, or
//! says which keys to change.

mod advice;
mod table;

use engine::CacheFormat;
use engine::decoder::{DecoderConfig, Module};
use engine::native::{BLOCK_TOKENS, DEVICE_LOGITS, DEVICE_PREFILL_TOKENS};

use super::Workload;
use super::predict::{self, cached_numbers, weight_bytes};
use crate::config::resolve::{Card, EngineChoice, Resolved, Sharing};
use crate::error::InputError;
pub use table::describe;

/// In the order in which `auto` tries them. The one with the least waiting is first.
const ALL: [Sharing; 3] = [Sharing::SideBySide, Sharing::Reload, Sharing::Alternate];

const MIB: usize = 1 << 20;

/// The most prompt tokens that mistral.rs computes together (`engine/src/mistral/wave`).
const PREFILL_TOKENS: usize = 8192;

/// Context, kernels and workspaces of CUDA and cuBLAS.
const CUDA_BYTES: usize = 1 << 30;

/// Everything that takes memory on the device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub trainer_weights: usize,
    pub adapter: usize,
    pub activations: usize,
    /// Whether the engine has no base weights of its own here. Then `engine_weights` is its adapter only.
    pub shares_weights: bool,
    pub engine_weights: usize,
    pub cache: usize,
    /// Activations, attention scores and logits of the engine.
    pub sampling: usize,
    /// Temporary memory while an adapter is merged into a model.
    pub merging: usize,
    /// What CUDA takes for itself.
    pub own: usize,
}

/// What a way of sharing takes in each phase of a step, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub sharing: Sharing,
    pub generating: usize,
    pub training: usize,
    pub publishing: usize,
}

impl Need {
    pub fn peak(&self) -> usize {
        self.generating.max(self.training).max(self.publishing)
    }
}

impl Sizes {
    /// With a cache of `cache_mb` MiB.
    pub fn new(workload: &Workload, cache_mb: usize) -> Self {
        let Workload { config, model, .. } = workload;
        let trainer = predict::trainer(workload, predict::longest_batch(workload));
        let engine = workload.resolved.engine;
        let (engine_weights, sampling, merging) = match engine {
            EngineChoice::Native => (4 * predict::adapter_parameters(config, model), native_sampling(workload), 0),
            EngineChoice::Mistralrs => (
                engine_weights(workload),
                mistral_sampling(workload),
                3 * weight_bytes(workload) * model.hidden_size * model.intermediate_size,
            ),
            EngineChoice::Remote => (0, 0, 0),
        };
        Self {
            trainer_weights: trainer.weights,
            adapter: trainer.adapter,
            activations: trainer.activations + trainer.freed(),
            shares_weights: engine != EngineChoice::Mistralrs,
            engine_weights,
            cache: cache_mb * MIB,
            sampling,
            merging,
            own: CUDA_BYTES,
        }
    }

    pub fn need(&self, sharing: Sharing) -> Need {
        let Self { trainer_weights, adapter, activations, engine_weights, cache, sampling, merging, own, .. } = *self;
        let (engine, trainer) = (engine_weights + cache, adapter + own);
        let both = trainer_weights + engine + sampling;
        let (generating, training, publishing) = match (sharing, self.shares_weights) {
            (Sharing::Alternate, false) => (engine + sampling, trainer_weights + activations, engine + merging),
            (Sharing::Reload, false) => (both, both + activations, both + merging),
            (_, false) => (both, both + activations, both + engine + sampling + merging),
            // Only a second adapter is loaded.
            (Sharing::Alternate, true) => {
                (both, trainer_weights + engine_weights + activations, trainer_weights + engine + engine_weights)
            }
            (_, true) => (both, both + activations, both + engine_weights),
        };
        Need {
            sharing,
            generating: trainer + generating,
            training: trainer + training,
            publishing: trainer + publishing,
        }
    }
}

/// Whether servers sample: then the device holds the trainer alone.
fn is_remote(workload: &Workload) -> bool {
    workload.resolved.engine == EngineChoice::Remote
}

/// Activations, attention scores and logits of mistral.rs.
fn mistral_sampling(workload: &Workload) -> usize {
    let Workload { config, model, prompt_tokens, .. } = *workload;
    let numbers = weight_bytes(workload);
    let rows = PREFILL_TOKENS.max(prompt_tokens);
    let stream = numbers * rows * (attention_widths(model) + 3 * model.intermediate_size);
    // Of 1,024 queries of each prompt at a time: the scores, the masked scores, and their softmax.
    let scores = 3 * numbers * rows * model.num_attention_heads * prompt_tokens.min(1024);
    let logits = 2 * numbers * config.engine.max_sequences * model.vocab_size;
    stream + scores + logits
}

/// Activations and logits of the native engine. It stores no scores. Part of the logits is in memory at a time: once in the
/// weights' format and six times in f32.
fn native_sampling(workload: &Workload) -> usize {
    let (model, numbers) = (workload.model, weight_bytes(workload));
    let sequences = workload.config.engine.max_sequences;
    let rows = DEVICE_PREFILL_TOKENS + sequences;
    // The adapter and SwiGLU compute in f32.
    let wide = 4 * 2 * model.intermediate_size;
    let stream = rows * (numbers * (attention_widths(model) + 3 * model.intermediate_size) + wide);
    stream + (numbers + 6 * 4) * (sequences * model.vocab_size).min(DEVICE_LOGITS)
}

/// Numbers per row outside of the MLP: the residual stream, its norm, and the inputs and outputs of attention.
fn attention_widths(model: &DecoderConfig) -> usize {
    4 * model.hidden_size + (model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
}

/// Bytes of one model of mistral.rs: quantized matrices, and embeddings and norms that are not quantized.
fn engine_weights(workload: &Workload) -> usize {
    let (model, number) = (workload.model, weight_bytes(workload));
    let all = model.parameters() * number;
    let Some(bits) = workload.config.engine.quantization.bits() else { return all };
    let of = |module| {
        let (input, output) = model.linear_shape(module);
        input * output
    };
    let head = model.vocab_size * model.hidden_size;
    let blocks: usize = model.num_hidden_layers * Module::ALL.into_iter().map(of).sum::<usize>();
    let packed = ((blocks + head) as f64 * bits / 8.0) as usize;
    // A tied head is stored twice: quantized, and as the embedding.
    let plain = model.parameters() - blocks - if model.tie_word_embeddings { 0 } else { head };
    packed + plain * number
}

/// Bytes of keys and values of one token in a paged cache.
fn token_bytes(workload: &Workload) -> usize {
    let is_f8 = workload.config.engine.cache_dtype == CacheFormat::F8E4M3;
    let number = if is_f8 { 1 } else { weight_bytes(workload) };
    number * cached_numbers(workload.model)
}

/// The smallest cache, in MiB, that holds one completion of the greatest length.
fn least_cache_mb(workload: &Workload) -> usize {
    if is_remote(workload) {
        return 0;
    }
    let Workload { config, model, prompt_tokens, .. } = *workload;
    let longest = (prompt_tokens + config.engine.max_new_tokens).min(model.max_position_embeddings);
    let block = match workload.resolved.engine {
        EngineChoice::Mistralrs => config.engine.block_size,
        EngineChoice::Native | EngineChoice::Remote => BLOCK_TOKENS,
    };
    // One more block for the token after the last, and one that mistral.rs reserves (or the native engine's copy of the prompt's last).
    let tokens = longest.next_multiple_of(block) + 2 * block;
    (tokens * token_bytes(workload)).div_ceil(MIB)
}

/// How many completions of the greatest length a cache holds at the same time.
fn longest_completions(workload: &Workload, cache_mb: usize) -> usize {
    cache_mb / least_cache_mb(workload).max(1)
}

/// The size of the cache: `engine.cache_mb`, or what `engine.gpu_memory_utilization` leaves of a card of `total` bytes.
fn cache_mb(workload: &Workload, total: usize) -> usize {
    let part = workload.config.engine.gpu_memory_utilization;
    if part == 0.0 || is_remote(workload) {
        return workload.resolved.cache_mb;
    }
    let Sizes { trainer_weights, engine_weights, shares_weights, sampling, .. } = Sizes::new(workload, 0);
    let weights = engine_weights + if shares_weights { trainer_weights } else { 0 };
    let engine = (total as f64 * f64::from(part)) as usize;
    engine.saturating_sub(weights + sampling + CUDA_BYTES) / MIB
}

/// The ways of sharing that the engine has.
fn available(workload: &Workload) -> Vec<Sharing> {
    match workload.resolved.engine {
        EngineChoice::Mistralrs => ALL.to_vec(),
        EngineChoice::Native => vec![Sharing::SideBySide, Sharing::Alternate],
        EngineChoice::Remote => vec![Sharing::SideBySide],
    }
}

/// Those of them that the configuration allows.
fn allowed(workload: &Workload) -> Vec<Sharing> {
    let overlaps = workload.config.pipeline.max_off_policy_steps > 0;
    match workload.config.engine.sync.sharing() {
        Some(sharing) if !is_remote(workload) => vec![sharing],
        _ => {
            let all = available(workload).into_iter();
            all.filter(|sharing| !(overlaps && *sharing == Sharing::Alternate)).collect()
        }
    }
}

/// The decisions with the first allowed way of sharing that fits `card`; `None` if none does.
fn fitting(workload: &Workload, card: Card) -> Option<Resolved> {
    let cache_mb = cache_mb(workload, card.total);
    let sizes = Sizes::new(workload, cache_mb);
    let holds = cache_mb >= least_cache_mb(workload);
    let fits = |sharing: &Sharing| holds && sizes.need(*sharing).peak() <= card.free;
    let sharing = allowed(workload).into_iter().find(fits)?;
    Some(Resolved { sharing, cache_mb, ..workload.resolved })
}

impl Workload<'_> {
    /// The decisions for an engine that may take what it wants: whether all fits the device is not checked.
    pub fn unchecked(&self) -> Resolved {
        match self.machine.card {
            Some(card) => Resolved { cache_mb: cache_mb(self, card.total), ..self.resolved },
            None => self.resolved,
        }
    }

    /// The decisions for trainer and engine on one device. Main memory is not counted: on a CPU everything fits.
    ///
    /// # Errors
    /// If no allowed way of sharing fits the card: names keys to change, with values that fit.
    pub fn fit(&self) -> Result<Resolved, InputError> {
        let Some(card) = self.machine.card else { return Ok(self.resolved) };
        fitting(self, card).ok_or_else(|| self.does_not_fit(card))
    }

    fn does_not_fit(&self, card: Card) -> InputError {
        let cache_mb = cache_mb(self, card.total);
        let sizes = Sizes::new(self, cache_mb);
        let least = allowed(self).into_iter().map(|sharing| sizes.need(sharing).peak()).min().unwrap_or(0);
        let problem = match least_cache_mb(self) {
            tokens if tokens > cache_mb => {
                format!("a cache of {cache_mb} MiB does not hold one completion of the greatest length ({tokens} MiB)")
            }
            _ => format!("the run needs {:.1} GB of the device, of which {:.1} GB are free", gb(least), gb(card.free)),
        };
        let advice = advice::fitting_changes(self, card);
        let advice = match advice.is_empty() {
            true => "no change of a few keys is enough: take a smaller model or a larger card".to_string(),
            false => format!("what would fit: {}", advice.join("; or ")),
        };
        let place = format!("engine.sync = {:?}", self.config.engine.sync.name());
        InputError::new(place, format!("{problem}; {advice}"))
    }
}

fn gb(bytes: usize) -> f64 {
    bytes as f64 * 1e-9
}

#[cfg(test)]
mod tests;

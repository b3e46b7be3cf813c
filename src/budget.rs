//! How the trainer and the engine share the memory of one device: computed before anything is loaded.
//!
//! A [`Need`] is what a [`SyncMode`] takes at its worst moment. [`resolve`] takes the first mode that fits, or says which
//! keys to change. Upper bounds, as in [`predict`]: every completion is taken to be as long as it may be.

mod advice;
mod card;
mod table;

use engine::CacheFormat;
use engine::decoder::{DecoderConfig, Module};
use engine::native::{BLOCK_TOKENS, DEVICE_LOGITS, DEVICE_PREFILL_TOKENS};

use crate::config::run::{EngineKind, RunConfig, SyncMode};
use crate::error::InputError;
use crate::predict::{self, cached_numbers, weight_bytes};
pub use card::{Card, known_card};
pub use table::describe;

/// The modes in the order in which `auto` tries them: the one that waits least comes first.
pub const MODES: [SyncMode; 3] = [SyncMode::SideBySide, SyncMode::Reload, SyncMode::Alternate];

const MIB: usize = 1 << 20;

/// Tokens of prompts that mistral.rs computes together, at most (`engine/src/mistral/wave.rs`).
const PREFILL_TOKENS: usize = 8192;

/// Context, kernels and workspaces of CUDA and cuBLAS.
const CUDA_BYTES: usize = 1 << 30;

/// What of a device the engine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Never `Auto`.
    pub sync: SyncMode,
    pub cache_mb: usize,
}

impl Share {
    /// For an engine that has the device to itself: whether all fits is not asked.
    pub fn unchecked(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize) -> Self {
        let sync = if config.engine.sync == SyncMode::Auto { SyncMode::SideBySide } else { config.engine.sync };
        let total = known_card(config).map_or(0, |card| card.total);
        Self { sync, cache_mb: cache_mb(config, model, prompt_tokens, total) }
    }
}

/// Everything that takes memory on the device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub trainer_weights: usize,
    pub adapter: usize,
    pub activations: usize,
    /// Whether the engine samples with the trainer's base weights; then `engine_weights` are its adapter.
    pub shares_weights: bool,
    pub engine_weights: usize,
    pub cache: usize,
    /// Activations, attention scores and logits of the engine.
    pub sampling: usize,
    /// What is needed beside a model while an adapter is merged into it.
    pub merging: usize,
    /// What neither of the two asked for.
    pub own: usize,
}

/// What a mode takes in each phase of a step, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub sync: SyncMode,
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
    pub fn new(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, cache_mb: usize) -> Self {
        let trainer = predict::trainer(config, model, predict::longest_batch(config, prompt_tokens));
        let shares_weights = is_native(config, model);
        let (engine_weights, sampling, merging) = match shares_weights {
            true => (4 * predict::adapter_parameters(config, model), native_sampling(config, model), 0),
            false => (
                engine_weights(config, model),
                mistral_sampling(config, model, prompt_tokens),
                3 * weight_bytes(config) * model.hidden_size * model.intermediate_size,
            ),
        };
        Self {
            trainer_weights: trainer.weights,
            adapter: trainer.adapter,
            activations: trainer.activations + trainer.freed(),
            shares_weights,
            engine_weights,
            cache: cache_mb * MIB,
            sampling,
            merging,
            own: CUDA_BYTES,
        }
    }

    pub fn need(&self, sync: SyncMode) -> Need {
        let Self { trainer_weights, adapter, activations, engine_weights, cache, sampling, merging, own, .. } = *self;
        let (engine, trainer) = (engine_weights + cache, adapter + own);
        let both = trainer_weights + engine + sampling;
        let (generating, training, publishing) = match (sync, self.shares_weights) {
            (SyncMode::Alternate, false) => (engine + sampling, trainer_weights + activations, engine + merging),
            (SyncMode::Reload, false) => (both, both + activations, both + merging),
            (_, false) => (both, both + activations, both + engine + sampling + merging),
            // A second adapter is all that is loaded.
            (SyncMode::Alternate, true) => {
                (both, trainer_weights + engine_weights + activations, trainer_weights + engine + engine_weights)
            }
            (_, true) => (both, both + activations, both + engine_weights),
        };
        Need { sync, generating: trainer + generating, training: trainer + training, publishing: trainer + publishing }
    }
}

/// Whether the engine is the native one.
fn is_native(config: &RunConfig, model: &DecoderConfig) -> bool {
    config.engine.resolved_kind(model) == EngineKind::Native
}

/// Activations, attention scores and logits of mistral.rs.
fn mistral_sampling(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize) -> usize {
    let numbers = weight_bytes(config);
    let rows = PREFILL_TOKENS.max(prompt_tokens);
    let stream = numbers * rows * (attention_widths(model) + 3 * model.intermediate_size);
    // Of a thousand queries of each prompt at a time; masked, and as weights.
    let scores = 3 * numbers * rows * model.num_attention_heads * prompt_tokens.min(1024);
    let logits = 2 * numbers * config.engine.max_sequences * model.vocab_size;
    stream + scores + logits
}

/// The same of the native engine: no scores, and some logits at a time, once as they come and six times in f32.
fn native_sampling(config: &RunConfig, model: &DecoderConfig) -> usize {
    let (numbers, sequences) = (weight_bytes(config), config.engine.max_sequences);
    let rows = DEVICE_PREFILL_TOKENS + sequences;
    // An adapter, and SwiGLU, take and give f32.
    let wide = 4 * 2 * model.intermediate_size;
    let stream = rows * (numbers * (attention_widths(model) + 3 * model.intermediate_size) + wide);
    stream + (numbers + 6 * 4) * (sequences * model.vocab_size).min(DEVICE_LOGITS)
}

/// Numbers that a row has beside the MLP's: the residual stream as it comes and normed, and what attention takes and gives.
fn attention_widths(model: &DecoderConfig) -> usize {
    4 * model.hidden_size + (model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
}

/// Weights of one model of mistral.rs: packed matrices, and embeddings and norms as they are.
fn engine_weights(config: &RunConfig, model: &DecoderConfig) -> usize {
    let all = model.parameters() * weight_bytes(config);
    let Some(bits) = config.engine.quantization.bits() else { return all };
    let of = |module| {
        let (input, output) = model.linear_shape(module);
        input * output
    };
    let head = model.vocab_size * model.hidden_size;
    let blocks: usize = model.num_hidden_layers * Module::ALL.into_iter().map(of).sum::<usize>();
    let packed = ((blocks + head) as f64 * bits / 8.0) as usize;
    // A tied head is packed, beside the embedding, which is not.
    let plain = model.parameters() - blocks - if model.tie_word_embeddings { 0 } else { head };
    packed + plain * weight_bytes(config)
}

/// Bytes of keys and values of one token in a paged cache.
pub fn token_bytes(config: &RunConfig, model: &DecoderConfig) -> usize {
    let number = if config.engine.cache_dtype == CacheFormat::F8E4M3 { 1 } else { weight_bytes(config) };
    number * cached_numbers(model)
}

/// MiB of a cache that holds one completion of the greatest length.
fn least_cache_mb(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize) -> usize {
    let longest = (prompt_tokens + config.engine.max_new_tokens).min(model.max_position_embeddings);
    let block = if is_native(config, model) { BLOCK_TOKENS } else { config.engine.block_size };
    // It may run on into one more block; one is mistral.rs's own, or a copy of the prompt's last.
    let tokens = longest.next_multiple_of(block) + 2 * block;
    (tokens * token_bytes(config, model)).div_ceil(MIB)
}

/// How many completions of the greatest length a cache holds at a time.
pub fn longest_completions(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, cache_mb: usize) -> usize {
    cache_mb / least_cache_mb(config, model, prompt_tokens).max(1)
}

/// The size of the cache: `engine.cache_mb`, or what `engine.gpu_memory_utilization` leaves of a card of `total` bytes.
pub fn cache_mb(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, total: usize) -> usize {
    let part = config.engine.gpu_memory_utilization;
    if part == 0.0 {
        return config.engine.cache_mb;
    }
    let Sizes { trainer_weights, engine_weights, shares_weights, sampling, .. } =
        Sizes::new(config, model, prompt_tokens, 0);
    let weights = engine_weights + if shares_weights { trainer_weights } else { 0 };
    let engine = (total as f64 * f64::from(part)) as usize;
    engine.saturating_sub(weights + sampling + CUDA_BYTES) / MIB
}

/// The modes that the engine has.
fn modes(config: &RunConfig, model: &DecoderConfig) -> Vec<SyncMode> {
    let is_native = is_native(config, model);
    MODES.into_iter().filter(|mode| !(is_native && *mode == SyncMode::Reload)).collect()
}

/// The modes that may be taken.
fn allowed(config: &RunConfig, model: &DecoderConfig) -> Vec<SyncMode> {
    let overlaps = config.pipeline.max_off_policy_steps > 0;
    match config.engine.sync {
        SyncMode::Auto => {
            let all = modes(config, model).into_iter();
            all.filter(|mode| !(overlaps && *mode == SyncMode::Alternate)).collect()
        }
        mode => vec![mode],
    }
}

/// The first allowed mode that fits `card`.
pub fn fitting(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, card: Card) -> Option<Share> {
    let cache_mb = cache_mb(config, model, prompt_tokens, card.total);
    let sizes = Sizes::new(config, model, prompt_tokens, cache_mb);
    let holds = cache_mb >= least_cache_mb(config, model, prompt_tokens);
    let mode = allowed(config, model).into_iter().find(|mode| holds && sizes.need(*mode).peak() <= card.free)?;
    Some(Share { sync: mode, cache_mb })
}

/// What of `card` the engine gets.
///
/// # Errors
/// If no allowed mode fits: names keys to change, with values that fit.
pub fn resolve(
    config: &RunConfig,
    model: &DecoderConfig,
    prompt_tokens: usize,
    card: Card,
) -> Result<Share, InputError> {
    if let Some(share) = fitting(config, model, prompt_tokens, card) {
        return Ok(share);
    }
    let cache_mb = cache_mb(config, model, prompt_tokens, card.total);
    let sizes = Sizes::new(config, model, prompt_tokens, cache_mb);
    let least = allowed(config, model).into_iter().map(|mode| sizes.need(mode).peak()).min().unwrap_or(0);
    let problem = match least_cache_mb(config, model, prompt_tokens) {
        tokens if tokens > cache_mb => {
            format!("a cache of {cache_mb} MiB does not hold one completion of the greatest length ({tokens} MiB)")
        }
        _ => format!("the run needs {:.1} GB of the device, of which {:.1} GB are free", gb(least), gb(card.free)),
    };
    let advice = advice::fitting_changes(config, model, prompt_tokens, card);
    let advice = match advice.is_empty() {
        true => "no change of a few keys is enough: take a smaller model or a larger card".to_string(),
        false => format!("what would fit: {}", advice.join("; or ")),
    };
    Err(InputError::new(format_args!("engine.sync = {:?}", name(config.engine.sync)), format!("{problem}; {advice}")))
}

/// As configuration files write it.
pub fn name(mode: SyncMode) -> &'static str {
    match mode {
        SyncMode::Auto => "auto",
        SyncMode::SideBySide => "side_by_side",
        SyncMode::Reload => "reload",
        SyncMode::Alternate => "alternate",
    }
}

fn gb(bytes: usize) -> f64 {
    bytes as f64 * 1e-9
}

#[cfg(test)]
mod tests;

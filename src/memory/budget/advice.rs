//! Which changes of keys would make a run fit a device.

use std::collections::BTreeSet;

use engine::Quantization;
use engine::decoder::DecoderConfig;

use super::{Card, allowed, cache_mb, fitting, is_native, least_cache_mb, name};
use crate::config::run::{EngineKind, RunConfig, SyncMode};
use crate::setup;

/// A change, as the keys are written, and the configuration that has it.
type Change = (String, RunConfig);

/// Changes after which the run fits: of as few keys as possible, and a few of them.
pub fn fitting_changes(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, card: Card) -> Vec<String> {
    const KEYS: usize = 3;
    const CHANGES: usize = 3;
    let found = (1..=KEYS).map(|keys| search(config, model, prompt_tokens, card, keys)).find(|found| !found.is_empty());
    found.into_iter().flatten().take(CHANGES).map(|keys| Vec::from_iter(keys).join(" with ")).collect()
}

/// Sets of that many changes after which the run fits, each once.
fn search(
    config: &RunConfig,
    model: &DecoderConfig,
    prompt_tokens: usize,
    card: Card,
    keys: usize,
) -> Vec<BTreeSet<String>> {
    let mut found = Vec::new();
    for (what, changed) in changes(config, model, prompt_tokens, card) {
        let mut sets = match keys {
            1 if fitting(&changed, model, prompt_tokens, card).is_some() => vec![BTreeSet::new()],
            1 => Vec::new(),
            _ => search(&changed, model, prompt_tokens, card, keys - 1),
        };
        sets.truncate(1);
        for set in &mut sets {
            set.insert(what.clone());
        }
        found.extend(sets.into_iter().filter(|set| set.len() == keys));
    }
    let mut seen = BTreeSet::new();
    found.retain(|set| seen.insert(set.clone()));
    found
}

fn changes(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, card: Card) -> Vec<Change> {
    let mut all = modes(config, model);
    all.extend(cache(config, model, prompt_tokens, card));
    for (quantization, name) in [(Quantization::Q8_0, "q8_0"), (Quantization::Q4K, "q4k")] {
        let mut changed = config.clone();
        changed.engine.quantization = quantization;
        if config.engine.quantization == Quantization::None && !is_native(config, model) {
            all.push((format!("engine.quantization = \"{name}\""), changed));
        }
    }
    let fits = |changed: &RunConfig| fitting(changed, model, prompt_tokens, card).is_some();
    let halved = |keys: &[Key]| {
        let mut changed = config.clone();
        while !fits(&changed) && keys.iter().all(|(_, value)| *value(&mut changed) > LEAST_TOKENS) {
            keys.iter().for_each(|(_, value)| *value(&mut changed) /= 2);
        }
        let what: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = {}", value(&mut changed))).collect();
        (what.join(" with "), changed)
    };
    let micro_batch: Key = ("trainer.micro_batch_tokens", |config| &mut config.trainer.micro_batch_tokens);
    let longest: Key = ("engine.max_new_tokens", |config| &mut config.engine.max_new_tokens);
    // A sequence is never cut, so that a smaller micro-batch alone may change nothing.
    all.extend([halved(&[micro_batch]), halved(&[longest]), halved(&[longest, micro_batch])]);
    all.extend(native(config, model));
    all
}

/// A key that is a number of tokens, and where it stands.
type Key = (&'static str, fn(&mut RunConfig) -> &mut usize);

const LEAST_TOKENS: usize = 256;

/// The engine that has no weights of its own, where it can have the settings.
fn native(config: &RunConfig, model: &DecoderConfig) -> Option<Change> {
    let mut changed = config.clone();
    changed.engine.kind = EngineKind::Native;
    let can = !is_native(config, model) && setup::check_format(&changed).is_ok();
    can.then(|| ("engine.kind = \"native\"".to_string(), changed))
}

fn modes(config: &RunConfig, model: &DecoderConfig) -> Vec<Change> {
    let current = allowed(config, model);
    let overlaps = config.pipeline.max_off_policy_steps > 0;
    let other = super::modes(config, model).into_iter().filter(|mode| !current.contains(mode));
    let change = |sync: SyncMode| {
        let mut changed = config.clone();
        changed.engine.sync = sync;
        let mut what = format!("engine.sync = \"{}\"", name(sync));
        if overlaps && sync == SyncMode::Alternate {
            changed.pipeline.max_off_policy_steps = 0;
            what += " with pipeline.max_off_policy_steps = 0";
        }
        (what, changed)
    };
    other.map(change).collect()
}

/// The largest cache that fits, or the smallest that works.
fn cache(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, card: Card) -> Option<Change> {
    const STEP: usize = 256;
    let with = |mb: usize| {
        let mut changed = config.clone();
        (changed.engine.gpu_memory_utilization, changed.engine.cache_mb) = (0.0, mb);
        changed
    };
    let least = least_cache_mb(config, model, prompt_tokens).next_multiple_of(STEP);
    let most = cache_mb(config, model, prompt_tokens, card.total).max(least) / STEP * STEP;
    let mut sizes = (least / STEP..=most / STEP).rev().map(|steps| steps * STEP);
    let mb = sizes.find(|mb| fitting(&with(*mb), model, prompt_tokens, card).is_some()).unwrap_or(least);
    let what = match config.engine.gpu_memory_utilization {
        0.0 => format!("engine.cache_mb = {mb}"),
        _ => format!("engine.cache_mb = {mb} with engine.gpu_memory_utilization = 0"),
    };
    (mb != config.engine.cache_mb || config.engine.gpu_memory_utilization > 0.0).then(|| (what, with(mb)))
}

//! Which changes of keys would make a run fit a GPU.

use std::collections::BTreeSet;

use engine::Quantization;

use super::{allowed, available, cache_mb, fitting, least_cache_mb};
use crate::config::engine::{EngineKind, SyncMode};
use crate::config::resolve::{Card, EngineChoice, Sharing};
use crate::config::run::RunConfig;
use crate::memory::Workload;

/// A change, as the keys are written, and the configuration that has it.
type Change = (String, RunConfig);

/// Some changes after which the run fits, each of as few keys as possible.
pub fn fitting_changes(workload: &Workload, card: Card) -> Vec<String> {
    const KEYS: usize = 3;
    const CHANGES: usize = 3;
    let found = (1..=KEYS).map(|keys| search(workload, card, keys)).find(|found| !found.is_empty());
    found.into_iter().flatten().take(CHANGES).map(|keys| Vec::from_iter(keys).join(" with ")).collect()
}

/// Sets of that many changes after which the run fits, each once.
fn search(workload: &Workload, card: Card, keys: usize) -> Vec<BTreeSet<String>> {
    let mut found = Vec::new();
    for (what, changed) in changes(workload, card) {
        let Some(changed) = workload.with(&changed) else { continue };
        let mut sets = match keys {
            1 if fitting(&changed, card).is_some() => vec![BTreeSet::new()],
            1 => Vec::new(),
            _ => search(&changed, card, keys - 1),
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

/// Whether the run fits with another configuration.
fn fits(workload: &Workload, card: Card, changed: &RunConfig) -> bool {
    workload.with(changed).is_some_and(|changed| fitting(&changed, card).is_some())
}

fn changes(workload: &Workload, card: Card) -> Vec<Change> {
    let config = workload.config;
    let mut all = other_sharing(workload);
    all.extend(cache(workload, card));
    for (quantization, name) in [(Quantization::Q8_0, "q8_0"), (Quantization::Q4K, "q4k")] {
        let mut changed = config.clone();
        changed.engine.quantization = quantization;
        if config.engine.quantization == Quantization::None && is_mistral(workload) {
            all.push((format!("engine.quantization = \"{name}\""), changed));
        }
    }
    let halved = |keys: &[Key]| {
        let mut changed = config.clone();
        while !fits(workload, card, &changed) && keys.iter().all(|(_, value)| *value(&mut changed) > LEAST_TOKENS) {
            keys.iter().for_each(|(_, value)| *value(&mut changed) /= 2);
        }
        let what: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = {}", value(&mut changed))).collect();
        (what.join(" with "), changed)
    };
    let micro_batch: Key = ("trainer.micro_batch_tokens", |config| &mut config.trainer.micro_batch_tokens);
    let longest: Key = ("engine.max_new_tokens", |config| &mut config.engine.max_new_tokens);
    // A sequence is never cut, so a smaller micro-batch alone may change nothing.
    all.extend([halved(&[micro_batch]), halved(&[longest]), halved(&[longest, micro_batch])]);
    all.extend(native(workload));
    all
}

/// A key that is a number of tokens, and where its value is.
type Key = (&'static str, fn(&mut RunConfig) -> &mut usize);

const LEAST_TOKENS: usize = 256;

fn is_mistral(workload: &Workload) -> bool {
    workload.resolved.engine == EngineChoice::Mistralrs
}

/// The engine that has no weights of its own, where it has the settings.
fn native(workload: &Workload) -> Option<Change> {
    let mut changed = workload.config.clone();
    changed.engine.kind = EngineKind::Native;
    let can = is_mistral(workload) && workload.with(&changed).is_some();
    can.then(|| ("engine.kind = \"native\"".to_string(), changed))
}

/// The ways of sharing that the engine has and the configuration does not allow.
fn other_sharing(workload: &Workload) -> Vec<Change> {
    let current = allowed(workload);
    let overlaps = workload.config.pipeline.max_off_policy_steps > 0;
    let other = available(workload).into_iter().filter(|sharing| !current.contains(sharing));
    let change = |sharing: Sharing| {
        let mut changed = workload.config.clone();
        changed.engine.sync = SyncMode::from(sharing);
        let mut what = format!("engine.sync = \"{}\"", sharing.name());
        if overlaps && sharing == Sharing::Alternate {
            changed.pipeline.max_off_policy_steps = 0;
            what += " with pipeline.max_off_policy_steps = 0";
        }
        (what, changed)
    };
    other.map(change).collect()
}

/// The largest cache that fits, or the smallest that works.
fn cache(workload: &Workload, card: Card) -> Option<Change> {
    if workload.resolved.engine == EngineChoice::Remote {
        return None;
    }
    const STEP: usize = 256;
    let engine = &workload.config.engine;
    let with = |mb: usize| {
        let mut changed = workload.config.clone();
        (changed.engine.gpu_memory_utilization, changed.engine.cache_mb) = (0.0, mb);
        changed
    };
    let least = least_cache_mb(workload).next_multiple_of(STEP);
    let most = cache_mb(workload, card.total).max(least) / STEP * STEP;
    let mut sizes = (least / STEP..=most / STEP).rev().map(|steps| steps * STEP);
    let mb = sizes.find(|mb| fits(workload, card, &with(*mb))).unwrap_or(least);
    let what = match engine.gpu_memory_utilization {
        0.0 => format!("engine.cache_mb = {mb}"),
        _ => format!("engine.cache_mb = {mb} with engine.gpu_memory_utilization = 0"),
    };
    (mb != engine.cache_mb || engine.gpu_memory_utilization > 0.0).then(|| (what, with(mb)))
}

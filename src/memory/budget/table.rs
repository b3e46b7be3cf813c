//! A run's budget in words, for `--dry-run`.

use std::fmt::Write;

use comfy_table::Table;
use engine::decoder::DecoderConfig;

use super::{Card, MIB, Sizes, allowed, cache_mb, fitting, gb, longest_completions, modes, name};
use crate::config::run::{RunConfig, SyncMode};
use crate::progress;

/// Common cards by the GB that their names give, of which so many thousand MiB can be had.
const CARDS: [usize; 5] = [24, 40, 48, 80, 141];

fn common(gb: usize) -> Card {
    let bytes = gb * 1000 * MIB;
    Card { total: bytes, free: bytes }
}

/// Parts, a table of what each mode takes and which cards hold it, and what else is worth knowing. Where no `card` is known,
/// `engine.gpu_memory_utilization` is taken of one of 80 GB.
pub fn describe(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, card: Option<Card>) -> String {
    let cache_mb = cache_mb(config, model, prompt_tokens, card.unwrap_or(common(80)).total);
    let sizes = Sizes::new(config, model, prompt_tokens, cache_mb);
    let first = card.and_then(|card| fitting(config, model, prompt_tokens, card)).map(|share| share.sync);
    let mode = first.or_else(|| allowed(config, model).first().copied()).unwrap_or(SyncMode::SideBySide);
    let mut text = format!(
        "memory   {:.2} GB predicted at most, on {:?}, engine.sync = \"{}\"\n",
        gb(sizes.need(mode).peak()),
        config.engine.device,
        name(mode)
    );
    // Writing into a string cannot fail.
    for (what, bytes) in parts(&sizes) {
        let _ = writeln!(text, "  {:>9.2} GB  {what}", gb(bytes));
    }
    let _ = writeln!(text, "{}", phases(config, model, prompt_tokens, &sizes, card));
    let longest = longest_completions(config, model, prompt_tokens, cache_mb);
    let _ = write!(text, "cache    {cache_mb} MiB hold {longest} completions of the greatest length at a time");
    text
}

fn parts(sizes: &Sizes) -> [(&'static str, usize); 8] {
    [
        ("base weights of the trainer", sizes.trainer_weights),
        ("adapter, optimiser and gradients", sizes.adapter),
        ("activations of the trainer, and what of them is given back late", sizes.activations),
        (
            if sizes.shares_weights {
                "adapter of the engine, beside the trainer's base weights"
            } else {
                "weights of the engine"
            },
            sizes.engine_weights,
        ),
        ("key-value cache of the engine", sizes.cache),
        ("activations and logits of the engine", sizes.sampling),
        ("merging an adapter, while a policy is loaded", sizes.merging),
        ("CUDA itself", sizes.own),
    ]
}

/// A row for each mode: GB in each phase, and whether each common card, or the one that is there, holds it.
fn phases(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize, sizes: &Sizes, card: Option<Card>) -> Table {
    let held_by = |mode: SyncMode, card: Card| {
        let mut only = config.clone();
        only.engine.sync = mode;
        fitting(&only, model, prompt_tokens, card).is_some()
    };
    let here = card.map_or("-".to_string(), |card| format!("{:.1} GB here", gb(card.free)));
    let cards = CARDS.map(|gb| format!("{gb} GB"));
    let [a, b, c, d, e] = &cards;
    let mut table =
        progress::table(["engine.sync", "generating", "training", "publishing", "at most", &here, a, b, c, d, e]);
    for mode in modes(config, model) {
        let need = sizes.need(mode);
        let phases = [need.generating, need.training, need.publishing, need.peak()];
        let holds = |card: Card| if held_by(mode, card) { "yes" } else { "no" }.to_string();
        let mut row = vec![name(mode).to_string()];
        row.extend(phases.map(|bytes| format!("{:.1} GB", gb(bytes))));
        row.push(card.map_or("-".into(), holds));
        row.extend(CARDS.map(|gb| holds(common(gb))));
        table.add_row(row);
    }
    table
}

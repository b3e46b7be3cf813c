//! A run's budget in words, for `--dry-run`.

use std::fmt::Write;

use comfy_table::Table;

use super::{MIB, Sizes, allowed, available, cache_mb, fitting, gb, is_remote, longest_completions};
use crate::config::resolve::{Card, Sharing};
use crate::memory::Workload;
use crate::table;

/// Common cards by the GB that their names give. That many thousand MiB can be used.
const CARDS: [usize; 5] = [24, 40, 48, 80, 141];

fn common(gb: usize) -> Card {
    let bytes = gb * 1000 * MIB;
    Card { total: bytes, free: bytes }
}

/// Parts, a table of what each way of sharing takes and which cards hold it, and how much the cache holds. Where no card is
/// known, `engine.gpu_memory_utilization` is taken of one of 80 GB.
pub fn describe(workload: &Workload) -> String {
    let card = workload.machine.card;
    let cache_mb = cache_mb(workload, card.unwrap_or(common(80)).total);
    let sizes = Sizes::new(workload, cache_mb);
    let first = card.and_then(|card| fitting(workload, card)).map(|resolved| resolved.sharing);
    let sharing = first.or_else(|| allowed(workload).first().copied()).unwrap_or(Sharing::SideBySide);
    let mut text = format!(
        "memory   {:.2} GB predicted at most, on {:?}, engine.sync = \"{}\"\n",
        gb(sizes.need(sharing).peak()),
        workload.resolved.device,
        sharing.name()
    );
    // Writing into a string cannot fail.
    for (what, bytes) in parts(&sizes).into_iter().filter(|(_, bytes)| *bytes > 0) {
        let _ = writeln!(text, "  {:>9.2} GB  {what}", gb(bytes));
    }
    let _ = writeln!(text, "{}", phases(workload, &sizes));
    let _ = match is_remote(workload) {
        true => write!(text, "cache    on the servers"),
        false => {
            let longest = longest_completions(workload, cache_mb);
            write!(text, "cache    {cache_mb} MiB hold {longest} completions of the greatest length at a time")
        }
    };
    text
}

fn parts(sizes: &Sizes) -> [(&'static str, usize); 8] {
    [
        ("base weights of the trainer", sizes.trainer_weights),
        ("adapter, optimiser and gradients", sizes.adapter),
        ("activations of the trainer, and freed memory that is still held", sizes.activations),
        (
            if sizes.shares_weights {
                "adapter of the engine (its base weights are the trainer's)"
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

/// A row for each way of sharing: GB in each phase, and whether each common card, or the one in this machine, holds it.
fn phases(workload: &Workload, sizes: &Sizes) -> Table {
    let card = workload.machine.card;
    let held_by = |sharing: Sharing, card: Card| {
        let mut only = workload.config.clone();
        only.engine.sync = sharing.into();
        workload.with(&only).is_some_and(|only| fitting(&only, card).is_some())
    };
    let here = card.map_or("-".to_string(), |card| format!("{:.1} GB here", gb(card.free)));
    let cards = CARDS.map(|gb| format!("{gb} GB"));
    let [a, b, c, d, e] = &cards;
    let mut table =
        table::table(["engine.sync", "generating", "training", "publishing", "at most", &here, a, b, c, d, e]);
    for sharing in available(workload) {
        let need = sizes.need(sharing);
        let phases = [need.generating, need.training, need.publishing, need.peak()];
        let holds = |card: Card| if held_by(sharing, card) { "yes" } else { "no" }.to_string();
        let mut row = vec![sharing.name().to_string()];
        row.extend(phases.map(|bytes| format!("{:.1} GB", gb(bytes))));
        row.push(card.map_or("-".into(), holds));
        row.extend(CARDS.map(|gb| holds(common(gb))));
        table.add_row(row);
    }
    table
}

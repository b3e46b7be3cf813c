//! Cutting a batch into micro-batches within a token budget. Pure.

use std::cmp::Reverse;

/// The size of one sequence: a completion with its prompt, or an example of supervised training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackItem {
    /// Items of one group share their prompt. A micro-batch computes it once for all of its items of that group.
    pub group: usize,
    /// Tokens of the shared prompt.
    pub shared_tokens: usize,
    /// Tokens after the prompt.
    pub own_tokens: usize,
}

/// Cuts `items` into micro-batches of at most `budget` tokens, for `lanes` threads. Returns the item indices of each.
///
/// - Every index is in exactly one micro-batch. An item longer than the budget gets its own micro-batch.
/// - Items of one group must be adjacent in `items`. They stay together as far as they fit.
/// - The micro-batches are about equally large, so that all threads finish at about the same time.
pub fn pack(items: &[PackItem], budget: usize, lanes: usize) -> Vec<Vec<usize>> {
    let mut groups = groups(items);
    groups.sort_by_key(|group| Reverse(tokens(items, group)));
    let total: usize = groups.iter().map(|group| tokens(items, group)).sum();
    // The number that the budget asks for, rounded up so that every lane gets equally many.
    let count = total.div_ceil(budget.max(1)).next_multiple_of(lanes.max(1)).max(1);
    // A prompt whose group is split counts in each part. One eighth is room for that.
    let limit = budget.min(total.div_ceil(count) * 9 / 8 + 1);
    let (mut packed, mut used): (Vec<Vec<usize>>, usize) = (Vec::new(), 0);
    for index in groups.into_iter().flatten() {
        let PackItem { group, shared_tokens, own_tokens } = items[index];
        let open = packed.last_mut().filter(|micro_batch| {
            let has_prompt = micro_batch.last().is_some_and(|last| items[*last].group == group);
            used += own_tokens + if has_prompt { 0 } else { shared_tokens };
            used <= limit
        });
        match open {
            Some(micro_batch) => micro_batch.push(index),
            None => {
                packed.push(vec![index]);
                used = shared_tokens + own_tokens;
            }
        }
    }
    packed
}

/// The indices of each group.
fn groups(items: &[PackItem]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if items[group[0]].group == item.group => group.push(index),
            _ => groups.push(vec![index]),
        }
    }
    groups
}

/// Tokens of a group, its prompt counted once.
fn tokens(items: &[PackItem], group: &[usize]) -> usize {
    items[group[0]].shared_tokens + group.iter().map(|i| items[*i].own_tokens).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(group: usize, shared_tokens: usize, own_tokens: usize) -> PackItem {
        PackItem { group, shared_tokens, own_tokens }
    }

    #[test]
    fn a_group_shares_its_prompt_and_lanes_share_the_work() {
        let items = [item(0, 10, 5), item(0, 10, 5), item(1, 8, 4), item(1, 8, 6)];
        assert_eq!(pack(&items, 100, 1), [vec![0, 1, 2, 3]]);
        assert_eq!(pack(&items, 100, 2), [vec![0, 1], vec![2, 3]]);
        assert_eq!(pack(&[item(0, 0, 50)], 10, 1), [vec![0]]);
        assert!(pack(&[], 10, 2).is_empty());
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_micro_batch_within_the_budget(
            groups in prop::collection::vec((0usize..80, prop::collection::vec(1usize..200, 1..9)), 0..20),
            budget in 1usize..900, lanes in 1usize..4,
        ) {
            let items: Vec<PackItem> = groups.iter().enumerate()
                .flat_map(|(group, (shared, owns))| owns.iter().map(move |own| item(group, *shared, *own))).collect();
            let packed = pack(&items, budget, lanes);
            let mut all: Vec<usize> = packed.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..items.len()).collect::<Vec<_>>());
            for micro_batch in packed {
                let mut seen = std::collections::BTreeSet::new();
                let cost = |i: &usize| items[*i].own_tokens + if seen.insert(items[*i].group) { items[*i].shared_tokens } else { 0 };
                let tokens: usize = micro_batch.iter().map(cost).sum();
                prop_assert!(micro_batch.len() == 1 || tokens <= budget);
            }
        }
    }
}

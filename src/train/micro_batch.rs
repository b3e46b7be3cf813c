//! Cutting a batch into micro-batches by a token budget. Pure.

/// One completion, or whatever else is computed as a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Items of one group share their prompt, which is computed once for all of them in a micro-batch.
    pub group: usize,
    /// Tokens of the prompt.
    pub shared: usize,
    /// Tokens of its own.
    pub own: usize,
}

/// Groups of item indices, each of which fits `budget` tokens, for `lanes` threads to share.
///
/// Every index stands in exactly one micro-batch; an item longer than the budget gets one of its own. Items of a group
/// stay together as far as they fit, and the micro-batches are about equally large, so that threads end together.
/// `items` of one group follow each other.
pub fn pack(items: &[Item], budget: usize, lanes: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if items[group[0]].group == item.group => group.push(index),
            _ => groups.push(vec![index]),
        }
    }
    let tokens = |group: &[usize]| items[group[0]].shared + group.iter().map(|i| items[*i].own).sum::<usize>();
    groups.sort_by_key(|group| std::cmp::Reverse(tokens(group)));
    let total: usize = groups.iter().map(|group| tokens(group)).sum();
    // As many as the budget asks for, and as many for each lane as for the others; some room, for prompts that stand twice.
    let count = total.div_ceil(budget.max(1)).next_multiple_of(lanes.max(1)).max(1);
    let limit = budget.min(total.div_ceil(count) * 9 / 8 + 1);
    let (mut packed, mut used): (Vec<Vec<usize>>, usize) = (Vec::new(), 0);
    for index in groups.into_iter().flatten() {
        let Item { group, shared, own } = items[index];
        let open = packed.last_mut().filter(|micro_batch| {
            let is_there = micro_batch.last().is_some_and(|last| items[*last].group == group);
            used += own + if is_there { 0 } else { shared };
            used <= limit
        });
        match open {
            Some(micro_batch) => micro_batch.push(index),
            None => {
                packed.push(vec![index]);
                used = shared + own;
            }
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(group: usize, shared: usize, own: usize) -> Item {
        Item { group, shared, own }
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
        fn every_item_stands_in_one_micro_batch_within_the_budget(
            groups in prop::collection::vec((0usize..80, prop::collection::vec(1usize..200, 1..9)), 0..20),
            budget in 1usize..900, lanes in 1usize..4,
        ) {
            let items: Vec<Item> = groups.iter().enumerate()
                .flat_map(|(group, (shared, owns))| owns.iter().map(move |own| item(group, *shared, *own))).collect();
            let packed = pack(&items, budget, lanes);
            let mut all: Vec<usize> = packed.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..items.len()).collect::<Vec<_>>());
            for micro_batch in packed {
                let mut seen = std::collections::BTreeSet::new();
                let cost = |i: &usize| items[*i].own + if seen.insert(items[*i].group) { items[*i].shared } else { 0 };
                let tokens: usize = micro_batch.iter().map(cost).sum();
                prop_assert!(micro_batch.len() == 1 || tokens <= budget);
            }
        }
    }
}

//! Cutting a batch into micro-batches by a token budget. Pure.

/// Groups of sequence indices, each of which fits `budget` tokens once padded to its longest sequence.
///
/// Sequences of similar length go together, so little is padding. Every index stands in exactly one group; a
/// sequence longer than the budget gets a group of its own. The longest groups come first, so that threads that
/// share them end together.
pub fn pack(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match groups.last_mut() {
            Some(group) if (group.len() + 1) * lengths[group[0]] <= budget => group.push(index),
            _ => groups.push(vec![index]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn similar_lengths_share_a_group() {
        assert_eq!(pack(&[2, 9, 3, 8], 18), [vec![1, 3], vec![2, 0]]);
        assert_eq!(pack(&[50], 10), [vec![0]]);
        assert!(pack(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_sequence_stands_in_one_group_within_the_budget(lengths in prop::collection::vec(1usize..200, 0..60), budget in 1usize..600) {
            let groups = pack(&lengths, budget);
            let mut all: Vec<usize> = groups.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            for group in groups {
                let longest = group.iter().map(|&i| lengths[i]).max().unwrap_or(0);
                prop_assert!(group.len() == 1 || group.len() * longest <= budget);
            }
        }
    }
}

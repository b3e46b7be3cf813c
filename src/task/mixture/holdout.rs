//! Which rows are held out as test rows, and which are kept where there are too many.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::task::row::Row;

/// Whether a row is held out, with probability `share`.
///
/// The row's prompt and `seed` decide, so equal prompts are never on both sides, and more rows do not move others.
pub fn is_held_out(row: &Row, share: f64, seed: u64) -> bool {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for message in &row.prompt {
        hash.update((message.content.len() as u64).to_le_bytes());
        hash.update(&message.content);
    }
    let first = hash.finalize().iter().take(8).fold(0_u64, |all, byte| (all << 8) | u64::from(*byte));
    (first as f64) < share * 2.0_f64.powi(64)
}

/// At most `limit` rows, chosen by `seed`, in their order.
pub fn at_most<T>(rows: Vec<T>, limit: usize, seed: u64) -> Vec<T> {
    if rows.len() <= limit {
        return rows;
    }
    let mut kept: Vec<usize> = (0..rows.len()).collect();
    kept.partial_shuffle(&mut ChaCha8Rng::seed_from_u64(seed), limit);
    // `partial_shuffle` puts the chosen ones at the end.
    let mut is_kept = vec![false; rows.len()];
    kept[rows.len() - limit..].iter().for_each(|index| is_kept[*index] = true);
    rows.into_iter().zip(is_kept).filter_map(|(row, kept)| kept.then_some(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::row::{Message, RewardModel};
    use serde_json::Value;

    fn row(text: String) -> Row {
        let (data_source, prompt) = ("d".into(), vec![Message::new("user", text)]);
        let (ability, extra_info) = (String::new(), Value::Null);
        Row { data_source, prompt, ability, reward_model: RewardModel::rule(""), extra_info }
    }

    #[test]
    fn the_share_is_held_out_whatever_the_order() {
        let held_out = |i: usize, seed| is_held_out(&row(format!("question {i}")), 0.1, seed);
        let count = (0..10_000).filter(|i| held_out(*i, 42)).count();
        // The standard deviation of the count is 30.
        assert!(count.abs_diff(1000) < 150, "{count}");
        assert!((0..1000).any(|i| held_out(i, 42) != held_out(i, 43)));
        assert!(
            (0..1000).all(|i| !is_held_out(&row(i.to_string()), 0.0, 1) && is_held_out(&row(i.to_string()), 1.0, 1))
        );
    }

    #[test]
    fn a_limit_keeps_that_many_in_order() {
        let rows = |n: usize| (0..n).map(|i| row(format!("{i:03}"))).collect::<Vec<_>>();
        let texts = |rows: Vec<Row>| rows.into_iter().map(|it| it.prompt[0].content.clone()).collect::<Vec<_>>();
        let kept = texts(at_most(rows(100), 7, 1));
        assert!(kept.len() == 7 && kept.is_sorted(), "{kept:?}");
        assert_ne!(kept, texts(at_most(rows(100), 7, 2)));
        assert_eq!(at_most(rows(3), 7, 1).len(), 3);
    }
}

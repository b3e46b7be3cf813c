//! How the tokens of a batch are averaged.

use crate::config::loss::LossAggMode;

/// For each sequence of `lengths[i]` tokens, the weight of each of its tokens in the batch's loss.
///
/// The weights cover the whole batch. So the batch's loss is the sum over micro-batches, however the batch is cut.
pub fn token_weights(mode: LossAggMode, lengths: &[usize], max_new_tokens: usize) -> Vec<f32> {
    let sequences = lengths.len() as f64;
    let tokens = lengths.iter().sum::<usize>().max(1) as f64;
    let weight = |&length: &usize| match mode {
        LossAggMode::TokenMean => 1.0 / tokens,
        LossAggMode::SeqMeanTokenMean => 1.0 / (sequences * length.max(1) as f64),
        LossAggMode::SeqMeanTokenSum => 1.0 / sequences,
        LossAggMode::SeqMeanTokenSumNorm => 1.0 / (sequences * max_new_tokens.max(1) as f64),
    };
    lengths.iter().map(|length| weight(length) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_each_mode() {
        let check = |mode, expected: [f32; 2]| assert_eq!(token_weights(mode, &[1, 3], 8), expected, "{mode:?}");
        check(LossAggMode::TokenMean, [0.25, 0.25]);
        check(LossAggMode::SeqMeanTokenMean, [0.5, 1.0 / 6.0]);
        check(LossAggMode::SeqMeanTokenSum, [0.5, 0.5]);
        check(LossAggMode::SeqMeanTokenSumNorm, [0.0625, 0.0625]);
    }
}

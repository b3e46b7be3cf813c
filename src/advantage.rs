//! From the rewards of one group to its advantages. Pure.
//!
//! Invariant: the mean of a group of two or more is subtracted, so its advantages sum to 0 (up to rounding), and a
//! group whose rewards are all the same gives exactly 0: it carries no signal.

use serde::{Deserialize, Serialize};

/// Added to the standard deviation, so that a group of equal rewards does not divide by zero.
const EPSILON: f64 = 1e-6;

/// What a centred reward is divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageScale {
    /// The group's standard deviation with Bessel's correction, plus 1e-6: GRPO as the DUMP paper (arXiv 2504.09710)
    /// uses it. Advantages have no unit and stay below √G in size.
    #[default]
    GroupStd,
    /// Nothing: advantages keep the reward's unit, so the curriculum's temperature must scale with the reward.
    None,
    /// Nothing, but the mean is that of the other completions: RLOO (arXiv 2402.14740). This is G/(G − 1) times `none`.
    LeaveOneOut,
    /// Nothing here. The learner divides by the standard deviation over the batch ([`divide_by_batch_std`]).
    BatchStd,
}

/// The advantages of one group: Âᵢ = (rᵢ − mean(r)) / s, one per completion, in the order of the rewards.
///
/// `rewards`, of the G completions of one prompt, must be finite (graders give nothing else). s is std(r) + 1e-6 with
/// Bessel's correction (G − 1), 1 for [`AdvantageScale::None`] and [`AdvantageScale::BatchStd`], or (G − 1)/G for
/// [`AdvantageScale::LeaveOneOut`]. A group of one has no statistics: its mean counts
/// as 0 and its standard deviation as 1. Computed in f64 and rounded once at the end.
/// Source: GRPO as in the DUMP paper, arXiv 2504.09710.
pub fn group_advantages(rewards: &[f32], scale: AdvantageScale) -> Vec<f32> {
    let (mean, std) = mean_and_std(rewards);
    let divisor = match scale {
        AdvantageScale::GroupStd => std + EPSILON,
        AdvantageScale::None | AdvantageScale::BatchStd => 1.0,
        AdvantageScale::LeaveOneOut if rewards.len() > 1 => 1.0 - 1.0 / rewards.len() as f64,
        AdvantageScale::LeaveOneOut => 1.0,
    };
    rewards.iter().map(|&r| ((f64::from(r) - mean) / divisor) as f32).collect()
}

/// Divides the advantages of a whole batch by their standard deviation plus 1e-6 (REINFORCE++, arXiv 2501.03262).
pub fn divide_by_batch_std(advantages: &mut [f32]) {
    let (_, std) = mean_and_std(advantages);
    advantages.iter_mut().for_each(|a| *a = (f64::from(*a) / (std + EPSILON)) as f32);
}

/// Mean and Bessel-corrected standard deviation; (0, 1) where fewer than two values leave them undefined.
fn mean_and_std(values: &[f32]) -> (f64, f64) {
    if values.len() < 2 {
        return (0.0, 1.0);
    }
    let count = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(rewards: &[f32], scale: AdvantageScale, expected: &[f32]) {
        let got = group_advantages(rewards, scale);
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
        }
    }

    #[test]
    fn known_groups() {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        check(&[1.0, 0.0], AdvantageScale::GroupStd, &[half, -half].map(|a| a / (1.0 + 1e-6 / half)));
        check(
            &[3.0, -1.0, -1.0, -1.0],
            AdvantageScale::GroupStd,
            &[1.499_999_3, -0.499_999_8, -0.499_999_8, -0.499_999_8],
        );
        check(&[3.0, -1.0, -1.0, -1.0], AdvantageScale::None, &[3.0, -1.0, -1.0, -1.0]);
        check(&[3.0, -1.0, -1.0, -1.0], AdvantageScale::LeaveOneOut, &[4.0, -4.0 / 3.0, -4.0 / 3.0, -4.0 / 3.0]);
        let mut batch = [2.0, -2.0, 0.0, 0.0];
        divide_by_batch_std(&mut batch);
        let std = (8.0f32 / 3.0).sqrt();
        assert!(batch.iter().zip([2.0 / std, -2.0 / std, 0.0, 0.0]).all(|(got, want)| (got - want).abs() < 1e-5));
        check(&[], AdvantageScale::GroupStd, &[]);
    }

    #[test]
    fn a_group_of_one_keeps_its_reward() {
        check(&[3.0], AdvantageScale::GroupStd, &[3.0 / (1.0 + 1e-6)]);
        check(&[-0.5], AdvantageScale::None, &[-0.5]);
    }

    #[test]
    fn equal_rewards_give_exact_zeros() {
        for (reward, size) in [(0.1_f32, 7), (3.0, 16), (-1e30, 5)] {
            let rewards = vec![reward; size];
            assert_eq!(group_advantages(&rewards, AdvantageScale::GroupStd), vec![0.0; size]);
            assert_eq!(group_advantages(&rewards, AdvantageScale::None), vec![0.0; size]);
        }
    }

    #[test]
    fn names_in_a_config() {
        assert_eq!(serde_json::to_string(&AdvantageScale::GroupStd).unwrap(), "\"group_std\"");
        assert_eq!(serde_json::from_str::<AdvantageScale>("\"none\"").unwrap(), AdvantageScale::None);
    }

    /// tests/golden/curriculum.py computes the same formula in plain Python.
    #[test]
    fn golden_events_hold_the_same_advantages() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/curriculum_events.jsonl");
        let mut groups = 0;
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            for group in event["observations"].as_array().unwrap() {
                let read = |key: &str| serde_json::from_value::<Vec<f32>>(group[key].clone()).unwrap();
                check(&read("rewards"), AdvantageScale::GroupStd, &read("advantages"));
                groups += 1;
            }
        }
        assert!(groups > 100);
    }

    proptest! {
        #[test]
        fn mean_is_zero_and_size_is_bounded(rewards in prop::collection::vec(-10.0_f32..10.0, 2..64)) {
            let group = rewards.len() as f32;
            let advantages = group_advantages(&rewards, AdvantageScale::GroupStd);
            prop_assert!(advantages.iter().sum::<f32>().abs() / group < 1e-5);
            prop_assert!(advantages.iter().all(|a| a.abs() <= group.sqrt()));
        }
    }
}

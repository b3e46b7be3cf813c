//! Mathematical answers, compared by what they mean: `\frac{1}{4}` for `0.25`, `[0, 1)` for `0 ≤ x < 1`.
//!
//! [`crate::task::math`] reads and compares them. Both modes are the same, because the grader that was used with DUMP is
//! not public.

use super::Judge;
use super::answer::Mode;
use crate::task::grade::Verdict;
use crate::task::math;

pub use math::Expected;

impl Judge for Expected {
    fn verdict(&self, completion: &str, _: Mode) -> Verdict {
        match self.verdict(completion) {
            math::Verdict::Right => Verdict::Right,
            math::Verdict::Wrong => Verdict::Wrong,
            math::Verdict::Missing => Verdict::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    fn check(truth: &str, completion: &str, expected: Verdict) {
        let truth = Expected::from_ground_truth(truth).unwrap();
        for mode in [Mode::Lenient, Mode::Published] {
            assert_eq!(Judge::verdict(&truth, completion, mode), expected, "{completion:?}");
        }
    }

    #[test]
    fn answers_are_compared_by_what_they_mean() {
        check("1/4", r"\boxed{0.25}", Right);
        check("1/4", r"<think>4</think><answer>\frac{1}{4}</answer>", Right);
        check("1000", r"\boxed{1,000}", Right);
        check("5", r"\boxed{xy=5}", Wrong);
        check("1", r"\boxed{100}", Wrong);
        check("4", r"\boxed{4\sqrt{2}}", Wrong);
        check("5", "", Missing);
    }
}

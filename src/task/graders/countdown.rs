//! Countdown: an expression of given numbers that has a given value. The ground truth is
//! `{"numbers": [3, 5, 8], "target": 24}`, with `"use_all": true` if every number must be used.
//!
//! Any expression counts that has the value exactly and uses each number at most once. `= 24` may stand behind it.
//! Both modes are the same, but the published mode reads the answer tags alone.

use serde::Deserialize;

use super::Judge;
use super::answer::{self, Answer, Mode};
use super::expression::{self, Expression};
use crate::task::grade::Verdict;

/// The most numbers of a task.
const MAX_NUMBERS: usize = 100;
/// What may stand around an expression.
const WRAPPING: [&str; 8] = ["$", "`", "*", r"\(", r"\)", r"\[", r"\]", "."];

/// The numbers and the value that they must reach.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    numbers: Vec<i64>,
    target: i64,
    #[serde(default)]
    use_all: bool,
}

impl Expected {
    /// # Errors
    /// Anything but an object of the form above; no numbers, or more than 100; a negative number.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let mut expected: Self = serde_json::from_str(ground_truth)
            .map_err(|e| format!(r#"expected {{"numbers": [3, 5, 8], "target": 24}}: {e}"#))?;
        if !(1..=MAX_NUMBERS).contains(&expected.numbers.len()) || expected.numbers.iter().any(|it| *it < 0) {
            return Err(format!("numbers must be 1 to {MAX_NUMBERS} numbers, none below 0"));
        }
        expected.numbers.sort_unstable();
        Ok(expected)
    }

    /// None if the text is no expression.
    fn is_solved_by(&self, text: &str) -> Option<bool> {
        let text = unwrapped(text);
        match text.split_once('=') {
            None => Some(self.accepts(&expression::evaluate(text)?)),
            Some((left, right)) => {
                let sides = [expression::evaluate(unwrapped(left))?, expression::evaluate(unwrapped(right))?];
                // One side is the target alone.
                let named = |side: &Expression| side.numbers.len() == 1 && side.value == ratio(self.target);
                let [left, right] = &sides;
                Some(named(right) && self.accepts(left) || named(left) && self.accepts(right))
            }
        }
    }

    fn accepts(&self, expression: &Expression) -> bool {
        let mut used = expression.numbers.clone();
        let too_many = used.len() > self.numbers.len();
        if too_many || expression.value != ratio(self.target) || self.use_all && used.len() < self.numbers.len() {
            return false;
        }
        used.sort_unstable();
        // Both are sorted: every used number must be found behind the one before it.
        let mut given = self.numbers.iter();
        used.iter().all(|number| given.any(|it| it == number))
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        let (found, unreadable) = match mode {
            Mode::Published => (answer::published(completion), Verdict::Wrong),
            Mode::Lenient => (answer::lenient(completion).map(stated), Verdict::Missing),
        };
        match found.map(|text| self.is_solved_by(text)) {
            None => Verdict::Missing,
            Some(None) => unreadable,
            Some(Some(true)) => Verdict::Right,
            Some(Some(false)) => Verdict::Wrong,
        }
    }
}

/// The part of an answer that is the expression.
fn stated(answer: Answer<'_>) -> &str {
    match answer {
        Answer::Free(text) => text.lines().next_back().unwrap_or_default(),
        _ => answer.text(),
    }
}

fn unwrapped(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(inner) = WRAPPING.iter().find_map(|it| text.strip_prefix(it).or_else(|| text.strip_suffix(it))) {
        text = inner.trim();
    }
    text
}

fn ratio(number: i64) -> num_rational::Ratio<i128> {
    num_rational::Ratio::from_integer(number.into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};
    use proptest::prelude::*;

    const TRUTH: &str = r#"{"numbers": [8, 3, 3, 8, 1], "target": 24}"#;

    fn check(answer: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(TRUTH).unwrap();
        let completion = format!("<think>3 * 8 = 24</think><answer>{answer}</answer>");
        assert_verdicts(&expected, &completion, lenient, published);
    }

    #[test]
    fn every_expression_with_the_value_is_right() {
        for answer in
            ["3 * 8", "8*3", "8 / (3 - 8 / 3)", "(8 × 3)", "3*8 = 24", "24 = 3 * 8", "$3 \\times 8$", "`8*3`."]
        {
            check(answer, Right, Right);
        }
        check(r"\boxed{3 \cdot 8}", Right, Wrong);
        check("The answer is 3 * 8.", Right, Wrong);
    }

    #[test]
    fn other_values_and_numbers_are_wrong() {
        for answer in ["24", "3 + 8", "4 * 6", "8 + 8 + 8", "8*3*1*1", "3*8 = 25", "3*8 = 20+4", "3+8 = 24", "24 = 24"]
        {
            check(answer, Wrong, Wrong);
        }
        for answer in ["three eights", "3*8 or 8*3", "24 = 3*8 = 8*3", "print(24)", "3*8; 1"] {
            check(answer, Missing, Wrong);
        }
        check("", Missing, Wrong);
    }

    #[test]
    fn the_last_line_may_be_the_answer() {
        let expected = Expected::new(TRUTH).unwrap();
        assert_eq!(expected.verdict("3 + 8 is 11.\n3 * 8", Mode::Lenient), Right);
        assert_eq!(expected.verdict("I give up.", Mode::Lenient), Missing);
        assert_eq!(expected.verdict("3 * 8", Mode::Published), Missing);
    }

    #[test]
    fn all_numbers_may_be_demanded() {
        let expected = Expected::new(r#"{"numbers": [3, 8, 1], "target": 24, "use_all": true}"#).unwrap();
        assert_eq!(expected.verdict("<answer>3 * 8</answer>", Mode::Lenient), Wrong);
        assert_eq!(expected.verdict("<answer>3 * 8 * 1</answer>", Mode::Lenient), Right);
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for truth in ["", "24", "{}", r#"{"numbers": [], "target": 1}"#, r#"{"numbers": [-1], "target": 1}"#] {
            assert!(Expected::new(truth).unwrap_err().contains("numbers"), "{truth:?}");
        }
        assert!(Expected::new(r#"{"numbers": [1], "target": 1, "all": 1}"#).unwrap_err().contains("all"));
    }

    proptest! {
        #[test]
        fn any_text_has_a_verdict(text in r"[0-9+*/()= $.\\-−×÷a-c]{0,60}") {
            let expected = Expected::new(TRUTH).unwrap();
            expected.verdict(&format!("<answer>{text}</answer>"), Mode::Lenient);
        }
    }
}

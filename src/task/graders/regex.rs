//! A pattern that the answer must match: the ground truth is a regular expression of the crate `regex`, which takes linear
//! time.
//!
//! The pattern may match anywhere in the answer; `^` and `$` tie it to the ends. Both modes are the same, but the published
//! mode reads the answer tags alone.

use regex::Regex;

use super::Judge;
use super::answer::{self, Mode};
use crate::task::grade::Verdict;

/// The pattern with which an answer is compared.
#[derive(Clone, Debug)]
pub struct Expected {
    pattern: Regex,
}

impl Expected {
    /// # Errors
    /// A ground truth that is not a regular expression, or an empty one, which every answer would match.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        if ground_truth.trim().is_empty() {
            return Err("the ground truth is empty; every answer would match".into());
        }
        let problem = |e: regex::Error| format!("the ground truth is not a regular expression: {e}");
        Regex::new(ground_truth).map(|pattern| Self { pattern }).map_err(problem)
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        let text = match mode {
            Mode::Published => answer::published(completion),
            Mode::Lenient => answer::whole(completion),
        };
        match text {
            None => Verdict::Missing,
            Some(text) if self.pattern.is_match(text) => Verdict::Right,
            Some(_) => Verdict::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    fn check(pattern: &str, completion: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(pattern).unwrap();
        assert_verdicts(&expected, completion, lenient, published);
    }

    #[test]
    fn the_pattern_may_match_anywhere_in_the_answer() {
        check("Paris", "<answer>Paris</answer>", Right, Right);
        check("Paris", "<answer>It is Paris.</answer>", Right, Right);
        check("Paris", "<answer>paris</answer>", Wrong, Wrong);
        check("(?i)paris", "<answer>PARIS</answer>", Right, Right);
        check("^Paris$", "<answer> Paris\n</answer>", Right, Right);
        check("^Paris$", "<answer>It is Paris</answer>", Wrong, Wrong);
        check(r"^\d{3}-\d{4}$", "<answer>555-0123</answer>", Right, Right);
        check(r"^\d{3}-\d{4}$", "<answer>5555-0123</answer>", Wrong, Wrong);
        check("^(cat|dog)s?$", "<answer>dogs</answer>", Right, Right);
        check("^(cat|dog)s?$", "<answer>birds</answer>", Wrong, Wrong);
        check("(?m)^b$", "<answer>a\nb\nc</answer>", Right, Right);
        check("(?s)a.*c", "<answer>a\nb\nc</answer>", Right, Right);
        check("a.*c", "<answer>a\nb\nc</answer>", Wrong, Wrong);
        check("Paris", "<think>Paris</think><answer>Rome</answer>", Wrong, Wrong);
        check("Paris", "<answer>Paris</answer><answer>Rome</answer>", Wrong, Wrong);
        check("Paris", "<think>Paris</think>Rome", Wrong, Missing);
        check("Paris", "Paris", Right, Missing);
        check("Paris", "<answer>Paris", Right, Missing);
        check("^$", "<answer></answer>", Missing, Right);
        check("Paris", "", Missing, Missing);
        check("é", "<answer>café</answer>", Right, Right);
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for (truth, word) in [
            ("", "empty"),
            ("(", "regular expression"),
            (r"(a)\1", "regular expression"),
            ("a{9999999}", "regular expression"),
            ("((a{1000}){1000}){1000}", "regular expression"),
            (&"(".repeat(100_000), "regular expression"),
            (&format!("{}a{}", "(".repeat(1000), ")".repeat(1000)), "regular expression"),
        ] {
            let problem = Expected::new(truth).unwrap_err();
            assert!(problem.contains(word), "{truth:?}: {problem}");
        }
    }
}

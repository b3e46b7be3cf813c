//! A text that must be given exactly: the ground truth is that text, or `{"text": "Paris", "ignore_case": true}`.
//!
//! White space around the answer does not count. Both modes are the same, but the published mode reads the answer tags alone.

use serde::Deserialize;

use super::Judge;
use super::answer::{self, Mode};
use crate::task::grade::Verdict;

/// The text with which an answer is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Trimmed; in lower case if `ignore_case`.
    text: String,
    ignore_case: bool,
}

/// A ground truth that says whether the case counts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithCase {
    text: String,
    #[serde(default)]
    ignore_case: bool,
}

impl Expected {
    /// # Errors
    /// An empty text. A JSON object with `text` that has other keys than those above.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let given = match serde_json::from_str(ground_truth) {
            Ok(serde_json::Value::Object(fields)) if fields.contains_key("text") => serde_json::from_str(ground_truth)
                .map_err(|e| format!(r#"expected a text, or {{"text": "Paris", "ignore_case": true}}: {e}"#))?,
            _ => WithCase { text: ground_truth.to_owned(), ignore_case: false },
        };
        let text = normal(&given.text, given.ignore_case);
        match text.is_empty() {
            true => Err("the ground truth is empty".into()),
            false => Ok(Self { text, ignore_case: given.ignore_case }),
        }
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        let equals = |text: &str| normal(text, self.ignore_case) == self.text;
        let found = match mode {
            Mode::Published => answer::published(completion).map(equals),
            // "The answer is Paris" may be the whole answer, too.
            Mode::Lenient => answer::whole(completion)
                .map(|whole| equals(whole) || answer::lenient(completion).is_some_and(|it| equals(it.text()))),
        };
        match found {
            None => Verdict::Missing,
            Some(true) => Verdict::Right,
            Some(false) => Verdict::Wrong,
        }
    }
}

/// `text` without white space around it and with `\n` as the end of each line.
fn normal(text: &str, ignore_case: bool) -> String {
    let text = text.trim().replace("\r\n", "\n");
    if ignore_case { text.to_lowercase() } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    const ANY_CASE: &str = r#"{"text": "Paris", "ignore_case": true}"#;

    fn check(truth: &str, completion: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(truth).unwrap();
        assert_verdicts(&expected, completion, lenient, published);
    }

    #[test]
    fn the_text_must_be_the_same() {
        check("Paris", "<answer>Paris</answer>", Right, Right);
        check(" Paris\n", "<answer>\nParis </answer>", Right, Right);
        check("Paris", "<answer>paris</answer>", Wrong, Wrong);
        check("Paris", "<answer>Paris.</answer>", Wrong, Wrong);
        check("Paris", "<answer>Paris, France</answer>", Wrong, Wrong);
        check("Paris", "<answer>Rome</answer><answer>Paris</answer>", Right, Right);
        check("Paris", "<answer>Paris</answer><answer>Rome</answer>", Wrong, Wrong);
        check("a\nb", "<answer>a\r\nb</answer>", Right, Right);
        check("a  b", "<answer>a b</answer>", Wrong, Wrong);
        check("{\"a\": 1}", "<answer>{\"a\": 1}</answer>", Right, Right);
        check("7", "<answer>7</answer>", Right, Right);
        check("7", "<answer>7.0</answer>", Wrong, Wrong);
        check(ANY_CASE, "<answer>PARIS</answer>", Right, Right);
        check(ANY_CASE, "<answer>Rome</answer>", Wrong, Wrong);
        check(r#"{"text": "Paris"}"#, "<answer>PARIS</answer>", Wrong, Wrong);
        check("Paris", "<answer> </answer>", Missing, Wrong);
        check("Paris", "", Missing, Missing);
    }

    #[test]
    fn tags_are_not_needed() {
        check("Paris", "Paris\n", Right, Missing);
        check("Paris", "<think>Rome?</think>\nParis", Right, Missing);
        check("Paris", "The answer is Paris", Right, Missing);
        check("Paris", "Answer: Paris", Right, Missing);
        check("Paris", r"It is \boxed{Paris}.", Right, Missing);
        check("Paris", "I think it is Paris", Wrong, Missing);
        check("The answer is Paris", "The answer is Paris", Right, Missing);
        check("Paris", "<answer>Paris", Right, Missing);
        check("Paris", "<think>Paris", Wrong, Missing);
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for (truth, word) in [
            ("", "empty"),
            (r#"{"text": " "}"#, "empty"),
            (r#"{"text": "a", "case": 1}"#, "case"),
            (r#"{"text": 1}"#, "string"),
        ] {
            let problem = Expected::new(truth).unwrap_err();
            assert!(problem.contains(word), "{truth:?}: {problem}");
        }
    }
}

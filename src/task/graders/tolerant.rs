//! A text that must mean the same word for word: case, white space, and marks around the answer do not count, and
//! numbers are equal as numbers (`1.50` is `1.5`).
//!
//! It grades the rows of reasoning-gym, whose answers are numbers, words, lists and grids. Both modes are the same, but
//! the published mode reads the answer tags alone.

use super::answer::{self, Mode};
use super::{Judge, number};
use crate::task::grade::Verdict;

/// A larger whole number may not survive as an `f64`.
const EXACT_DIGITS: usize = 15;
/// Marks that may stand around an answer.
const AROUND: [char; 8] = ['.', '"', '\'', '`', '*', '$', '“', '”'];

/// The text with which an answer is compared.
#[derive(Clone, Debug)]
pub struct Expected {
    words: Vec<String>,
    /// The ground truth is a number: a unit may stand behind it, for example.
    number: Option<number::Expected>,
}

impl Expected {
    /// # Errors
    /// A ground truth without a letter, a digit or a sign.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let words = words(ground_truth);
        let number = match words.as_slice() {
            [] => return Err("the ground truth is empty".into()),
            [word] if word.len() <= EXACT_DIGITS && word.parse::<f64>().is_ok_and(f64::is_finite) => {
                number::Expected::new(&format!(r#"{{"value": {word}, "tolerance": 0}}"#)).ok()
            }
            _ => None,
        };
        Ok(Self { words, number })
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        let equals = |text: &str| words(text) == self.words;
        let found = match mode {
            Mode::Published => answer::published(completion).map(equals),
            Mode::Lenient => answer::whole(completion)
                .map(|whole| equals(whole) || answer::lenient(completion).is_some_and(|it| equals(it.text()))),
        };
        let as_number = || match (&self.number, mode) {
            (Some(number), Mode::Lenient) => number.verdict(completion, mode),
            _ => Verdict::Wrong,
        };
        match found {
            None => Verdict::Missing,
            Some(true) => Verdict::Right,
            Some(false) => as_number(),
        }
    }
}

/// The words, numbers and signs of a text, in lower case. Numbers have no zeros that change nothing.
fn words(text: &str) -> Vec<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || AROUND.contains(&c)).to_lowercase();
    let mut words = Vec::new();
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let length = match c {
            _ if is_of_word(c) => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        if !c.is_whitespace() {
            words.push(plain(&rest[..length]));
        }
        rest = &rest[length..];
    }
    words
}

/// The point belongs to a number.
fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.')
}

/// `01.50` as `1.5`; any other word unchanged.
fn plain(word: &str) -> String {
    let (whole, part) = word.split_once('.').unwrap_or((word, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || whole.len() + part.len() == 0 {
        return word.to_owned();
    }
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    fn check(truth: &str, answer: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(truth).unwrap();
        let completion = format!("<think>{truth}?</think><answer>{answer}</answer>");
        assert_verdicts(&expected, &completion, lenient, published);
    }

    #[test]
    fn case_space_and_marks_do_not_count() {
        check("Paris", "paris", Right, Right);
        check("New York", "  new\n york. ", Right, Right);
        check("[1, 2, 3]", "[1,2,3]", Right, Right);
        check("1 2\n3 4", "1  2 \n3 4", Right, Right);
        check("yes", "**Yes**", Right, Right);
        check("{'a': 1.0}", "{'a':1}", Right, Right);
        check("B, A", "A, B", Wrong, Wrong);
        check("Paris", "Paris, France", Wrong, Wrong);
        check("Paris", "The answer is Paris.", Right, Wrong);
        check("Paris", r"\boxed{Paris}", Right, Wrong);
        check("Paris", "", Missing, Wrong);
        check("[1, 2]", "[12]", Wrong, Wrong);
    }

    #[test]
    fn numbers_are_equal_as_numbers() {
        check("1.5", "1.50", Right, Right);
        check("42", "42.0", Right, Right);
        check("42", "042", Right, Right);
        check("42", "42 apples", Right, Wrong);
        check("1000", "1,000", Right, Wrong);
        check("42", "43", Wrong, Wrong);
        check("0.333", "0.3333", Wrong, Wrong);
        check("-7", "-7", Right, Right);
        check("-7", "7", Wrong, Wrong);
        check("7", "-7", Wrong, Wrong);
        check("12345678901234567890", "12345678901234567890", Right, Right);
        check("12345678901234567890", "12345678901234567891", Wrong, Wrong);
    }

    #[test]
    fn an_empty_ground_truth_is_refused() {
        for truth in ["", " \n", "\"\"", "..."] {
            assert!(Expected::new(truth).unwrap_err().contains("empty"), "{truth:?}");
        }
    }
}

//! Numbers with a tolerance: the ground truth is a number, or `{"value": 0.25, "tolerance": 0.01}`.
//!
//! Whole numbers must be equal; others may differ by less than the tolerance. Published: both are read as Python reads
//! a `float`, and a text that is not a number is compared as a choice. Lenient: the answer must hold exactly one number,
//! or be an equation, whose right side counts. Units are ignored, but words and signs that change the number are not.

use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use super::answer::{self, Answer, Mode, pattern};
use super::numeral::{self, Numeral};
use super::{Judge, choice};
use crate::task::grade::Verdict;

/// The tolerance of the published graders.
const TOLERANCE: f64 = 1e-3;
/// A smaller number has this share of itself as its tolerance.
const RELATIVE_TOLERANCE: f64 = 1e-2;

/// What turns the number before it into another number.
static CHANGES_NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:^\*\*?\w|^\s+\*)|^\s*(?:[\^!+×·÷/√π<>≤≥±]|\\(?:cdot|times|pi|sqrt|pm|cup|div)|[a-z]\b|dozens?\b|pi\b|or\b|and\b|plus\b|minus\b|times\b|squared|cubed|factorial|hundreds|thousands|millions)",
    )
});
/// What turns the number behind it into another number, or says that it is not the answer.
static CHANGES_NEXT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:\w\*\*?|\*\s+|[\^+×·÷/√π<>≤≥±]|\\(?:cdot|times|pi|sqrt|pm|neq?|leq?|geq?|log|ln|sin|cos)|\bnot|n't|\bminus|\bthan|\bmost|\bleast|\bsqrt)\s*$",
    )
});

/// The value with which an answer is compared.
#[derive(Clone, Debug)]
pub enum Expected {
    Number {
        value: f64,
        /// None: the default one.
        tolerance: Option<f64>,
    },
    /// The ground truth is not a number.
    Text(choice::Expected),
}

/// A ground truth that names its tolerance.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithTolerance {
    value: f64,
    tolerance: f64,
}

impl Expected {
    /// # Errors
    /// An empty ground truth; a JSON object of another form.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        if ground_truth.trim_start().starts_with('{') {
            let WithTolerance { value, tolerance } = serde_json::from_str(ground_truth)
                .map_err(|e| format!(r#"expected a number, or {{"value": 0.25, "tolerance": 0.01}}: {e}"#))?;
            return match tolerance >= 0.0 {
                true => Ok(Self::Number { value, tolerance: Some(tolerance) }),
                false => Err("the tolerance must not be below 0".into()),
            };
        }
        match numeral::float(ground_truth).or_else(|| sole(&numeral::plain(ground_truth)).map(|it| value(&it))) {
            Some(value) if value.is_finite() => Ok(Self::Number { value, tolerance: None }),
            Some(_) => Err("the number must be finite".into()),
            None => choice::Expected::new(ground_truth).map(Self::Text),
        }
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        match (self, mode) {
            (Self::Text(choice), _) => choice.verdict(completion, mode),
            (Self::Number { value, tolerance }, Mode::Published) => match answer::published(completion) {
                None => Verdict::Missing,
                Some(text) => verdict(near(numeral::float(text), *value, tolerance.unwrap_or(TOLERANCE))),
            },
            (Self::Number { value, tolerance }, Mode::Lenient) => {
                let default = TOLERANCE.min(RELATIVE_TOLERANCE * value.abs());
                match stated(completion) {
                    Stated::Nothing => Verdict::Missing,
                    Stated::Unclear => Verdict::Wrong,
                    Stated::Number(number) => verdict(near(Some(number), *value, tolerance.unwrap_or(default))),
                }
            }
        }
    }
}

fn verdict(right: bool) -> Verdict {
    if right { Verdict::Right } else { Verdict::Wrong }
}

/// Whole numbers must be equal; others must be less than `tolerance` apart, or equal.
fn near(number: Option<f64>, expected: f64, tolerance: f64) -> bool {
    let is_whole = |it: f64| it.is_finite() && it.fract() == 0.0;
    number.is_some_and(|it| {
        it == expected || !(is_whole(it) && is_whole(expected) && tolerance < 1.0) && (it - expected).abs() < tolerance
    })
}

/// What a completion says.
enum Stated {
    Nothing,
    /// Several numbers, or a number within an expression.
    Unclear,
    Number(f64),
}

fn stated(completion: &str) -> Stated {
    let Some(answer) = answer::lenient(completion) else { return Stated::Nothing };
    let text = numeral::plain(answer.text());
    let part = match answer {
        Answer::Given(_) => &*text,
        Answer::Marked(_) => sentence(&text),
        Answer::Free(_) => text.lines().next_back().unwrap_or_default(),
    };
    let side = match part.rsplit_once('=') {
        Some((left, _)) if numeral::is_product(left) => return Stated::Unclear,
        Some((_, right)) => right,
        None => part,
    };
    match (sole(side), numeral::all(side).is_empty()) {
        (Some(number), _) => Stated::Number(value(&number)),
        (None, true) => Stated::Nothing,
        (None, false) => Stated::Unclear,
    }
}

/// The first sentence of a line, without reasons for it.
fn sentence(line: &str) -> &str {
    let end = [". ", ", because", " because", ", since", " since"].iter().filter_map(|it| line.find(it)).min();
    &line[..end.unwrap_or(line.len())]
}

/// The only number of a text, unless the text around it changes it.
fn sole(text: &str) -> Option<Numeral> {
    let [number] = <[Numeral; 1]>::try_from(numeral::all(text)).ok()?;
    let (before, after) = (&text[..number.start], &text[number.end..]);
    let opened = before.trim_end().ends_with(['(', '[', '{']) && !after.trim_start().starts_with([')', ']', '}']);
    let changed = CHANGES_NUMBER.is_match(after)
        || CHANGES_NEXT.is_match(before)
        || before.trim_end().ends_with('-')
        || after.trim_start().starts_with('-')
        || opened;
    (!changed).then_some(number)
}

fn value(number: &Numeral) -> f64 {
    if number.percent { number.value / 100.0 } else { number.value }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    fn check(truth: &str, answer: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(truth).unwrap();
        let completion = format!("<think>1, 2, 3</think><answer>{answer}</answer>");
        assert_verdicts(&expected, &completion, lenient, published);
    }

    fn check_untagged(truth: &str, completion: &str, lenient: Verdict) {
        let expected = Expected::new(truth).unwrap();
        assert_verdicts(&expected, completion, lenient, Missing);
    }

    #[test]
    fn the_published_table() {
        check("15", "15.0", Right, Right);
        check("10", "1e1", Right, Right);
        check("15", "14.9995", Right, Right);
        check("1000", "1_000", Right, Right);
        check("15", "14.99", Wrong, Wrong);
        check("1000", "1,000", Right, Wrong);
        check("15", " 15\n", Right, Right);
        check("0.5", ".5", Right, Right);
        check("15", "16", Wrong, Wrong);
        check("15", "nan", Missing, Wrong);
        check("15", "inf", Missing, Wrong);
        check("15", "", Missing, Wrong);
        check("none", "None", Right, Right);
        check("none", "None.", Right, Wrong);
        check("none", "3", Wrong, Wrong);
    }

    #[test]
    fn answers_of_every_form_are_read() {
        check("15", "15 apples", Right, Wrong);
        check("15", "15km", Right, Wrong);
        check("15", "$15", Right, Wrong);
        check("15", "x = 15", Right, Wrong);
        check("15", "3 * 5 = 15", Right, Wrong);
        check("15", "The answer is 15.", Right, Wrong);
        check("15", "about 15", Right, Wrong);
        check("15", "**15**", Right, Wrong);
        check("15", "It is **15** km.", Right, Wrong);
        check("15", "(15)", Right, Wrong);
        check("0.15", "15%", Right, Wrong);
        check("0.15", "15 percent", Right, Wrong);
        check("15000", "15 thousand", Right, Wrong);
        check("0.15", r"15\%", Right, Wrong);
        check("0.75", "3/4", Right, Wrong);
        check("0.75", r"$\frac{3}{4}$", Right, Wrong);
        check("3/4", "0.75", Right, Right);
        check("0.3333", "1/3", Right, Wrong);
        check("1500", r"1.5 \times 10^3", Right, Wrong);
        check("-2", "−2", Right, Wrong);
        check(r#"{"value": 20, "tolerance": 2}"#, "21", Right, Right);
        check(r#"{"value": 20, "tolerance": 2}"#, "22", Wrong, Wrong);
        check(r#"{"value": 0.5, "tolerance": 0}"#, "0.5", Right, Right);
        check_untagged("15", "The answer is 15, because 3 * 5 = 15.", Right);
        check_untagged("15", r"It is \boxed{15}.", Right);
        check_untagged("15", "**Answer:** 15 km", Right);
        check_untagged("15", "There are 3 and 5.\nTogether: 15", Right);
        check_untagged("0.25", r"\boxed{\dfrac{1}{4}}", Right);
    }

    #[test]
    fn answers_that_are_unclear_or_other_numbers_are_wrong() {
        for answer in [
            "15 or 16",
            "between 15 and 20",
            "xy=15",
            "15x",
            "15 thousand",
            "15 million",
            "15^2",
            "15!",
            "15%",
            "-15",
            "15 + y",
            "not 15",
            "less than 15",
            "at least 15",
            "< 15",
            "√15",
            "[15, 20]",
            "1.5",
            "150",
            "15k",
            "15π",
            "15**2",
            "15**n",
            "2 * 15 *",
            "15 or more",
            "15 and a half",
            "15 squared",
            "15 percent",
            "n**15",
        ] {
            check("15", answer, Wrong, Wrong);
        }
        check("0.0004", "0.0001", Wrong, Right);
        check("0", "0.0005", Wrong, Right);
        check_untagged("15", "", Missing);
        check_untagged("15", "I do not know", Missing);
        check_untagged("15", r"\boxed{15} or \boxed{16}", Wrong);
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for (truth, word) in [
            ("", "empty"),
            ("inf", "finite"),
            (r#"{"value": 1}"#, "tolerance"),
            (r#"{"value": 1, "tolerance": -1}"#, "below 0"),
            (r#"{"value": 1, "tolerance": 1, "unit": "m"}"#, "unit"),
        ] {
            let problem = Expected::new(truth).unwrap_err();
            assert!(problem.contains(word), "{truth:?}: {problem}");
        }
    }
}

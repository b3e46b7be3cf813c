//! The Knights and Knaves reward: 3 for a right answer in the right format, −0.5 for a wrong answer, −1 for an answer
//! that cannot be read, and −3 for the wrong format.
//!
//! - `published`: the rule for answers about people whose names are words, as in the paper · `names`: that for other names.

#[cfg(test)]
mod name_cases;
mod names;
mod published;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use self::names::{Names, folded};
use self::published::{Claims, same_fold};
use super::words::{PAIRS, RoleWords, with_article};
use crate::task::grade::{Judgement, Verdict};
use crate::task::graders::Judge;
use crate::task::graders::answer::{Mode, formatted, pattern};

/// One line of a ground truth.
static LINE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^\s*\(\d+\)\s*(\S.*?)\s+is\s+an?\s+([a-z]+)\.?\s*$"));

/// The solution of a puzzle, with which an answer is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Names, and whether each has the first role of its pair.
    roles: Vec<(String, bool)>,
    /// The place of the role words in [`PAIRS`].
    pair: usize,
    /// `None` if the published rule reads the names as a careful reader does.
    names: Option<Names>,
}

impl Expected {
    /// Reads the ground truth of a row: JSON with `solution_text_format`, or that text itself, with lines such as
    /// `(1) Zoey is a knight`.
    ///
    /// # Errors
    /// A text without names, a line of another form, and a name that occurs twice.
    pub fn from_ground_truth(ground_truth: &str) -> Result<Self, String> {
        let text = match serde_json::from_str(ground_truth) {
            Ok(Value::Object(fields)) => match fields.get("solution_text_format") {
                Some(Value::String(text)) => text.clone(),
                _ => return Err("the ground truth has no solution_text_format, or it is not a string".into()),
            },
            _ => ground_truth.to_owned(),
        };
        let mut roles: Vec<(String, bool)> = Vec::new();
        let mut pair = None;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (name, its_pair, first) = role_of(line).ok_or_else(|| {
                let example = "(1) Zoey is a knight";
                format!(
                    "the ground truth says {line:?}; expected a line such as {example:?}, with one of {}",
                    known_words()
                )
            })?;
            if roles.iter().any(|(other, _)| folded(other) == folded(name)) {
                return Err(format!("the ground truth names {name:?} twice"));
            }
            let RoleWords { truthful, lying } = PAIRS[*pair.get_or_insert(its_pair)];
            if pair != Some(its_pair) {
                return Err(format!(
                    "the ground truth says {line:?}, but the lines before it say {truthful} or {lying}"
                ));
            }
            roles.push((name.to_owned(), first));
        }
        let Some(pair) = pair else {
            return Err("the ground truth is empty; expected \"(1) Zoey is a knight\", one person per line".into());
        };
        let claims = Claims::of(pair);
        let is_word = |name: &str| name.chars().all(|c| c.is_ascii_alphabetic()) && claims.count_roles(name) == 0;
        let all_words = roles.iter().all(|(name, _)| is_word(name));
        let names = (!all_words).then(|| Names::new(roles.iter().map(|(name, _)| name.as_str()), claims));
        Ok(Self { roles, pair, names })
    }

    /// What the roles are called.
    pub fn words(&self) -> RoleWords {
        PAIRS[self.pair]
    }

    /// The names, in the order of the ground truth.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.roles.iter().map(|(name, _)| name)
    }

    /// A right answer names every role, and a wrong one names each person but not each role. The answer is missing if it
    /// cannot be read.
    fn answer_verdict(&self, answer: &str, mode: Mode) -> Verdict {
        match self.read(answer, mode) {
            None => Verdict::Missing,
            Some(roles) if roles.iter().zip(&self.roles).all(|(said, (_, first))| said == first) => Verdict::Right,
            Some(_) => Verdict::Wrong,
        }
    }

    /// Whether the answer gives each person the first role, in the order of the ground truth. `None` if it cannot be read.
    fn read(&self, answer: &str, mode: Mode) -> Option<Vec<bool>> {
        let claims = Claims::of(self.pair);
        match (&self.names, mode) {
            (Some(names), Mode::Lenient) => names.read(claims, answer),
            _ => claims.read(self.roles.iter().map(|(name, _)| name.as_str()), answer),
        }
    }

    /// The right answer, as the prompt asks for it.
    fn solution(&self) -> String {
        let role = |first| with_article(self.words().of(first));
        let line =
            |(index, (name, first)): (usize, &(String, bool))| format!("({}) {name} is {}", index + 1, role(*first));
        self.roles.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// The answer counts only in the right format.
impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        self.judge(completion, mode).verdict
    }

    fn judge(&self, completion: &str, mode: Mode) -> Judgement {
        match formatted(completion) {
            None => Judgement { right_format: false, verdict: Verdict::Missing },
            Some(answer) => Judgement { right_format: true, verdict: self.answer_verdict(answer, mode) },
        }
    }

    fn check(&self, mode: Mode) -> Result<(), String> {
        let right = || format!("<think></think><answer>{}</answer>", self.solution());
        if self.names.is_none() || self.verdict(&right(), mode) == Verdict::Right {
            return Ok(());
        }
        let names = self.names().map(String::as_str).collect::<Vec<_>>().join(", ");
        let advice = match mode {
            Mode::Lenient => "a name must not hold a whole claim, an answer tag or another person's name with a claim",
            Mode::Published => {
                "the published rule reads names that begin and end with a letter or a digit and hold no role word"
            }
        };
        Err(format!("no answer can be right, because of the names: {names}; {advice}"))
    }
}

/// The name in a line of a ground truth, and the role as a place in [`PAIRS`] and whether it is the first of its pair.
fn role_of(line: &str) -> Option<(&str, usize, bool)> {
    let (_, [name, word]) = LINE.captures(line)?.extract();
    let place = |truthful| PAIRS.iter().position(|pair| same_fold(pair.of(truthful), word));
    place(true).map(|pair| (name, pair, true)).or_else(|| place(false).map(|pair| (name, pair, false)))
}

/// All role words, for an error.
fn known_words() -> String {
    PAIRS.map(|it| format!("{}/{}", it.truthful, it.lying)).join(", ")
}

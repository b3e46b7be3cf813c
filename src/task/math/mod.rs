//! Mathematical answers: found in a completion, read from LaTeX or plain text, and compared.
//!
//! - `extract` finds the answer in a completion.
//! - `token` and `numeral` split it into tokens; `words` and `units` are the tables.
//! - `answer`, with `brackets`, `named` and `quantity`, and `expr`, with `primary`, make it a `tree`.
//! - `compare` decides whether two answers are equal: `relations` and `intervals` for equations and inequalities,
//!   `identity` for expressions, by `evaluate` with `number`s and their `powers`, which are exact,
//!   or `ball`s with `functions`.
//!
//! Nothing in an answer is ever run as code. Limits on length, depth, size and steps take the place of time-outs: every
//! text is graded within milliseconds. Where equality is not sure, answers are different; `identity` says what bounds
//! the chance that different answers count as equal.

mod answer;
mod ball;
mod brackets;
mod compare;
mod evaluate;
mod expr;
mod extract;
mod functions;
mod identity;
mod intervals;
mod named;
mod number;
mod numeral;
mod powers;
mod primary;
mod quantity;
mod relations;
mod token;
mod tree;
mod units;
mod words;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod pairs;
#[cfg(test)]
mod properties;

/// What a completion's answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Equal to the ground truth.
    Right,
    /// Another answer, or one that cannot be shown to be equal.
    Wrong,
    /// There is no answer.
    Missing,
}

/// The answer of a ground truth, with which completions are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    truth: answer::Parsed,
}

impl Expected {
    /// Reads a ground truth: LaTeX or plain text, also within `\boxed{…}` or behind `####`.
    ///
    /// # Errors
    /// An empty answer, or one of more than 4096 bytes.
    pub fn from_ground_truth(text: &str) -> Result<Self, String> {
        let text = extract::truth(text);
        if text.len() > token::MAX_BYTES {
            return Err(format!("the answer has {} bytes, the most are {}", text.len(), token::MAX_BYTES));
        }
        let truth = answer::parse(text);
        if truth.key.is_empty() {
            return Err("the answer is empty".into());
        }
        Ok(Self { truth })
    }

    /// Compares the answer of a completion: that in the last `<answer>…</answer>`, in the last `\boxed{…}`, behind the
    /// last "answer is", "Answer:" or `####`, or else the last line, formula or number. Of two boxes the last counts.
    pub fn verdict(&self, completion: &str) -> Verdict {
        let wants_text = matches!(self.truth.answer, tree::Answer::Text(_));
        match extract::answer(completion, wants_text) {
            None => Verdict::Missing,
            Some(found) if compare::equal(&self.truth, &found) => Verdict::Right,
            Some(_) => Verdict::Wrong,
        }
    }
}

/// Whether two answers, in boxes or without, are equal. It does not matter which comes first.
pub fn equal(a: &str, b: &str) -> bool {
    compare::equal(&answer::parse(extract::truth(a)), &answer::parse(extract::truth(b)))
}

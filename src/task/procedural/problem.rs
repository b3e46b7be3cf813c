//! A problem, before it becomes a row.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Procedural, Split};
use crate::task::row::{Message, RewardModel, Row};

/// Ends the question of every task that has no system message.
pub const FORM: &str = "Think in <think></think>, then answer in <answer></answer>.";

/// A problem and a right answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is asked, and in what form the answer is wanted.
    pub question: String,
    /// What the task's grader compares answers with.
    pub truth: String,
    /// One of the right answers.
    pub solution: String,
    /// Two problems with the same identity are the same one. It decides which split the problem belongs to.
    pub identity: u64,
}

impl Problem {
    /// A problem that only the same question equals.
    pub fn new(question: String, truth: impl Into<String>, solution: impl Into<String>) -> Self {
        let identity = identity_of(&question);
        Self { question, truth: truth.into(), solution: solution.into(), identity }
    }

    /// The split that the problem belongs to: a quarter of all problems are for testing.
    pub fn split(&self) -> Split {
        if self.identity.is_multiple_of(4) { Split::Test } else { Split::Train }
    }

    /// The problem as row `index` of a level.
    pub(super) fn row(self, task: &Procedural, level: usize, split: Split, index: u64) -> Row {
        let prompt = match task.system {
            Some(system) => vec![Message::new("system", system), Message::new("user", self.question)],
            None => vec![Message::new("user", format!("{}\n{FORM}", self.question))],
        };
        Row {
            data_source: task.source_name(level),
            prompt,
            ability: task.ability.into(),
            reward_model: RewardModel { grader: Some(task.grader.into()), ..RewardModel::rule(self.truth) },
            extra_info: json!({
                "task": task.name,
                "level": level,
                "split": split.name(),
                "index": index,
                "solution": self.solution,
            }),
        }
    }
}

/// The first 8 bytes of the text's SHA-256, which is the same on every machine and in every version.
pub fn identity_of(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `sha256sum`.
    #[test]
    fn the_identity_is_that_of_sha256() {
        assert_eq!(identity_of(""), 0xe3b0_c442_98fc_1c14);
        assert_eq!(identity_of("abc"), 0xba78_16bf_8f01_cfea);
    }
}

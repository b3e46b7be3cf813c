//! One row, ready to be sampled and graded.

use std::fmt;
use std::sync::Arc;

use crate::config::grader::Prefill;
use crate::config::grader_spec::GraderSpec;
use crate::error::InputError;
use crate::model::tokenizer::{ChatTokenizer, Prompt};
use crate::reward::{RowScorer, Scorers};
use crate::task::Row;

/// See the module.
pub struct Item {
    pub row: Row,
    pub grader: RowScorer,
    pub prompt: Arc<[u32]>,
    /// What the prompt begins of the text that is graded, such as `<think>`.
    pub prefill: String,
}

impl Item {
    /// What is graded of a completion's text.
    pub fn graded(&self, completion: &str) -> String {
        [&self.prefill, completion].concat()
    }
}

/// Makes items of one distribution's rows.
pub struct ItemMaker {
    pub scorers: Arc<Scorers>,
    /// The grader of all rows. Empty: each row's own.
    pub spec: GraderSpec,
    pub tokenizer: Arc<ChatTokenizer>,
    /// Longest sequence of the model, in tokens.
    pub context: usize,
    /// `max_prompt_tokens`. 0: no limit but the context.
    pub longest: usize,
    pub prefill: Prefill,
}

/// A prompt that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    pub tokens: usize,
    limit: Limit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    MaxPromptTokens(usize),
    Context(usize),
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, limit } = self;
        match limit {
            Limit::MaxPromptTokens(most) => {
                write!(f, "its prompt has {tokens} tokens, more than data.max_prompt_tokens = {most}")
            }
            Limit::Context(context) => {
                write!(f, "its prompt has {tokens} tokens, which leaves no room in the model's context of {context}")
            }
        }
    }
}

impl ItemMaker {
    /// The row as an item, or why its prompt is too long. `place` is the row's place for error messages.
    ///
    /// # Errors
    /// A row without a usable grader or ground truth, or whose prompt the chat template refuses or makes empty.
    pub fn item(&self, row: Row, place: impl Fn() -> String) -> Result<Result<Item, TooLong>, InputError> {
        let wrong = |problem: String| InputError::new(place(), problem);
        let encoded = self.tokenizer.encode_prompt(&row.prompt).map_err(|error| wrong(error.to_string()))?;
        let Prompt { ids: prompt, opening } = encoded;
        if prompt.is_empty() {
            return Err(wrong("its prompt has no tokens".into()));
        }
        if let Some(limit) = self.exceeded(prompt.len()) {
            return Ok(Err(TooLong { tokens: prompt.len(), limit }));
        }
        let grader = self.scorers.for_row(&row, Some(&self.spec)).map_err(wrong)?;
        let prefill = match self.prefill {
            Prefill::Graded => opening,
            Prefill::Ignored => String::new(),
        };
        Ok(Ok(Item { row, grader, prompt: prompt.into(), prefill }))
    }

    fn exceeded(&self, tokens: usize) -> Option<Limit> {
        if self.longest > 0 && tokens > self.longest {
            return Some(Limit::MaxPromptTokens(self.longest));
        }
        (tokens >= self.context).then_some(Limit::Context(self.context))
    }
}

//! One row, ready to be sampled and graded.

use std::sync::Arc;

use crate::config::grader_spec::GraderSpec;
use crate::error::InputError;
use crate::model::tokenizer::ChatTokenizer;
use crate::reward::{RowScorer, Scorers};
use crate::task::Row;

/// See the module.
pub struct Item {
    pub row: Row,
    pub grader: RowScorer,
    pub prompt: Arc<[u32]>,
}

/// Makes items of one distribution's rows.
pub struct ItemMaker {
    pub scorers: Arc<Scorers>,
    /// The grader of all rows. Empty: each row's own.
    pub spec: GraderSpec,
    pub tokenizer: Arc<ChatTokenizer>,
    /// Longest sequence of the model, in tokens.
    pub context: usize,
    /// `max_prompt_tokens`. 0: no limit.
    pub longest: usize,
}

impl ItemMaker {
    /// `None` if the prompt is longer than `max_prompt_tokens`. `place` is the row's place for error messages.
    ///
    /// # Errors
    /// A row without a usable grader or ground truth, or a prompt that leaves no room for a completion.
    pub fn item(&self, row: Row, place: impl Fn() -> String) -> Result<Option<Item>, InputError> {
        let wrong = |problem: String| InputError::new(place(), problem);
        let (prompt, context) = (self.tokenizer.encode_prompt(&row.prompt)?, self.context);
        if self.longest > 0 && prompt.len() > self.longest {
            return Ok(None);
        }
        if prompt.is_empty() || prompt.len() >= context {
            let problem = format!(
                "its prompt has {} tokens, the model's context is {context}; data.max_prompt_tokens leaves long rows out",
                prompt.len()
            );
            return Err(wrong(problem));
        }
        let grader = self.scorers.for_row(&row, Some(&self.spec)).map_err(wrong)?;
        Ok(Some(Item { row, grader, prompt: prompt.into() }))
    }
}

//! What the stages of a pipeline read: the configuration, the model's shape, the tokenizer and the rows.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use engine::Sampling;
use engine::decoder::DecoderConfig;

use super::dataset::{self, Dataset};
use crate::config::run::RunConfig;
use crate::curriculum::Mixture;
use crate::error::InputError;
use crate::model::hub;
use crate::model::tokenizer::ChatTokenizer;
use crate::reward::Scorers;

/// See the module. Nothing of it changes during a run.
pub struct Inputs {
    pub config: RunConfig,
    /// The base model's folder. `config.model` may be its name on the hub.
    pub folder: PathBuf,
    pub decoder: DecoderConfig,
    pub tokenizer: Arc<ChatTokenizer>,
    pub train: Dataset,
    pub test: Dataset,
    /// The graders of all rows.
    pub scorers: Scorers,
}

impl Inputs {
    /// # Errors
    /// A missing or wrong model, tokenizer or row; test rows missing although evaluation is on.
    pub fn load(config: RunConfig) -> Result<Self> {
        let folder = hub::folder(&config.model)?;
        let decoder = DecoderConfig::load(&folder)?;
        let tokenizer = Arc::new(ChatTokenizer::load(&folder, &decoder)?);
        let (train, test) = dataset::load_rows(&config)?;
        let (scorers, context) = (dataset::graders(&config)?, decoder.max_position_embeddings);
        let train = Dataset::new(train, &scorers, &tokenizer, context)?;
        let test = Dataset::new(test, &scorers, &tokenizer, context)?;
        let untested = train.sources.iter().find(|s| !test.sources.iter().any(|t| t.name == s.name));
        if let (Some(source), true) = (untested, config.eval.interval > 0) {
            let problem = format!("distribution {} has no test rows; add some, or set eval.interval = 0", source.name);
            return Err(InputError::new("data", problem).into());
        }
        Ok(Self { config, folder, decoder, tokenizer, train, test, scorers })
    }

    /// Tokens of the longest prompt that is answered, in training or in an evaluation.
    pub fn longest_prompt(&self) -> usize {
        let test = self.test.sources.iter().filter(|_| self.config.eval.interval > 0);
        let items = self.train.sources.iter().chain(test).flat_map(|source| &source.items);
        items.map(|item| item.prompt.len()).max().unwrap_or(0)
    }

    /// Tokens of all prompts of an evaluation. 0 without evaluations.
    pub fn eval_prompt_tokens(&self) -> usize {
        let evaluated = self.test.sources.iter().filter(|_| self.config.eval.interval > 0);
        evaluated.flat_map(|source| &source.items).map(|item| item.prompt.len()).sum()
    }

    /// How completions to train on are sampled.
    pub fn sampling(&self) -> Sampling {
        let engine = &self.config.engine;
        Sampling {
            temperature: engine.temperature,
            top_k: engine.top_k,
            top_p: engine.top_p,
            min_p: engine.min_p,
            max_new_tokens: engine.max_new_tokens,
            stop_tokens: self.tokenizer.stop_tokens.clone(),
            stop_strings: ChatTokenizer::stop_strings(&self.tokenizer, engine.stop.clone()),
        }
    }

    /// What the curriculum draws from.
    pub fn mixture(&self) -> Mixture {
        let (sources, sizes) = (self.train.names(), self.train.sizes());
        Mixture { sources, sizes, max_steps: self.config.max_steps, batch_size: self.config.batch_size }
    }
}

//! What the stages of a pipeline read: the configuration, the model's shape, the tokenizer and the rows.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use engine::Sampling;
use engine::decoder::DecoderConfig;

use super::dataset::load::{Loaded, Planned};
use super::dataset::{self, Dataset, LongRows};
use crate::config::run::RunConfig;
use crate::curriculum::Mixture;
use crate::error::InputError;
use crate::model::hub::{self, Download};
use crate::model::tokenizer::ChatTokenizer;
use crate::reward::Scorers;
use crate::run_dir::fingerprints::Fingerprints;

/// See the module. Nothing of it changes during a run.
pub struct Inputs {
    pub config: RunConfig,
    /// The base model's folder. `config.model` may be its name on the hub.
    pub folder: PathBuf,
    pub decoder: DecoderConfig,
    pub tokenizer: Arc<ChatTokenizer>,
    pub train: Dataset,
    pub test: Dataset,
    /// Distributions of a plan whose rows are not on this machine.
    pub planned: Vec<Planned>,
    pub left_out: LeftOut,
    /// The graders of all rows.
    pub scorers: Arc<Scorers>,
    /// Whether each training row is graded by one grader that is built in.
    pub only_rules: bool,
}

/// Rows of the files that are not used, by reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// They do not fit `where`.
    pub unfit: usize,
    /// There are more than `limit`.
    pub over_limit: usize,
    /// Their prompts are too long.
    pub too_long: LongRows,
}

impl LeftOut {
    /// What is said about them. `None` if all rows are used.
    pub fn describe(&self) -> Option<String> {
        let Self { unfit, over_limit, too_long } = self;
        let reasons = [
            (*unfit, format!("{unfit} do not fit where")),
            (*over_limit, format!("{over_limit} are over the limit")),
            (too_long.count, format!("{} have prompts that are too long ({too_long})", too_long.count)),
        ];
        let reasons = reasons.into_iter().filter(|(rows, _)| *rows > 0).map(|(_, why)| why).collect::<Vec<_>>();
        (!reasons.is_empty()).then(|| format!("left out rows of files that are not used: {}", reasons.join(", ")))
    }
}

impl Inputs {
    /// # Errors
    /// A missing or wrong model, tokenizer or row; test rows missing although evaluation is on.
    pub fn load(config: RunConfig) -> Result<Self> {
        Self::with(config, Download::Allowed)
    }

    /// The same for `--dry-run`: a data set that is not on this machine is planned, not downloaded.
    ///
    /// # Errors
    /// As [`Inputs::load`]; a data set that is not here and whose distributions are not named.
    pub fn plan(config: RunConfig) -> Result<Self> {
        Self::with(config, Download::Never)
    }

    fn with(config: RunConfig, download: Download) -> Result<Self> {
        let folder = hub::folder(&config.model)?;
        // What a run records is the commit that it used, not the branch.
        let config = RunConfig { model: hub::pinned(&config.model, &folder), ..config };
        let decoder = DecoderConfig::load(&folder)?;
        let tokenizer = Arc::new(ChatTokenizer::load(&folder, &decoder)?);
        let scorers = Arc::new(dataset::loaded_scorers(&config)?);
        let Loaded { train, test, planned, unfit } = Loaded::new(&config, &scorers, download)?;
        let over_limit = train.iter().map(|it| it.over_limit).sum();
        let context = decoder.max_position_embeddings;
        let train = Dataset::new(train, &config, &scorers, &tokenizer, context)?;
        let test = Dataset::new(test, &config, &scorers, &tokenizer, context)?;
        let mut too_long = train.too_long();
        too_long.extend(&test.too_long());
        let left_out = LeftOut { unfit, over_limit, too_long };
        let untested = train.sources.iter().find(|s| !test.sources.iter().any(|t| t.name == s.name));
        if let (Some(source), true) = (untested, config.eval.interval > 0) {
            let share = match config.data.iter().any(|entry| entry.test_share > 0.0) {
                true => " (test_share may choose none of a small one: take a larger share)",
                false => "",
            };
            let problem =
                format!("distribution {} has no test rows{share}; add some, or set eval.interval = 0", source.name);
            return Err(InputError::new("data", problem).into());
        }
        let only_rules = train.sources.iter().flat_map(|it| it.known()).all(|item| item.grader.is_rule());
        Ok(Self { config, folder, decoder, tokenizer, train, test, planned, left_out, scorers, only_rules })
    }

    /// Tokens of the longest prompt that is answered, in training or in an evaluation.
    pub fn longest_prompt(&self) -> usize {
        let test = self.test.sources.iter().filter(|_| self.config.eval.interval > 0);
        let items = self.train.sources.iter().chain(test).flat_map(|source| source.known());
        items.map(|item| item.prompt.len()).max().unwrap_or(0)
    }

    /// Tokens of all prompts of an evaluation. 0 without evaluations.
    pub fn eval_prompt_tokens(&self) -> usize {
        let evaluated = self.test.sources.iter().filter(|_| self.config.eval.interval > 0);
        evaluated.flat_map(|source| source.known()).map(|item| item.prompt.len()).sum()
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

    /// What a run with these inputs is made of.
    ///
    /// # Errors
    /// A file of the model that cannot be read.
    pub fn fingerprints(&self) -> Result<Fingerprints> {
        let (train, test) = (self.train.fingerprints()?, self.test.fingerprints()?);
        Fingerprints::new(&self.folder, train, test, self.config.eval.prompts)
    }

    /// What the curriculum draws from.
    pub fn mixture(&self) -> Mixture {
        let (sources, sizes) = (self.train.names(), self.train.sizes());
        Mixture { sources, sizes, max_steps: self.config.max_steps, batch_size: self.config.batch_size }
    }
}

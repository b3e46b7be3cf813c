//! Rows by distribution, each with its grader and its prompt's token ids. Made once, before anything runs.
//!
//! - [`load`]: the rows that a configuration names · [`files`]: finds their files.

pub mod files;
pub mod load;

use std::sync::Arc;

use crate::config::data::DataEntry;
use crate::config::run::RunConfig;
use crate::curriculum::{Curriculum, Mixture};
use crate::error::InputError;
use crate::model::hub::Download;
use crate::model::tokenizer::ChatTokenizer;
use crate::task::kk::{self, parse_people};
use crate::task::{Grader, Row};
use load::{Distribution, Loaded, entry_graders};

/// One row, ready to be sampled and graded.
pub struct Item {
    pub row: Row,
    pub grader: Grader,
    pub prompt: Arc<[u32]>,
}

/// The rows of one distribution. Never empty.
pub struct Source {
    pub name: String,
    pub items: Vec<Item>,
    /// Rows that were left out because their prompts are longer than `max_prompt_tokens`.
    pub too_long: usize,
}

/// The rows of one split, by distribution.
pub struct Dataset {
    pub sources: Vec<Source>,
}

impl Dataset {
    /// Tokenises the rows of a split and gives each its grader.
    ///
    /// # Errors
    /// A row without a usable grader or ground truth; a prompt that leaves no room for a completion in `context` tokens; a
    /// distribution whose prompts are all too long.
    pub fn new(
        distributions: Vec<Distribution>,
        config: &RunConfig,
        tokenizer: &ChatTokenizer,
        context: usize,
    ) -> Result<Self, InputError> {
        let source = |it| Source::new(it, config, tokenizer, context);
        Ok(Self { sources: distributions.into_iter().map(source).collect::<Result<_, _>>()? })
    }

    /// Row `row` of distribution `arm`.
    pub fn item(&self, arm: usize, row: usize) -> &Item {
        &self.sources[arm].items[row]
    }

    pub fn names(&self) -> Vec<String> {
        self.sources.iter().map(|source| source.name.clone()).collect()
    }

    pub fn sizes(&self) -> Vec<usize> {
        self.sources.iter().map(|source| source.items.len()).collect()
    }
}

impl Source {
    fn new(
        distribution: Distribution,
        config: &RunConfig,
        tokenizer: &ChatTokenizer,
        context: usize,
    ) -> Result<Self, InputError> {
        let Distribution { name, rows, entry, .. } = distribution;
        let graders = entry_graders(config, entry)?;
        let longest = config.data[entry].max_prompt_tokens;
        let (mut items, all) = (Vec::with_capacity(rows.len()), rows.len());
        for (index, row) in rows.into_iter().enumerate() {
            let wrong = |problem: String| InputError::new(format!("{name} row {index}"), problem);
            let prompt = tokenizer.encode_prompt(&row.prompt)?;
            if longest > 0 && prompt.len() > longest {
                continue;
            }
            if prompt.is_empty() || prompt.len() >= context {
                let problem = format!("its prompt has {} tokens, the model's context is {context}", prompt.len());
                return Err(wrong(problem + "; data.max_prompt_tokens leaves long rows out"));
            }
            items.push(Item { grader: graders.for_row(&row).map_err(wrong)?, row, prompt: prompt.into() });
        }
        if items.is_empty() {
            let problem = format!("all {all} prompts are longer than data.max_prompt_tokens = {longest}");
            return Err(InputError::new(name, problem));
        }
        Ok(Self { name, too_long: all - items.len(), items })
    }
}

/// What the curriculum of a configuration draws from. Nothing is tokenised, generated or downloaded for this. A distribution that is
/// not on this machine counts as its `limit`.
///
/// # Errors
/// As [`Loaded::new`].
pub fn mixture(config: &RunConfig) -> Result<Mixture, InputError> {
    let is_generated = |entry: &DataEntry| entry.task == "kk";
    let (sources, sizes) = if config.data.iter().all(is_generated) {
        let mut all = Vec::new();
        for entry in &config.data {
            let people = parse_people(&entry.levels).map_err(|e| InputError::new("data.levels", e))?;
            all.extend(people.map(|people| (kk::source_name(people), entry.train)));
        }
        all.into_iter().unzip()
    } else {
        let Loaded { train, planned, .. } = Loaded::new(config, Download::Never)?;
        let mut all: Vec<_> = train.into_iter().map(|it| (it.name, it.rows.len())).collect();
        planned.into_iter().for_each(|it| all.insert(it.at, (it.name, it.rows.max(1))));
        all.into_iter().unzip()
    };
    Ok(Mixture { sources, sizes, max_steps: config.max_steps, batch_size: config.batch_size })
}

/// Checks that a configuration's curriculum fits its data.
///
/// # Errors
/// The setting that does not fit, and what would; or as [`mixture`].
pub fn check_curriculum(config: &RunConfig) -> Result<(), InputError> {
    let fits = Curriculum::new(&config.curriculum, &mixture(config)?);
    fits.map(drop).map_err(InputError::in_curriculum)
}

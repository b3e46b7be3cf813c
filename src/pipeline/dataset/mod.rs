//! Rows by distribution, each with its grader and its prompt's token ids. Made once, before anything runs.
//!
//! - [`load`]: the rows that a configuration names · [`files`]: finds their files.
//! - [`source`]: one distribution, with rows that are kept or made on the fly · [`item`]: one row, ready to be sampled and graded.

pub mod files;
pub mod item;
pub mod load;
mod long_rows;
pub mod source;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::data::{self, DataEntry};
use crate::config::run::RunConfig;
use crate::curriculum::{Curriculum, Mixture};
use crate::error::{InputError, KeyError};
use crate::model::hub::Download;
use crate::model::tokenizer::ChatTokenizer;
use crate::reward::Scorers;
use crate::run_dir::fingerprints::Rows;
pub use item::Item;
use item::ItemMaker;
use load::{Distribution, Loaded};
pub use long_rows::LongRows;
pub use source::Source;

/// The rows of one split, by distribution.
pub struct Dataset {
    pub sources: Vec<Source>,
}

impl Dataset {
    /// Tokenises the rows of a split and gives each its grader.
    ///
    /// # Errors
    /// As [`Source::new`].
    pub fn new(
        distributions: Vec<Distribution>,
        config: &RunConfig,
        scorers: &Arc<Scorers>,
        tokenizer: &Arc<ChatTokenizer>,
        context: usize,
    ) -> Result<Self, InputError> {
        let source = |it: Distribution| {
            let entry = &config.data[it.entry];
            let (scorers, spec, longest) = (scorers.clone(), entry.grader.clone(), entry.max_prompt_tokens);
            let (tokenizer, prefill) = (tokenizer.clone(), config.grader.prefill);
            let maker = ItemMaker { scorers, spec, tokenizer, context, longest, prefill };
            Source::new(it, maker, entry.overlong())
        };
        Ok(Self { sources: distributions.into_iter().map(source).collect::<Result<_, _>>()? })
    }

    /// Row `row` of distribution `arm`.
    ///
    /// # Errors
    /// As [`Source::item`].
    pub fn item(&self, arm: usize, row: usize) -> Result<Arc<Item>, InputError> {
        self.sources[arm].item(row)
    }

    /// The rows that were left out because their prompts are too long.
    pub fn too_long(&self) -> LongRows {
        let mut all = LongRows::default();
        self.sources.iter().for_each(|source| all.extend(&source.too_long));
        all
    }

    pub fn names(&self) -> Vec<String> {
        self.sources.iter().map(|source| source.name.clone()).collect()
    }

    pub fn sizes(&self) -> Vec<usize> {
        self.sources.iter().map(Source::size).collect()
    }

    /// What the rows of each distribution contain.
    ///
    /// # Errors
    /// As [`Source::hash`].
    pub fn fingerprints(&self) -> serde_json::Result<BTreeMap<String, Rows>> {
        let rows = |it: &Source| Ok((it.name.clone(), Rows { rows: it.size(), sha256: it.hash()? }));
        self.sources.iter().map(rows).collect()
    }

    /// Whether the rows of each distribution are new at every draw.
    pub fn fresh(&self) -> Vec<bool> {
        self.sources.iter().map(Source::is_fresh).collect()
    }
}

/// The graders of a configuration that is about to run. Their Python functions are loaded once, so that a mistake in them is found
/// now.
///
/// # Errors
/// As `scorers`; a function that cannot be loaded.
pub fn loaded_scorers(config: &RunConfig) -> Result<Scorers, InputError> {
    let scorers = scorers(config)?;
    scorers.load_functions().map_err(|problem| InputError::new("configuration", problem))?;
    Ok(scorers)
}

/// The graders of a configuration. Nothing is started.
///
/// # Errors
/// An unknown grader, or one whose program is not there.
fn scorers(config: &RunConfig) -> Result<Scorers, InputError> {
    let wrong = |error: KeyError| InputError::at("configuration", error);
    let scorers = Scorers::new(&config.grader).map_err(|error| wrong(error.under("grader")))?;
    for (index, entry) in config.data.iter().enumerate() {
        let key = || format!("{}.grader", data::key(&config.data, index));
        scorers.check(&entry.grader).map_err(|problem| wrong(KeyError::new(key(), problem)))?;
    }
    Ok(scorers)
}

/// What the curriculum of a configuration draws from. Nothing is tokenised, generated or downloaded for this. A distribution that is
/// not on this machine counts as its `limit`.
///
/// # Errors
/// As [`Loaded::new`].
pub fn mixture(config: &RunConfig) -> Result<Mixture, InputError> {
    // A variant has other names, and is not made of every puzzle.
    let is_generated = |entry: &DataEntry| !entry.task.is_empty() && entry.variant.is_empty();
    let (sources, sizes) = if config.data.iter().all(is_generated) {
        let mut all = Vec::new();
        for (index, entry) in config.data.iter().enumerate() {
            let wrong = |error: KeyError| InputError::at("configuration", error.under(&data::key(&config.data, index)));
            let (task, levels) = entry.task().map_err(wrong)?;
            all.extend(levels.map(|level| (task.source_name(level), entry.train)));
        }
        all.into_iter().unzip()
    } else {
        let Loaded { train, planned, .. } = Loaded::new(config, &scorers(config)?, Download::Never)?;
        let mut all: Vec<_> = train.into_iter().map(|it| (it.name, it.rows.size())).collect();
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

//! Rows by distribution, each with its grader and its prompt's token ids. Made once, before anything runs.

use std::sync::Arc;

use crate::config::data::DataKind;
use crate::config::run::RunConfig;
use crate::curriculum::{Curriculum, Mixture};
use crate::error::InputError;
use crate::model::tokenizer::ChatTokenizer;
use crate::reward::{RowScorer, Scorers};
use crate::task::kk::parse_people;
use crate::task::{Row, kk, rows};

/// One row, ready to be sampled and graded.
pub struct Item {
    pub row: Row,
    pub grader: RowScorer,
    pub prompt: Arc<[u32]>,
}

/// The rows of one distribution. Never empty.
pub struct Source {
    pub name: String,
    pub items: Vec<Item>,
}

/// The rows of one split, by distribution.
pub struct Dataset {
    pub sources: Vec<Source>,
}

impl Dataset {
    /// Tokenises the rows of a split and gives each its grader.
    ///
    /// # Errors
    /// A row without a usable grader or ground truth, or a prompt that leaves no room for a completion in `context` tokens.
    pub fn new(
        rows: Vec<Row>,
        graders: &Scorers,
        tokenizer: &ChatTokenizer,
        context: usize,
    ) -> Result<Self, InputError> {
        let source = |(name, rows): (String, Vec<Row>)| {
            let rows = rows.into_iter().enumerate();
            let items = rows.map(|(index, row)| Item::new(row, index, graders, tokenizer, context));
            Ok(Source { name, items: items.collect::<Result<_, _>>()? })
        };
        Ok(Self { sources: rows::group_by_source(rows).into_iter().map(source).collect::<Result<_, _>>()? })
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

impl Item {
    fn new(
        row: Row,
        index: usize,
        graders: &Scorers,
        tokenizer: &ChatTokenizer,
        context: usize,
    ) -> Result<Self, InputError> {
        let place = format!("{} row {index}", row.data_source);
        let grader = graders.for_row(&row, None).map_err(|problem| InputError::new(&place, problem))?;
        let prompt = tokenizer.encode_prompt(&row.prompt)?;
        if prompt.is_empty() || prompt.len() >= context {
            let problem = format!("its prompt has {} tokens, the model's context is {context}", prompt.len());
            return Err(InputError::new(place, problem));
        }
        Ok(Self { row, grader, prompt: prompt.into() })
    }
}

/// The training rows that a configuration names, and the test rows that it evaluates on.
///
/// # Errors
/// A file that cannot be read or holds a wrong row; sizes that cannot be generated.
pub fn load_rows(config: &RunConfig) -> Result<(Vec<Row>, Vec<Row>), InputError> {
    let data = &config.data;
    let (train, test) = match data.kind {
        DataKind::Kk => {
            let people = parse_people(&data.people).map_err(|e| InputError::new("data.people", e))?;
            kk::splits(people, data.train, data.test, data.seed).map_err(|e| InputError::new("data", e))?
        }
        DataKind::Files => {
            let graders = graders(config)?;
            let load_all = |files: &[std::path::PathBuf]| {
                let loaded: Result<Vec<_>, _> =
                    files.iter().map(|file| rows::read(file, |row| graders.for_row(row, None).map(drop))).collect();
                loaded.map(|rows| rows.into_iter().flatten().collect::<Vec<_>>())
            };
            (load_all(&data.train_files)?, load_all(&data.test_files)?)
        }
    };
    let evaluated =
        rows::group_by_source(test).into_iter().flat_map(|(_, rows)| rows.into_iter().take(config.eval.prompts));
    Ok((train, evaluated.collect()))
}

/// How a configuration grades its rows.
///
/// # Errors
/// An unknown grader, or one whose program is not there.
pub fn graders(config: &RunConfig) -> Result<Scorers, InputError> {
    Scorers::new(&config.grader).map_err(|error| InputError::at("configuration", error.under("grader")))
}

/// What the curriculum of a configuration draws from. Prompts are not tokenised for this.
///
/// # Errors
/// As [`load_rows`].
pub fn mixture(config: &RunConfig) -> Result<Mixture, InputError> {
    let (sources, sizes) = match config.data.kind {
        DataKind::Kk => {
            let people = parse_people(&config.data.people).map_err(|e| InputError::new("data.people", e))?;
            people.map(|people| (kk::source_name(people), config.data.train)).unzip()
        }
        DataKind::Files => {
            let rows = rows::group_by_source(load_rows(config)?.0);
            rows.into_iter().map(|(name, rows)| (name, rows.len())).unzip()
        }
    };
    Ok(Mixture { sources, sizes, max_steps: config.max_steps, batch_size: config.batch_size })
}

/// Checks that a configuration's curriculum fits its data.
///
/// # Errors
/// The setting that does not fit, and what would; or as [`load_rows`].
pub fn check_curriculum(config: &RunConfig) -> Result<(), InputError> {
    let fits = Curriculum::new(&config.curriculum, &mixture(config)?);
    fits.map(drop).map_err(InputError::in_curriculum)
}

//! The `[[data]]` tables: what the distributions of a run are made of.
//!
//! - `old_names`: the keys of earlier versions, and `[data]` instead of `[[data]]`.

pub mod old_names;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::grader;
use super::grader_spec::GraderSpec;
use crate::error::KeyError;
use crate::task::kk::variants::Variant;
use crate::task::mixture::{Condition, Mapping, Template};
use crate::task::procedural::{self, Procedural};

/// One `[[data]]` table: either a task whose rows are generated, or files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataEntry {
    /// The task whose rows are generated. Empty: the rows are read from files.
    pub task: String,
    /// For a task: its levels, such as "3-14". Each is one distribution. Empty: the usual ones.
    pub levels: String,
    /// For `kk`: a variant of each puzzle instead of the puzzle itself. Empty: the puzzle.
    pub variant: String,
    /// For a task: training and test rows of each level.
    pub train: usize,
    pub test: usize,
    /// For a task: every draw of a training row makes a new one. `train` only says what a level counts as where distributions are
    /// compared by their rows.
    pub fresh: bool,
    /// Seed of generated rows, and of whatever is chosen from files. It is independent of the run's seed.
    pub seed: u64,
    /// JSON Lines or parquet files of training and test rows: paths, globs, or `hf://datasets/OWNER/NAME/PATH`.
    pub train_files: Vec<String>,
    pub test_files: Vec<String>,
    /// The part of the training rows that is held out as test rows, where there are no test files.
    pub test_share: f64,
    /// The user message, as a template over the fields of a row. Empty: the row's own prompt.
    pub prompt: String,
    /// The system message that comes with `prompt`. Empty: none.
    pub system: String,
    /// The ground truth, as a template. Empty: the row's own.
    pub answer: String,
    /// Which rows are used: the values that a field may have.
    pub r#where: BTreeMap<String, Condition>,
    /// The name of a row's distribution, as a template. Empty: its `data_source`.
    pub distribution: String,
    /// Each distribution is cut into this many, by rank of a numeric field. 0: it is not cut.
    pub quantiles: usize,
    /// The field: a number of the row, or `prompt_chars`.
    pub quantiles_of: String,
    /// Most training rows of a distribution. 0: all.
    pub limit: usize,
    /// Longer prompts are too long. 0: those that leave no room for a completion in the model's context.
    pub max_prompt_tokens: usize,
    /// What happens to rows whose prompts are too long.
    pub overlong: Overlong,
    /// The grader of all these rows. Empty: each row's own.
    pub grader: GraderSpec,
}

/// What happens to rows whose prompts are too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// `drop` where `max_prompt_tokens` is given, otherwise `error`.
    Auto,
    /// The first one ends the command.
    Error,
    /// They are left out and counted.
    Drop,
}

impl Default for DataEntry {
    fn default() -> Self {
        Self {
            task: String::new(),
            levels: String::new(),
            variant: String::new(),
            train: 900,
            test: 100,
            fresh: false,
            seed: 42,
            train_files: Vec::new(),
            test_files: Vec::new(),
            test_share: 0.0,
            prompt: String::new(),
            system: String::new(),
            answer: String::new(),
            r#where: BTreeMap::new(),
            distribution: String::new(),
            quantiles: 0,
            quantiles_of: String::new(),
            limit: 0,
            max_prompt_tokens: 0,
            overlong: Overlong::Auto,
            grader: GraderSpec::default(),
        }
    }
}

impl DataEntry {
    /// Knights and Knaves with 3 to 14 people.
    pub fn usual() -> Self {
        Self { task: "kk".into(), ..Self::default() }
    }

    /// What happens to rows whose prompts are too long: never `auto`.
    pub fn overlong(&self) -> Overlong {
        match self.overlong {
            Overlong::Auto if self.max_prompt_tokens > 0 => Overlong::Drop,
            Overlong::Auto => Overlong::Error,
            given => given,
        }
    }

    /// # Errors
    /// A key whose value cannot work, or that does not go with the others.
    pub fn check(&self) -> Result<(), KeyError> {
        let fail = |key: &str, problem: &str| Err(KeyError::new(key, problem));
        match (self.task.is_empty(), self.train_files.is_empty()) {
            (true, true) => return fail("train_files", "needs at least one file, or set task for generated rows"),
            (false, false) => return fail("task", "and train_files are both given; put them into two [[data]] tables"),
            (false, true) => self.check_task()?,
            (true, false) => self.check_files()?,
        }
        self.grader.check().map_err(|error| grader::under(error, "grader"))
    }

    fn check_task(&self) -> Result<(), KeyError> {
        KeyError::if_zero(&[("train", self.train)])?;
        let for_files = [
            ("test_files", !self.test_files.is_empty()),
            ("test_share", self.test_share != 0.0),
            ("prompt", !self.prompt.is_empty()),
            ("system", !self.system.is_empty()),
            ("answer", !self.answer.is_empty()),
            ("where", !self.r#where.is_empty()),
            ("distribution", !self.distribution.is_empty()),
            ("quantiles", self.quantiles != 0),
            ("quantiles_of", !self.quantiles_of.is_empty()),
            ("limit", self.limit != 0),
        ];
        if let Some((key, _)) = for_files.iter().find(|(_, given)| *given) {
            let problem = format!("is for rows from files, and this table has task = {:?}", self.task);
            return Err(KeyError::new(*key, problem));
        }
        self.task()?;
        match (self.variant()?, self.task.as_str(), self.fresh) {
            (Some(_), "kk", false) | (None, ..) => Ok(()),
            (Some(_), "kk", true) => {
                Err(KeyError::new("variant", "cannot go with fresh: it belongs to a given puzzle"))
            }
            (Some(_), ..) => Err(KeyError::new("variant", "is for task = \"kk\"")),
        }?;
        match (self.overlong, self.fresh) {
            (Overlong::Drop, true) => Err(KeyError::new(
                "overlong",
                "cannot be \"drop\" with fresh: each draw makes the row that it trains on",
            )),
            _ => Ok(()),
        }
    }

    /// The variant of K&K puzzles.
    ///
    /// # Errors
    /// An unknown variant.
    pub fn variant(&self) -> Result<Option<Variant>, KeyError> {
        let parsed = (!self.variant.is_empty()).then(|| self.variant.parse()).transpose();
        parsed.map_err(|problem: String| KeyError::new("variant", problem))
    }

    /// The task and its levels.
    ///
    /// # Errors
    /// An unknown task, or levels that it does not have.
    pub fn task(&self) -> Result<(&'static Procedural, RangeInclusive<usize>), KeyError> {
        let task = procedural::named(&self.task).map_err(|problem| KeyError::new("task", problem))?;
        let levels = match self.levels.is_empty() {
            true => Ok(task.usual.clone()),
            false => task.parse_levels(&self.levels),
        };
        Ok((task, levels.map_err(|problem| KeyError::new("levels", problem))?))
    }

    fn check_files(&self) -> Result<(), KeyError> {
        let for_tasks =
            [("levels", !self.levels.is_empty()), ("variant", !self.variant.is_empty()), ("fresh", self.fresh)];
        for (key, given) in for_tasks {
            if given {
                return Err(KeyError::new(key, "is for generated rows, and this table reads files"));
            }
        }
        KeyError::if_outside(&[("test_share", self.test_share, 0.0, 0.9)])?;
        if self.test_share > 0.0 && !self.test_files.is_empty() {
            return Err(KeyError::new("test_share", "cannot go with test_files: the test rows are in those files"));
        }
        for (key, text) in [("prompt", &self.prompt), ("answer", &self.answer)] {
            Template::parse(text).map_err(|problem| KeyError::new(key, problem))?;
        }
        Template::parse_name(&self.distribution).map_err(|problem| KeyError::new("distribution", problem))?;
        for (field, condition) in &self.r#where {
            condition.check().map_err(|problem| KeyError::new(format!("where.{field}"), problem))?;
        }
        match (self.quantiles, self.quantiles_of.is_empty()) {
            (0, true) => Ok(()),
            (0 | 1, false) => Err(KeyError::new("quantiles", "must be at least 2, because quantiles_of is given")),
            (_, true) => Err(KeyError::new("quantiles_of", "must name a number of the row, such as prompt_chars")),
            (_, false) => KeyError::if_above(&[("quantiles", self.quantiles as u64, 1000)]),
        }
    }

    /// How the name of a row's distribution is made. `None`: it is the row's `data_source`.
    ///
    /// # Errors
    /// As [`DataEntry::check`].
    pub fn distribution(&self) -> Result<Option<Template>, KeyError> {
        let parse = |text| Template::parse_name(text).map_err(|problem| KeyError::new("distribution", problem));
        (!self.distribution.is_empty()).then(|| parse(&self.distribution)).transpose()
    }

    /// How the objects of the files become rows.
    ///
    /// # Errors
    /// As [`DataEntry::check`].
    pub fn mapping(&self) -> Result<Mapping, KeyError> {
        let template = |key: &str, text: &str| {
            let parsed = (!text.is_empty()).then(|| Template::parse(text)).transpose();
            parsed.map_err(|problem| KeyError::new(key, problem))
        };
        // A name without fields is that of all rows, so they need no data_source.
        let distribution = self.distribution()?;
        let data_source = distribution.as_ref().and_then(Template::constant).map(String::from);
        Ok(Mapping {
            system: (!self.system.is_empty()).then(|| self.system.clone()),
            prompt: template("prompt", &self.prompt)?,
            answer: template("answer", &self.answer)?,
            data_source,
        })
    }
}

/// Checks every table.
///
/// # Errors
/// The first key whose value cannot work, such as `data.levels`, or `data[1].levels` where there are several tables.
pub fn check(entries: &[DataEntry]) -> Result<(), KeyError> {
    if entries.is_empty() {
        return Err(KeyError::new("data", "needs at least one [[data]] table"));
    }
    for (index, entry) in entries.iter().enumerate() {
        entry.check().map_err(|error| error.under(&key(entries, index)))?;
    }
    Ok(())
}

/// The key of a table in error messages: `data`, or `data[1]` where there are several.
pub fn key(entries: &[DataEntry], index: usize) -> String {
    if entries.len() == 1 { "data".into() } else { format!("data[{index}]") }
}

//! Graders of every kind behind one call: those that are built in, programs and servers of the user's, and weighted sums.
//!
//! - [`Scorers`] gives each row its [`RowScorer`] · `weighted`: sums
//! - `pool`: the completions that wait for a program, and the thread that serves them · `command`: one process · `process`: its pipes · `probe`: whether it starts
//! - `http`: a server · [`protocol`]: the JSON of both · `shim.py`: runs functions that were written for verl or TRL
//! - [`stats`]: what is counted
//!
//! Invariants:
//! - A reply belongs to the completion with its id. An id is never used twice, so no completion gets another one's reward.
//! - Every completion gets a reply or an error: by time-outs, and by a limit on how often it is sent again.
//! - A grader that is built in answers at once, without a thread and without waiting.

mod command;
mod http;
mod pool;
mod probe;
mod process;
pub mod protocol;
mod queue;
pub mod stats;
#[cfg(all(test, unix))]
mod tests;
mod weighted;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::grader::GraderConfig;
use crate::config::grader_spec::{ExternalSpec, GraderSpec};
use crate::error::KeyError;
use crate::task::graders::{self, GraderChoice, Graders};
use crate::task::{Grade, Grader, Row};
use pool::Pool;
use stats::GraderStats;
use weighted::{Running, Term};

/// Gives each row its grader. Equal specifications share their processes.
#[derive(Default)]
pub struct Scorers {
    graders: Graders,
    default: Option<GraderSpec>,
    always: Option<GraderSpec>,
    pools: Mutex<Vec<Arc<Pool>>>,
    stats: Arc<GraderStats>,
}

/// The grader of a row.
#[derive(Clone)]
pub enum RowScorer {
    Rule(Grader),
    External(Arc<Pool>),
    Weighted(Arc<[Term]>),
}

/// A completion that could not be graded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GradingError {
    /// The grader, in a few words.
    pub grader: String,
    pub problem: String,
}

impl fmt::Display for GradingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the grader {}: {}", self.grader, self.problem)
    }
}

impl std::error::Error for GradingError {}

impl Scorers {
    /// The graders of a configuration.
    ///
    /// # Errors
    /// The key of a grader that cannot work: an unknown name, or a program that is not there. Nothing is started.
    pub fn new(config: &GraderConfig) -> Result<Self, KeyError> {
        let table = |spec: &GraderSpec| (!matches!(spec, GraderSpec::Name(_))).then(|| spec.clone());
        let (graders, default, always) = (config.graders()?, table(&config.default), table(&config.always));
        let scorers = Self { graders, default, always, ..Self::default() };
        for (key, spec) in [("default", &scorers.default), ("always", &scorers.always)] {
            let found = spec.as_ref().map_or(Ok(()), |spec| scorers.check(spec));
            found.map_err(|problem| KeyError::new(key, problem))?;
        }
        Ok(scorers)
    }

    /// The grader of `row`: `spec` if one is given, or else what the configuration and the row say.
    ///
    /// # Errors
    /// A grader that is unknown or cannot be found, or a ground truth that it cannot read.
    pub fn for_row(&self, row: &Row, spec: Option<&GraderSpec>) -> Result<RowScorer, String> {
        let given = spec.filter(|spec| !spec.is_none()).or(self.always.as_ref());
        match (given, &self.default) {
            (Some(spec), _) => self.of_spec(row, spec),
            (None, Some(spec)) if !graders::is_known(row)? => self.of_spec(row, spec),
            (None, _) => self.graders.for_row(row).map(RowScorer::Rule),
        }
    }

    /// Whether the programs of `spec` can be found.
    ///
    /// # Errors
    /// The one that cannot.
    pub fn check(&self, spec: &GraderSpec) -> Result<(), String> {
        match spec {
            GraderSpec::Name(_) => Ok(()),
            GraderSpec::External(spec) => self.pool(spec).map(drop),
            GraderSpec::Parts(parts) => parts.iter().try_for_each(|part| self.check(&part.grader)),
        }
    }

    /// Loads the Python functions of all graders that were found so far, each once.
    ///
    /// # Errors
    /// The first that cannot be loaded.
    pub fn load_functions(&self) -> Result<(), String> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().try_for_each(|pool| process::load(&pool.spec))
    }

    /// What was counted since the start.
    pub fn stats(&self) -> &GraderStats {
        &self.stats
    }

    fn of_spec(&self, row: &Row, spec: &GraderSpec) -> Result<RowScorer, String> {
        match spec {
            GraderSpec::Name(name) => self.rule(row, name).map(RowScorer::Rule),
            GraderSpec::External(spec) => self.pool(spec).map(RowScorer::External),
            GraderSpec::Parts(parts) => {
                let terms: Result<Vec<_>, String> = parts.iter().map(|part| Term::new(self, row, part)).collect();
                Ok(RowScorer::Weighted(terms?.into()))
            }
        }
    }

    /// The grader with this name; without a name, the row's own.
    fn rule(&self, row: &Row, name: &str) -> Result<Grader, String> {
        let choice = if name.is_empty() { GraderChoice::Row } else { GraderChoice::Always(graders::named(name)?) };
        Graders { choice, ..self.graders }.for_row(row)
    }

    fn pool(&self, spec: &ExternalSpec) -> Result<Arc<Pool>, String> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.iter().find(|pool| pool.spec == *spec) {
            return Ok(pool.clone());
        }
        let pool = Arc::new(Pool::new(spec.clone(), self.stats.clone())?);
        pools.push(pool.clone());
        Ok(pool)
    }
}

impl RowScorer {
    /// Whether the grader is built in, and so answers at once.
    pub fn is_rule(&self) -> bool {
        matches!(self, Self::Rule(_))
    }

    /// The grader, in a few words.
    pub fn label(&self) -> String {
        match self {
            Self::Rule(grader) => grader.name().to_string(),
            Self::External(pool) => pool.label().to_string(),
            Self::Weighted(terms) => terms.iter().map(|term| &*term.name).collect::<Vec<_>>().join(" + "),
        }
    }

    /// Grades completions of `row`, the row that this grader was made for. The grades are in the order of the completions.
    ///
    /// Cancelling is safe: what was not graded yet is not graded.
    ///
    /// # Errors
    /// The first completion that a program or a server could not grade.
    pub async fn grade(&self, row: &Row, completions: &[String]) -> Result<Vec<Grade>, GradingError> {
        self.start(row, completions).await
    }

    /// As [`RowScorer::grade`], but the work begins at once, and not when the future is awaited.
    pub fn start(
        &self,
        row: &Row,
        completions: &[String],
    ) -> impl Future<Output = Result<Vec<Grade>, GradingError>> + Send + use<> {
        let started = match self {
            Self::Rule(grader) => Started::One(Running::rule(grader, completions)),
            Self::External(pool) => Started::One(Running::external(pool, row, completions)),
            Self::Weighted(terms) => {
                let running = terms.iter().map(|term| term.start(row, completions)).collect();
                Started::Sum(terms.clone(), running, completions.len())
            }
        };
        async {
            match started {
                Started::One(running) => running.grades().await,
                Started::Sum(terms, running, count) => weighted::sum(&terms, running, count).await,
            }
        }
    }
}

enum Started {
    One(Running),
    Sum(Arc<[Term]>, Vec<Running>, usize),
}

//! The graders, and which of them grades a row.
//!
//! A grader reads a row's ground truth once and then judges any number of completions. Each is a file, and a line of
//! [`REGISTRY`]. Every grader is pure, takes time in proportion to the length of the text, and accepts any text.
//!
//! - [`answer`]: where a completion's answer stands, and the rule for its format.
//! - [`choice`], [`number`], [`gsm8k`], [`arc`], [`exact`], [`mod@regex`], [`json_schema`], [`math`]: a grader each.
//! - [`countdown`], [`satisfiability`], [`shortest_path`]: graders of tasks with many right answers.
//! - [`tolerant`]: the grader of reasoning-gym's rows.
//! - `kk::grade` is the grader of Knights and Knaves.
//! - [`expression`]: evaluates arithmetic exactly.
//! - [`numeral`]: reads numbers as people write them.

pub mod answer;
pub mod arc;
pub mod choice;
pub mod countdown;
pub mod exact;
pub mod expression;
pub mod gsm8k;
pub mod json_schema;
pub mod math;
pub mod number;
pub mod numeral;
pub mod regex;
pub mod satisfiability;
pub mod shortest_path;
pub mod tolerant;

use std::fmt;
use std::sync::Arc;

use super::grade::{Grade, Judgement, Scores, Verdict};
use super::kk;
use super::row::Row;
use answer::Mode;

/// Compares completions with the ground truth of one row.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Says whether the answer of `completion` is right.
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict;

    /// Says whether format and answer of `completion` are right.
    fn judge(&self, completion: &str, mode: Mode) -> Judgement {
        Judgement { right_format: answer::formatted(completion).is_some(), verdict: self.verdict(completion, mode) }
    }

    /// # Errors
    /// If no answer can be right.
    fn check(&self, _mode: Mode) -> Result<(), String> {
        Ok(())
    }
}

/// A grader that a row can name.
#[derive(Debug)]
pub struct Registered {
    pub name: &'static str,
    /// Rows whose `data_source` begins with one of these have this grader unless they name another one.
    pub sources: &'static [&'static str],
    /// Reads a ground truth. The error says what would be right.
    read: fn(&str) -> Result<Arc<dyn Judge>, String>,
}

/// Every grader. Of several prefixes that fit a row, the longest one counts.
pub static REGISTRY: &[Registered] = &[
    Registered { name: "kk", sources: &["kk"], read: |truth| judge(kk::grade::Expected::from_ground_truth(truth)) },
    Registered {
        name: "math",
        sources: &["math", "aime"],
        read: |truth| judge(math::Expected::from_ground_truth(truth)),
    },
    Registered { name: "choice", sources: choice::SOURCES, read: |truth| judge(choice::Expected::new(truth)) },
    Registered {
        name: "number",
        sources: &["number", "probabilistic"],
        read: |truth| judge(number::Expected::new(truth)),
    },
    Registered { name: "gsm8k", sources: &["gsm8k"], read: |truth| judge(gsm8k::Expected::new(truth)) },
    Registered { name: "arc", sources: &["arc"], read: |truth| judge(arc::Expected::new(truth)) },
    Registered { name: "exact", sources: &["exact"], read: |truth| judge(exact::Expected::new(truth)) },
    Registered { name: "regex", sources: &["regex"], read: |truth| judge(regex::Expected::new(truth)) },
    Registered {
        name: "json_schema",
        sources: &["json_schema"],
        read: |truth| judge(json_schema::Expected::new(truth)),
    },
    Registered { name: "countdown", sources: &["countdown"], read: |truth| judge(countdown::Expected::new(truth)) },
    Registered {
        name: "satisfiability",
        sources: &["satisfiability"],
        read: |truth| judge(satisfiability::Expected::new(truth)),
    },
    Registered {
        name: "shortest_path",
        sources: &["shortest_path"],
        read: |truth| judge(shortest_path::Expected::new(truth)),
    },
    Registered {
        name: "tolerant",
        sources: &["tolerant", "reasoning_gym"],
        read: |truth| judge(tolerant::Expected::new(truth)),
    },
];

fn judge<T: Judge + 'static>(expected: Result<T, String>) -> Result<Arc<dyn Judge>, String> {
    expected.map(|it| Arc::new(it) as Arc<dyn Judge>)
}

/// The grader with this name.
///
/// # Errors
/// An unknown name; the error lists the known ones.
pub fn named(name: &str) -> Result<&'static Registered, String> {
    let found = REGISTRY.iter().find(|it| it.name == name);
    found.ok_or_else(|| format!("no grader is called {name:?}; known are: {}", known_names()))
}

/// The names of all graders, separated by commas.
fn known_names() -> String {
    REGISTRY.iter().map(|it| it.name).collect::<Vec<_>>().join(", ")
}

/// The grader whose prefix `source` has, ignoring case. If none fits, the part after the first `/` is tried, because
/// names on the hub begin with an owner (`openai/gsm8k`).
fn of_source(source: &str) -> Option<&'static Registered> {
    let has = |prefix: &str| source.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let fitting = |it: &'static Registered| {
        it.sources.iter().filter(|prefix| has(prefix)).map(|prefix| prefix.len()).max().map(|length| (length, it))
    };
    let longest = REGISTRY.iter().filter_map(fitting).max_by_key(|(length, _)| *length);
    longest.map(|(_, it)| it).or_else(|| of_source(source.split_once('/')?.1))
}

/// How the rows of a run are graded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Graders {
    /// Which grader a row has.
    pub choice: GraderChoice,
    pub mode: Mode,
    pub scores: Scores,
}

/// Which grader a row has.
#[derive(Clone, Copy, Debug, Default)]
pub enum GraderChoice {
    /// The one that the row names, or else the one whose prefix its `data_source` has.
    #[default]
    Row,
    /// The same, or else this one.
    RowOr(&'static Registered),
    /// This one, whatever the row says.
    Always(&'static Registered),
}

impl Graders {
    /// The grader of `row`.
    ///
    /// # Errors
    /// An unknown grader, a row that no grader is known for, or a ground truth that the grader cannot read. The text is
    /// for the user who gave the row.
    pub fn for_row(&self, row: &Row) -> Result<Grader, String> {
        let chosen = match self.choice {
            GraderChoice::Always(grader) => grader,
            GraderChoice::RowOr(default) => of_row(row)?.unwrap_or(default),
            GraderChoice::Row => of_row(row)?.ok_or_else(|| unknown_source(&row.data_source))?,
        };
        let read = || {
            let judge = (chosen.read)(&row.reward_model.ground_truth)?;
            judge.check(self.mode).map(|()| judge)
        };
        let judge = read().map_err(|problem| match chosen.name {
            "kk" => problem,
            name => format!("the grader {name:?} cannot use this row: {problem}"),
        })?;
        Ok(Grader::new(chosen.name, judge, self))
    }
}

/// Whether `row` names a grader, or its data source has the prefix of one.
///
/// # Errors
/// An unknown grader.
pub fn is_known(row: &Row) -> Result<bool, String> {
    of_row(row).map(|it| it.is_some())
}

/// The grader that `row` names, or else the one whose prefix its data source has.
fn of_row(row: &Row) -> Result<Option<&'static Registered>, String> {
    let given = match (&row.reward_model.grader, row.extra_info.get("grader")) {
        (Some(name), _) => Some(name.as_str()),
        (None, None | Some(serde_json::Value::Null)) => None,
        (None, Some(serde_json::Value::String(name))) => Some(name.as_str()),
        (None, Some(other)) => return Err(format!("extra_info.grader must be a string, got {other}")),
    };
    match given {
        Some(name) if !name.is_empty() => named(name).map(Some),
        _ => Ok(of_source(&row.data_source)),
    }
}

fn unknown_source(source: &str) -> String {
    format!(
        "no grader is known for data_source {source:?}; name one in the row (extra_info.grader), for its \
         [[data]] table (grader) or for the run (grader.default): {}",
        known_names()
    )
}

/// The grader of a row, with the answer that it expects.
#[derive(Clone, Debug)]
pub struct Grader {
    name: &'static str,
    judge: Arc<dyn Judge>,
    mode: Mode,
    scores: Scores,
}

impl Grader {
    /// A grader that compares by `judge`. Mode and scores are those of `graders`.
    pub fn new(name: &'static str, judge: Arc<dyn Judge>, graders: &Graders) -> Self {
        Self { name, judge, mode: graders.mode, scores: graders.scores }
    }

    /// The grader of `row` with the default settings.
    ///
    /// # Errors
    /// As [`Graders::for_row`].
    pub fn for_row(row: &Row) -> Result<Self, String> {
        Graders::default().for_row(row)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Scores the text of the assistant, without the prompt.
    pub fn grade(&self, completion: &str) -> Grade {
        self.scores.grade(self.judge.judge(completion, self.mode))
    }
}

#[cfg(test)]
mod tests;

//! The recorded file, line by line: JSON that is checked while it is read.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;

use crate::curriculum::{Gradients, Observation};
use crate::error::InputError;
use crate::task::rows::{Place, numbered_lines};

/// One line: the groups that were observed during a step.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedStep {
    pub step: u64,
    pub observations: Vec<RecordedGroup>,
    /// A sketch of the gradient of each source in the step, if the run's curriculum learnt from them.
    #[serde(default)]
    gradients: BTreeMap<String, Vec<f32>>,
}

impl RecordedStep {
    /// The sources that have observations or gradients.
    pub fn sources(&self) -> impl Iterator<Item = &String> {
        self.observations.iter().map(|group| &group.source).chain(self.gradients.keys())
    }

    pub fn has_no_gradients(&self) -> bool {
        self.gradients.is_empty()
    }

    /// The gradients as a curriculum sees them.
    pub fn gradients(&self, arms: &HashMap<String, usize>) -> Gradients {
        self.gradients.iter().map(|(source, gradient)| (arms[source], gradient.clone())).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedGroup {
    pub source: String,
    rewards: Vec<f64>,
    advantages: Vec<f64>,
    /// The prompt's row within its source.
    #[serde(default)]
    pub row: Option<usize>,
    /// Tokens of all its completions.
    #[serde(default)]
    tokens: u64,
    /// How the recorded run drew it.
    #[serde(default)]
    pub drawn: Option<RecordedDraw>,
}

/// What the recorded run knew when it drew a group.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedDraw {
    /// Policy steps that had been made.
    pub step: u64,
    /// Groups of this file that its curriculum had observed, from the first line on.
    pub seen: u64,
    /// Groups of each source that were drawn before and not observed yet.
    pub in_flight: BTreeMap<String, u64>,
    /// The probability that its curriculum gave the source.
    pub probability: f64,
}

impl RecordedGroup {
    /// The group as a curriculum sees it; `arms` has the index of each source.
    pub fn observation(self, arms: &HashMap<String, usize>) -> Observation {
        let Self { source, rewards, advantages, row, tokens, drawn } = self;
        let probability = drawn.map_or(0.0, |drawn| drawn.probability);
        Observation { arm: arms[&source], rewards, advantages, row, tokens, probability }
    }
}

/// Reads and checks every line of the file at `path`.
///
/// # Errors
/// A file that cannot be read; the first wrong line, as `file:line` or `file:line:column`.
pub fn read(path: &Path) -> Result<Vec<RecordedStep>, InputError> {
    let mut before = 0;
    let one = |line: Result<(Place, String), InputError>| {
        let (place, line) = line?;
        let step = parse(&line, before).map_err(|error| error.at(&place))?;
        before += step.observations.len() as u64;
        Ok(step)
    };
    numbered_lines(path)?.map(one).collect()
}

/// What is wrong with a line, and in which column, if known.
struct LineError {
    column: Option<usize>,
    problem: String,
}

impl LineError {
    fn at(self, line: &Place) -> InputError {
        let column = self.column.map(|column| format!(":{column}")).unwrap_or_default();
        InputError::new(format_args!("{line}{column}"), self.problem)
    }
}

/// For a line that is not JSON of the expected form.
impl From<serde_json::Error> for LineError {
    /// The message without serde_json's " at line 1 column 7": it takes every line of the file for line 1.
    fn from(error: serde_json::Error) -> Self {
        let message = error.to_string();
        let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem);
        Self { column: Some(error.column()), problem: problem.to_string() }
    }
}

/// Reads a line that comes after `before` groups.
fn parse(line: &str, before: u64) -> Result<RecordedStep, LineError> {
    let step: RecordedStep = serde_json::from_str(line)?;
    for (group, before) in step.observations.iter().zip(before..) {
        check(group, before)
            .map_err(|problem| LineError { column: None, problem: format!("{:?} {problem}", group.source) })?;
    }
    Ok(step)
}

fn check(group: &RecordedGroup, before: u64) -> Result<(), String> {
    let (rewards, advantages) = (group.rewards.len(), group.advantages.len());
    if rewards != advantages {
        return Err(format!("has {rewards} rewards but {advantages} advantages"));
    }
    let Some(RecordedDraw { seen, probability, .. }) = group.drawn else { return Ok(()) };
    if seen > before {
        return Err(format!(
            "was drawn after {seen} groups were observed, but the file has {before} before it; give the whole file"
        ));
    }
    match probability > 0.0 && probability <= 1.0 {
        true => Ok(()),
        false => Err(format!("was drawn with a probability of {probability}; must be above 0 and at most 1")),
    }
}

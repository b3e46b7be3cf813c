//! Weighted sums of graders.
//!
//! A grader that is built in contributes its score for the answer, and the part `format` the score for the format. Whether a
//! completion is right is decided by the first part that is not `format`.

use std::sync::Arc;

use super::pool::{Pool, Submitted};
use super::{GradingError, Scorers};
use crate::config::grader_spec::{FORMAT, GraderSpec, PartSpec};
use crate::panics;
use crate::task::grade::{Judgement, Scores, Verdict};
use crate::task::graders::answer;
use crate::task::{Grade, Grader, Part, Row};

/// One term of a sum.
pub struct Term {
    pub(super) name: Arc<str>,
    weight: f32,
    source: Source,
}

enum Source {
    Format(Scores),
    Rule(Grader),
    External(Arc<Pool>),
}

impl Term {
    pub(super) fn new(scorers: &Scorers, row: &Row, part: &PartSpec) -> Result<Self, String> {
        let source = match &part.grader {
            GraderSpec::Name(name) if name == FORMAT => Source::Format(scorers.graders.scores),
            GraderSpec::Name(name) => Source::Rule(scorers.rule(row, name)?),
            GraderSpec::External(spec) => Source::External(scorers.pool(spec)?),
            GraderSpec::Parts(_) => return Err("a part cannot have parts".into()),
        };
        Ok(Self { name: part.name.as_str().into(), weight: part.weight, source })
    }

    /// Begins to grade.
    pub(super) fn start(&self, row: &Row, completions: &[String]) -> Running {
        match &self.source {
            Source::External(pool) => Running::external(pool, row, completions),
            Source::Rule(grader) => Running::rule(grader, completions),
            Source::Format(scores) => {
                Running::Done(Ok(completions.iter().map(|text| format_grade(scores, text)).collect()))
            }
        }
    }
}

/// Grades that are there, or that are awaited.
pub(super) enum Running {
    Done(Result<Vec<Grade>, GradingError>),
    External(Arc<Pool>, Submitted),
}

impl Running {
    pub(super) fn rule(grader: &Grader, completions: &[String]) -> Self {
        let grade = |(index, text): (usize, &String)| {
            panics::caught(|| grader.grade(text)).map_err(|message| GradingError {
                grader: grader.name().into(),
                problem: format!("panicked at completion {index}: {message}; this is a bug"),
            })
        };
        Self::Done(completions.iter().enumerate().map(grade).collect())
    }

    pub(super) fn external(pool: &Arc<Pool>, row: &Row, completions: &[String]) -> Self {
        Self::External(pool.clone(), pool.submit(row, completions))
    }

    pub(super) async fn grades(self) -> Result<Vec<Grade>, GradingError> {
        match self {
            Self::Done(grades) => grades,
            Self::External(pool, submitted) => pool.collect(submitted).await,
        }
    }
}

fn format_grade(scores: &Scores, text: &str) -> Grade {
    let right_format = answer::formatted(text).is_some();
    let grade = scores.grade(Judgement { right_format, verdict: Verdict::Missing });
    Grade { answer_score: 0.0, right: right_format, ..grade }
}

/// The sums of all terms for `count` completions.
pub(super) async fn sum(terms: &[Term], running: Vec<Running>, count: usize) -> Result<Vec<Grade>, GradingError> {
    let zero = Grade { format_score: 0.0, answer_score: 0.0, right: false, parts: Vec::new() };
    let mut sums = vec![zero; count];
    let main = terms.iter().position(|term| !matches!(term.source, Source::Format(_))).unwrap_or(0);
    for (index, (term, running)) in terms.iter().zip(running).enumerate() {
        sums.iter_mut().zip(running.grades().await?).for_each(|(sum, grade)| add(sum, term, grade, index == main));
    }
    Ok(sums)
}

fn add(sum: &mut Grade, term: &Term, grade: Grade, is_main: bool) {
    let (total, score) = match term.source {
        Source::Format(_) => (&mut sum.format_score, grade.format_score),
        Source::Rule(_) | Source::External(_) => (&mut sum.answer_score, grade.answer_score),
    };
    *total += term.weight * score;
    sum.right |= is_main && grade.right;
    sum.parts.push(Part { name: term.name.clone(), score });
    let inner =
        grade.parts.into_iter().map(|part| Part { name: format!("{}.{}", term.name, part.name).into(), ..part });
    sum.parts.extend(inner);
}

//! The `[grader]` table: how completions are graded.

use serde::{Deserialize, Serialize};

use super::grader_spec::GraderSpec;
use crate::error::KeyError;
use crate::task::grade::Scores;
use crate::task::graders::answer::Mode;
use crate::task::graders::{self, GraderChoice, Graders};

/// What becomes of a tag that the chat template opens at the end of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefill {
    #[default]
    Graded,
    Ignored,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraderConfig {
    /// The grader of rows that name none and whose `data_source` is not known. Empty: such rows are refused.
    pub default: GraderSpec,
    /// The grader of every row, whatever the row says. Empty: the row's own.
    pub always: GraderSpec,
    /// Whether completions are graded by the rules of the graders that were published with DUMP.
    pub published: bool,
    /// Whether what a chat template begins of an answer, such as `<think>`, belongs to the text that is graded.
    pub prefill: Prefill,
    /// For a right, a wrong and a missing answer.
    pub right: f32,
    pub wrong: f32,
    pub missing: f32,
    /// For the right and the wrong format.
    pub format_right: f32,
    pub format_wrong: f32,
}

impl Default for GraderConfig {
    fn default() -> Self {
        let Scores { right, wrong, missing, format_right, format_wrong } = Scores::default();
        let (default, always) = (GraderSpec::default(), GraderSpec::default());
        Self {
            default,
            always,
            published: false,
            prefill: Prefill::default(),
            right,
            wrong,
            missing,
            format_right,
            format_wrong,
        }
    }
}

impl GraderConfig {
    /// # Errors
    /// A key whose value cannot work. Only a right answer has a positive score: that is how a run counts right answers.
    pub fn check(&self) -> Result<(), KeyError> {
        self.default.check().map_err(|e| under(e, "default"))?;
        self.always.check().map_err(|e| under(e, "always"))?;
        if self.right <= 0.0 {
            return Err(KeyError::new("right", format!("must be above 0, got {}", self.right)));
        }
        KeyError::if_outside(&[
            ("right", self.right.into(), 0.0, 1e6),
            ("wrong", self.wrong.into(), -1e6, 0.0),
            ("missing", self.missing.into(), -1e6, 0.0),
            ("format_right", self.format_right.into(), -1e6, 1e6),
            ("format_wrong", self.format_wrong.into(), -1e6, 1e6),
        ])
    }

    /// The graders that are built in, as rows name them. A default or an `always` that is no name is not among them.
    ///
    /// # Errors
    /// An unknown grader in `default` or `always`.
    pub fn graders(&self) -> Result<Graders, KeyError> {
        let &Self { right, wrong, missing, format_right, format_wrong, published, .. } = self;
        let mode = if published { Mode::Published } else { Mode::Lenient };
        let scores = Scores { right, wrong, missing, format_right, format_wrong };
        let named = |key: &str, spec: &GraderSpec| match spec {
            GraderSpec::Name(name) if !name.is_empty() => {
                graders::named(name).map(Some).map_err(|problem| KeyError::new(key, problem))
            }
            _ => Ok(None),
        };
        let choice = match (named("always", &self.always)?, named("default", &self.default)?) {
            (Some(grader), _) => GraderChoice::Always(grader),
            (None, Some(grader)) => GraderChoice::RowOr(grader),
            (None, None) => GraderChoice::Row,
        };
        Ok(Graders { choice, mode, scores })
    }
}

/// The error of a grader as a whole has no key of its own.
pub fn under(error: KeyError, key: &str) -> KeyError {
    if error.key.is_empty() { KeyError { key: key.into(), ..error } } else { error.under(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: GraderConfig, key: &str) {
        assert_eq!(config.check().unwrap_err().key, key, "{config:?}");
    }

    #[test]
    fn wrong_settings_are_named() {
        let config = GraderConfig::default;
        check(GraderConfig { default: "chioce".into(), ..config() }, "default");
        check(GraderConfig { always: "chioce".into(), ..config() }, "always");
        let table = |text: &str| GraderSpec::parse(text).unwrap();
        check(GraderConfig { default: table("{ http = \"a\" }"), ..config() }, "default.http");
        check(GraderConfig { right: 0.0, ..config() }, "right");
        check(GraderConfig { right: f32::NAN, ..config() }, "right");
        check(GraderConfig { wrong: 0.5, ..config() }, "wrong");
        check(GraderConfig { missing: f32::NEG_INFINITY, ..config() }, "missing");
        check(GraderConfig { format_wrong: f32::NAN, ..config() }, "format_wrong");
        let zeros = GraderConfig { wrong: 0.0, missing: 0.0, format_right: 0.0, format_wrong: 0.0, ..config() };
        assert_eq!(zeros.check(), Ok(()));
    }

    #[test]
    fn the_defaults_are_those_of_the_graders() {
        let graders = GraderConfig::default().graders().unwrap();
        assert_eq!((graders.scores, graders.mode), (Scores::default(), Mode::Lenient));
        let published = GraderConfig { published: true, default: "choice".into(), ..GraderConfig::default() };
        let graders = published.graders().unwrap();
        assert!(matches!(graders.choice, GraderChoice::RowOr(it) if it.name == "choice"));
        assert_eq!(graders.mode, Mode::Published);
    }
}

//! The one error that means "what you gave me is wrong": it ends the program with exit status 2.

use std::fmt;

/// Wrong input: where it stands (file, line, key), what is wrong, and what would be right.
///
/// Everything else that fails while running is an ordinary error and ends with exit status 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    /// File, `file:line` or config key.
    pub place: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl InputError {
    pub fn new(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self { place: place.to_string(), problem: problem.to_string() }
    }

    /// Of a key inside `[curriculum]`, and what is wrong with it.
    pub fn in_curriculum((key, problem): (String, String)) -> Self {
        Self::new(format_args!("curriculum.{key}"), problem)
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl std::error::Error for InputError {}

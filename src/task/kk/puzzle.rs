//! A puzzle, and the choices that its text depends on.

use super::statement::Statement;
use super::words::RoleWords;

/// A puzzle: the people, what each of them says, and who is a knight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Puzzle {
    /// The name of person i; all names differ.
    pub names: Vec<&'static str>,
    /// What person i says.
    pub statements: Vec<Statement>,
    /// Which of [`SAYINGS`](super::text::SAYINGS) reports what person i says.
    pub sayings: Vec<usize>,
    /// The order in which people are quoted.
    pub order: Vec<usize>,
    /// What the roles are called.
    pub words: RoleWords,
    /// The only consistent assignment: bit i is set if person i is a knight.
    pub solution: u32,
}

impl Puzzle {
    /// The number of people.
    pub fn people(&self) -> usize {
        self.names.len()
    }

    /// The name of each person, and whether they are a knight.
    pub fn roles(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.names.iter().enumerate().map(|(i, &name)| (name, self.solution >> i & 1 == 1))
    }
}

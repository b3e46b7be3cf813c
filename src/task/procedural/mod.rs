//! Procedural tasks: problems that a program makes, without end, together with what their answers are graded against.
//!
//! A task has levels, and each level is a distribution (`countdown_3`). Each task is a file, and an entry of
//! [`REGISTRY`].
//!
//! - [`problem`]: a problem and a right answer to it.
//! - [`stream`]: the rows of one level, for training or for testing.
//! - [`mod@rows`]: a fixed number of rows of several levels.
//! - [`arithmetic`], [`digits`], [`countdown`], [`letters`], [`satisfiability`], [`shortest_path`], [`sudoku`] and
//!   [`knights`] make problems.
//! - `chain`: expressions in words, for the tasks that need them.
//!
//! A problem belongs either to training or to testing, whatever the seed is. Everything here depends on the seed alone.

pub mod arithmetic;
mod chain;
pub mod countdown;
pub mod digits;
pub mod knights;
pub mod letters;
pub mod problem;
pub mod rows;
pub mod satisfiability;
pub mod shortest_path;
pub mod stream;
pub mod sudoku;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use rand_chacha::ChaCha8Rng;

use super::row::Row;
use super::{kk, levels};
use problem::Problem;

pub use rows::rows;
pub use stream::{Split, Stream};

/// A task whose problems are made by a program.
#[derive(Debug)]
pub struct Procedural {
    pub name: &'static str,
    /// What a problem asks, and what a level means; one line for people.
    pub about: &'static str,
    /// The levels that can be made.
    pub levels: RangeInclusive<usize>,
    /// The levels of a user who names none.
    pub usual: RangeInclusive<usize>,
    /// The name of a level's distribution is this, `_`, and the level.
    source: &'static str,
    /// The ability that the rows ask for; only people read it.
    ability: &'static str,
    /// The grader of every row.
    pub grader: &'static str,
    /// The system message. Without one, the question ends with the form that a completion must have.
    system: Option<&'static str>,
    /// Draws a problem of a level.
    make: fn(usize, &mut ChaCha8Rng) -> Problem,
    /// Makes finite splits in another way than [`Stream`] does.
    splits: Option<Splits>,
}

/// Makes training and test rows of every level, from levels, two counts of rows per level and a seed.
type Splits = fn(RangeInclusive<usize>, usize, usize, u64) -> Result<(Vec<Row>, Vec<Row>), String>;

/// Every procedural task.
pub static REGISTRY: &[Procedural] = &[
    Procedural {
        name: "kk",
        about: "Knights and Knaves; the level is the number of people",
        levels: kk::MIN_PEOPLE..=kk::MAX_PEOPLE,
        usual: 3..=14,
        source: "kk_logic",
        ability: "logic",
        grader: "kk",
        system: Some(kk::prompt::SYSTEM),
        make: knights::make,
        splits: Some(|people, train, test, seed| kk::splits(people, train, test, seed).map_err(|e| e.to_string())),
    },
    Procedural {
        name: "arithmetic",
        about: "the value of a chain of + - * with brackets; the level is the number of operations",
        levels: 1..=20,
        usual: 1..=6,
        ..in_words("arithmetic", "math", "number", arithmetic::make)
    },
    Procedural {
        name: "addition",
        about: "the sum of two numbers; the level is the number of digits of each (level 1 has 100 problems)",
        levels: 1..=15,
        usual: 2..=6,
        ..in_words("addition", "math", "number", digits::addition)
    },
    Procedural {
        name: "multiplication",
        about: "the product of two numbers; the level is the number of digits of each (level 1 has 100 problems)",
        levels: 1..=7,
        usual: 2..=4,
        ..in_words("multiplication", "math", "number", digits::multiplication)
    },
    Procedural {
        name: "countdown",
        about: "an expression of given numbers that reaches a target; the level is how many numbers are given",
        levels: 2..=8,
        usual: 2..=5,
        ..in_words("countdown", "math", "countdown", countdown::make)
    },
    Procedural {
        name: "letter_count",
        about: "how often a letter occurs in a word; the level is the number of letters",
        levels: 3..=50,
        usual: 4..=10,
        ..in_words("letter_count", "text", "number", letters::count)
    },
    Procedural {
        name: "letter_sort",
        about: "the letters of a word in alphabetical order; the level is the number of letters",
        levels: 3..=50,
        usual: 3..=8,
        ..in_words("letter_sort", "text", "exact", letters::sort)
    },
    Procedural {
        name: "satisfiability",
        about: "truth values that make a formula true; the level is the number of variables",
        levels: 3..=20,
        usual: 3..=8,
        ..in_words("satisfiability", "logic", "satisfiability", satisfiability::make)
    },
    Procedural {
        name: "shortest_path",
        about: "a shortest path in a graph with lengths; the level is the number of places",
        levels: 4..=20,
        usual: 4..=10,
        ..in_words("shortest_path", "logic", "shortest_path", shortest_path::make)
    },
    Procedural {
        name: "sudoku",
        about: "the only solution of a grid; levels 1-3 are 4x4, 4-6 are 6x6, 7-9 are 9x9, each with more blanks than the one before",
        levels: 1..=9,
        usual: 1..=6,
        ..in_words("sudoku", "logic", "arc", sudoku::make)
    },
];

/// A task without a system message whose rows are those of its streams.
const fn in_words(
    name: &'static str,
    ability: &'static str,
    grader: &'static str,
    make: fn(usize, &mut ChaCha8Rng) -> Problem,
) -> Procedural {
    Procedural {
        name,
        about: "",
        levels: 1..=1,
        usual: 1..=1,
        source: name,
        ability,
        grader,
        system: None,
        make,
        splits: None,
    }
}

/// The task with this name.
///
/// # Errors
/// An unknown name; the error names the nearest task, and lists all.
pub fn named(name: &str) -> Result<&'static Procedural, String> {
    let likeness = |task: &&Procedural| (strsim::normalized_damerau_levenshtein(task.name, name) * 1e6) as u32;
    let nearest = REGISTRY.iter().max_by_key(likeness).filter(|it| likeness(it) > 500_000);
    REGISTRY.iter().find(|it| it.name == name).ok_or_else(|| {
        let known = REGISTRY.iter().map(|it| it.name).collect::<Vec<_>>().join(", ");
        let hint = nearest.map(|it| format!("did you mean {:?}? ", it.name)).unwrap_or_default();
        format!("no procedural task is called {name:?}; {hint}known are: {known}")
    })
}

impl Procedural {
    /// Reads levels: `3-7`, or `5` for one.
    ///
    /// # Errors
    /// Text of another form, and levels that the task does not have.
    pub fn parse_levels(&self, text: &str) -> Result<RangeInclusive<usize>, String> {
        let levels = levels::parse(text).ok_or_else(|| {
            let (usual, allowed) = (levels::shown(&self.usual), levels::shown(&self.levels));
            format!("expected a level or a range such as {usual}, within {allowed} for {:?}, got {text:?}", self.name)
        })?;
        self.check_levels(levels)
    }

    /// The name of the distribution of `level`.
    pub fn source_name(&self, level: usize) -> String {
        format!("{}_{level}", self.source)
    }

    fn check_levels(&self, levels: RangeInclusive<usize>) -> Result<RangeInclusive<usize>, String> {
        match levels::are_within(&levels, &self.levels) {
            true => Ok(levels),
            false => {
                let (allowed, given) = (levels::shown(&self.levels), levels::shown(&levels));
                Err(format!("the levels of {:?} are {allowed}, got {given}", self.name))
            }
        }
    }
}

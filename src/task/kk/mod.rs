//! Knights and Knaves: people who always tell the truth or always lie. Exactly one assignment fits what they say.
//!
//! - [`statement`]: what a person can say, its truth and its English.
//! - [`solve`]: counts the consistent assignments, 64 at a time.
//! - [`generate`]: a stream of distinct [`puzzle`]s with exactly one solution each.
//! - [`people`]: how many people there can be, and the name of the data source.
//! - [`mod@splits`]: rows to train on and rows to test on.
//! - [`variants`]: the same puzzles changed, or told in other words; [`words`]: what the roles are called.
//! - [`text`] and [`prompt`]: a puzzle as a quiz, and as a row to train on.
//! - [`grade`]: the reward of a completion.
//! - [`demo`]: worked completions, careful and hasty, for supervised training.
//!
//! Every assignment is a `u32`: bit i is set if person i is a knight.

pub mod demo;
pub mod generate;
pub mod grade;
pub mod people;
pub mod prompt;
pub mod puzzle;
pub mod solve;
pub mod splits;
pub mod statement;
pub mod text;
pub mod variants;
pub mod words;

pub use people::{MAX_PEOPLE, MIN_PEOPLE, parse_people, source_name};
pub use splits::{Error, splits, splits_of};
pub use variants::Variant;

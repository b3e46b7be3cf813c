//! Tasks: the rows to train on, and the graders that score their completions.
//!
//! - [`row`]: a row · [`grade`]: the reward of a completion · [`graders`]: the graders, and which of them scores a row.
//! - [`rows`] reads files of every accepted format and schema into [`Row`]s.
//! - [`kk`] is Knights and Knaves: a generator of puzzles, their prompt and their grader.
//! - [`procedural`] makes problems of other kinds, at levels.
//! - [`levels`]: ranges of levels as people write them.
//! - [`math`] compares mathematical answers.
//! - [`mixture`]: from rows to the distributions of a run.
//!
//! Pure and synchronous: no async runtime, no tensors. The grader of every loaded row understands its ground truth.

pub mod grade;
pub mod graders;
pub mod kk;
pub mod levels;
pub mod math;
pub mod mixture;
pub mod procedural;
pub mod row;
pub mod rows;

pub use grade::{Grade, Part};
pub use graders::{Grader, Graders};
pub use row::{Message, RewardModel, Row};

//! Knights and Knaves as a procedural task. The level is the number of people.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::problem::{Problem, identity_of};
use crate::task::kk::generate::Generator;
use crate::task::kk::{prompt, text};

/// Draws a puzzle with `level` people. Puzzles with the same statements are the same, whatever the names are.
pub fn make(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    let puzzle = Generator::new(level, rng.random()).next().expect("this is a bug: a new generator has puzzles");
    Problem {
        question: text::quiz(&puzzle),
        truth: prompt::ground_truth(&puzzle),
        solution: text::solution_text_format(&puzzle).replace('\n', " "),
        identity: identity_of(&text::statements(&puzzle)),
    }
}

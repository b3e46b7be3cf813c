//! Sums and products of two numbers with the same number of digits, which is the level.
//!
//! One-digit numbers are 0 to 9; others do not begin with 0. Answers stay below 2^53, so that the grader's numbers are
//! exact.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::problem::Problem;

/// Draws a sum of two numbers with `level` digits.
pub fn addition(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    let (a, b) = (number(level, rng), number(level, rng));
    ask(a, '+', b, a + b)
}

/// Draws a product of two numbers with `level` digits.
pub fn multiplication(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    let (a, b) = (number(level, rng), number(level, rng));
    ask(a, '*', b, a * b)
}

fn ask(a: u64, sign: char, b: u64, value: u64) -> Problem {
    Problem::new(format!("What is {a} {sign} {b}?"), value.to_string(), value.to_string())
}

fn number(digits: usize, rng: &mut ChaCha8Rng) -> u64 {
    let above = 10_u64.pow(digits as u32);
    let least = if digits == 1 { 0 } else { above / 10 };
    rng.random_range(least..above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::procedural::named;

    #[test]
    fn a_problem_reads_as_a_question() {
        let problem = ask(12, '+', 30, 42);
        assert_eq!((problem.question.as_str(), problem.truth.as_str()), ("What is 12 + 30?", "42"));
    }

    #[test]
    fn the_largest_answers_are_exact_in_an_f64() {
        let largest = |name: &str| 10_u64.pow(*named(name).unwrap().levels.end() as u32) - 1;
        let limit = 1_u64 << 53;
        assert!(2 * largest("addition") < limit && largest("multiplication").pow(2) < limit);
    }
}

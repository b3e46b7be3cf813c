//! Arithmetic: the value of a chain of `+`, `-` and `*` with brackets. The level is the number of operations.
//!
//! Numbers are 1 to 30, and no product is beyond ±1,000. The answer comes from the text, which is parsed again.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::chain::{Operation, Term};
use super::problem::Problem;
use crate::task::graders::expression;

const LARGEST_NUMBER: i64 = 30;
const LARGEST_PRODUCT: i64 = 1_000;

/// Draws a chain with `level` operations.
pub fn make(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    let text = chain(level, rng).text;
    let value = expression::evaluate(&text).expect("this is a bug: a chain is an expression").value;
    Problem::new(format!("What is {text}?"), value.to_string(), value.to_string())
}

fn chain(operations: usize, rng: &mut ChaCha8Rng) -> Term {
    let Some(others) = operations.checked_sub(1) else { return Term::number(rng.random_range(1..=LARGEST_NUMBER)) };
    let left = rng.random_range(0..=others as u32) as usize;
    let (left, right) = (chain(left, rng), chain(others - left, rng));
    let kinds = if (left.value * right.value).abs() > LARGEST_PRODUCT { 2 } else { 3 };
    let operation =
        [Operation::Add, Operation::Subtract, Operation::Multiply][rng.random_range(0..kinds as u32) as usize];
    left.join(operation, &right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_text_means_what_was_drawn() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for operations in (0..=20).cycle().take(2_000) {
            let term = chain(operations, &mut rng);
            let read = expression::evaluate(&term.text).unwrap();
            assert_eq!(read.value, i128::from(term.value).into(), "{}", term.text);
            assert_eq!(read.numbers.len(), operations + 1, "{}", term.text);
        }
    }
}

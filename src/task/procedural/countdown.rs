//! Countdown: an expression of given numbers that has a given value. The level is how many numbers there are.
//!
//! The numbers are 1 to 50, and the target is 10 to 100 (from level 5 on, 10 to 999). It comes from an expression that
//! uses all of them, and no number alone reaches it, nor do any two of three or more.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::chain::{Operation, Term};
use super::problem::Problem;

const LARGEST_NUMBER: i64 = 50;
const LEAST_TARGET: i64 = 10;
/// No step of the solution is beyond this.
const LARGEST_STEP: i64 = 2_000;

/// Draws `level` numbers, and a target that they reach.
pub fn make(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    let largest = if level < 5 { 100 } else { 999 };
    loop {
        let mut numbers: Vec<i64> = (0..level).map(|_| rng.random_range(1..=LARGEST_NUMBER)).collect();
        let term = combine(numbers.iter().copied().map(Term::number).collect(), rng);
        if (LEAST_TARGET..=largest).contains(&term.value) && !is_easy(&numbers, term.value) {
            numbers.sort_unstable();
            return problem(&numbers, &term);
        }
    }
}

fn problem(numbers: &[i64], term: &Term) -> Problem {
    let target = term.value;
    let listed = numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let question = format!(
        "Reach {target} with the numbers {listed}. Use each number at most once, with + - * / and brackets. Answer with the \
         expression."
    );
    Problem::new(question, json!({"numbers": numbers, "target": target}).to_string(), &*term.text)
}

/// Joins two of the terms at a time, until one is left. Every value is a whole number, and none is below 0.
fn combine(mut terms: Vec<Term>, rng: &mut ChaCha8Rng) -> Term {
    while terms.len() > 1 {
        let mut pair = [0, 1].map(|_| terms.swap_remove(rng.random_range(0..terms.len() as u32) as usize));
        pair.sort_by_key(|term| std::cmp::Reverse(term.value));
        let [larger, smaller] = pair;
        let fitting = fitting(larger.value, smaller.value);
        let operation = fitting[rng.random_range(0..fitting.len() as u32) as usize];
        terms.push(larger.join(operation, &smaller));
    }
    terms.swap_remove(0)
}

/// The operations that lead from two values, the larger one first, to a new one.
fn fitting(larger: i64, smaller: i64) -> Vec<Operation> {
    let changes = smaller > 1;
    let all = [
        (Operation::Add, true),
        (Operation::Subtract, true),
        (Operation::Multiply, changes && larger * smaller <= LARGEST_STEP),
        (Operation::Divide, changes && larger % smaller == 0),
    ];
    all.into_iter().filter(|(_, fits)| *fits).map(|(operation, _)| operation).collect()
}

/// Whether one number reaches the target, or two of more than two.
fn is_easy(numbers: &[i64], target: i64) -> bool {
    let reaches = |a: i64, b: i64| a + b == target || a - b == target || a * b == target || target * b == a;
    let pairs = || numbers.iter().enumerate().flat_map(|(i, a)| numbers[i + 1..].iter().map(move |b| (*a, *b)));
    numbers.contains(&target) || numbers.len() > 2 && pairs().any(|(a, b)| reaches(a, b) || reaches(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_rational::Ratio;
    use rand::SeedableRng;

    /// Whether some of the numbers reach the target, by trying everything.
    fn search(numbers: &[Ratio<i64>], target: Ratio<i64>) -> bool {
        if numbers.contains(&target) {
            return true;
        }
        (0..numbers.len()).flat_map(|i| (0..numbers.len()).map(move |j| (i, j))).filter(|(i, j)| i != j).any(
            |(i, j)| {
                let (a, b) = (numbers[i], numbers[j]);
                let rest = || numbers.iter().enumerate().filter(|(at, _)| *at != i && *at != j).map(|(_, it)| *it);
                let results = [Some(a + b), Some(a - b), Some(a * b), (*b.numer() != 0).then(|| a / b)];
                results.into_iter().flatten().any(|it| search(&rest().chain([it]).collect::<Vec<_>>(), target))
            },
        )
    }

    #[test]
    fn a_search_reaches_every_target_and_no_number_or_pair_does() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for level in (2..=4).cycle().take(150) {
            let problem = make(level, &mut rng);
            let truth: serde_json::Value = serde_json::from_str(&problem.truth).unwrap();
            let numbers: Vec<Ratio<i64>> =
                truth["numbers"].as_array().unwrap().iter().map(|it| it.as_i64().unwrap().into()).collect();
            let target = truth["target"].as_i64().unwrap().into();
            assert!(search(&numbers, target), "{}", problem.question);
            for pair in (0..level).flat_map(|i| (0..i).map(move |j| [i, j])).filter(|_| level > 2) {
                assert!(!search(&pair.map(|at| numbers[at]), target), "{}", problem.question);
            }
        }
    }

    #[test]
    fn easy_targets_are_known() {
        assert!(is_easy(&[3, 8], 8) && !is_easy(&[3, 8], 24));
        assert!(
            is_easy(&[3, 8, 1], 24) && is_easy(&[3, 24, 1], 8) && is_easy(&[10, 30, 1], 20) && is_easy(&[7, 9, 1], 16)
        );
        assert!(!is_easy(&[3, 5, 8], 64));
    }
}

//! Satisfiability: truth values that make a formula in conjunctive normal form true. The level is the number of
//! variables.
//!
//! There are two clauses per variable, each of two or three variables. Some assignment fits, by construction, but
//! neither "all true" nor "all false" does, so that no fixed answer is right.

use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::problem::Problem;

const CLAUSES_PER_VARIABLE: usize = 2;

/// Variable `v` as the literal `v + 1`, and its negation as `-(v + 1)`.
type Clause = Vec<i64>;

/// Draws a formula of `level` variables.
pub fn make(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    let mask = (1_u32 << level) - 1;
    loop {
        let values = rng.random_range(0..=mask);
        let clauses = formula(level, values, rng);
        if !holds(&clauses, 0) && !holds(&clauses, mask) {
            return problem(level, &clauses, values);
        }
    }
}

/// Distinct clauses that `values` (bit v: variable v is true) make true, in a fixed order.
fn formula(variables: usize, values: u32, rng: &mut ChaCha8Rng) -> Vec<Clause> {
    let mut clauses: Vec<Clause> = Vec::with_capacity(CLAUSES_PER_VARIABLE * variables);
    while clauses.len() < CLAUSES_PER_VARIABLE * variables {
        let width = rng.random_range(2..=3_u32) as usize;
        let mut chosen = index::sample(rng, variables, width).into_vec();
        chosen.sort_unstable();
        let clause: Clause =
            chosen.iter().map(|it| if rng.random() { *it as i64 + 1 } else { -(*it as i64 + 1) }).collect();
        if is_true(&clause, values) && !clauses.contains(&clause) {
            clauses.push(clause);
        }
    }
    clauses.sort_unstable_by_key(|clause| clause.iter().map(|it| (it.abs(), *it < 0)).collect::<Vec<_>>());
    clauses
}

fn holds(clauses: &[Clause], values: u32) -> bool {
    clauses.iter().all(|clause| is_true(clause, values))
}

fn is_true(clause: &[i64], values: u32) -> bool {
    clause.iter().any(|literal| (values >> (literal.abs() - 1) & 1 == 1) == (*literal > 0))
}

fn problem(variables: usize, clauses: &[Clause], values: u32) -> Problem {
    let names: Vec<String> = (b'A'..).take(variables).map(|it| char::from(it).to_string()).collect();
    let literal = |it: &i64| {
        let name = &names[it.unsigned_abs() as usize - 1];
        if *it > 0 { name.clone() } else { format!("not {name}") }
    };
    let clause = |it: &Clause| format!("({})", it.iter().map(literal).collect::<Vec<_>>().join(" or "));
    let text = clauses.iter().map(clause).collect::<Vec<_>>().join(" and ");
    let question = format!("Find truth values that make this true: {text}. Answer in the form A=true, B=false.");
    let value = |(at, name): (usize, &String)| format!("{name}={}", values >> at & 1 == 1);
    let solution = names.iter().enumerate().map(value).collect::<Vec<_>>().join(", ");
    Problem::new(question, json!({"variables": names, "clauses": clauses}).to_string(), solution)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::grade::Verdict;
    use crate::task::graders::Judge;
    use crate::task::graders::answer::Mode;
    use crate::task::graders::satisfiability::Expected;
    use rand::SeedableRng;

    #[test]
    fn a_formula_reads_as_words() {
        // A or not B, and B or C: A and B are true, C is false.
        let problem = problem(3, &[vec![1, -2], vec![2, 3]], 0b011);
        let expected =
            "Find truth values that make this true: (A or not B) and (B or C). Answer in the form A=true, B=false.";
        assert_eq!((problem.question.as_str(), problem.solution.as_str()), (expected, "A=true, B=true, C=false"));
        assert_eq!(problem.truth, r#"{"variables":["A","B","C"],"clauses":[[1,-2],[2,3]]}"#);
    }

    /// Whether the formula in a question is true under `values`, which is read from the words alone.
    fn is_true_in_words(question: &str, values: u32) -> bool {
        let formula = question.split(": ").nth(1).unwrap().split(". ").next().unwrap();
        formula.split(" and ").all(|clause| {
            clause.trim_matches(['(', ')']).split(" or ").any(|literal| {
                let name = literal.trim_start_matches("not ").bytes().next().unwrap();
                (values >> (name - b'A') & 1 == 1) != literal.starts_with("not ")
            })
        })
    }

    #[test]
    fn the_grader_agrees_with_the_words_for_every_assignment() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for level in (3..=6).cycle().take(60) {
            let problem = make(level, &mut rng);
            let grader = Expected::new(&problem.truth).unwrap();
            let mut solutions = 0;
            for values in 0..1_u32 << level {
                let given = (0..level as u8).map(|it| format!("{}={}", char::from(b'A' + it), values >> it & 1 == 1));
                let answer = format!("<answer>{}</answer>", given.collect::<Vec<_>>().join(", "));
                let right = is_true_in_words(&problem.question, values);
                assert_eq!(
                    grader.verdict(&answer, Mode::Lenient) == Verdict::Right,
                    right,
                    "{answer}: {}",
                    problem.question
                );
                solutions += u32::from(right);
            }
            assert!(solutions > 0, "{}", problem.question);
            let fixed = [0, (1 << level) - 1].map(|values| is_true_in_words(&problem.question, values));
            assert_eq!(fixed, [false, false], "{}", problem.question);
        }
    }

    #[test]
    fn clauses_are_true_where_a_literal_is() {
        let values = 0b01;
        assert!(is_true(&[1], values) && is_true(&[-2], values) && is_true(&[2, 1], values));
        assert!(!is_true(&[-1], values) && !is_true(&[2], values) && !is_true(&[-1, 2], values));
    }
}

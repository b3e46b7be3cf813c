//! Satisfiability: truth values that make a formula true. The ground truth is `{"variables": ["A", "B"], "clauses":
//! [[1, -2], [2]]}`: literal 1 is the first variable, −1 is its negation, and every clause needs a true literal.
//!
//! Any values that make the formula true are right: `A=true, B=false`, `A is True`, `A: 1`. A variable may be left out
//! if the formula is true without it. Both modes are the same, but the published mode reads the answer tags alone.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use super::Judge;
use super::answer::{self, Mode, pattern};
use crate::task::grade::Verdict;

/// `A = true`, `A: 1`, `A is false`.
static ASSIGNMENT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\b([a-z]\w*)\b[\s*`$]*(?:=+|:=?|\bis\b|->|→)[\s*`$]*(true|false|t|f|1|0)\b"));

/// The formula that an answer must make true.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The position of each variable, whose name is in lower case.
    variables: HashMap<String, usize>,
    clauses: Vec<Vec<Literal>>,
}

/// A variable, and the value that makes the literal true.
#[derive(Clone, Copy, Debug)]
struct Literal {
    variable: usize,
    value: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Formula {
    variables: Vec<String>,
    clauses: Vec<Vec<i64>>,
}

impl Expected {
    /// # Errors
    /// Anything but an object of the form above; two variables whose names differ in case alone; a literal without a
    /// variable.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let Formula { variables: names, clauses } = serde_json::from_str(ground_truth)
            .map_err(|e| format!(r#"expected {{"variables": ["A", "B"], "clauses": [[1, -2], [2]]}}: {e}"#))?;
        let variables: HashMap<_, _> = names.iter().enumerate().map(|(at, name)| (name.to_lowercase(), at)).collect();
        if variables.len() < names.len() {
            return Err("two variables have the same name; upper and lower case are the same".into());
        }
        let literal = |literal: &i64| {
            let variable = usize::try_from(literal.unsigned_abs()).ok().and_then(|it| it.checked_sub(1));
            let known = variable.filter(|it| *it < names.len());
            let problem = || format!("literal {literal} has no variable; expected ±1 to ±{}", names.len());
            known.map(|variable| Literal { variable, value: *literal > 0 }).ok_or_else(problem)
        };
        let clauses = clauses.iter().map(|clause| clause.iter().map(literal).collect()).collect::<Result<_, _>>()?;
        Ok(Self { variables, clauses })
    }

    fn verdict_on(&self, text: &str) -> Verdict {
        let mut values = vec![None; self.variables.len()];
        for found in ASSIGNMENT.captures_iter(text) {
            let Some(&variable) = self.variables.get(&found[1].to_lowercase()) else { continue };
            let value = matches!(&found[2], "1" | "t" | "T") || found[2].eq_ignore_ascii_case("true");
            if values[variable].replace(value).is_some_and(|before| before != value) {
                return Verdict::Wrong;
            }
        }
        let holds = |literal: &Literal| values[literal.variable] == Some(literal.value);
        match self.clauses.iter().all(|clause| clause.iter().any(holds)) {
            _ if values.iter().all(Option::is_none) => Verdict::Missing,
            true => Verdict::Right,
            false => Verdict::Wrong,
        }
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        match mode {
            Mode::Published => answer::published(completion),
            Mode::Lenient => answer::whole(completion),
        }
        .map_or(Verdict::Missing, |text| self.verdict_on(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    /// (A or not B) and (B or C) and (not A or not C)
    const TRUTH: &str = r#"{"variables": ["A", "B", "C"], "clauses": [[1, -2], [2, 3], [-1, -3]]}"#;

    fn check(answer: &str, expected: Verdict) {
        let formula = Expected::new(TRUTH).unwrap();
        for mode in [Mode::Lenient, Mode::Published] {
            let completion = format!("<think>A=true, C=true?</think><answer>{answer}</answer>");
            assert_eq!(formula.verdict(&completion, mode), expected, "{mode:?}: {answer:?}");
        }
        assert_eq!(formula.verdict(answer, Mode::Lenient), expected, "without tags: {answer:?}");
    }

    #[test]
    fn all_assignments_of_three_variables() {
        for bits in 0..8 {
            let [a, b, c] = [0, 1, 2].map(|it| bits >> it & 1 == 1);
            // By hand: A and B imply not C, B implies A, not A implies C and not B.
            let right = matches!((a, b, c), (true, true, false) | (false, false, true));
            check(&format!("A={a}, B={b}, C={c}"), if right { Right } else { Wrong });
        }
    }

    #[test]
    fn assignments_are_read_in_every_form() {
        for answer in [
            "A=true, B=true, C=false",
            "a = True; b = TRUE; c = False",
            "A: T\nB: T\nC: F",
            "A is true, B is true and C is false.",
            "A=1, B=1, C=0",
            "**A** = true, **B** = true, **C** = false",
            r"\boxed{A=true, B=true, C=false}",
            "A=true, B=true, C=false, D=true",
            "C=false, A=true, B=true, A=true",
        ] {
            check(answer, Right);
        }
    }

    #[test]
    fn variables_may_be_missing_only_where_they_do_not_matter() {
        check("A=true, B=true", Wrong);
        let formula = Expected::new(r#"{"variables": ["A", "B"], "clauses": [[1, 2]]}"#).unwrap();
        assert_eq!(formula.verdict("<answer>A=true</answer>", Mode::Lenient), Right);
        assert_eq!(formula.verdict("<answer>B=false</answer>", Mode::Lenient), Wrong);
    }

    #[test]
    fn contradictions_are_wrong_and_other_texts_missing() {
        check("A=true, A=false, B=true, C=false", Wrong);
        for answer in ["", "true", "A", "X=true", "the formula is true", "A=maybe", "AB=true"] {
            check(answer, Missing);
        }
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for (truth, word) in [
            ("", "expected"),
            ("{}", "variables"),
            (r#"{"variables": ["A", "a"], "clauses": []}"#, "same name"),
            (r#"{"variables": ["A"], "clauses": [[2]]}"#, "literal 2"),
            (r#"{"variables": ["A"], "clauses": [[0]]}"#, "literal 0"),
            (r#"{"variables": ["A"], "clauses": [[-9223372036854775808]]}"#, "literal -9"),
        ] {
            let problem = Expected::new(truth).unwrap_err();
            assert!(problem.contains(word), "{truth:?}: {problem}");
        }
    }
}

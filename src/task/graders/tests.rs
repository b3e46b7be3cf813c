//! Which grader a row has, what its findings are worth, and properties that every grader has.

mod long;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::task::row::{Message, RewardModel};

fn row(source: &str, truth: &str) -> Row {
    Row {
        data_source: source.into(),
        prompt: vec![Message::new("user", "?")],
        ability: String::new(),
        reward_model: RewardModel::rule(truth),
        extra_info: Value::Null,
    }
}

/// Checks what both modes say of a completion.
pub(super) fn assert_verdicts(judge: &dyn Judge, completion: &str, lenient: Verdict, published: Verdict) {
    for (mode, expected) in [(Mode::Lenient, lenient), (Mode::Published, published)] {
        assert_eq!(judge.verdict(completion, mode), expected, "{mode:?}: {completion:?} for {judge:?}");
    }
}

fn check_source(source: &str, truth: &str, expected: &str) {
    assert_eq!(Grader::for_row(&row(source, truth)).unwrap().name(), expected, "{source}");
}

#[test]
fn the_data_source_chooses_the_grader() {
    check_source("kk_logic_3", "(1) Zoey is a knight", "kk");
    for source in [
        "choice",
        "logiqa",
        "lsat_ar",
        "logicnli",
        "ruletaker",
        "ruletaker_3",
        "proofwriter_5",
        "longiclbench_goemotion",
        "LogiQA",
        "lucasmccabe/logiqa",
        "arc_challenge",
    ] {
        check_source(source, "B", "choice");
    }
    for source in ["gsm8k", "gsm8k/3", "openai/gsm8k", "a/b/gsm8k"] {
        check_source(source, "#### 42", "gsm8k");
    }
    for source in ["math", "MATH-lighteval", "HuggingFaceH4/MATH-500", "aime_1983_1993", "HuggingFaceH4/aime_2024"] {
        check_source(source, r"\frac{1}{2}", "math");
    }
    check_source("probabilistic_2", "0.5", "number");
    check_source("number", "0.5", "number");
    check_source("arc_logic", "[[1]]", "arc");
    check_source("exact", "Paris", "exact");
    check_source("regex", "Paris", "regex");
    check_source("json_schema", "{}", "json_schema");
    check_source("reasoning_gym_chain_sum", "42", "tolerant");
    check_source("countdown_3", r#"{"numbers": [1], "target": 1}"#, "countdown");
}

#[test]
fn a_row_may_name_its_grader() {
    let mut named = row("gsm8k", "B");
    named.extra_info = json!({"grader": "choice"});
    assert_eq!(Grader::for_row(&named).unwrap().name(), "choice");
    named.reward_model.grader = Some("exact".into());
    assert_eq!(Grader::for_row(&named).unwrap().name(), "exact");
    named.reward_model.grader = Some("chioce".into());
    let problem = Grader::for_row(&named).unwrap_err();
    assert!(problem.contains("\"chioce\"") && problem.contains("kk, ") && problem.contains("choice"), "{problem}");
    let mut wrong = row("gsm8k", "B");
    wrong.extra_info = json!({"grader": ["choice"]});
    assert!(Grader::for_row(&wrong).unwrap_err().contains("must be a string"));
    wrong.extra_info = json!({"grader": null});
    assert!(Grader::for_row(&wrong).unwrap_err().contains("\"gsm8k\" cannot use this row"));
    let text = r#"{"ground_truth": "B", "grader": "choice"}"#;
    let model: RewardModel = serde_json::from_str(text).unwrap();
    assert_eq!(model.grader.as_deref(), Some("choice"));
    assert!(!serde_json::to_string(&RewardModel::rule("B")).unwrap().contains("grader"));
}

#[test]
fn an_unknown_data_source_is_refused_with_the_known_graders() {
    let problem = Grader::for_row(&row("chess", "e4")).unwrap_err();
    assert!(problem.contains("\"chess\"") && problem.contains("kk"), "{problem}");
    assert!(Grader::for_row(&row("é", "e4")).is_err());
}

#[test]
fn a_run_may_have_a_default_or_one_grader_for_all() {
    let name = |choice: GraderChoice, source: &str| {
        Graders { choice, ..Graders::default() }.for_row(&row(source, "42")).unwrap().name()
    };
    let exact = named("exact").unwrap();
    assert_eq!(name(GraderChoice::RowOr(exact), "chess"), "exact");
    assert_eq!(name(GraderChoice::RowOr(exact), "gsm8k"), "gsm8k");
    assert_eq!(name(GraderChoice::Always(exact), "gsm8k"), "exact");
}

#[test]
fn findings_are_worth_the_scores() {
    let graded = |scores: Scores, mode: Mode, completion: &str| {
        let grader = Graders { scores, mode, ..Graders::default() }.for_row(&row("gsm8k", "42")).unwrap();
        let grade = grader.grade(completion);
        (grade.format_score, grade.answer_score)
    };
    let (paper, lenient) = (Scores::default(), Mode::Lenient);
    assert_eq!(graded(paper, lenient, "<think></think><answer>42</answer>"), (1.0, 2.0));
    assert_eq!(graded(paper, lenient, "<think></think><answer>43</answer>"), (1.0, -1.5));
    assert_eq!(graded(paper, lenient, "42"), (-1.0, 2.0));
    assert_eq!(graded(paper, lenient, "?"), (-1.0, -2.0));
    // The published graders do not let a wrong format spoil the answer either.
    assert_eq!(graded(paper, Mode::Published, "<answer>#### 42</answer> Done."), (-1.0, 2.0));
    assert_eq!(graded(paper, Mode::Published, "<answer>42</answer>"), (-1.0, -1.5));
    assert_eq!(graded(paper, Mode::Published, "#### 42"), (-1.0, -2.0));
    let own = Scores { right: 1.0, wrong: 0.0, missing: -0.5, format_right: 0.25, format_wrong: 0.0 };
    assert_eq!(graded(own, lenient, "<think></think><answer>42</answer>"), (0.25, 1.0));
    assert_eq!(graded(own, lenient, "43"), (0.0, 0.0));
    assert_eq!(graded(own, lenient, ""), (0.0, -0.5));
}

#[test]
fn the_names_of_graders_differ() {
    for grader in REGISTRY {
        assert!(std::ptr::eq(named(grader.name).unwrap(), grader), "{}", grader.name);
    }
}

/// A ground truth for each grader.
fn truth(name: &str) -> &'static str {
    match name {
        "kk" => "(1) Zoey is a knight\n(2) Oliver is a knave",
        "choice" => "B",
        "arc" => "[[1, 2], [3, 4]]",
        "regex" => r"^\d+(a|b)*$",
        "json_schema" => r#"{"type": "object", "required": ["a"]}"#,
        "countdown" => r#"{"numbers": [5, 42], "target": 47}"#,
        "satisfiability" => r#"{"variables": ["A", "B"], "clauses": [[1, -2], [2]]}"#,
        "shortest_path" => r#"{"edges": [["A", "B", 4]], "from": "A", "to": "B"}"#,
        _ => "42",
    }
}

/// A grader of each kind and mode.
fn every_grader() -> Vec<Grader> {
    let graders = REGISTRY.iter().flat_map(|it| [Mode::Lenient, Mode::Published].map(|mode| (it, mode)));
    let grader = |(it, mode): (&'static Registered, Mode)| {
        let graders = Graders { choice: GraderChoice::Always(it), mode, scores: Scores::default() };
        graders.for_row(&row("x", truth(it.name))).unwrap()
    };
    graders.map(grader).collect()
}

/// Pieces that graders look for.
const PIECES: [&str; 46] = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<|im_end|>",
    r"\boxed",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "[[1,2],",
    "####",
    "Answer:",
    "the answer is ",
    "**",
    "A",
    "B",
    "b.",
    "True",
    "not",
    " or ",
    "42",
    "-",
    "−",
    "1,000",
    ".",
    ",",
    "$",
    "%",
    "/",
    "e5",
    "^",
    "=",
    r"\frac{1}{2}",
    "\n",
    " ",
    "é",
    "\u{a0}",
    "İ",
    "```",
    "\"",
    ":",
    "Zoey is a knight",
    "knave",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_breaks_a_grader(pieces in proptest::collection::vec(prop::sample::select(PIECES.to_vec()), 0..60), noise in ".{0,40}") {
        for grader in every_grader() {
            for text in [pieces.concat(), format!("{}{noise}", pieces.concat()), noise.clone()] {
                let grade = grader.grade(&text);
                prop_assert!([2.0, -1.5, -2.0].contains(&grade.answer_score));
            }
        }
    }

    #[test]
    fn no_ground_truth_breaks_a_grader(pieces in proptest::collection::vec(prop::sample::select(PIECES.to_vec()), 0..8), noise in ".{0,20}") {
        for it in REGISTRY {
            for text in [pieces.concat(), noise.clone()] {
                if let Ok(judge) = (it.read)(&text) {
                    judge.judge(&format!("<think></think><answer>{text}</answer>"), Mode::Lenient);
                }
            }
        }
    }
}

#[test]
fn long_texts_take_linear_time() {
    let graders = every_grader();
    for piece in PIECES.into_iter().chain([
        "<answer>42</answer>",
        "<answer>",
        "(B) ",
        "1 2\n",
        "x=1 ",
        "{\"a\":",
        "1,",
        "answer ",
        "answer\n",
        "9",
        "10^",
        "[ ",
        "1e",
        "1+",
        "((",
        "A=true,",
        "A-B-",
        "A is ",
    ]) {
        for shell in ["{}", "<think></think><answer>{}</answer>", r"\boxed{{}}", "the answer is {}"] {
            let text = shell.replacen("{}", &piece.repeat(100_000 / piece.len()), 1);
            for grader in &graders {
                let start = Instant::now();
                grader.grade(&text);
                let time = start.elapsed();
                // A quadratic grader would take a minute.
                assert!(time < Duration::from_secs(2), "{} takes {time:?} for {piece:?} in {shell:?}", grader.name());
            }
        }
    }
}

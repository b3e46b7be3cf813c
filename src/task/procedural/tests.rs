//! What holds for every task and level.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::*;
use crate::task::Grader;
use crate::task::graders::expression;

fn all_levels() -> impl Iterator<Item = (&'static Procedural, usize)> {
    REGISTRY.iter().flat_map(|task| task.levels.clone().map(move |level| (task, level)))
}

fn stream(name: &str, level: usize, seed: u64, split: Split) -> Stream {
    Stream::new(named(name).unwrap(), level, seed, split)
}

fn first(stream: &mut Stream, count: u64) -> Vec<Row> {
    (0..count).map(|index| stream.row(index)).collect()
}

fn question(row: &Row) -> &str {
    &row.prompt.last().unwrap().content
}

/// Wrong answers to a problem.
fn corrupted(task: &str, row: &Row) -> Vec<String> {
    let right = row.extra_info["solution"].as_str().unwrap();
    let first = right.chars().next().unwrap();
    match task {
        "kk" => [("knight", "?"), ("knave", "knight"), ("?", "knave")]
            .iter()
            .map(|(from, to)| right.replacen(from, to, 1))
            .filter(|it| it != right && !it.contains('?'))
            .collect(),
        "countdown" => vec![format!("{right} + 1"), format!("{right} - 1"), format!("({right}) * 2"), "1".into()],
        "letter_sort" => vec![format!("{right}{first}"), right[1..].to_owned(), right.replacen(first, "?", 1)],
        "satisfiability" => {
            let all = |value: &str| right.replace("=true", "=x").replace("=false", "=x").replace("=x", value);
            vec![all("=true"), all("=false"), format!("{right}, A=true, A=false")]
        }
        "shortest_path" => vec![
            right.split('-').rev().collect::<Vec<_>>().join("-"),
            right.rsplit_once('-').unwrap().0.to_owned(),
            right.replacen('-', &format!("-{first}-"), 1),
        ],
        "sudoku" => {
            let other = if first == '1' { "2" } else { "1" };
            vec![right.replacen(first, other, 1), right.split_once('\n').unwrap().1.to_owned()]
        }
        _ => {
            let number: i64 = right.parse().unwrap();
            vec![(number + 1).to_string(), (number - 1).to_string(), format!("{right}0 or {right}")]
        }
    }
}

#[test]
fn every_solution_is_graded_right_and_every_corrupted_one_wrong() {
    for (task, level) in all_levels() {
        for row in first(&mut stream(task.name, level, 7, Split::Train), 12) {
            let grader = Grader::for_row(&row).unwrap();
            assert_eq!(grader.name(), task.grader);
            let score = |answer: &str| grader.grade(&format!("<think>So.</think>\n<answer>{answer}</answer>")).score();
            let solution = row.extra_info["solution"].as_str().unwrap();
            assert_eq!(score(solution), 3.0, "{solution} for {}", question(&row));
            let wrong = corrupted(task.name, &row);
            assert!(!wrong.is_empty() || task.name == "kk");
            for answer in wrong {
                assert!(score(&answer) < 0.0, "{answer} for {}", question(&row));
            }
        }
    }
}

#[test]
fn a_row_says_where_it_belongs() {
    for (task, level) in all_levels() {
        for split in [Split::Train, Split::Test] {
            let row = Stream::new(task, level, 3, split).row(5);
            assert_eq!(row.data_source, task.source_name(level));
            assert!(!row.ability.is_empty());
            let solution = &row.extra_info["solution"];
            let expected =
                json!({"task": task.name, "level": level, "split": split.name(), "index": 5, "solution": solution});
            assert_eq!(row.extra_info, expected);
            let prompt: String = row.prompt.iter().map(|it| it.content.as_str()).collect();
            assert!(
                ["<think>", "</think>", "<answer>", "</answer>"].iter().all(|tag| prompt.contains(tag)),
                "{prompt}"
            );
        }
    }
    assert_eq!(question(&stream("addition", 2, 0, Split::Train).row(0)).lines().last(), Some(problem::FORM));
}

#[test]
fn a_row_depends_on_the_stream_and_its_index_alone() {
    for (task, level) in all_levels().filter(|(task, level)| task.usual.contains(level)) {
        let new = || Stream::new(task, level, 11, Split::Train);
        let rows = first(&mut new(), 40);
        let mut other = new();
        for index in [30, 3, 39, 39, 0, 38] {
            assert_eq!(other.row(index), rows[index as usize], "{} {level}", task.name);
        }
        assert_ne!(question(&Stream::new(task, level, 12, Split::Train).row(0)), question(&rows[0]));
    }
}

/// The first rows are those of an earlier version. A run that is resumed with another version must find the same rows.
#[test]
fn rows_stay_what_they_are() {
    let check = |name: &str, level, expected: &str| {
        assert_eq!(question(&stream(name, level, 42, Split::Train).row(0)).lines().next(), Some(expected));
    };
    check("addition", 3, "What is 270 + 421?");
    check("arithmetic", 3, "What is (11 - 6) * (14 + 28)?");
    check("letter_sort", 5, "Write the letters of \"addgu\" in alphabetical order, without spaces.");
}

#[test]
fn no_problem_repeats_and_train_and_test_share_none() {
    let mut split_of: HashMap<String, Split> = HashMap::new();
    for (task, level) in all_levels() {
        for (split, seed) in [(Split::Train, 1), (Split::Train, 2), (Split::Test, 1), (Split::Test, 3)] {
            let mut stream = Stream::new(task, level, seed, split);
            let count = stream.distinct(60);
            let rows = first(&mut stream, count);
            let questions: HashSet<&str> = rows.iter().map(question).collect();
            assert_eq!(questions.len(), rows.len(), "{} {level}", task.name);
            assert!(count >= 10, "{} {level} has {count} problems for {}", task.name, split.name());
            for question in questions {
                assert_eq!(*split_of.entry(question.to_owned()).or_insert(split), split, "{question}");
            }
        }
    }
}

#[test]
fn a_small_level_is_found_wholly_and_then_begins_again() {
    // There are 100 sums of two digits.
    let [mut train, mut test] = [Split::Train, Split::Test].map(|split| stream("addition", 1, 1, split));
    let found = [&mut train, &mut test].map(|it| it.distinct(1_000));
    assert_eq!(found[0] + found[1], 100);
    assert!(found[1] >= 10, "{found:?}");
    let again = train.row(found[0] + 3);
    assert_eq!(question(&again), question(&train.row(3)));
    assert_eq!(again.extra_info["index"], found[0] + 3);
    assert_eq!(train.row(u64::MAX).data_source, "addition_1");
}

#[test]
fn every_usual_level_has_rows_enough_for_the_command_line() {
    for (task, level) in all_levels().filter(|(task, level)| task.usual.contains(level)) {
        let found = [(Split::Train, 900), (Split::Test, 100)]
            .map(|(split, wanted)| Stream::new(task, level, 42, split).distinct(wanted));
        assert_eq!(found, [900, 100], "{} {level}", task.name);
    }
}

#[test]
fn rows_are_those_of_the_streams() {
    let task = named("countdown").unwrap();
    let (train, test) = rows(task, 3..=4, 5, 2, 9).unwrap();
    assert_eq!(train[5..], first(&mut stream("countdown", 4, 9, Split::Train), 5));
    assert_eq!(test[..2], first(&mut stream("countdown", 3, 9, Split::Test), 2));
    let problem = rows(named("addition").unwrap(), 1..=2, 100, 0, 9).unwrap_err();
    for word in ["level 1", "\"addition\"", "distinct", "train", "100 were asked for"] {
        assert!(problem.contains(word), "{problem}");
    }
    assert!(rows(task, 1..=3, 1, 1, 0).unwrap_err().contains("2-8"));
    assert_eq!(rows(task, 3..=3, 0, 0, 0).unwrap(), (vec![], vec![]));
}

#[test]
fn knights_and_knaves_are_made_as_before() {
    let task = named("kk").unwrap();
    assert_eq!(rows(task, 3..=5, 6, 2, 42), Ok(kk::splits(3..=5, 6, 2, 42).unwrap()));
    let row = Stream::new(task, 4, 42, Split::Train).row(0);
    let made = &kk::splits(4..=4, 1, 0, 42).unwrap().0[0];
    assert_eq!((&row.data_source, &row.ability), (&made.data_source, &made.ability));
    assert_eq!(row.prompt[0], made.prompt[0]);
}

#[test]
fn sums_products_and_chains_have_the_value_of_their_text() {
    for (task, level) in
        all_levels().filter(|(task, _)| ["arithmetic", "addition", "multiplication"].contains(&task.name))
    {
        for row in first(&mut Stream::new(task, level, 5, Split::Train), 50) {
            let text = question(&row).strip_prefix("What is ").unwrap().split('?').next().unwrap();
            let value = expression::evaluate(text).unwrap().value;
            assert_eq!(value.to_string(), row.reward_model.ground_truth, "{text}");
        }
    }
}

#[test]
fn prompts_of_usual_levels_are_short() {
    for task in REGISTRY.iter().filter(|task| task.name != "kk") {
        let mut stream = Stream::new(task, *task.usual.end(), 1, Split::Train);
        let longest = first(&mut stream, 20).iter().map(|row| question(row).len()).max().unwrap();
        assert!(longest < 600, "{}: {longest}", task.name);
    }
}

#[test]
fn names_and_levels_are_read_or_refused() {
    for task in REGISTRY {
        assert!(std::ptr::eq(named(task.name).unwrap(), task));
        assert!(task.levels.contains(task.usual.start()) && task.levels.contains(task.usual.end()));
        assert!(!task.about.is_empty());
    }
    let problem = named("contdown").unwrap_err();
    assert!(problem.contains("did you mean \"countdown\"") && problem.contains("kk, arithmetic"), "{problem}");
    assert!(!named("chess").unwrap_err().contains("did you mean"));
    let task = named("countdown").unwrap();
    assert_eq!(task.parse_levels("3-7"), Ok(3..=7));
    assert_eq!(task.parse_levels(" 5 "), Ok(5..=5));
    assert_eq!(named("kk").unwrap().source_name(3), "kk_logic_3");
    for text in ["", "-", "3-", "7-3", "three", "3-5-7", "3..5", "-3"] {
        assert!(task.parse_levels(text).unwrap_err().contains("2-8"), "{text}");
    }
    for text in ["1-3", "3-9", "0"] {
        let problem = task.parse_levels(text).unwrap_err();
        assert!(problem.contains("\"countdown\" are 2-8") && problem.contains(text), "{problem}");
    }
}

#[test]
fn a_stream_may_move_to_another_thread() {
    fn check<T: Send + 'static>(_: T) {}
    check(stream("sudoku", 1, 0, Split::Train));
    assert_eq!(Value::from("train"), Split::Train.name());
}

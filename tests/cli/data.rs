//! Rows: read, made, and graded.

use std::fs;
use std::path::Path;

use dump_rl::task::rows;
use serde_json::json;

use crate::fixtures::program::{HEAD, Workspace, parse, printed};

#[test]
fn wrong_rows_are_named_with_file_and_line() {
    let work = Workspace::new();
    let row = |truth: &str| json!({"prompt": "Who?", "answer": truth, "data_source": "kk_x"}).to_string();
    let good = row("(1) Zoey is a knight");
    let check = |content: &str, words: &[&str]| {
        let file = work.file("rows.jsonl", content);
        let data = |key: &str| format!("[data]\nkind = \"files\"\n{key} = [\"rows.jsonl\"]\n[eval]\ninterval = 0\n");
        work.train_refused(&format!("{HEAD}{}", data("train_files")), &[], words);
        work.refused(&["data", "inspect", &file], words);
        work.file("good.jsonl", &good);
        let both = data("test_files").replace("[eval]", "train_files = [\"good.jsonl\"]\n[eval]");
        work.train_refused(&format!("{HEAD}{both}"), &[], words);
    };
    check(
        &format!("{good}\n{{\"prompt\": \"?\", \"answer\": \"?\"}}\n"),
        &["rows.jsonl:2", "data_source", "kk_logic_3"],
    );
    check(&format!("{good}\n\n{}\n", row("Zoey knight")), &["rows.jsonl:3", "Zoey knight", "(1) Zoey is a knight"]);
    check(&format!("{good}\n{{\"prompt\": "), &["rows.jsonl:2", "not JSON"]);
    check("", &["rows.jsonl", "no rows", "one JSON object per line"]);
    let files = |name: &str| format!("{HEAD}[data]\nkind = \"files\"\ntrain_files = [{name}]\n[eval]\ninterval = 0\n");
    work.train_refused(&files("\"nowhere.jsonl\""), &[], &["nowhere.jsonl", "cannot be opened"]);
    work.train_refused(&files("\"rows.parquet\""), &[], &["rows.parquet", "cannot be opened"]);
    work.train_refused(&files("\"rows.csv\""), &[], &["rows.csv", "ending", ".parquet"]);
    work.train_refused(&files(""), &[], &["c.toml:7", "data.train_files", "at least one"]);
    let long = json!({"prompt": "Who? ".repeat(600), "answer": "(1) Zoey is a knight", "data_source": "kk_x"});
    work.file("long.jsonl", long.to_string());
    work.train_refused(&files("\"long.jsonl\""), &[], &["long.jsonl:1", "tokens", "512"]);
}

#[test]
fn puzzles_follow_from_the_seed_and_load_again() {
    let work = Workspace::new();
    let make = |name: &str, seed: &str| {
        let out = work.path(name).display().to_string();
        printed(&["data", "kk", "--people", "3-5", "--train", "7", "--test", "2", "--seed", seed, "--out", &out]);
        ["train.jsonl", "test.jsonl"].map(|file| fs::read(work.path(name).join(file)).expect("rows"))
    };
    let first = make("a", "42");
    assert!(first == make("b", "42") && first != make("c", "43"));
    let load = |file: &str| rows::load(&work.path("a").join(file)).expect("rows");
    let sizes =
        |file| rows::group_by_source(load(file)).into_iter().map(|(name, rows)| (name, rows.len())).collect::<Vec<_>>();
    assert_eq!(sizes("train.jsonl"), [3, 4, 5].map(|people| (format!("kk_logic_{people}"), 7)));
    assert_eq!(sizes("test.jsonl"), [3, 4, 5].map(|people| (format!("kk_logic_{people}"), 2)));
    let file = work.path("a/train.jsonl").display().to_string();
    let said = printed(&["data", "inspect", &file]);
    let example = &load("train.jsonl")[0];
    for word in ["train.jsonl: 21 rows", "kk_logic_3: 7 rows", "kk_logic_5: 7 rows", &example.prompt[1].content] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    // The files can be a run's data.
    let files = "[data]\nkind = \"files\"\ntrain_files = [\"a/train.jsonl\"]\ntest_files = [\"a/test.jsonl\"]\n";
    let said = printed(&["train", &work.config(&format!("{HEAD}{files}")), "--dry-run"]);
    assert!(said.contains("21 rows in 3 distributions"), "{said}");
}

#[test]
fn puzzles_that_cannot_be_made_are_refused() {
    let work = Workspace::new();
    let out = work.out();
    let with = |people: &str, train: &str| {
        ["data", "kk", "--people", people, "--train", train, "--test", "0", "--out", &out].map(String::from)
    };
    work.refused(&with("2-5", "3"), &["--people", "3-20", "2-5"]);
    work.refused(&with("three", "3"), &["--people", "three"]);
    work.refused(&with("3", "0"), &["--train", "at least one"]);
    printed(&with("3", "2"));
    work.refused(&with("3", "2"), &["train.jsonl", "already", "--out"]);
}

#[test]
fn procedural_tasks_are_made_and_can_be_trained_on() {
    let work = Workspace::new();
    let make = |task: &str, name: &str, more: &[&str]| {
        let out = work.path(name).display().to_string();
        printed(&[&["data", "make", task, "--train", "5", "--test", "2", "--out", &out], more].concat());
        ["train.jsonl", "test.jsonl"].map(|file| fs::read(work.path(name).join(file)).expect("rows"))
    };
    let first = make("countdown", "a", &["--levels", "3-4"]);
    assert!(first == make("countdown", "b", &["--levels", "3-4", "--seed", "42"]));
    assert!(first != make("countdown", "c", &["--levels", "3-4", "--seed", "43"]));
    let loaded = rows::load(&work.path("a/train.jsonl")).expect("rows");
    let sizes: Vec<_> = rows::group_by_source(loaded).into_iter().map(|(name, rows)| (name, rows.len())).collect();
    assert_eq!(sizes, [3, 4].map(|level| (format!("countdown_{level}"), 5)));
    let files = "[data]\nkind = \"files\"\ntrain_files = [\"a/train.jsonl\"]\ntest_files = [\"a/test.jsonl\"]\n";
    let said = printed(&["train", &work.config(&format!("{HEAD}{files}")), "--dry-run"]);
    assert!(said.contains("10 rows in 2 distributions"), "{said}");
    // Knights and Knaves are the same as with their own command.
    let kk = work.path("kk").display().to_string();
    printed(&["data", "kk", "--people", "3-4", "--train", "5", "--test", "2", "--out", &kk]);
    let made = make("kk", "made", &["--levels", "3-4"]);
    assert!(made == ["train.jsonl", "test.jsonl"].map(|file| fs::read(work.path("kk").join(file)).expect("rows")));
    let out = work.out();
    let with = |task: &str, levels: &str| ["data", "make", task, "--levels", levels, "--out", &out].map(String::from);
    work.refused(&with("contdown", "3"), &["contdown", "did you mean", "countdown", "sudoku"]);
    work.refused(&with("sudoku", "0-3"), &["--levels", "sudoku", "1-9", "0-3"]);
    work.refused(&with("sudoku", "easy"), &["--levels", "easy", "1-9"]);
    work.refused(&with("addition", "1"), &["level 1", "distinct", "900"]);
}

#[test]
fn completions_are_graded() {
    let work = Workspace::new();
    let out = work.path("kk").display().to_string();
    printed(&["data", "kk", "--people", "3-5", "--train", "2", "--test", "0", "--out", &out]);
    let data = format!("{out}/train.jsonl");
    let rows = rows::load(Path::new(&data)).expect("rows");
    let answer = |index: usize| {
        let truth = parse(&rows[index].reward_model.ground_truth);
        truth["solution_text_format"].as_str().expect("a solution").replace('\n', " ")
    };
    let complete = |answer: &str| format!("<think> … </think>\n<answer> {answer} </answer>");
    let swapped = |answer: &str| answer.replace("knight", "?").replace("knave", "knight").replace('?', "knave");
    // Every case of the reward: right, wrong, unreadable, in the wrong format.
    let given = [
        (5, complete(&answer(5)), 1.0, 2.0, 3.0),
        (0, complete(&swapped(&answer(0))), 1.0, -1.5, -0.5),
        (2, complete("everybody is honest"), 1.0, -2.0, -1.0),
        (2, answer(2), -1.0, -2.0, -3.0),
        (0, complete(&answer(0)) + " Done.", -1.0, -2.0, -3.0),
        (0, complete(&answer(0)) + "<|im_end|>\n", 1.0, 2.0, 3.0),
    ];
    let lines = given
        .iter()
        .map(|(index, completion, ..)| json!({"index": index, "completion": completion}).to_string() + "\n");
    let completions = work.file("completions.jsonl", lines.collect::<String>());
    let said = printed(&["grade", "--data", &data, "--completions", &completions]);
    assert_eq!(said.lines().count(), given.len());
    for (line, (index, _, format, answer, score)) in said.lines().zip(&given) {
        let source = &rows[*index].data_source;
        let expected = json!({"index": index, "data_source": source, "format_score": format, "answer_score": answer, "score": score});
        assert_eq!(parse(line), expected);
    }
    let wrong =
        work.file("wrong.jsonl", "{\"index\": 0, \"completion\": \"\"}\n{\"index\": 6, \"completion\": \"\"}\n");
    work.refused(&["grade", "--data", &data, "--completions", &wrong], &["wrong.jsonl:2", "index 6", "0 to 5"]);
    let wrong = work.file("wrong.jsonl", "{\"index\": 0}\n");
    work.refused(&["grade", "--data", &data, "--completions", &wrong], &["wrong.jsonl:1", "completion"]);
    work.refused(
        &["grade", "--data", "nowhere.jsonl", "--completions", &completions],
        &["nowhere.jsonl", "cannot be opened"],
    );
    work.refused(&["grade", "--data", &data, "--completions", "nowhere.jsonl"], &["nowhere.jsonl", "cannot be opened"]);
}

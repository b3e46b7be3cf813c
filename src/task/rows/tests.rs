//! Rows of JSON Lines files.

use std::path::Path;

use super::*;
use crate::task::{Grader, Message, kk};

const TRUTH: &str = r#"(1) Zoey is a knave\n(2) Oliver is a knight"#;

fn load_text(text: &str) -> Result<Vec<Row>, InputError> {
    let folder = temp_dir::TempDir::new().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    load(&path)
}

fn one(line: &str) -> Row {
    load_text(line).unwrap().remove(0)
}

/// Checks that the error for a wrong second line names that line and contains `word`.
fn check_wrong(line: &str, word: &str) {
    let good = format!(r#"{{"prompt": "?", "answer": "{TRUTH}", "data_source": "kk"}}"#);
    let error = load_text(&format!("{good}\n{line}\n")).unwrap_err();
    assert!(error.place.ends_with("rows.jsonl:2"), "{error}");
    assert!(error.problem.contains(word), "{error}");
}

#[test]
fn the_fields_schema_survives_a_round_trip() {
    let puzzle = kk::generate::Generator::new(4, 7).next().unwrap();
    let row = kk::prompt::row(&puzzle, "train", 0);
    assert_eq!(one(&serde_json::to_string(&row).unwrap()), row);
}

#[test]
fn public_puzzles_are_read_as_they_are() {
    let row = one(&format!(
        r#"{{"quiz": "Who?", "names": ["Zoey", "Oliver"], "knight_knave": {{"knight": "a knight"}},
        "solution": [false, true], "solution_text": "…", "solution_text_format": "{TRUTH}", "cot_head": "",
        "statements": "(('not', ('telling-truth', 1)), ('lying', 0))", "index": 3}}"#
    )
    .replace('\n', " "));
    assert_eq!(row.data_source, "kk_logic_2");
    assert_eq!(row.prompt, [Message::new("system", kk::prompt::SYSTEM), Message::new("user", "Who?")]);
    assert_eq!(row.extra_info["index"], 3);
    let completion = "<think></think><answer>Zoey is a knave, Oliver is a knight</answer>";
    assert_eq!(Grader::for_row(&row).unwrap().grade(completion).score(), 3.0);
}

#[test]
fn plain_rows_are_read_in_every_form() {
    let user = [Message::new("user", "Who?")];
    for prompt in [r#""prompt": "Who?""#, r#""prompt": [{"role": "user", "content": "Who?"}]"#, r#""question": "Who?""#]
    {
        let row = one(&format!(r#"{{{prompt}, "answer": "{TRUTH}", "metadata": {{"a": 1}}, "data_source": "kk_x"}}"#));
        assert_eq!((row.prompt.as_slice(), row.data_source.as_str()), (user.as_slice(), "kk_x"));
        assert_eq!(row.extra_info["a"], 1);
    }
}

#[test]
fn wrong_lines_are_named() {
    check_wrong("{", "not JSON");
    check_wrong("[]", "object");
    check_wrong(&format!(r#"{{"prompt": "?", "answer": "{TRUTH}"}}"#), "data_source");
    check_wrong(r#"{"prompt": "?", "answer": "nobody knows", "data_source": "kk"}"#, "nobody knows");
    check_wrong(&format!(r#"{{"prompt": [], "answer": "{TRUTH}", "data_source": "kk"}}"#), "no messages");
    check_wrong(&format!(r#"{{"prompt": 3, "answer": "{TRUTH}", "data_source": "kk"}}"#), "string or a list");
    check_wrong(&format!(r#"{{"prompt": "?", "answer": "{TRUTH}", "data_source": "chess"}}"#), "chess");
    check_wrong(r#"{"text": "?", "data_source": "kk"}"#, "it has text, data_source");
    check_wrong(r#"{"data_source": "kk", "reward_model": {"ground_truth": ""}}"#, "prompt");
    check_wrong(&format!(r#"{{"quiz": "?", "names": ["Zoey"], "solution_text_format": "{TRUTH}"}}"#), "names");
}

#[test]
fn files_without_rows_are_refused() {
    assert!(load_text("\n \n").unwrap_err().problem.contains("no rows"));
    assert!(load(Path::new("/nowhere/train.jsonl")).unwrap_err().place.contains("/nowhere/train.jsonl"));
}

#[test]
fn groups_stand_in_order_of_first_appearance() {
    let row = |source: &str| one(&format!(r#"{{"prompt": "?", "answer": "{TRUTH}", "data_source": "{source}"}}"#));
    let groups = group_by_source(["kk_b", "kk_a", "kk_b"].map(row).into());
    let shape: Vec<_> = groups.iter().map(|(source, rows)| (source.as_str(), rows.len())).collect();
    assert_eq!(shape, [("kk_b", 2), ("kk_a", 1)]);
}

#[test]
fn an_unknown_ending_is_refused_before_the_file_is_opened() {
    for name in ["rows.csv", "rows", "rows.gz", "rows.txt.zst", "rows.parquet.gz"] {
        let problem = load(Path::new(name)).unwrap_err().problem;
        assert!(problem.contains("ending") && problem.contains(".parquet"), "{name}: {problem}");
    }
    for name in ["rows.jsonl", "rows.JSON", "rows.ndjson"] {
        assert!(load(Path::new(name)).unwrap_err().problem.contains("cannot be opened"), "{name}");
    }
}

#[test]
fn a_file_has_one_schema() {
    let plain = format!(r#"{{"prompt": "?", "answer": "{TRUTH}", "data_source": "kk"}}"#);
    let question = plain.replace("prompt", "question");
    let verl = serde_json::to_string(&one(&plain)).unwrap();
    assert_eq!(load_text(&[plain.as_str(), question.as_str()].join("\n")).unwrap().len(), 2);
    let error = load_text(&[plain, question, verl].join("\n")).unwrap_err();
    assert!(error.place.ends_with("rows.jsonl:3") && error.problem.contains("another schema"), "{error}");
}

#[cfg(not(feature = "train"))]
#[test]
fn formats_that_are_not_built_in_are_named() {
    let folder = temp_dir::TempDir::new().unwrap();
    for name in ["rows.parquet", "rows.jsonl.gz", "rows.jsonl.zst"] {
        let path = folder.path().join(name);
        std::fs::write(&path, "").unwrap();
        let error = load(&path).unwrap_err();
        assert!(error.place.ends_with(name) && error.problem.contains("\"train\""), "{error}");
    }
}

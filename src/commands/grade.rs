//! `dump-rl grade`: scores completions against a file of rows.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::InputError;
use crate::task::graders::answer::Mode;
use crate::task::graders::{self, GraderChoice};
use crate::task::{Graders, Row, rows};

/// One line of the file of completions.
#[derive(Deserialize)]
struct Given {
    /// Row number in the data, from 0.
    index: usize,
    completion: String,
}

/// One line of the output.
#[derive(Serialize)]
struct ScoredCompletion<'a> {
    index: usize,
    data_source: &'a str,
    format_score: f32,
    answer_score: f32,
    score: f32,
}

/// The graders that `--grader` and `--published` ask for.
///
/// # Errors
/// An unknown grader.
pub fn graders(grader: Option<&str>, published: bool) -> Result<Graders, InputError> {
    let named = |name| graders::named(name).map_err(|problem| InputError::new("--grader", problem));
    let choice = grader.map(named).transpose()?.map_or(GraderChoice::Row, GraderChoice::Always);
    let mode = if published { Mode::Published } else { Mode::Lenient };
    Ok(Graders { choice, mode, ..Graders::default() })
}

/// Grades every line `{"index", "completion"}` of `completions` against row `index` of `data`, and writes for each, in
/// order, `{"index", "data_source", "format_score", "answer_score", "score"}`.
///
/// # Errors
/// Rows that cannot be loaded; a line that is not JSON, lacks a field or names no row, as `path:line`; an
/// output that cannot be written.
pub fn run(graders: &Graders, data: &Path, completions: &Path, out: &mut impl Write) -> Result<(), InputError> {
    let rows = rows::load_for(graders, data)?;
    for line in rows::numbered_lines(completions)? {
        let (place, line) = line?;
        let scored = score(graders, &rows, &line).map_err(|problem| InputError::new(place, problem))?;
        write_line(out, &scored).map_err(|e| InputError::new("output", format!("cannot be written: {e}")))?;
    }
    out.flush().map_err(|e| InputError::new("output", format!("cannot be written: {e}")))
}

fn score<'a>(graders: &Graders, rows: &'a [Row], line: &str) -> Result<ScoredCompletion<'a>, String> {
    let Given { index, completion } = serde_json::from_str(line)
        .map_err(|e| format!(r#"expected {{"index": row number from 0, "completion": "…"}}: {e}"#))?;
    let row = rows.get(index).ok_or_else(|| format!("index {index}, but the rows are 0 to {}", rows.len() - 1))?;
    let grade = graders.for_row(row)?.grade(&completion);
    Ok(ScoredCompletion {
        index,
        data_source: &row.data_source,
        format_score: grade.format_score,
        answer_score: grade.answer_score,
        score: grade.score(),
    })
}

fn write_line(out: &mut impl Write, scored: &ScoredCompletion) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, scored)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grades `completions` against two rows, Zoey a knight in the first and a knave in the second.
    fn graded(completions: &str) -> Result<String, InputError> {
        let folder = temp_dir::TempDir::new().unwrap();
        let [data, given] = ["data.jsonl", "given.jsonl"].map(|name| folder.path().join(name));
        let row =
            |role: &str| format!(r#"{{"question": "?", "answer": "(1) Zoey is a {role}", "data_source": "kk_1"}}"#);
        std::fs::write(&data, format!("{}\n{}\n", row("knight"), row("knave"))).unwrap();
        std::fs::write(&given, completions).unwrap();
        let mut out = Vec::new();
        run(&Graders::default(), &data, &given, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn completions_are_scored_in_their_order() {
        let line =
            |index, completion: &str| format!("{}\n", serde_json::json!({"index": index, "completion": completion}));
        let knave = "<think></think><answer>Zoey is a knave</answer>";
        let expected = "\
            {\"index\":1,\"data_source\":\"kk_1\",\"format_score\":1.0,\"answer_score\":2.0,\"score\":3.0}\n\
            {\"index\":0,\"data_source\":\"kk_1\",\"format_score\":1.0,\"answer_score\":-1.5,\"score\":-0.5}\n\
            {\"index\":0,\"data_source\":\"kk_1\",\"format_score\":-1.0,\"answer_score\":-2.0,\"score\":-3.0}\n";
        assert_eq!(graded(&(line(1, knave) + &line(0, knave) + "\n" + &line(0, "?"))).unwrap(), expected);
    }

    #[test]
    fn the_grader_and_its_mode_can_be_chosen() {
        let folder = temp_dir::TempDir::new().unwrap();
        let [data, given] = ["data.jsonl", "given.jsonl"].map(|name| folder.path().join(name));
        std::fs::write(&data, "{\"question\": \"?\", \"answer\": \"B\", \"data_source\": \"logiqa\"}\n").unwrap();
        std::fs::write(&given, "{\"index\": 0, \"completion\": \"<answer>(b)</answer>\"}\n").unwrap();
        let answer_score = |grader, published| {
            let mut out = Vec::new();
            run(&graders(grader, published).unwrap(), &data, &given, &mut out).unwrap();
            let scored: serde_json::Value = serde_json::from_slice(&out).unwrap();
            scored["answer_score"].as_f64().unwrap()
        };
        assert_eq!(answer_score(None, false), 2.0);
        assert_eq!(answer_score(None, true), -1.5);
        assert_eq!(answer_score(Some("exact"), false), -1.5);
        let error = graders(Some("chioce"), false).unwrap_err();
        assert!(error.place == "--grader" && error.problem.contains("choice"), "{error}");
    }

    #[test]
    fn wrong_lines_are_named() {
        for (line, word) in [
            ("{", "expected"),
            (r#"{"index": 0}"#, "`completion`"),
            (r#"{"completion": "?"}"#, "`index`"),
            (r#"{"index": -1, "completion": "?"}"#, "-1"),
            (r#"{"index": 2, "completion": "?"}"#, "0 to 1"),
        ] {
            let error = graded(&format!("\n{line}\n")).unwrap_err();
            assert!(error.place.ends_with("given.jsonl:2") && error.problem.contains(word), "{error}");
        }
    }
}

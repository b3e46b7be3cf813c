//! `dump-rl grade`: scores completions against a file of rows.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::grader::GraderConfig;
use crate::config::grader_spec::GraderSpec;
use crate::error::{InputError, KeyError};
use crate::reward::Scorers;
use crate::task::rows::Place;
use crate::task::{Row, rows};

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

/// Completions that are graded at the same time.
const CHUNK: usize = 1024;

/// The graders that `--grader` and `--published` ask for. `grader` is a name or an inline TOML table.
///
/// # Errors
/// An unknown grader, or one whose program is not there or cannot be loaded.
pub fn graders(grader: Option<&str>, published: bool) -> Result<Scorers, InputError> {
    let wrong = |problem: String| InputError::new("--grader", problem);
    let always = grader.map(GraderSpec::parse).transpose().map_err(wrong)?.unwrap_or_default();
    always.check().map_err(|KeyError { key, problem }| match key.is_empty() {
        true => wrong(problem),
        false => wrong(format!("{key}: {problem}")),
    })?;
    let config = GraderConfig { always, published, ..GraderConfig::default() };
    let scorers = Scorers::new(&config).map_err(|error| wrong(error.problem))?;
    scorers.load_functions().map_err(wrong)?;
    Ok(scorers)
}

/// Grades every line `{"index", "completion"}` of `completions` against row `index` of `data`, and writes for each, in
/// order, `{"index", "data_source", "format_score", "answer_score", "score"}`.
///
/// # Errors
/// Rows that cannot be loaded; a line that is not JSON, lacks a field or names no row, as `path:line`; a completion that
/// cannot be graded; an output that cannot be written.
pub fn run(graders: &Scorers, data: &Path, completions: &Path, out: &mut impl Write) -> Result<(), InputError> {
    let rows = rows::read(data, |row| graders.for_row(row, None).map(drop))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| InputError::new("grade", format!("no async runtime: {e}")))?;
    let mut lines = rows::numbered_lines(completions)?;
    loop {
        let chunk: Vec<(Place, String)> = lines.by_ref().take(CHUNK).collect::<Result<_, _>>()?;
        if chunk.is_empty() {
            break;
        }
        runtime.block_on(grade_chunk(graders, &rows, &chunk, out))?;
    }
    out.flush().map_err(|e| InputError::new("output", format!("cannot be written: {e}")))
}

async fn grade_chunk(
    graders: &Scorers,
    rows: &[Row],
    chunk: &[(Place, String)],
    out: &mut impl Write,
) -> Result<(), InputError> {
    let mut waiting = VecDeque::new();
    for (place, line) in chunk {
        let submitted = read(rows, line).and_then(|(given, row)| {
            let completions = [given.completion];
            Ok((given.index, row, graders.for_row(row, None)?.start(row, &completions)))
        });
        waiting.push_back((place, submitted));
    }
    for (place, submitted) in waiting {
        let (index, row, grades) = submitted.map_err(|problem| InputError::new(place, problem))?;
        let grades = grades.await.map_err(|problem| InputError::new(place, problem))?;
        for grade in grades {
            let (format_score, answer_score, score) = (grade.format_score, grade.answer_score, grade.score());
            let scored = ScoredCompletion { index, data_source: &row.data_source, format_score, answer_score, score };
            write_line(out, &scored).map_err(|e| InputError::new("output", format!("cannot be written: {e}")))?;
        }
    }
    Ok(())
}

fn read<'a>(rows: &'a [Row], line: &str) -> Result<(Given, &'a Row), String> {
    let given: Given = serde_json::from_str(line)
        .map_err(|e| format!(r#"expected {{"index": row number from 0, "completion": "…"}}: {e}"#))?;
    let row = rows.get(given.index);
    let row = row.ok_or_else(|| format!("index {}, but the rows are 0 to {}", given.index, rows.len() - 1))?;
    Ok((given, row))
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
        run(&Scorers::default(), &data, &given, &mut out)?;
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
        let error = graders(Some("chioce"), false).err().unwrap();
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

//! `dump-rl data make`: rows of a procedural task.

use std::fs;
use std::path::Path;

use super::{RowFormat, write_rows};
use crate::error::InputError;
use crate::task::Row;
use crate::task::procedural;

/// What is made.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The name of a procedural task.
    pub task: &'a str,
    /// Levels such as `3-7` or `5`. Without them the task's usual ones are made.
    pub levels: Option<&'a str>,
    /// Training rows of each level.
    pub train: usize,
    /// Test rows of each level.
    pub test: usize,
    pub seed: u64,
}

/// Writes the rows of every level, in order, to `out/train` and `out/test` with the format's ending. A split without
/// rows is not written. The same arguments give the same bytes.
///
/// # Errors
/// An unknown task, levels or counts that are not possible, a file that exists already, and a path that cannot be
/// written.
pub fn run(request: Request<'_>, out: &Path, format: RowFormat) -> Result<(), InputError> {
    let Request { task, levels, train, test, seed } = request;
    let task = procedural::named(task).map_err(|e| InputError::new("data make", e))?;
    let levels = levels.map(|it| task.parse_levels(it)).transpose().map_err(|e| InputError::new("--levels", e))?;
    let levels = levels.unwrap_or_else(|| task.usual.clone());
    let wanted = levels.clone().count().saturating_mul(train.saturating_add(test));
    let made = || procedural::rows(task, levels, train, test, seed).map_err(|e| InputError::new("data make", e));
    write_splits("data make", out, format, wanted, made).map(drop)
}

/// Writes training and test rows, and says how many. They are made after it is known that no file is in the way and that some are
/// `wanted`. `command` is named in errors.
pub(super) fn write_splits(
    command: &str,
    out: &Path,
    format: RowFormat,
    wanted: usize,
    made: impl FnOnce() -> Result<(Vec<Row>, Vec<Row>), InputError>,
) -> Result<usize, InputError> {
    let files = ["train", "test"].map(|name| out.join(name).with_extension(format.ending()));
    if let Some(path) = files.iter().find(|path| path.exists()) {
        return Err(InputError::new(path.display(), "exists already; remove it or choose another --out"));
    }
    if wanted == 0 {
        return Err(InputError::new(command, "--train and --test are both 0; ask for at least one row"));
    }
    let (train, test) = made()?;
    let unsolved = |row: &Row| row.extra_info.get("solution").is_none();
    if format == RowFormat::Conversations && train.iter().chain(&test).any(unsolved) {
        return Err(InputError::new(command, "its rows have no solution to show; take another --format"));
    }
    let written = train.len() + test.len();
    fs::create_dir_all(out).map_err(|e| InputError::new(out.display(), format!("cannot be created: {e}")))?;
    for (path, rows) in files.iter().zip([train, test]).filter(|(_, rows)| !rows.is_empty()) {
        write_rows(path, &rows, format)
            .map_err(|e| InputError::new(path.display(), format!("cannot be written: {e}")))?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::data;
    use crate::task::rows;

    fn request<'a>(task: &'a str, levels: Option<&'a str>) -> Request<'a> {
        Request { task, levels, train: 6, test: 2, seed: 1 }
    }

    #[test]
    fn conversations_show_a_right_answer() {
        let folder = temp_dir::TempDir::new().unwrap();
        let out = |name: &str| folder.path().join(name);
        run(request("addition", Some("2")), &out("rows"), RowFormat::Jsonl).unwrap();
        run(request("addition", Some("2")), &out("talks"), RowFormat::Conversations).unwrap();
        let rows = rows::load(&out("rows/train.jsonl")).unwrap();
        let talks = fs::read_to_string(out("talks/train.jsonl")).unwrap();
        assert_eq!(talks.lines().count(), rows.len());
        for (row, talk) in rows.iter().zip(talks.lines()) {
            let talk: serde_json::Value = serde_json::from_str(talk).unwrap();
            let answer = talk["messages"][1]["content"].as_str().unwrap();
            assert_eq!(talk["messages"][0]["content"], row.prompt[0].content);
            assert_eq!(crate::task::Grader::for_row(row).unwrap().grade(answer).score(), 3.0, "{answer}");
        }
        let error = run(request("kk", Some("3")), &out("kk"), RowFormat::Conversations).unwrap_err();
        assert!(error.problem.contains("no solution") && !out("kk").exists(), "{error}");
    }

    #[test]
    fn every_task_is_written_in_both_formats_and_loads_again() {
        let folder = temp_dir::TempDir::new().unwrap();
        for task in procedural::REGISTRY {
            let out = folder.path().join(task.name);
            for format in [RowFormat::Jsonl, RowFormat::Parquet] {
                run(request(task.name, None), &out, format).unwrap();
            }
            let loaded = |name: &str| rows::load(&out.join(name)).unwrap();
            assert_eq!(loaded("train.parquet"), loaded("train.jsonl"), "{}", task.name);
            assert_eq!(loaded("test.parquet"), loaded("test.jsonl"), "{}", task.name);
            let made = procedural::rows(task, task.usual.clone(), 6, 2, 1).unwrap();
            assert_eq!((loaded("train.jsonl"), loaded("test.jsonl")), made, "{}", task.name);
        }
    }

    #[test]
    fn knights_and_knaves_are_those_of_data_kk() {
        let folder = temp_dir::TempDir::new().unwrap();
        for format in [RowFormat::Jsonl, RowFormat::Parquet] {
            let [kk, make] = ["kk", "make"].map(|name| folder.path().join(name));
            data::kk(3..=4, 6, 2, 1, &kk, format, None).unwrap();
            run(request("kk", Some("3-4")), &make, format).unwrap();
            for split in ["train", "test"] {
                let read = |folder: &Path| fs::read(folder.join(split).with_extension(format.ending())).unwrap();
                assert_eq!(read(&kk), read(&make), "{split} {format:?}");
            }
        }
    }

    #[test]
    fn impossible_requests_are_refused() {
        let folder = temp_dir::TempDir::new().unwrap();
        let check = |request: Request, place: &str, word: &str| {
            let error = run(request, folder.path(), RowFormat::Jsonl).unwrap_err();
            assert!(error.place == place && error.problem.contains(word), "{error}");
        };
        check(request("contdown", None), "data make", "did you mean \"countdown\"");
        check(request("countdown", Some("1-3")), "--levels", "2-8");
        check(request("countdown", Some("many")), "--levels", "\"many\"");
        check(Request { train: 0, test: 0, ..request("countdown", None) }, "data make", "both 0");
        check(Request { train: 200, ..request("addition", Some("1")) }, "data make", "200 were asked for");
        fs::write(folder.path().join("test.jsonl"), "mine").unwrap();
        let error = run(request("countdown", None), folder.path(), RowFormat::Jsonl).unwrap_err();
        assert!(error.place.ends_with("test.jsonl") && error.problem.contains("already"), "{error}");
    }
}

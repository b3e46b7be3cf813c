//! `dump-rl data make`: rows of a procedural task.

use super::SplitFiles;
use crate::error::InputError;
use crate::task::procedural;

/// Writes the rows of every level, in order; without `levels` of the task's usual ones. The same arguments give the same bytes.
///
/// # Errors
/// An unknown task, levels or counts that are not possible, a file that exists already, and a path that cannot be
/// written.
pub fn run(task: &str, levels: Option<&str>, files: &SplitFiles) -> Result<(), InputError> {
    let task = procedural::named(task).map_err(|e| InputError::new("data make", e))?;
    let levels = levels.map(|it| task.parse_levels(it)).transpose().map_err(|e| InputError::new("--levels", e))?;
    let levels = levels.unwrap_or_else(|| task.usual.clone());
    let wanted = files.wanted(levels.clone().count());
    let made = || {
        let rows = procedural::rows(task, levels, files.train, files.test, files.seed);
        rows.map_err(|e| InputError::new("data make", e))
    };
    files.write("data make", wanted, made).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::data::{self, RowFormat};
    use crate::task::rows;
    use std::fs;
    use std::path::Path;

    fn files(out: &Path, format: RowFormat) -> SplitFiles {
        SplitFiles { train: 6, test: 2, seed: 1, out: out.to_owned(), format }
    }

    #[test]
    fn conversations_show_a_right_answer() {
        let folder = temp_dir::TempDir::new().unwrap();
        let out = |name: &str| folder.path().join(name);
        run("addition", Some("2"), &files(&out("rows"), RowFormat::Jsonl)).unwrap();
        run("addition", Some("2"), &files(&out("talks"), RowFormat::Conversations)).unwrap();
        let rows = rows::load(&out("rows/train.jsonl")).unwrap();
        let talks = fs::read_to_string(out("talks/train.jsonl")).unwrap();
        assert_eq!(talks.lines().count(), rows.len());
        for (row, talk) in rows.iter().zip(talks.lines()) {
            let talk: serde_json::Value = serde_json::from_str(talk).unwrap();
            let answer = talk["messages"][1]["content"].as_str().unwrap();
            assert_eq!(talk["messages"][0]["content"], row.prompt[0].content);
            assert_eq!(crate::task::Grader::for_row(row).unwrap().grade(answer).score(), 3.0, "{answer}");
        }
        let error = run("kk", Some("3"), &files(&out("kk"), RowFormat::Conversations)).unwrap_err();
        assert!(error.problem.contains("no solution") && !out("kk").exists(), "{error}");
    }

    #[test]
    fn every_task_is_written_in_both_formats_and_loads_again() {
        let folder = temp_dir::TempDir::new().unwrap();
        for task in procedural::REGISTRY {
            let out = folder.path().join(task.name);
            for format in [RowFormat::Jsonl, RowFormat::Parquet] {
                run(task.name, None, &files(&out, format)).unwrap();
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
            data::kk(3..=4, None, &files(&kk, format)).unwrap();
            run("kk", Some("3-4"), &files(&make, format)).unwrap();
            for split in ["train", "test"] {
                let read = |folder: &Path| fs::read(folder.join(split).with_extension(format.ending())).unwrap();
                assert_eq!(read(&kk), read(&make), "{split} {format:?}");
            }
        }
    }

    #[test]
    fn impossible_requests_are_refused() {
        let folder = temp_dir::TempDir::new().unwrap();
        let six = files(folder.path(), RowFormat::Jsonl);
        let check = |task: &str, levels: Option<&str>, files: &SplitFiles, place: &str, word: &str| {
            let error = run(task, levels, files).unwrap_err();
            assert!(error.place == place && error.problem.contains(word), "{error}");
        };
        check("contdown", None, &six, "data make", "did you mean \"countdown\"");
        check("countdown", Some("1-3"), &six, "--levels", "2-8");
        check("countdown", Some("many"), &six, "--levels", "\"many\"");
        check("countdown", None, &SplitFiles { train: 0, test: 0, ..six.clone() }, "data make", "both 0");
        check("addition", Some("1"), &SplitFiles { train: 200, ..six.clone() }, "data make", "200 were asked for");
        fs::write(folder.path().join("test.jsonl"), "mine").unwrap();
        let error = run("countdown", None, &files(folder.path(), RowFormat::Jsonl)).unwrap_err();
        assert!(error.place.ends_with("test.jsonl") && error.problem.contains("already"), "{error}");
    }
}

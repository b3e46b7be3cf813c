//! From the names in `train_files` and `test_files` to the files themselves.

use std::path::PathBuf;

use crate::error::InputError;
use crate::model::hub::{self, Download};

/// The files that `names` stand for: paths, globs, or `hf://datasets/OWNER/NAME/PATH` with or without a glob. The files of a glob
/// are in the order of their names. `None` if some are on the hub and may not be downloaded.
///
/// # Errors
/// A name that no file has, at `key`; a data set that cannot be downloaded.
pub fn find(names: &[String], key: &str, download: Download) -> Result<Option<Vec<PathBuf>>, InputError> {
    let mut files = Vec::new();
    for name in names {
        match name.strip_prefix(hub::DATASETS) {
            Some(rest) => match hub::dataset_files(name, rest, download)? {
                Some(found) => files.extend(found),
                None => return Ok(None),
            },
            None => files.extend(local(name).map_err(|problem| InputError::new(key, problem))?),
        }
    }
    Ok(Some(files))
}

fn local(name: &str) -> Result<Vec<PathBuf>, String> {
    if name.contains("://") {
        return Err(format!("{name:?} cannot be read; expected a path or {}OWNER/NAME/PATH", hub::DATASETS));
    }
    if !name.contains(['*', '?', '[']) || PathBuf::from(name).exists() {
        return Ok(vec![name.into()]);
    }
    let found = glob::glob(name).map_err(|e| format!("{name:?} is not a valid pattern: {e}"))?;
    let files = found.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    match files.is_empty() {
        true => Err(format!("no file matches {name:?}")),
        false => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_gives_its_files_in_order() {
        let folder = temp_dir::TempDir::new().unwrap();
        for name in ["b-1.jsonl", "b-0.jsonl", "a.jsonl", "[x].jsonl"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let find = |name: &str| find(&[path(name)], "data.train_files", Download::Never).map(Option::unwrap);
        let names = |files: Vec<PathBuf>| {
            files.iter().map(|it| it.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(find("b-*.jsonl").unwrap()), ["b-0.jsonl", "b-1.jsonl"]);
        assert_eq!(names(find("[x].jsonl").unwrap()), ["[x].jsonl"]);
        assert_eq!(names(find("missing.jsonl").unwrap()), ["missing.jsonl"]);
        let error = find("c-*.jsonl").unwrap_err();
        assert!(error.place == "data.train_files" && error.problem.contains("no file matches"), "{error}");
        assert!(find("***").unwrap_err().problem.contains("pattern"));
    }
}

//! Files that Python wrote (tests/golden/rows.py) are read with the values that Python put into them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rows")
}

/// Reads a file without asking for graders.
fn read_any(name: &str) -> Result<Vec<Row>, InputError> {
    read(&folder().join(name), |_| Ok(()))
}

fn check_rows(name: &str, expected: &[Value]) {
    let rows = read_any(name).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rows.len(), expected.len(), "{name}");
    for (number, (row, expected)) in rows.iter().zip(expected).enumerate() {
        assert_eq!(&serde_json::to_value(row).unwrap(), expected, "{name} row {number}");
    }
}

fn check_error(name: &str, expected: &Value) {
    let error = read_any(name).expect_err(name);
    let place = expected["place"].as_str().unwrap();
    let found = Path::new(&error.place).file_name().unwrap().to_str().unwrap();
    // A place that ends with a colon leaves the line open.
    let same = if place.ends_with(':') { found.starts_with(place) } else { found == place };
    assert!(same, "{place}: {error}");
    for word in expected["words"].as_array().unwrap() {
        assert!(error.problem.contains(word.as_str().unwrap()), "{name}: {word} is not in {error}");
    }
}

#[test]
fn every_file_is_read_as_python_wrote_it() {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let files = expected.as_object().unwrap();
    assert!(files.len() > 25, "{} files", files.len());
    for (name, expected) in files {
        match &expected["rows"] {
            Value::Null => check_error(name, expected),
            Value::String(same) => check_rows(name, files[same]["rows"].as_array().unwrap()),
            rows => check_rows(name, rows.as_array().unwrap()),
        }
    }
}

#[test]
fn a_row_without_a_grader_is_named() {
    let error = load(&folder().join("named.parquet")).unwrap_err();
    assert!(error.place.ends_with("named.parquet: row 0"), "{error}");
    assert!(error.problem.contains("no grader"), "{error}");
}

/// Changes one byte after another. Whatever comes of it, nothing panics.
#[test]
fn damaged_parquet_files_are_errors_or_other_rows() {
    let temporary = temp_dir::TempDir::new().unwrap();
    let path = temporary.path().join("rows.parquet");
    let whole = std::fs::read(folder().join("verl-zstd.parquet")).unwrap();
    for position in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << (position % 8);
        std::fs::write(&path, &bytes).unwrap();
        drop(read(&path, |_| Ok(())));
        std::fs::write(&path, &whole[..position]).unwrap();
        assert!(read(&path, |_| Ok(())).is_err(), "cut off at {position}");
    }
}

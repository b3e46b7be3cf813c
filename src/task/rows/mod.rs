//! Reads rows from files of every accepted format and schema, and groups them by source.
//!
//! Every loaded row has a data source, a prompt that is not empty, and a ground truth that its grader understands. All
//! rows of a file have one schema.
//!
//! - `lines`: JSON Lines, plain or compressed · `parquet`, with the feature `train`.
//! - `schema`: which fields make a row.
//! - `parquet_writer`: writes rows as a parquet file.

#[cfg(all(test, feature = "train"))]
mod golden;
mod lines;
#[cfg(feature = "train")]
mod parquet;
#[cfg(feature = "train")]
pub mod parquet_writer;
mod schema;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::schema::Schema;
use super::graders::Graders;
use super::row::Row;
use crate::error::InputError;

pub use lines::numbered_lines;

/// Reads every row of a file, each of which `graders` must be able to grade; blank lines of JSON Lines are skipped. The ending says what the file is: `.jsonl`,
/// `.ndjson` or `.json` for JSON Lines, these with `.gz` or `.zst` for compressed ones, or `.parquet`.
///
/// # Errors
/// A file that cannot be read or has no rows; the first row that is not valid, as `path:line` (JSON Lines) or
/// `path: row N` (parquet, counted from 0).
pub fn load_for(graders: &Graders, path: &Path) -> Result<Vec<Row>, InputError> {
    read(path, |row| graders.for_row(row).map(drop))
}

/// As [`load_for`], with the default graders.
///
/// # Errors
/// As [`load_for`].
pub fn load(path: &Path) -> Result<Vec<Row>, InputError> {
    load_for(&Graders::default(), path)
}

/// As [`load`], but `check` decides which rows are valid.
fn read(path: &Path, check: impl Fn(&Row) -> Result<(), String> + Sync) -> Result<Vec<Row>, InputError> {
    let mut rows = Rows::default();
    let expected = match Format::of(path)? {
        Format::Lines => {
            lines::for_each(path, |value| {
                let (schema, row) = schema::row(value)?;
                check(&row)?;
                rows.push(schema, row)
            })?;
            "one JSON object per line"
        }
        Format::Parquet => {
            parquet_rows(path, check, |schema, row| rows.push(schema, row))?;
            "at least one"
        }
    };
    match rows.rows.is_empty() {
        true => Err(InputError::new(path.display(), format!("the file has no rows; expected {expected}"))),
        false => Ok(rows.rows),
    }
}

#[cfg(feature = "train")]
use parquet::for_each as parquet_rows;

#[cfg(not(feature = "train"))]
fn parquet_rows(
    path: &Path,
    _: impl Fn(&Row) -> Result<(), String>,
    _: impl FnMut(Schema, Row) -> Result<(), String>,
) -> Result<(), InputError> {
    Err(InputError::new(path.display(), "parquet files need a build with the feature \"train\""))
}

/// What a file's ending says about its content.
#[derive(Clone, Copy)]
enum Format {
    Lines,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Self, InputError> {
        if has_ending(path, "parquet") {
            return Ok(Self::Parquet);
        }
        let compressed = ["gz", "zst"].into_iter().any(|ending| has_ending(path, ending));
        let inner = if compressed { path.with_extension("") } else { path.to_owned() };
        match ["jsonl", "ndjson", "json"].into_iter().any(|ending| has_ending(&inner, ending)) {
            true => Ok(Self::Lines),
            false => {
                let problem = "the file's ending is unknown; expected .jsonl, .jsonl.gz, .jsonl.zst or .parquet";
                Err(InputError::new(path.display(), problem))
            }
        }
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|it| it.eq_ignore_ascii_case(ending))
}

/// The rows that are read so far. All have the same schema.
#[derive(Default)]
struct Rows {
    schema: Option<Schema>,
    rows: Vec<Row>,
}

impl Rows {
    fn push(&mut self, schema: Schema, row: Row) -> Result<(), String> {
        let first = *self.schema.get_or_insert(schema);
        if first != schema {
            return Err(format!(
                "the row has another schema ({schema}) than the rows before it ({first}); put each schema into a file"
            ));
        }
        self.rows.push(row);
        Ok(())
    }
}

/// Splits rows by `data_source`: sources in the order of first appearance, rows in their order.
pub fn group_by_source(rows: Vec<Row>) -> Vec<(String, Vec<Row>)> {
    let mut sources: Vec<(String, usize)> = Vec::new();
    for row in &rows {
        match sources.iter_mut().find(|(source, _)| *source == row.data_source) {
            Some((_, count)) => *count += 1,
            None => sources.push((row.data_source.clone(), 1)),
        }
    }
    if let [_] = sources.as_slice() {
        return sources.into_iter().map(|(source, _)| source).zip([rows]).collect();
    }
    let mut groups: Vec<(String, Vec<Row>)> =
        sources.into_iter().map(|(source, count)| (source, Vec::with_capacity(count))).collect();
    for row in rows {
        let group = groups.iter_mut().find(|(source, _)| *source == row.data_source);
        group.expect("every source has a group").1.push(row);
    }
    groups
}

//! Reads rows from files of every accepted format and schema, and groups them by source.
//!
//! Every loaded row has a data source, a prompt that is not empty, and a ground truth that its grader understands. All
//! rows of a file have one schema.
//!
//! - `lines`: JSON Lines, plain or compressed · `parquet`, with the feature `train`.
//! - `schema`: which fields make a row · `place`: where a row stands.
//! - `parquet_writer`: writes rows as a parquet file.

#[cfg(all(test, feature = "train"))]
mod golden;
mod lines;
#[cfg(feature = "train")]
mod parquet;
#[cfg(feature = "train")]
pub mod parquet_writer;
mod place;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use self::schema::Schema;
use super::graders::Graders;
use super::mixture::Mapping;
use super::row::Row;
use crate::error::InputError;

pub use lines::{numbered_lines, open_text};
pub use place::Place;

/// Reads every row of a file, each of which `graders` must be able to grade; blank lines of JSON Lines are skipped. The
/// ending says what the file is: `.jsonl`, `.ndjson` or `.json` for JSON Lines, these with `.gz` or `.zst` for
/// compressed ones, or `.parquet`.
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
///
/// # Errors
/// As [`load_for`].
pub fn read(path: &Path, check: impl Fn(&Row) -> Result<(), String>) -> Result<Vec<Row>, InputError> {
    let mut rows = Vec::new();
    for_each(path, &Mapping::default(), |row, _| {
        check(&row)?;
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

/// Gives every row of a file to `take`, with its place. `mapping` says what does not come from the schema.
///
/// # Errors
/// As [`load_for`], with the first row that `take` refuses.
pub fn for_each(
    path: &Path,
    mapping: &Mapping,
    mut take: impl FnMut(Row, &Place) -> Result<(), String>,
) -> Result<(), InputError> {
    let (mut schema, mut any) = (None, false);
    let mut push = |(found, row): (Option<Schema>, Row), place: &Place| {
        any = true;
        same_schema(&mut schema, found)?;
        take(row, place)
    };
    match Format::of(path)? {
        Format::Lines => lines::for_each(path, |value, place| push(row(value, mapping)?, place))?,
        Format::Parquet => parquet::rows(path, mapping, &mut push)?,
    }
    if any { Ok(()) } else { Err(no_rows(path)) }
}

/// Gives every row of a file to `take` as a JSON object, whatever its keys are, with its place.
///
/// # Errors
/// A file that cannot be read or has no rows; the first row that is not an object or that `take` refuses.
pub fn objects(
    path: &Path,
    mut take: impl FnMut(Map<String, Value>, &Place) -> Result<(), String>,
) -> Result<(), InputError> {
    let mut any = false;
    let mut push = |value: Value, place: &Place| {
        any = true;
        match value {
            Value::Object(fields) => take(fields, place),
            _ => Err("expected a JSON object".into()),
        }
    };
    match Format::of(path)? {
        Format::Lines => lines::for_each(path, push)?,
        Format::Parquet => parquet::objects(path, &mut push)?,
    }
    if any { Ok(()) } else { Err(no_rows(path)) }
}

fn no_rows(path: &Path) -> InputError {
    InputError::new(
        path.display(),
        "the file has no rows; expected one JSON object per line, or a parquet file with rows",
    )
}

/// Compares the schema of a row with that of the rows before it. Rows that `Mapping` makes alone have none.
fn same_schema(first: &mut Option<Schema>, found: Option<Schema>) -> Result<(), String> {
    let Some(found) = found else { return Ok(()) };
    match *first.get_or_insert(found) {
        first if first == found => Ok(()),
        first => Err(format!(
            "the row has another schema ({found}) than the rows before it ({first}); put each schema into a file"
        )),
    }
}

/// A JSON object as a row, and its schema if it needs one.
fn row(mut value: Value, mapping: &Mapping) -> Result<(Option<Schema>, Row), String> {
    if mapping.is_complete() {
        return Ok((None, mapping.row(value)?));
    }
    if let (Some(fields), Some(name)) = (value.as_object_mut(), &mapping.data_source) {
        schema::name_source(fields, name);
    }
    let fields = mapping.has_templates().then(|| value.clone());
    let (schema, mut row) = schema::row(value)?;
    if let Some(fields) = fields {
        row.extra_info = fields;
    }
    Ok((Some(schema), mapping.apply(row)?))
}

/// Without the feature `train`.
#[cfg(not(feature = "train"))]
mod parquet {
    use super::{InputError, Mapping, Path, Place, Row, Schema, Value};

    pub fn rows(
        path: &Path,
        _: &Mapping,
        _: impl FnMut((Option<Schema>, Row), &Place) -> Result<(), String>,
    ) -> Result<(), InputError> {
        Err(not_built_in(path))
    }

    pub fn objects(path: &Path, _: impl FnMut(Value, &Place) -> Result<(), String>) -> Result<(), InputError> {
        Err(not_built_in(path))
    }

    fn not_built_in(path: &Path) -> InputError {
        InputError::new(path.display(), "parquet files need a build with the feature \"train\"")
    }
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

/// Rows by a name, in the order of first appearance.
pub struct RowsByName<T> {
    groups: Vec<(String, Vec<T>)>,
    by_name: HashMap<String, usize>,
}

impl<T> Default for RowsByName<T> {
    fn default() -> Self {
        Self { groups: Vec::new(), by_name: HashMap::new() }
    }
}

impl<T> RowsByName<T> {
    pub fn push(&mut self, name: &str, row: T) {
        let index = self.by_name.get(name).copied().unwrap_or_else(|| {
            self.by_name.insert(name.to_owned(), self.groups.len());
            self.groups.push((name.to_owned(), Vec::new()));
            self.groups.len() - 1
        });
        self.groups[index].1.push(row);
    }

    pub fn into_vec(self) -> Vec<(String, Vec<T>)> {
        self.groups
    }
}

/// Splits rows by `data_source`: sources in the order of first appearance, rows in their order.
pub fn group_by_source(rows: Vec<Row>) -> Vec<(String, Vec<Row>)> {
    let mut groups = RowsByName::default();
    for row in rows {
        let source = row.data_source.clone();
        groups.push(&source, row);
    }
    groups.into_vec()
}

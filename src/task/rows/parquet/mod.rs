//! Reads parquet files in batches of rows.
//!
//! Only the columns that a row can use are read, and only the pages of one batch are held. One batch is read while the
//! rows of the one before are made, on all cores.
//!
//! - `batches`: opens a file and reads its batches · `leaf`: reads a column of plain values · `shape`: the file's schema
//!   as a tree · `table`: plain values put together to structs, lists and maps.

mod batches;
mod leaf;
mod shape;
mod table;

use std::path::Path;
use std::sync::Arc;

use ::parquet::errors::{ParquetError, Result as ParquetResult};
use rayon::prelude::*;
use serde_json::{Map, Value};

use self::batches::Batches;
use self::table::Cell;
use super::Place;
use super::schema::{self, Schema};
use crate::error::InputError;
use crate::panics;
use crate::task::mixture::Mapping;
use crate::task::row::{Message, RewardModel, Row};

/// Gives every row to `take`, in order, with its place, and with its schema if it needs one. `mapping` says what does
/// not come from the schema.
///
/// # Errors
/// As `for_each`.
pub(super) fn rows(
    path: &Path,
    mapping: &Mapping,
    take: impl FnMut((Option<Schema>, Row), &Place) -> Result<(), String>,
) -> Result<(), InputError> {
    // Templates may name any column.
    let used = |name: &str| mapping.has_templates() || schema::COLUMNS.contains(&name);
    for_each(path, used, |cell, unused| row(cell, mapping, unused), take)
}

/// Gives every row to `take` as a JSON object, in order, with its place.
///
/// # Errors
/// As `for_each`.
pub(super) fn objects(path: &Path, take: impl FnMut(Value, &Place) -> Result<(), String>) -> Result<(), InputError> {
    for_each(path, |_| true, object, take)
}

/// Gives what `make` makes of every row to `take`. Only columns that are `used` are read; `make` is told of the others.
///
/// # Errors
/// A file that cannot be opened or is not parquet; the first row that cannot be read or that `take` refuses.
fn for_each<T: Send>(
    path: &Path,
    used: impl Fn(&str) -> bool,
    make: impl Fn(Cell<'_>, &[String]) -> Result<T, String> + Sync,
    mut take: impl FnMut(T, &Place) -> Result<(), String>,
) -> Result<(), InputError> {
    let file: Arc<Path> = path.into();
    let mut batches = Batches::open(path, used)?;
    let unused = batches.unused.clone();
    let mut number = 0;
    let mut next = guarded(|| batches.next());
    let damaged = |place, problem| InputError::new(place, format!("the rows from here on: {problem}"));
    while let Some(batch) = next.map_err(|problem| damaged(Place::row(&file, number), problem))? {
        let indices = (0..batch.rows).into_par_iter();
        let all = || indices.map(|index| make(batch.row(index), &unused)).collect::<Vec<_>>();
        let (made, following) = rayon::join(all, || guarded(|| batches.next()));
        for row in made {
            let place = Place::row(&file, number);
            row.and_then(|row| take(row, &place)).map_err(|problem| InputError::new(place, problem))?;
            number += 1;
        }
        next = following;
    }
    Ok(())
}

/// The parquet crate panics on some damaged files. Here they are errors.
fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> ParquetResult<T> {
    panics::caught_quietly(read).unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".into())))
}

/// A row of any schema. `unused` are the columns that are not read.
fn row(cell: Cell<'_>, mapping: &Mapping, unused: &[String]) -> Result<(Option<Schema>, Row), String> {
    let direct = if mapping.has_templates() { None } else { verl(cell) };
    match direct {
        Some(row) => Ok((Some(Schema::Verl), mapping.apply(row)?)),
        None => super::row(object(cell, unused)?, mapping),
    }
}

/// A row of verl's schema with the usual types, made without JSON in between. It is what [`schema::row`] makes.
fn verl(row: Cell<'_>) -> Option<Row> {
    let model = row.field("reward_model")?;
    let is_plain =
        |it: &Cell<'_>| it.fields().all(|(name, value)| matches!(name, "role" | "content") || value.is_null());
    let message = |it: Cell<'_>| {
        let it = Some(it).filter(is_plain)?;
        Some(Message::new(it.field("role")?.text()?, it.field("content")?.text()?))
    };
    let prompt = row.field("prompt")?.items()?.map(message).collect::<Option<Vec<_>>>()?;
    let data_source = row.field("data_source")?.text()?;
    if prompt.is_empty() || data_source.is_empty() {
        return None;
    }
    let truth = model.field("ground_truth")?.text()?;
    let mut reward_model = RewardModel::rule(truth);
    if let Some(style) = model.field("style") {
        reward_model.style = style.text()?.into();
    }
    if let Some(grader) = model.field("grader") {
        reward_model.grader = Some(grader.text()?.into());
    }
    Some(Row {
        data_source: data_source.into(),
        prompt,
        ability: row.field("ability").map_or(Some(""), Cell::text)?.into(),
        reward_model,
        extra_info: row.field("extra_info").map_or(Ok(Value::Null), Cell::value).ok()?,
    })
}

/// A row as a JSON object. A column that is not read is there with the value null.
fn object(row: Cell<'_>, unused: &[String]) -> Result<Value, String> {
    let mut fields: Map<String, Value> = unused.iter().map(|name| (name.clone(), Value::Null)).collect();
    for (name, cell) in row.fields() {
        fields.insert(name.to_owned(), cell.value().map_err(|problem| format!("column {name}: {problem}"))?);
    }
    Ok(Value::Object(fields))
}

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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::parquet::errors::{ParquetError, Result as ParquetResult};
use rayon::prelude::*;
use serde_json::{Map, Value};

use self::batches::Batches;
use self::table::Cell;
use super::schema::{self, Schema};
use crate::error::InputError;
use crate::task::mixture::Mapping;
use crate::task::row::{Message, RewardModel, Row};

/// Gives every row to `take`, in order, with its schema if it needs one. `mapping` says what does not come from the
/// schema.
///
/// # Errors
/// A file that cannot be opened or is not parquet; the first row that cannot be read or that `take` refuses, as
/// `path: row N`, counted from 0.
pub(super) fn for_each(
    path: &Path,
    mapping: &Mapping,
    mut take: impl FnMut((Option<Schema>, Row)) -> Result<(), String>,
) -> Result<(), InputError> {
    let fail = |number: usize, problem| InputError::new(format_args!("{}: row {number}", path.display()), problem);
    // Templates may name any column.
    let mut batches = Batches::open(path, |name| mapping.has_templates() || schema::COLUMNS.contains(&name))?;
    let unused = batches.unused.clone();
    let mut number = 0;
    let mut next = guarded(|| batches.next());
    while let Some(batch) = next.map_err(|problem| fail(number, format!("the rows from here on: {problem}")))? {
        let indices = (0..batch.rows).into_par_iter();
        let all = || indices.map(|index| row(batch.row(index), mapping, &unused)).collect::<Vec<_>>();
        let (rows, following) = rayon::join(all, || guarded(|| batches.next()));
        for row in rows {
            row.and_then(&mut take).map_err(|problem| fail(number, problem))?;
            number += 1;
        }
        next = following;
    }
    Ok(())
}

/// The parquet crate panics on some damaged files. Here they are errors.
fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> ParquetResult<T> {
    let damaged = |_| Err(ParquetError::General("the file is damaged".into()));
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(damaged)
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
    let message = |it: Cell<'_>| Some(Message::new(it.field("role")?.text()?, it.field("content")?.text()?));
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

//! Reads parquet files row by row, and turns each row into JSON.
//!
//! One row group is open at a time, and only the columns that a row can use are read. Lists, structs and maps may be
//! nested.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::reader::FileReader;
use ::parquet::file::serialized_reader::SerializedFileReader;
use ::parquet::record::reader::RowIter;
use ::parquet::record::{Field, Row as Record};
use ::parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::{Columns, schema};
use crate::error::InputError;

/// Gives every row to `take` as a JSON object. A column that no schema uses is there with the value null.
///
/// # Errors
/// A file that cannot be opened or is not parquet; the first row that cannot be read or that `take` refuses, as
/// `path: row N`, counted from 0.
pub(super) fn for_each(
    path: &Path,
    columns: Columns,
    mut take: impl FnMut(Value) -> Result<(), String>,
) -> Result<(), InputError> {
    let fail = |problem: String| InputError::new(path.display(), problem);
    let file = File::open(path).map_err(|e| fail(format!("cannot be opened: {e}")))?;
    let (mut records, unused) =
        guarded(|| open(file, columns)).map_err(|e| fail(format!("cannot be read as a parquet file: {e}")))?;
    for number in 0.. {
        let Some(record) = guarded(|| records.next().transpose()).transpose() else { break };
        let value = record.map_err(|e| format!("cannot be read: {e}")).and_then(|it| object(&it, &unused));
        value
            .and_then(&mut take)
            .map_err(|problem| InputError::new(format_args!("{}: row {number}", path.display()), problem))?;
    }
    Ok(())
}

/// The rows of a file, and the names of the columns that are not read.
fn open(file: File, columns: Columns) -> ParquetResult<(RowIter<'static>, Vec<String>)> {
    let reader = SerializedFileReader::new(file)?;
    let root = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
    let (used, unused): (Vec<Arc<Type>>, Vec<_>) = root
        .get_fields()
        .iter()
        .cloned()
        .partition(|it| columns == Columns::All || schema::COLUMNS.contains(&it.name()));
    // pandas stores an index that is not 0, 1, 2, … as a column.
    let unused = unused.iter().map(|it| it.name()).filter(|name| !name.starts_with("__index_level_"));
    let unused = unused.map(String::from).collect();
    let rows = RowIter::from_file_into(Box::new(reader));
    if used.is_empty() || used.len() == root.get_fields().len() {
        return Ok((rows, unused));
    }
    let projection = Type::group_type_builder(root.name()).with_fields(used).build()?;
    Ok((rows.project(Some(projection))?, unused))
}

/// The parquet crate panics on some damaged files. Here they are errors.
fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> ParquetResult<T> {
    let damaged = |_| Err(ParquetError::General("the file is damaged".into()));
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(damaged)
}

fn object(record: &Record, unused: &[String]) -> Result<Value, String> {
    let mut fields: Map<String, Value> = unused.iter().map(|name| (name.clone(), Value::Null)).collect();
    for (name, field) in record.get_column_iter() {
        fields.insert(name.clone(), value(field).map_err(|problem| format!("column {name}: {problem}"))?);
    }
    Ok(Value::Object(fields))
}

fn value(field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(it) => Value::from(*it),
        Field::Byte(it) => Value::from(*it),
        Field::Short(it) => Value::from(*it),
        Field::Int(it) => Value::from(*it),
        Field::Long(it) => Value::from(*it),
        Field::UByte(it) => Value::from(*it),
        Field::UShort(it) => Value::from(*it),
        Field::UInt(it) => Value::from(*it),
        Field::ULong(it) => Value::from(*it),
        Field::Float16(it) => Value::from(it.to_f32()),
        Field::Float(it) => Value::from(*it),
        Field::Double(it) => Value::from(*it),
        Field::Str(it) => Value::from(it.as_str()),
        // Some programs write text without saying that it is text.
        Field::Bytes(it) => match std::str::from_utf8(it.data()) {
            Ok(text) => Value::from(text),
            Err(_) => return Err("it has bytes that are not UTF-8; expected text".into()),
        },
        Field::Group(record) => structure(record)?,
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect::<Result<_, _>>()?),
        Field::MapInternal(map) => {
            let entry = |(key, it): &(Field, Field)| Ok((key_text(key), value(it)?));
            Value::Object(map.entries().iter().map(entry).collect::<Result<_, String>>()?)
        }
        // Decimals, dates and times.
        other => Value::from(other.to_string()),
    })
}

/// All rows of a file have the same keys in a struct. A null stands for a key that this row does not have.
fn structure(record: &Record) -> Result<Value, String> {
    let present = record.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
    let entry = |(name, field): (&String, &Field)| match value(field) {
        Ok(value) => Ok((name.clone(), value)),
        Err(problem) => Err(format!("{name}: {problem}")),
    };
    Ok(Value::Object(present.map(entry).collect::<Result<_, _>>()?))
}

fn key_text(key: &Field) -> String {
    match key {
        Field::Str(text) => text.clone(),
        other => other.to_string(),
    }
}

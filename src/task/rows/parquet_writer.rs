//! Writes rows as a parquet file in the schema that is common in the field (verl), with nested columns.

use std::io::Write;
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use serde_json::Value;

use crate::task::row::{Message, Row};

/// Rows of one row group.
const ROW_GROUP: usize = 50_000;

/// Writes a whole parquet file, compressed with Snappy. Columns of `extra_info` are the keys of the first row, and
/// there is a column for graders if that row names one.
///
/// # Errors
/// A file that cannot be written; a row that names a grader where the first row does not, or the other way round; an
/// `extra_info` that has other keys or types than in the first row, or values that are neither whole numbers nor text.
pub fn write(file: impl Write + Send, rows: &[Row]) -> Result<()> {
    let extra = rows.first().map_or(Ok(Vec::new()), |row| extra_columns(&row.extra_info))?;
    let graders = rows.first().is_some_and(|row| row.reward_model.grader.is_some());
    if rows.iter().any(|row| row.reward_model.grader.is_some() != graders) {
        return Err(ParquetError::General("some rows name a grader and others do not; all must, or none".into()));
    }
    let schema = Arc::new(parse_message_type(&message_type(&extra, graders))?);
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut file = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    for rows in rows.chunks(ROW_GROUP) {
        let mut group = file.next_row_group()?;
        write_group(&mut group, rows, &extra)?;
        group.close()?;
    }
    file.close().map(drop)
}

/// A column of `extra_info`.
struct ExtraColumn {
    name: String,
    kind: ExtraKind,
}

#[derive(Clone, Copy)]
enum ExtraKind {
    Number,
    Text,
}

fn extra_columns(extra: &Value) -> Result<Vec<ExtraColumn>> {
    let column = |(name, value): (&String, &Value)| match value {
        Value::String(_) => Ok(ExtraColumn { name: name.clone(), kind: ExtraKind::Text }),
        Value::Number(_) => Ok(ExtraColumn { name: name.clone(), kind: ExtraKind::Number }),
        _ => Err(unfit(name)),
    };
    extra.as_object().into_iter().flatten().map(column).collect()
}

fn unfit(name: &str) -> ParquetError {
    let expected = "expected a whole number in every row, or text in every row";
    ParquetError::General(format!("extra_info.{name} does not fit into a column; {expected}"))
}

fn message_type(extra: &[ExtraColumn], graders: bool) -> String {
    let text = |name: &str| format!("REQUIRED BYTE_ARRAY {name} (STRING);");
    let column = |it: &ExtraColumn| match it.kind {
        ExtraKind::Number => format!("REQUIRED INT64 {};", it.name),
        ExtraKind::Text => text(&it.name),
    };
    let (role, content) = (text("role"), text("content"));
    let message = format!("REQUIRED GROUP element {{ {role} {content} }}");
    let prompt = format!("REQUIRED GROUP prompt (LIST) {{ REPEATED GROUP list {{ {message} }} }}");
    let grader = if graders { text("grader") } else { String::new() };
    let reward_model = format!("REQUIRED GROUP reward_model {{ {} {} {grader} }}", text("style"), text("ground_truth"));
    let extra_info = match extra.iter().map(column).collect::<String>() {
        columns if columns.is_empty() => String::new(),
        columns => format!("REQUIRED GROUP extra_info {{ {columns} }}"),
    };
    let (data_source, ability) = (text("data_source"), text("ability"));
    format!("message schema {{ {data_source} {prompt} {ability} {reward_model} {extra_info} }}")
}

/// Writes the columns in the order of [`message_type`].
fn write_group<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Row],
    extra: &[ExtraColumn],
) -> Result<()> {
    write_texts(group, rows, |row| &row.data_source)?;
    write_messages(group, rows, |message| &message.role)?;
    write_messages(group, rows, |message| &message.content)?;
    write_texts(group, rows, |row| &row.ability)?;
    write_texts(group, rows, |row| &row.reward_model.style)?;
    write_texts(group, rows, |row| &row.reward_model.ground_truth)?;
    if rows.iter().any(|row| row.reward_model.grader.is_some()) {
        write_texts(group, rows, |row| row.reward_model.grader.as_deref().unwrap_or_default())?;
    }
    for ExtraColumn { name, kind } in extra {
        let values = rows.iter().map(|row| &row.extra_info[name.as_str()]);
        match kind {
            ExtraKind::Number => {
                let numbers: Option<Vec<i64>> = values.map(Value::as_i64).collect();
                write_column::<Int64Type, _>(group, &numbers.ok_or_else(|| unfit(name))?, None)?;
            }
            ExtraKind::Text => {
                let texts: Option<Vec<ByteArray>> = values.map(|it| it.as_str().map(ByteArray::from)).collect();
                write_column::<ByteArrayType, _>(group, &texts.ok_or_else(|| unfit(name))?, None)?;
            }
        }
    }
    Ok(())
}

fn write_texts<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Row],
    text: impl Fn(&Row) -> &str,
) -> Result<()> {
    let values: Vec<ByteArray> = rows.iter().map(|row| text(row).into()).collect();
    write_column::<ByteArrayType, _>(group, &values, None)
}

/// One field of every prompt's messages.
fn write_messages<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Row],
    text: impl Fn(&Message) -> &str,
) -> Result<()> {
    let values: Vec<ByteArray> = rows.iter().flat_map(|row| &row.prompt).map(|it| text(it).into()).collect();
    // An empty prompt is a single entry without a value.
    let entries = || rows.iter().flat_map(|row| (0..row.prompt.len().max(1)).map(move |index| (row, index)));
    let definition: Vec<i16> = entries().map(|(row, _)| i16::from(!row.prompt.is_empty())).collect();
    let repetition: Vec<i16> = entries().map(|(_, index)| i16::from(index > 0)).collect();
    write_column::<ByteArrayType, _>(group, &values, Some((&definition, &repetition)))
}

/// Writes the next column. `levels` are the definition and repetition levels of a list.
fn write_column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<(&[i16], &[i16])>,
) -> Result<()> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("this is a bug: too many columns".into()))?;
    let (definition, repetition) = levels.unzip();
    column.typed::<T>().write_batch(values, definition, repetition)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::kk;
    use crate::task::rows::load;

    #[test]
    fn written_rows_load_again() {
        let folder = temp_dir::TempDir::new().unwrap();
        let path = folder.path().join("rows.parquet");
        let (mut rows, _) = kk::splits(3..=5, 4, 0, 1).unwrap();
        rows[1].prompt.remove(0);
        write(std::fs::File::create(&path).unwrap(), &rows).unwrap();
        assert_eq!(load(&path).unwrap(), rows);
    }

    #[test]
    fn extra_info_that_is_no_column_is_refused() {
        let (mut rows, _) = kk::splits(3..=3, 2, 0, 1).unwrap();
        rows[1].extra_info["index"] = "one".into();
        assert!(write(Vec::new(), &rows).unwrap_err().to_string().contains("extra_info.index"));
        rows[0].extra_info["index"] = Value::Null;
        assert!(write(Vec::new(), &rows).unwrap_err().to_string().contains("extra_info.index"));
    }
}

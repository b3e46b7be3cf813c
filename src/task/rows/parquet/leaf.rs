//! Reads a column of plain values in batches, and turns the values into JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::parquet::basic::ConvertedType;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, DataType, FixedLenByteArray, Int96};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::RowGroupReader;
use ::parquet::record::Field;
use ::parquet::schema::types::ColumnDescPtr;
use serde_json::Value;

use super::guarded;

/// The leaves of a batch by their numbers.
pub(super) type Leaves = BTreeMap<usize, Leaf>;

/// A leaf of a row group.
pub(super) struct LeafReader {
    pub(super) number: usize,
    description: ColumnDescPtr,
    reader: ColumnReader,
}

/// The entries of one leaf for a batch of rows.
pub(super) struct Leaf {
    pub(super) entries: usize,
    /// The level of every entry. Without entries all levels are 0.
    pub(super) definition: Vec<i16>,
    pub(super) repetition: Vec<i16>,
    /// The values that are not null.
    pub(super) values: Arc<Values>,
}

/// Values that are not null.
pub(super) struct Values {
    description: ColumnDescPtr,
    plain: Plain,
}

enum Plain {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    FixedBytes(Vec<FixedLenByteArray>),
}

impl LeafReader {
    pub(super) fn open(group: &dyn RowGroupReader, number: usize) -> Result<Self> {
        let description = group.metadata().column(number).column_descr_ptr();
        Ok(Self { number, description, reader: group.get_column_reader(number)? })
    }

    /// The entries of the next rows.
    ///
    /// # Errors
    /// A file that is damaged. The error names the column.
    pub(super) fn read(&mut self, rows: usize) -> Result<Leaf> {
        let name = self.description.path().string();
        let named = |e| ParquetError::General(format!("column {name} cannot be read: {e}"));
        guarded(|| self.read_unnamed(rows)).map_err(named)
    }

    fn read_unnamed(&mut self, rows: usize) -> Result<Leaf> {
        let (mut definition, mut repetition) = (Vec::new(), Vec::new());
        let levels = (&mut definition, &mut repetition);
        let (plain, entries) = match &mut self.reader {
            ColumnReader::BoolColumnReader(it) => batch(it, rows, levels, Plain::Bool),
            ColumnReader::Int32ColumnReader(it) => batch(it, rows, levels, Plain::Int32),
            ColumnReader::Int64ColumnReader(it) => batch(it, rows, levels, Plain::Int64),
            ColumnReader::Int96ColumnReader(it) => batch(it, rows, levels, Plain::Int96),
            ColumnReader::FloatColumnReader(it) => batch(it, rows, levels, Plain::Float),
            ColumnReader::DoubleColumnReader(it) => batch(it, rows, levels, Plain::Double),
            ColumnReader::ByteArrayColumnReader(it) => batch(it, rows, levels, Plain::Bytes),
            ColumnReader::FixedLenByteArrayColumnReader(it) => batch(it, rows, levels, Plain::FixedBytes),
        }?;
        let values = Arc::new(Values { description: self.description.clone(), plain });
        Ok(Leaf { entries, definition, repetition, values })
    }
}

/// Pages without entries that may follow each other.
const EMPTY_PAGES: usize = 16;

/// The values of the next rows, and the number of their entries.
fn batch<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    (definition, repetition): (&mut Vec<i16>, &mut Vec<i16>),
    plain: impl Fn(Vec<T::T>) -> Plain,
) -> Result<(Plain, usize)> {
    let (mut read, mut entries, mut values) = (0, 0, Vec::new());
    // pyarrow writes pages without entries. The reader stops at each of them, as at the end.
    let mut empty = 0;
    while read < rows && empty <= EMPTY_PAGES {
        let (records, _, levels) =
            reader.read_records(rows - read, Some(&mut *definition), Some(&mut *repetition), &mut values)?;
        read += records;
        entries += levels;
        empty = if levels == 0 { empty + 1 } else { 0 };
    }
    // The reader does not count the last row if a page without entries follows it.
    if !repetition.is_empty() {
        read = repetition.iter().filter(|level| **level == 0).count();
    }
    match read == rows {
        true => Ok((plain(values), entries)),
        false => Err(ParquetError::General(format!("it has {read} more rows, but {rows} must follow"))),
    }
}

impl Values {
    pub(super) fn len(&self) -> usize {
        match &self.plain {
            Plain::Bool(it) => it.len(),
            Plain::Int32(it) => it.len(),
            Plain::Int64(it) => it.len(),
            Plain::Int96(it) => it.len(),
            Plain::Float(it) => it.len(),
            Plain::Double(it) => it.len(),
            Plain::Bytes(it) => it.len(),
            Plain::FixedBytes(it) => it.len(),
        }
    }

    /// A value that is text. Some programs write text without saying that it is text.
    pub(super) fn text(&self, index: usize) -> Option<&str> {
        self.text_bytes(index).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    fn text_bytes(&self, index: usize) -> Option<&[u8]> {
        let text = [ConvertedType::UTF8, ConvertedType::ENUM, ConvertedType::JSON, ConvertedType::BSON];
        let kind = self.description.converted_type();
        match &self.plain {
            Plain::Bytes(it) if kind == ConvertedType::NONE || text.contains(&kind) => Some(it[index].data()),
            _ => None,
        }
    }

    /// # Errors
    /// Bytes that are not UTF-8; a type that has no form in JSON.
    pub(super) fn json(&self, index: usize) -> std::result::Result<Value, String> {
        if let Some(bytes) = self.text_bytes(index) {
            return utf8(bytes);
        }
        // The crate panics on types that it does not know, and on dates that do not exist.
        match guarded(|| self.field(index)) {
            Ok(field) => scalar(&field),
            Err(e) => Err(format!("its type {} cannot be read: {e}", self.description.self_type().name())),
        }
    }

    fn field(&self, index: usize) -> Result<Field> {
        let kind = &self.description;
        Ok(match &self.plain {
            Plain::Bool(it) => Field::convert_bool(kind, it[index]),
            Plain::Int32(it) => Field::convert_int32(kind, it[index]),
            Plain::Int64(it) => Field::convert_int64(kind, it[index]),
            Plain::Int96(it) => Field::convert_int96(kind, it[index]),
            Plain::Float(it) => Field::convert_float(kind, it[index]),
            Plain::Double(it) => Field::convert_double(kind, it[index]),
            Plain::Bytes(it) => Field::convert_byte_array(kind, it[index].clone())?,
            Plain::FixedBytes(it) => Field::convert_byte_array(kind, it[index].clone().into())?,
        })
    }
}

fn utf8(bytes: &[u8]) -> std::result::Result<Value, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::from(text)),
        Err(_) => Err("it has bytes that are not UTF-8; expected text".into()),
    }
}

fn scalar(field: &Field) -> std::result::Result<Value, String> {
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
        Field::Bytes(it) => return utf8(it.data()),
        // Decimals, dates and times.
        other => Value::from(other.to_string()),
    })
}

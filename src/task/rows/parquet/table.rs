//! Puts plain values together to structs, lists and maps, by their levels (see `shape`).
//!
//! The result is a column whose values can be read in any order. The lengths of its parts fit together; a file where they
//! do not is damaged.

use std::ops::Range;
use std::sync::Arc;

use ::parquet::errors::{ParquetError, Result};
use serde_json::{Map, Value};

use super::leaf::{Leaf, Leaves, Values};
use super::shape::{Kind, Levels, Shape};

/// A column of values, some of which may be null.
pub(super) struct Column {
    len: usize,
    /// Which values are not null. Without it none is null.
    present: Option<Vec<bool>>,
    content: Content,
}

enum Content {
    Leaf {
        values: Arc<Values>,
        /// Where the value at each place is. Without it every place has its own.
        positions: Option<Vec<usize>>,
    },
    Struct(Vec<(Arc<str>, Column)>),
    List(Entries, Box<Column>),
    Map(Entries, Box<[Column; 2]>),
}

/// Where the entries of each list begin, and where the last list ends.
struct Entries(Vec<usize>);

impl Entries {
    fn of(&self, index: usize) -> Range<usize> {
        self.0[index]..self.0[index + 1]
    }
}

impl Column {
    /// The rows of a batch.
    ///
    /// # Errors
    /// Leaves that do not have as many entries as they must have.
    pub(super) fn table(shape: &Shape, leaves: &Leaves, rows: usize) -> Result<Self> {
        let Kind::Struct(fields) = &shape.kind else { return Err(damaged(shape)) };
        Ok(Self { len: rows, present: None, content: Self::fields(fields, leaves, rows)? })
    }

    fn new(shape: &Shape, leaves: &Leaves) -> Result<Self> {
        let leaf = shape.first_leaf().and_then(|number| leaves.get(&number)).ok_or_else(|| damaged(shape))?;
        let levels = shape.levels;
        let present = (levels.present > levels.place)
            .then(|| leaf.places(levels).map(|definition| definition >= levels.present).collect::<Vec<_>>());
        let len = present.as_ref().map_or_else(|| leaf.places(levels).count(), Vec::len);
        let content = match &shape.kind {
            Kind::Leaf(_) => Self::leaf(shape, leaf, present.as_deref(), len)?,
            Kind::Struct(fields) => Self::fields(fields, leaves, len)?,
            Kind::List(items) => {
                let entries = leaf.lists(levels);
                Content::List(Entries(entries.0), Box::new(Self::checked(items, leaves, entries.1)?))
            }
            Kind::Map(entry) => {
                let (starts, count) = leaf.lists(levels);
                let [key, value] = entry.as_ref();
                let entry = [Self::checked(key, leaves, count)?, Self::checked(value, leaves, count)?];
                Content::Map(Entries(starts), Box::new(entry))
            }
        };
        Ok(Self { len, present, content })
    }

    /// A column that must have `len` values.
    fn checked(shape: &Shape, leaves: &Leaves, len: usize) -> Result<Self> {
        let column = Self::new(shape, leaves)?;
        if column.len == len { Ok(column) } else { Err(damaged(shape)) }
    }

    fn leaf(shape: &Shape, leaf: &Leaf, present: Option<&[bool]>, len: usize) -> Result<Content> {
        let count = present.map_or(len, |it| it.iter().filter(|it| **it).count());
        if count != leaf.values.len() {
            return Err(damaged(shape));
        }
        let positions = present.filter(|_| count < len).map(|present| {
            let before = |next: &mut usize, it: &bool| Some(std::mem::replace(next, *next + usize::from(*it)));
            present.iter().scan(0, before).collect()
        });
        Ok(Content::Leaf { values: leaf.values.clone(), positions })
    }

    fn fields(fields: &[Shape], leaves: &Leaves, len: usize) -> Result<Content> {
        let field = |it: &Shape| Ok((it.name.clone(), Self::checked(it, leaves, len)?));
        Ok(Content::Struct(fields.iter().map(field).collect::<Result<_>>()?))
    }

    /// The value at `index`, which is less than the number of values.
    pub(super) fn at(&self, index: usize) -> Cell<'_> {
        Cell { column: self, index }
    }
}

fn damaged(shape: &Shape) -> ParquetError {
    ParquetError::General(format!("the file is damaged: the parts of {} do not fit together", shape.name))
}

impl Leaf {
    /// The definition levels of the entries that have a place for a field with these levels.
    fn places(&self, levels: Levels) -> impl Iterator<Item = i16> + '_ {
        let level = |levels: &[i16], index: usize| levels.get(index).copied().unwrap_or(0);
        let entries = (0..self.entries).map(move |it| (level(&self.repetition, it), level(&self.definition, it)));
        let fits = move |(repetition, definition): &(i16, i16)| {
            *repetition <= levels.repetition && *definition >= levels.place
        };
        entries.filter(fits).map(|(_, definition)| definition)
    }

    /// Where the entries of each list with these levels begin, and where the last one ends; and their number.
    fn lists(&self, levels: Levels) -> (Vec<usize>, usize) {
        let inside = levels.inside();
        let (mut starts, mut count) = (Vec::new(), 0);
        for (repetition, definition) in self.repetition.iter().zip(&self.definition) {
            if *repetition <= levels.repetition && *definition >= levels.place {
                starts.push(count);
            }
            count += usize::from(*repetition <= inside.repetition && *definition >= inside.place);
        }
        starts.push(count);
        (starts, count)
    }
}

/// A value of a column.
#[derive(Clone, Copy)]
pub(super) struct Cell<'a> {
    column: &'a Column,
    index: usize,
}

impl<'a> Cell<'a> {
    pub(super) fn is_null(self) -> bool {
        self.column.present.as_ref().is_some_and(|it| !it[self.index])
    }

    /// A field of a struct, if it is there and is not null.
    pub(super) fn field(self, name: &str) -> Option<Self> {
        self.fields().find(|(it, _)| *it == name).map(|(_, cell)| cell).filter(|it| !it.is_null())
    }

    /// The fields of a struct.
    pub(super) fn fields(self) -> impl Iterator<Item = (&'a str, Self)> {
        let fields = match &self.column.content {
            Content::Struct(fields) if !self.is_null() => fields.as_slice(),
            _ => &[],
        };
        fields.iter().map(move |(name, column)| (name.as_ref(), column.at(self.index)))
    }

    /// The items of a list.
    pub(super) fn items(self) -> Option<impl ExactSizeIterator<Item = Self>> {
        match &self.column.content {
            Content::List(entries, items) if !self.is_null() => {
                Some(entries.of(self.index).map(|index| items.at(index)))
            }
            _ => None,
        }
    }

    pub(super) fn text(self) -> Option<&'a str> {
        match &self.column.content {
            Content::Leaf { values, positions } if !self.is_null() => {
                values.text(positions.as_ref().map_or(self.index, |it| it[self.index]))
            }
            _ => None,
        }
    }

    /// The value as JSON. A null in a struct is a key that this struct does not have, because all structs of a file have
    /// the same keys.
    ///
    /// # Errors
    /// Bytes that are not UTF-8; a type that has no form in JSON. The error names the field of a struct.
    pub(super) fn value(self) -> std::result::Result<Value, String> {
        if self.is_null() {
            return Ok(Value::Null);
        }
        match &self.column.content {
            Content::Leaf { values, positions } => {
                values.json(positions.as_ref().map_or(self.index, |it| it[self.index]))
            }
            Content::Struct(_) => {
                let present = self.fields().filter(|(_, cell)| !cell.is_null());
                let entry = |(name, cell): (&str, Self)| match cell.value() {
                    Ok(value) => Ok((name.to_owned(), value)),
                    Err(problem) => Err(format!("{name}: {problem}")),
                };
                Ok(Value::Object(present.map(entry).collect::<std::result::Result<_, _>>()?))
            }
            Content::List(entries, items) => entries
                .of(self.index)
                .map(|it| items.at(it).value())
                .collect::<std::result::Result<_, _>>()
                .map(Value::Array),
            Content::Map(entries, entry) => {
                let [keys, values] = entry.as_ref();
                let entry = |it| Ok((key(keys.at(it).value()?), values.at(it).value()?));
                Ok(Value::Object(
                    entries.of(self.index).map(entry).collect::<std::result::Result<Map<_, _>, String>>()?,
                ))
            }
        }
    }
}

fn key(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

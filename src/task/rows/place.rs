//! Where a row stands, for error messages.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A row of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: Arc<Path>,
    number: Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// Of a text file, from 1.
    Line(usize),
    /// Of a parquet file, from 0.
    Row(usize),
}

impl Place {
    /// Line `number` of a text file, from 1.
    pub fn line(file: &Arc<Path>, number: usize) -> Self {
        Self { file: file.clone(), number: Number::Line(number) }
    }

    /// Row `number` of a parquet file, from 0.
    pub fn row(file: &Arc<Path>, number: usize) -> Self {
        Self { file: file.clone(), number: Number::Row(number) }
    }
}

/// `rows.jsonl:7` or `rows.parquet: row 6`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.number {
            Number::Line(number) => write!(f, "{file}:{number}"),
            Number::Row(number) => write!(f, "{file}: row {number}"),
        }
    }
}

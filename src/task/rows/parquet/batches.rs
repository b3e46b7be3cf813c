//! Opens a parquet file and reads it in batches of rows, one row group after another.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::FileReader;
use ::parquet::file::serialized_reader::SerializedFileReader;

use super::guarded;
use super::leaf::{LeafReader, Leaves};
use super::shape::Shape;
use super::table::{Cell, Column};
use crate::error::InputError;

/// Rows of a batch: enough for all cores, and small beside the rows that are kept.
const BATCH: usize = 2048;

/// The rows of a file that are still to be read.
pub(super) struct Batches {
    file: SerializedFileReader<File>,
    /// The columns that are read, as the fields of a struct.
    shape: Shape,
    /// The names of the columns that are not read.
    pub(super) unused: Arc<[String]>,
    /// The number of the next row group.
    group: usize,
    /// What is left of the row group before that one.
    leaves: Vec<LeafReader>,
    rows_left: usize,
}

/// Some rows that follow each other.
pub(super) struct Batch {
    pub(super) rows: usize,
    table: Column,
}

impl Batch {
    pub(super) fn row(&self, index: usize) -> Cell<'_> {
        self.table.at(index)
    }
}

impl Batches {
    /// Opens a file, of which the columns are read that are `used`.
    ///
    /// # Errors
    /// A file that cannot be opened or is not parquet.
    pub(super) fn open(path: &Path, used: impl Fn(&str) -> bool) -> Result<Self, InputError> {
        let fail = |problem: String| InputError::new(path.display(), problem);
        let file = File::open(path).map_err(|e| fail(format!("cannot be opened: {e}")))?;
        guarded(|| Self::new(SerializedFileReader::new(file)?, used))
            .map_err(|e| fail(format!("cannot be read as a parquet file: {e}")))
    }

    fn new(file: SerializedFileReader<File>, used: impl Fn(&str) -> bool) -> Result<Self> {
        let root = file.metadata().file_metadata().schema_descr().root_schema_ptr();
        // pandas stores an index that is not 0, 1, 2, … as a column.
        let names = root.get_fields().iter().map(|it| it.name());
        let unused =
            names.filter(|name| !used(name) && !name.starts_with("__index_level_")).map(String::from).collect();
        Ok(Self { shape: Shape::of_file(&root, used)?, file, unused, group: 0, leaves: Vec::new(), rows_left: 0 })
    }

    /// The next batch; none at the end of the file.
    ///
    /// # Errors
    /// A file that is damaged; the error names the column.
    pub(super) fn next(&mut self) -> Result<Option<Batch>> {
        while self.rows_left == 0 {
            if self.group == self.file.num_row_groups() {
                return Ok(None);
            }
            self.open_group()?;
        }
        let rows = self.rows_left.min(BATCH);
        self.rows_left -= rows;
        let leaves = self.leaves.iter_mut().map(|it| Ok((it.number, it.read(rows)?))).collect::<Result<Leaves>>()?;
        Ok(Some(Batch { rows, table: Column::table(&self.shape, &leaves, rows)? }))
    }

    fn open_group(&mut self) -> Result<()> {
        let group = self.file.get_row_group(self.group)?;
        let rows = group.metadata().num_rows();
        self.rows_left =
            usize::try_from(rows).map_err(|_| ParquetError::General(format!("a row group has {rows} rows")))?;
        let leaf = |number| LeafReader::open(group.as_ref(), number);
        self.leaves = self.shape.leaves().into_iter().map(leaf).collect::<Result<_>>()?;
        self.group += 1;
        Ok(())
    }
}

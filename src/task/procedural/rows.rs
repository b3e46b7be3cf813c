//! A fixed number of distinct rows of several levels.

use std::ops::RangeInclusive;

use super::{Procedural, Split, Stream};
use crate::task::row::Row;

/// Makes `train` and `test` rows of every level, the lowest first. No two are the same problem.
///
/// They are the first rows of the level's [`Stream`]s, but those of Knights and Knaves are those of
/// [`splits`](fn@crate::task::kk::splits).
///
/// # Errors
/// Levels that the task does not have, and a level with fewer problems than asked for.
pub fn rows(
    task: &'static Procedural,
    levels: RangeInclusive<usize>,
    train: usize,
    test: usize,
    seed: u64,
) -> Result<(Vec<Row>, Vec<Row>), String> {
    let levels = task.check_levels(levels)?;
    if let Some(splits) = task.splits {
        return splits(levels, train, test, seed);
    }
    let (mut train_rows, mut test_rows) = (Vec::new(), Vec::new());
    for level in levels {
        for (split, wanted, rows) in [(Split::Train, train, &mut train_rows), (Split::Test, test, &mut test_rows)] {
            add(&mut Stream::new(task, level, seed, split), wanted as u64, rows).map_err(|found| {
                format!(
                    "level {level} of {:?} has about {found} distinct problems for {}, {wanted} were asked for; ask for \
                     fewer, or for other levels",
                    task.name,
                    split.name()
                )
            })?;
        }
    }
    Ok((train_rows, test_rows))
}

/// Adds `wanted` distinct rows. The error is how many there are.
fn add(stream: &mut Stream, wanted: u64, rows: &mut Vec<Row>) -> Result<(), u64> {
    for index in 0..wanted {
        match stream.distinct(index + 1) {
            found if found <= index => return Err(found),
            _ => rows.push(stream.row(index)),
        }
    }
    Ok(())
}

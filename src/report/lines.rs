//! Reads a JSON Lines file that may still be written.

use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use serde::Deserialize;

use crate::error::InputError;
use crate::task::rows::open_text;

/// Passes every line of a file, plain or compressed, to `take`. A file that does not exist has no lines. A last line that
/// has no line break and is not JSON is still being written, and is left out; so is the end of a compressed file that is
/// cut off.
///
/// # Errors
/// A file that cannot be read; a line that is not of the expected form, as `file:line`.
pub fn json_lines<T>(path: &Path, mut take: impl FnMut(T) -> Result<(), String>) -> Result<(), InputError>
where
    T: for<'a> Deserialize<'a>,
{
    let unreadable = |e| InputError::new(path.display(), format!("cannot be read: {e}"));
    let mut file = match open_text(path) {
        Ok(file) => BufReader::with_capacity(1 << 17, file),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unreadable(e)),
    };
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        match file.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => break,
            read => read.map_err(unreadable)?,
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let wrong = |problem: String| InputError::new(format!("{}:{number}", path.display()), problem);
        match serde_json::from_slice(&line) {
            Ok(value) => take(value).map_err(wrong)?,
            Err(_) if line.last() != Some(&b'\n') => break,
            Err(e) => return Err(wrong(format!("is not a line of this file: {e}"))),
        }
    }
    Ok(())
}

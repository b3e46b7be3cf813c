//! Reads text files line by line: plain, or compressed by gzip (`.gz`) or Zstandard (`.zst`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

use super::has_ending;
use crate::error::InputError;

/// The lines of a text file that are not blank, each with its place as `path:line`.
///
/// # Errors
/// A file that cannot be opened; a line that cannot be read or is not UTF-8.
pub fn numbered_lines(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(String, String), InputError>> + use<>, InputError> {
    let fail = |e: io::Error| InputError::new(path.display(), format!("cannot be opened: {e}"));
    let text = decompressed(path, File::open(path).map_err(fail)?).map_err(fail)?;
    let name = path.display().to_string();
    let lines = BufReader::new(text).lines().enumerate().map(move |(index, line)| {
        let place = format!("{name}:{}", index + 1);
        match line {
            // Some programs on Windows begin a file with a byte order mark.
            Ok(line) if index == 0 => Ok((place, line.trim_start_matches('\u{feff}').to_owned())),
            Ok(line) => Ok((place, line)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(InputError::new(place, format!("cannot be read: the compressed file is cut off here ({e})")))
            }
            Err(e) => Err(InputError::new(place, format!("cannot be read: {e}"))),
        }
    });
    // An error repeats for ever where a reader stays in its failed state.
    let mut failed = false;
    let until_error = lines.take_while(move |line| !std::mem::replace(&mut failed, line.is_err()));
    Ok(until_error.filter(|it| !it.as_ref().is_ok_and(|(_, line)| line.trim().is_empty())))
}

/// Gives every JSON value of a JSON Lines file to `take`.
///
/// # Errors
/// As [`numbered_lines`]; the first line that is not JSON or that `take` refuses.
pub(super) fn for_each(path: &Path, mut take: impl FnMut(Value) -> Result<(), String>) -> Result<(), InputError> {
    numbered_lines(path)?.try_for_each(|line| {
        let (place, line) = line?;
        let value = serde_json::from_str(&line).map_err(|e| format!("this is not JSON: {e}"));
        value.and_then(&mut take).map_err(|problem| InputError::new(place, problem))
    })
}

#[cfg(feature = "train")]
fn decompressed(path: &Path, file: File) -> io::Result<Box<dyn Read>> {
    Ok(if has_ending(path, "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))
    } else if has_ending(path, "zst") {
        Box::new(zstd::stream::read::Decoder::new(file)?)
    } else {
        Box::new(file)
    })
}

#[cfg(not(feature = "train"))]
fn decompressed(path: &Path, file: File) -> io::Result<Box<dyn Read>> {
    match has_ending(path, "gz") || has_ending(path, "zst") {
        true => Err(io::Error::other("compressed files need a build with the feature \"train\"")),
        false => Ok(Box::new(file)),
    }
}

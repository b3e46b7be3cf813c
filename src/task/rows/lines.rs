//! Reads text files line by line: plain, or compressed by gzip (`.gz`) or Zstandard (`.zst`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{Place, has_ending};
use crate::error::InputError;
use crate::files;

/// The most bytes of a line.
const LONGEST: u64 = 256 << 20;

/// A text file, decompressed if its name ends in `.gz` or `.zst`.
///
/// # Errors
/// If it cannot be opened.
pub fn open_text(path: &Path) -> io::Result<Box<dyn Read>> {
    decompressed(path, File::open(path)?)
}

/// The lines of a text file that are not blank, each with its place.
///
/// # Errors
/// A file that cannot be opened; a line that cannot be read or is not UTF-8.
pub fn numbered_lines(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(Place, String), InputError>> + use<>, InputError> {
    let fail = |e: io::Error| InputError::new(path.display(), format!("cannot be opened: {e}"));
    let text = open_text(path).map_err(fail)?;
    let file: Arc<Path> = path.into();
    let mut text = BufReader::new(text);
    let lines = std::iter::from_fn(move || next_line(&mut text, LONGEST).transpose());
    let lines = lines.enumerate().map(move |(index, line)| {
        let place = Place::line(&file, index + 1);
        match line.and_then(|bytes| files::decode(bytes).map_err(|e| e.to_string())) {
            Ok(line) => Ok((place, line)),
            Err(problem) => Err(InputError::new(place, problem)),
        }
    });
    // An error repeats for ever where a reader stays in its failed state.
    let mut failed = false;
    let until_error = lines.take_while(move |line| !std::mem::replace(&mut failed, line.is_err()));
    Ok(until_error.filter(|it| !it.as_ref().is_ok_and(|(_, line)| line.trim().is_empty())))
}

/// The next line without its end.
///
/// # Errors
/// A line of more than `longest` bytes: a small compressed file may hold one that fills the memory.
fn next_line(text: &mut impl BufRead, longest: u64) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    let read = text.by_ref().take(longest + 1).read_until(b'\n', &mut line).map_err(unreadable)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read as u64 > longest {
        return Err(format!("the line is longer than {longest} bytes"));
    }
    Ok((read > 0).then_some(line))
}

fn unreadable(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("cannot be read: the compressed file is cut off here ({error})"),
        _ => format!("cannot be read: {error}"),
    }
}

/// Gives every JSON value of a JSON Lines file to `take`, with its place.
///
/// # Errors
/// As [`numbered_lines`]; the first line that is not JSON or that `take` refuses.
pub(super) fn for_each(
    path: &Path,
    mut take: impl FnMut(Value, &Place) -> Result<(), String>,
) -> Result<(), InputError> {
    numbered_lines(path)?.try_for_each(|line| {
        let (place, line) = line?;
        let value = serde_json::from_str(&line).map_err(|e| not_json(&line, &e));
        value.and_then(|value| take(value, &place)).map_err(|problem| InputError::new(place, problem))
    })
}

fn not_json(line: &str, error: &serde_json::Error) -> String {
    let advice = match line.trim() {
        "[" | "{" => "; the value goes on in the next line, and each line must be one object (jq -c makes such files)",
        _ => "",
    };
    format!("this is not JSON: {error}{advice}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_longest_length() {
        let mut text: &[u8] = b"four\n\nfour\nlonger";
        let mut next = || next_line(&mut text, 4).map(|line| line.map(|line| String::from_utf8(line).unwrap()));
        for expected in ["four", "", "four"] {
            assert_eq!(next(), Ok(Some(expected.into())));
        }
        assert_eq!(next(), Err("the line is longer than 4 bytes".into()));
        assert_eq!(next_line(&mut b"end".as_slice(), 4), Ok(Some(b"end".to_vec())));
        assert_eq!(next_line(&mut b"".as_slice(), 4), Ok(None));
    }
}

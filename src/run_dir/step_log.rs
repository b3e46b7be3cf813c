//! Logs with one JSON object for each step, with its number under "step": plain, or compressed as `NAME.zst`.
//!
//! In a compressed log each step is a zstd frame of its own. So a step is appended as in a plain one, and a kill can cut off only the
//! last. A log goes on in the format that it began with.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use zstd::zstd_safe::find_frame_compressed_size;

use super::ZSTD_LEVEL;
use crate::config::resolve::LogFormat;
use crate::files;

/// Appends a step to the log at `path`. `format` is that of a log that is not there yet.
///
/// # Errors
/// A file that cannot be written.
pub fn append(path: &Path, format: LogFormat, step: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(step)?;
    line.push(b'\n');
    let compressed = files::compressed_name(path);
    let format = match (compressed.exists(), path.exists()) {
        (true, _) => LogFormat::Zstd,
        (false, true) => LogFormat::Plain,
        (false, false) => format,
    };
    match format {
        LogFormat::Plain => append_bytes(path, &line),
        LogFormat::Zstd => zstd::bulk::compress(&line, ZSTD_LEVEL).and_then(|frame| append_bytes(&compressed, &frame)),
    }
    .with_context(|| path.display().to_string())
}

fn append_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(path)?.write_all(bytes)
}

/// Keeps the steps up to `step`; without one, none. A step that is incomplete or damaged is removed too.
///
/// # Errors
/// A file that cannot be written.
pub fn truncate_after(path: &Path, step: Option<u64>) -> Result<()> {
    let keeps = |line: &[u8]| step_of(line).is_some_and(|at| step.is_some_and(|step| at <= step));
    if let Ok(bytes) = fs::read(path) {
        files::write_atomic(path, &kept_lines(&bytes, keeps))?;
    }
    let compressed = files::compressed_name(path);
    if let Ok(bytes) = fs::read(&compressed) {
        match kept_frames(&bytes, keeps) {
            // Without a frame it could not be decompressed.
            kept if kept.is_empty() => {
                fs::remove_file(&compressed).with_context(|| compressed.display().to_string())?
            }
            kept => files::write_atomic(&compressed, &kept)?,
        }
    }
    Ok(())
}

/// In bytes, because the last line may end within a character.
fn kept_lines(bytes: &[u8], keeps: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut kept = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| keeps(line)) {
        kept.extend_from_slice(line.trim_ascii_end());
        kept.push(b'\n');
    }
    kept
}

fn kept_frames(mut bytes: &[u8], keeps: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut kept = Vec::new();
    // What is cut off has no size, and an empty rest has none either.
    while let Ok(size) = find_frame_compressed_size(bytes) {
        let (frame, rest) = bytes.split_at(size);
        if zstd::decode_all(frame).is_ok_and(|line| keeps(&line)) {
            kept.extend_from_slice(frame);
        }
        bytes = rest;
    }
    kept
}

/// The step that a line is about.
pub fn step_of(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct OfStep {
        step: u64,
    }
    serde_json::from_slice::<OfStep>(line).ok().map(|line| line.step)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use LogFormat::{Plain, Zstd};
    use serde_json::json;

    use super::*;
    use crate::task::rows::open_text;

    fn write(log: &Path, format: LogFormat, steps: std::ops::Range<u64>) {
        steps.for_each(|step| append(log, format, &json!({"step": step, "text": "é".repeat(90)})).unwrap());
    }

    /// The steps that a reader finds.
    fn steps(file: &Path) -> Vec<u64> {
        let text = io::read_to_string(open_text(file).unwrap()).unwrap();
        text.lines().map(|line| step_of(line.as_bytes()).unwrap()).collect()
    }

    fn log(folder: &temp_dir::TempDir) -> [PathBuf; 2] {
        [folder.child("log.jsonl"), folder.child("log.jsonl.zst")]
    }

    #[test]
    fn a_resume_keeps_the_steps_up_to_its_own_in_either_format() {
        for (format, index) in [(Plain, 0), (Zstd, 1)] {
            let folder = temp_dir::TempDir::new().unwrap();
            let paths = log(&folder);
            let (log, file) = (&paths[0], &paths[index]);
            write(log, format, 0..4);
            let four = fs::read(file).unwrap();
            write(log, format, 4..5);
            let five = fs::read(file).unwrap();
            assert_eq!((steps(file), fs::read_dir(folder.path()).unwrap().count()), (vec![0, 1, 2, 3, 4], 1));
            // A kill or a full disk may leave any part of the last step, and a power cut zeros.
            let mut left: Vec<Vec<u8>> = (four.len()..five.len() - 1).map(|end| five[..end].to_vec()).collect();
            left.push([&four[..], &[0; 50]].concat());
            for left in left {
                fs::write(file, &left).unwrap();
                truncate_after(log, Some(7)).unwrap();
                assert!(fs::read(file).unwrap() == four, "{format:?}, {} bytes", left.len());
            }
            truncate_after(log, Some(1)).unwrap();
            write(log, format, 2..5);
            assert!(fs::read(file).unwrap() == five);
            truncate_after(log, None).unwrap();
            assert!(fs::read(file).unwrap_or_default().is_empty());
        }
    }

    #[test]
    fn a_log_goes_on_in_the_format_that_it_began_with() {
        for (format, other, index) in [(Plain, Zstd, 0), (Zstd, Plain, 1)] {
            let folder = temp_dir::TempDir::new().unwrap();
            let paths = log(&folder);
            write(&paths[0], format, 0..2);
            write(&paths[0], other, 2..4);
            assert_eq!((steps(&paths[index]), paths[1 - index].exists()), (vec![0, 1, 2, 3], false));
        }
    }
}

//! The completions of a run, a file for each step: `rollouts/step_N.jsonl`, or `step_N.jsonl.zst` where they are compressed.
//!
//! Each file is whole or absent. They are synced with the checkpoint after them: at every step that would take as long as some steps,
//! and what comes after a checkpoint is sampled again anyway. A step has one file, also where `log.compression` changed on a resume.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use zstd::stream::write::Encoder;

use super::{ROLLOUTS, ZSTD_LEVEL};
use crate::config::resolve::LogFormat;
use crate::files;

/// JSON is written in small pieces. The compressor gets them together.
const BUFFER: usize = 1 << 16;

/// Writes the completions of a step of the run in `run`.
///
/// # Errors
/// A folder that cannot be written to.
pub fn write<T: Serialize>(run: &Path, step: u64, format: LogFormat, lines: impl Iterator<Item = T>) -> Result<()> {
    let plain = plain_file(run, step);
    let compressed = files::compressed_name(&plain);
    let (path, other) = match format {
        LogFormat::Plain => (plain, compressed),
        LogFormat::Zstd => (compressed, plain),
    };
    write_file(&path, format, lines)?;
    remove(&other)
}

/// Writes a batch that could not be trained on, for people to read: always plain.
///
/// # Errors
/// As [`write()`].
pub fn write_failed<T: Serialize>(run: &Path, step: u64, lines: impl Iterator<Item = T>) -> Result<PathBuf> {
    let path = run.join(ROLLOUTS).join(format!("failed_step_{step}.jsonl"));
    write_file(&path, LogFormat::Plain, lines)?;
    Ok(path)
}

/// Removes the completions of steps after `step`, also those that a kill left half-written. Steps count from 1, so 0 removes all.
/// Batches that could not be trained on stay.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove_after(run: &Path, step: u64) -> Result<()> {
    let entries = match fs::read_dir(run.join(ROLLOUTS)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| run.join(ROLLOUTS).display().to_string())?,
    };
    for entry in entries {
        let path = entry?.path();
        if step_of(&path).is_some_and(|of| of > step) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The files of these steps, and the folder that they are in. They may not be there.
pub fn files(run: &Path, steps: RangeInclusive<u64>) -> Vec<PathBuf> {
    let of_steps = steps.map(|step| files::plain_or_compressed(&plain_file(run, step)));
    of_steps.chain([run.join(ROLLOUTS)]).collect()
}

fn plain_file(run: &Path, step: u64) -> PathBuf {
    run.join(ROLLOUTS).join(format!("step_{step}.jsonl"))
}

/// The N of `step_N.jsonl`, with whatever ending.
fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step_")?.split('.').next()?.parse().ok()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

fn write_file<T: Serialize>(path: &Path, format: LogFormat, lines: impl Iterator<Item = T>) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(files::write_whole(path, |file| match format {
        LogFormat::Plain => write_lines(file, lines),
        LogFormat::Zstd => compress(file, lines),
    })?)
}

fn compress<T: Serialize>(file: &mut impl Write, lines: impl Iterator<Item = T>) -> io::Result<()> {
    let mut encoder = Encoder::new(file, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    let mut buffer = BufWriter::with_capacity(BUFFER, encoder);
    write_lines(&mut buffer, lines)?;
    buffer.into_inner().map_err(io::IntoInnerError::into_error)?.finish().map(drop)
}

fn write_lines<T: Serialize>(file: &mut impl Write, mut lines: impl Iterator<Item = T>) -> io::Result<()> {
    lines.try_for_each(|line| {
        serde_json::to_writer(&mut *file, &line)?;
        file.write_all(b"\n")
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use LogFormat::{Plain, Zstd};

    use super::*;
    use crate::task::rows::open_text;

    fn names(run: &Path) -> Vec<String> {
        let entries = fs::read_dir(run.join(ROLLOUTS)).unwrap();
        let mut names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(run: &Path, name: &str) -> String {
        let mut text = String::new();
        open_text(&run.join(ROLLOUTS).join(name)).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_step_has_one_file_with_the_same_lines_in_either_format() {
        let run = temp_dir::TempDir::new().unwrap();
        let lines = || (0..10_000).map(|i| [i, i * i]);
        write(run.path(), 7, Plain, lines()).unwrap();
        assert_eq!(names(run.path()), ["step_7.jsonl"]);
        let plain = read(run.path(), "step_7.jsonl");
        assert!(plain.starts_with("[0,0]\n[1,1]\n") && plain.lines().count() == 10_000);
        write(run.path(), 7, Zstd, lines()).unwrap();
        assert_eq!(names(run.path()), ["step_7.jsonl.zst"]);
        assert!(read(run.path(), "step_7.jsonl.zst") == plain);
    }

    #[test]
    fn a_compressed_file_that_is_cut_off_or_damaged_is_noticed() {
        let run = temp_dir::TempDir::new().unwrap();
        write(run.path(), 1, Zstd, 0..10_000).unwrap();
        let path = run.path().join("rollouts/step_1.jsonl.zst");
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for wrong in [&whole[..whole.len() / 2], &damaged] {
            fs::write(&path, wrong).unwrap();
            assert!(open_text(&path).unwrap().read_to_end(&mut Vec::new()).is_err());
        }
    }

    /// What cannot be serialised stands for a disk that fails.
    #[test]
    fn a_write_that_fails_leaves_the_file_as_it_was() {
        struct Refused;
        impl Serialize for Refused {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("refused"))
            }
        }
        let run = temp_dir::TempDir::new().unwrap();
        for (format, name) in [(Plain, "step_1.jsonl"), (Zstd, "step_1.jsonl.zst")] {
            write(run.path(), 1, format, 0..3).unwrap();
            let error = write(run.path(), 1, format, std::iter::once(Refused)).unwrap_err();
            assert!(error.to_string().contains(name) && error.to_string().contains("refused"), "{error}");
            assert_eq!((names(run.path()), read(run.path(), name)), (vec![name.into()], "0\n1\n2\n".into()));
        }
    }

    #[test]
    fn the_files_of_steps_are_listed_in_either_format() {
        let run = temp_dir::TempDir::new().unwrap();
        write(run.path(), 1, Plain, 0..3).unwrap();
        write(run.path(), 2, Zstd, 0..3).unwrap();
        let names = ["step_1.jsonl", "step_2.jsonl.zst", ""].map(|name| run.path().join(ROLLOUTS).join(name));
        assert_eq!(super::files(run.path(), 1..=2), names);
    }

    #[test]
    fn a_resume_removes_what_came_after_its_step() {
        let run = temp_dir::TempDir::new().unwrap();
        remove_after(run.path(), 0).unwrap();
        for (step, format) in [(1, Plain), (2, Zstd), (3, Plain), (10, Zstd)] {
            write(run.path(), step, format, 0..3).unwrap();
        }
        write_failed(run.path(), 11, 0..3).unwrap();
        fs::write(run.path().join("rollouts/step_4.jsonl.zst.tmp"), "half").unwrap();
        remove_after(run.path(), 2).unwrap();
        assert_eq!(names(run.path()), ["failed_step_11.jsonl", "step_1.jsonl", "step_2.jsonl.zst"]);
        remove_after(run.path(), 0).unwrap();
        assert_eq!(names(run.path()), ["failed_step_11.jsonl"]);
    }
}

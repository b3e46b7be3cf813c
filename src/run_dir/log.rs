//! What a run prints: on the screen, and in the run's `run.log`.
//!
//! A process has one run. What is printed before the run has a folder is kept, and written to the log when it is opened.
//! A full log is renamed, and the one before it is removed: a run that warns for ever does not fill the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{files, terminal};

/// At most this many bytes are kept while there is no file.
const MOST_KEPT: usize = 1 << 16;

/// A log of this size is full. A step without warnings takes 170 bytes or so.
const MOST_BYTES: u64 = 64 << 20;

enum Log {
    Before(Vec<u8>),
    File(LogFile),
}

/// A file to append to, which begins anew when it is full.
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_path_buf(), bytes: file.metadata()?.len(), file })
    }

    /// Writes lines. The file is full with `most` bytes.
    fn append(&mut self, lines: &[u8], most: u64) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + lines.len() as u64 > most {
            // If it cannot be renamed, it grows on.
            drop(self.begin_anew());
        }
        self.bytes += lines.len() as u64;
        self.file.write_all(lines)
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        fs::rename(&self.path, files::with_ending(&self.path, ".1"))?;
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

static LOG: Mutex<Log> = Mutex::new(Log::Before(Vec::new()));

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Appends to the file at `path` from now on. When it is full it gets the ending `.1`.
///
/// # Errors
/// If it cannot be written.
pub fn open(path: &Path) -> io::Result<()> {
    let mut file = LogFile::open(path)?;
    let mut log = log();
    if let Log::Before(kept) = &*log {
        file.append(kept, MOST_BYTES)?;
    }
    *log = Log::File(file);
    Ok(())
}

/// Prints a line and logs it. Neither ends the run if it cannot be written.
pub fn say(line: &str) {
    terminal::say(line);
    note(line);
}

/// Writes a line to standard error and logs it.
pub fn warn(line: &str) {
    let line = format!("{line}\n");
    write(line.as_bytes());
    terminal::warn(line.as_bytes());
}

/// Logs a line without printing it.
pub fn note(line: &str) {
    write(format!("{line}\n").as_bytes());
}

fn write(bytes: &[u8]) {
    match &mut *log() {
        Log::File(file) => drop(file.append(bytes, MOST_BYTES)),
        Log::Before(kept) if kept.len() < MOST_KEPT => kept.extend_from_slice(bytes),
        Log::Before(_) => {}
    }
}

/// Where warnings go: to standard error and into the log.
pub struct Warnings;

impl Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(bytes);
        terminal::warn(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_begins_anew_and_the_one_before_is_kept() {
        let folder = temp_dir::TempDir::new().unwrap();
        let read = |name| fs::read_to_string(folder.child(name)).unwrap_or_default();
        let check = |line: &str, now: &str, before: &str| {
            // Opened for each line, as after a resume.
            LogFile::open(&folder.child("run.log")).unwrap().append(line.as_bytes(), 8).unwrap();
            assert_eq!((read("run.log").as_str(), read("run.log.1").as_str()), (now, before), "{line:?}");
        };
        check("one\n", "one\n", "");
        check("two\n", "one\ntwo\n", "");
        check("three\n", "three\n", "one\ntwo\n");
        check("longer than a log\n", "longer than a log\n", "three\n");
        check("4\n", "4\n", "longer than a log\n");
        let mut open = LogFile::open(&folder.child("run.log")).unwrap();
        ["5\n", "6\n", "7\n", "8\n"].iter().for_each(|line| open.append(line.as_bytes(), 8).unwrap());
        assert_eq!((read("run.log").as_str(), read("run.log.1").as_str()), ("8\n", "4\n5\n6\n7\n"));
    }
}

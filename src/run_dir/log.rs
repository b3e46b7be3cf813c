//! What a run prints: on the screen, and in the run's `run.log`.
//!
//! A process has one run. What is printed before the run has a folder is kept, and written to the log when it is opened.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::terminal;

/// At most this many bytes are kept while there is no file.
const MOST_KEPT: usize = 1 << 16;

enum Log {
    Before(Vec<u8>),
    File(File),
}

static LOG: Mutex<Log> = Mutex::new(Log::Before(Vec::new()));

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Appends to the file at `path` from now on.
///
/// # Errors
/// If it cannot be written.
pub fn open(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut log = log();
    if let Log::Before(kept) = &*log {
        file.write_all(kept)?;
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
        Log::File(file) => drop(file.write_all(bytes)),
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

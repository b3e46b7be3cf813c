//! The one place that writes to standard output and standard error.
//!
//! - What a command *says* on its way never ends it. A full disk, a reader that has left or a closed terminal lose lines, and
//!   the first loss is told once.
//! - What a command *gives*, such as the scores of `grade`, must arrive. A write that fails is an error. If the reader has left,
//!   as in `dump-rl grade … | head`, the program ends as `grep` does: by SIGPIPE, without a word.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::sync::Once;

use anyhow::{Result, anyhow};

use crate::processes;

/// Prints a line to standard output. A line that cannot be written is lost.
pub fn say(line: impl Display) {
    let mut out = stdout();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    drop(out);
    if let Err(error) = written {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!("standard output cannot be written ({error}); the program goes on without it")
        });
    }
}

/// Writes to standard error. What cannot be written is lost: there is no place left to tell.
#[allow(clippy::disallowed_methods)]
pub fn warn(bytes: &[u8]) {
    let _ = io::stderr().write_all(bytes);
}

/// Whether somebody sees standard error on a terminal.
#[allow(clippy::disallowed_methods)]
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Lets `write` write what the command is for to standard output.
///
/// # Errors
/// That of `write`, or that standard output cannot be written.
pub fn give<E: Into<anyhow::Error>>(write: impl FnOnce(&mut BufWriter<Given>) -> Result<(), E>) -> Result<()> {
    let mut out = BufWriter::new(Given { stdout: stdout(), failure: None });
    let written = write(&mut out).map_err(Into::into);
    // A failure is kept.
    let _ = out.flush();
    match out.get_mut().failure.take() {
        Some(failure) => Err(anyhow!("standard output cannot be written: {failure}")),
        None => written,
    }
}

/// Standard output, whose first failure is kept. Ends the program if nobody reads it.
pub struct Given {
    stdout: StdoutLock<'static>,
    failure: Option<io::Error>,
}

impl Given {
    fn checked<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            match kind {
                io::ErrorKind::BrokenPipe => end_by_broken_pipe(),
                io::ErrorKind::Interrupted => {}
                _ => self.failure = self.failure.take().or(Some(error)),
            }
            kind.into()
        })
    }
}

impl Write for Given {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stdout.write(bytes);
        self.checked(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.stdout.flush();
        self.checked(flushed)
    }
}

#[allow(clippy::disallowed_methods)]
fn stdout() -> StdoutLock<'static> {
    io::stdout().lock()
}

/// Rust's runtime ignores SIGPIPE, so that a grader which has ended cannot end the program.
fn end_by_broken_pipe() -> ! {
    processes::end_all();
    #[cfg(unix)]
    // SAFETY: restores the default of a signal and sends it; neither touches memory.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::raise(libc::SIGPIPE);
    }
    std::process::exit(141)
}

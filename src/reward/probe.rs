//! Whether a program starts: it gets no input, and must end without an error.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::shorten;
use crate::processes::{Kind, Running};

/// How often the program is looked at.
const TICK: Duration = Duration::from_millis(5);
/// The most that is read of its standard error.
const MOST_BYTES: u64 = 1 << 20;

/// # Errors
/// A program that cannot be started, ends with an error (its last words and the place that they name), or does not end in time.
pub fn run(words: &[String], limit: Duration) -> Result<(), String> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|e| format!("{} cannot be started: {e}", words[0]))?;
    let _running = Running::new(Some(child.id()), Kind::Grader);
    let errors = child.stderr.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // What cannot be read is not quoted.
        let _ = errors.map(|errors| errors.take(MOST_BYTES).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let since = Instant::now();
    loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(_) => return Err(last_words(&reader.join().unwrap_or_default())),
            None if since.elapsed() > limit => {
                // It may have ended just now.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(format!("it was not ready after {} s (start_timeout_s)", limit.as_secs_f64()));
            }
            None => thread::sleep(TICK),
        }
    }
}

/// The last line, and the last one that names a file.
fn last_words(text: &str) -> String {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let last = lines().next_back().unwrap_or("it ended without a word");
    match lines().rfind(|line| line.starts_with("File \"") && *line != last) {
        Some(place) => format!("{} ({})", shorten(last), shorten(place)),
        None => shorten(last),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str, limit: f64) -> Result<(), String> {
        run(&["sh", "-c", script].map(String::from), Duration::from_secs_f64(limit))
    }

    #[test]
    fn a_program_that_ends_well_starts() {
        assert_eq!(sh("cat; echo noise >&2", 10.0), Ok(()));
    }

    #[test]
    fn the_last_words_of_the_others_are_told() {
        let trace = "printf '  File \"r.py\", line 3\\n    x = \\nSyntaxError: invalid syntax\\n' >&2; exit 1";
        assert_eq!(sh(trace, 10.0), Err("SyntaxError: invalid syntax (File \"r.py\", line 3)".into()));
        assert!(sh("exit 3", 10.0).unwrap_err().contains("without a word"));
        assert!(sh("exec sleep 30", 0.05).unwrap_err().contains("start_timeout_s"));
        assert!(run(&["/no/such".into()], Duration::from_secs(1)).unwrap_err().contains("cannot be started"));
    }
}

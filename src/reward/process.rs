//! One process of a grader: its pipes, its limits and its end.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::probe;
use super::protocol::shorten;
use crate::config::grader_spec::{ExternalSpec, Program, PythonFunction};
use crate::processes::{Kind, Running};
use crate::run_dir::log;

/// The longest line that is read from a grader.
const MOST_BYTES: usize = 1 << 20;
/// Lines of standard error in an error message.
const LAST_LINES: usize = 8;
/// Lines of standard error in the run's log, of all graders together.
const MOST_LOGGED: u64 = 2000;

/// Runs functions that were written for verl or TRL.
const SHIM: &str = include_str!("shim.py");

/// A grader in a few words, for messages.
pub fn label(program: &Program) -> String {
    match program {
        Program::Command(words) => format!("`{}`", shorten(&words.join(" "))),
        Program::Http(url) => shorten(url),
        Program::Verl(function) | Program::Trl(function) => function.place.clone(),
    }
}

/// # Errors
/// A program or a script that is not there.
pub fn check(program: &Program) -> Result<(), String> {
    match program {
        Program::Http(_) => Ok(()),
        Program::Command(words) => find(&words[0]),
        Program::Verl(function) | Program::Trl(function) => match Path::new(function.file()).is_file() {
            true => find(&function.python),
            false => Err(format!("there is no file {}", function.file())),
        },
    }
}

/// Loads a Python function once. Other programs are not started.
///
/// # Errors
/// A function that cannot be loaded.
pub fn load(spec: &ExternalSpec) -> Result<(), String> {
    match &spec.program {
        Program::Http(_) | Program::Command(_) => Ok(()),
        Program::Verl(function) | Program::Trl(function) => {
            let loaded = probe::run(&words(&spec.program), Duration::from_secs_f64(spec.start_timeout_s));
            loaded.map_err(|problem| format!("{} cannot be loaded: {problem}", function.place))
        }
    }
}

fn find(program: &str) -> Result<(), String> {
    let found = match program.contains(std::path::MAIN_SEPARATOR) {
        true => is_program(Path::new(program)),
        false => std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|it| is_program(&it.join(program)))),
    };
    match found {
        true => Ok(()),
        false => Err(format!("the command {program:?} is not there, or cannot be executed")),
    }
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file() || path.with_extension("exe").is_file()
}

fn words(program: &Program) -> Vec<String> {
    let shim = |kind: &str, function: &PythonFunction| {
        let name = function.name().unwrap_or("compute_score");
        [&function.python, "-c", SHIM, kind, function.file(), name].map(str::to_string).to_vec()
    };
    match program {
        Program::Command(words) => words.clone(),
        Program::Verl(function) => shim("verl", function),
        Program::Trl(function) => shim("trl", function),
        Program::Http(_) => Vec::new(),
    }
}

/// A process, which is killed with all that it started when this is dropped.
pub struct Process {
    // Dropped before the child is, so that the group's number is still taken.
    group: Running,
    child: Child,
    pub stdin: ChildStdin,
    pub lines: Lines<ChildStdout>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    logger: JoinHandle<()>,
    /// Whether it has replied.
    pub replied: bool,
}

impl Process {
    /// # Errors
    /// A program that cannot be started.
    pub fn start(spec: &ExternalSpec) -> Result<Self, String> {
        let words = words(&spec.program);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Its own group: Ctrl-C lets a run finish its step, for which it needs its graders.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|e| format!("it cannot be started: {e}"))?;
        let group = Running::new(child.id(), Kind::Grader);
        limit_memory(&child, spec.memory_mb)?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("it has no pipes: this is a bug".into());
        };
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let logger = tokio::spawn(log_lines(Lines::new(stderr), last_words.clone()));
        Ok(Self { group, child, stdin, lines: Lines::new(stdout), last_words, logger, replied: false })
    }

    /// Kills the process and says how it ended.
    pub async fn end(mut self) -> String {
        // A process that closed its output is about to end by itself.
        let status = timeout(Duration::from_millis(200), self.child.wait()).await;
        self.group.end();
        let how = match status {
            Ok(Ok(status)) => format!("it ended with {status}"),
            _ => "it closed its output".to_string(),
        };
        drop(timeout(Duration::from_millis(200), &mut self.logger).await);
        format!("{how}{}", self.last_words())
    }

    /// The end of its standard error, for an error message.
    pub fn last_words(&self) -> String {
        let lines = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.is_empty() {
            true => String::new(),
            false => format!("; its last words: {}", Vec::from_iter(lines.iter().map(String::as_str)).join(" | ")),
        }
    }
}

/// Keeps the last lines, and writes the first ones into the run's log.
async fn log_lines<R: AsyncRead + Unpin>(mut lines: Lines<R>, last_words: Arc<Mutex<VecDeque<String>>>) {
    static LOGGED: AtomicU64 = AtomicU64::new(0);
    while let Ok(Some(line)) = lines.next_cut().await {
        let line = shorten(String::from_utf8_lossy(&line).trim_end());
        match LOGGED.fetch_add(1, Ordering::Relaxed) {
            logged if logged < MOST_LOGGED => log::note(&format!("grader: {line}")),
            MOST_LOGGED => log::note("grader: further lines of graders are not logged"),
            _ => {}
        }
        let mut last = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(line);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
}

#[cfg(target_os = "linux")]
fn limit_memory(child: &Child, memory_mb: u64) -> Result<(), String> {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let bytes = (memory_mb > 0).then_some(memory_mb << 20);
    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id as i32)).filter(|_| bytes.is_some()) else {
        return Ok(());
    };
    let limit = Rlimit { current: bytes, maximum: bytes };
    prlimit(Some(pid), Resource::As, limit).map(drop).map_err(|e| format!("its memory cannot be limited: {e}"))
}

#[cfg(not(target_os = "linux"))]
fn limit_memory(_: &Child, _: u64) -> Result<(), String> {
    Ok(())
}

/// Lines of bounded length. Cancelling a read loses nothing.
pub struct Lines<R> {
    reader: BufReader<R>,
    partial: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, reader), partial: Vec::new() }
    }

    /// The next line. `None` at the end.
    ///
    /// # Errors
    /// A line that is too long.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let line = self.next_cut().await.map_err(|e| format!("its output cannot be read: {e}"))?;
        match line {
            Some(line) if line.len() >= MOST_BYTES => Err(format!("it wrote a line of more than {MOST_BYTES} bytes")),
            line => Ok(line),
        }
    }

    /// The same, but a line that is too long is cut into several.
    async fn next_cut(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            let buffer = self.reader.fill_buf().await?;
            if buffer.is_empty() {
                return Ok((!self.partial.is_empty()).then(|| std::mem::take(&mut self.partial)));
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(buffer.len(), |end| end + 1).min(MOST_BYTES - self.partial.len());
            self.partial.extend_from_slice(&buffer[..taken]);
            let whole = self.partial.ends_with(b"\n") || self.partial.len() >= MOST_BYTES;
            self.reader.consume(taken);
            if whole {
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
        }
    }
}

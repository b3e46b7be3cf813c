//! The program is killed, or its disk fails. `--resume` makes the run that was never interrupted.
//!
//! - `at_calls`: inside what the program writes · `at_random`: at any moment

mod at_calls;
mod at_random;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::json;

use crate::fixtures::failing_disk::{Fault, program_with};
use crate::fixtures::program::{Workspace, program};
use crate::fixtures::records::metrics;
use crate::fixtures::wait_until;

/// A short run with all that is written on the way: evaluations, steps with and without a checkpoint, checkpoints that are removed,
/// rewards that vary, a policy and a curriculum that change.
const TABLES: &str = "[data]\ntrain_files = [\"train.jsonl\"]\ntest_files = [\"test.jsonl\"]\ngrader = \"regex\"\n\
                      [engine]\nmax_new_tokens = 4\n[eval]\ninterval = 2\nprompts = 1\nsamples = 1\n\
                      [ckpt]\ninterval = 2\nkeep_last = 1\n[optim]\nlr = 0.01\n";
const STEPS: u64 = 5;
const BATCH_SIZE: usize = 2;
const GROUP_SIZE: usize = 4;

/// Two distributions. Random text matches the one's pattern often, and the other's seldom.
fn rows() -> String {
    let patterns = [("often", "(?i)[aeiou][a-z]* ?[b-m]"), ("seldom", "(?i)[aeiou]{2}")];
    let row = |i: usize| {
        let (source, pattern) = patterns[i % 2];
        json!({"prompt": format!("Question {i}?"), "answer": pattern, "data_source": source}).to_string() + "\n"
    };
    (0..8).map(row).collect()
}

/// A configuration, and the folders of its runs.
struct Runs {
    work: Workspace,
    args: [String; 3],
}

/// How a process ended, and what it wrote to standard error.
struct Ended {
    status: ExitStatus,
    said: String,
}

impl Ended {
    fn was_killed(&self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        self.status.signal() == Some(9)
    }
}

impl Runs {
    /// Runs with these further tables.
    fn new(more: &str) -> Self {
        let work = Workspace::new();
        work.file("train.jsonl", rows());
        work.file("test.jsonl", rows().replace("Question", "Exercise"));
        let head = format!("max_steps = {STEPS}\nbatch_size = {BATCH_SIZE}\ngroup_size = {GROUP_SIZE}\n");
        let config = work.config(&format!("model = \"{{model}}\"\n{head}{TABLES}{more}"));
        Self { work, args: ["train".into(), config, "--resume".into()] }
    }

    /// A run that nothing interrupts.
    fn whole(&self) -> PathBuf {
        let out = self.empty("whole");
        self.finish(&out, "no fault");
        out
    }

    /// A folder that is not there.
    fn empty(&self, name: &str) -> PathBuf {
        let out = self.work.path("").canonicalize().expect("a folder").join(name);
        if out.exists() {
            fs::remove_dir_all(&out).expect("a folder to remove");
        }
        out
    }

    /// `command` with the arguments of the run in `out`.
    fn of(&self, mut command: Command, out: &Path) -> Command {
        command.args(&self.args).arg("--out").arg(out).stdout(Stdio::null());
        command
    }

    /// Waits for the run in `out`, which may not hang.
    fn ended(&self, command: Command, out: &Path) -> Ended {
        let said = self.work.path("said");
        let mut command = self.of(command, out);
        let mut child = command.stderr(File::create(&said).expect("a file")).spawn().expect("the program starts");
        wait_until("end of the run", || child.try_wait().expect("a status").is_some());
        let status = child.wait().expect("a status");
        Ended { status, said: fs::read_to_string(said).expect("text") }
    }

    /// Lets the run in `out` meet a fault at a call. Also returns the name and path of each call that failed, in lines.
    fn with(&self, fault: Fault, at: u64, out: &Path) -> (Ended, String) {
        let told = self.work.file("told", "");
        let ended = self.ended(program_with(fault, at, out, Path::new(&told)), out);
        (ended, fs::read_to_string(told).expect("paths"))
    }

    /// Ends the run in `out`, which must succeed.
    fn finish(&self, out: &Path, why: &str) {
        let Ended { status, said } = self.ended(program(), out);
        assert!(status.success(), "{why}: {said}");
    }
}

/// Every file and folder of a run by its name. Those that tell of times have no content here.
fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![run.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = path.strip_prefix(run).expect("inside").to_path_buf();
            match name.to_str() {
                _ if path.is_dir() => {
                    folders.push(path);
                    files.insert(name, Vec::new());
                }
                Some("run.log" | "report.html" | "metrics.jsonl") => drop(files.insert(name, Vec::new())),
                _ => drop(files.insert(name, fs::read(&path).expect("a file"))),
            }
        }
    }
    files
}

/// Checks that two runs left the same files with the same bytes, and the same metrics but for times.
fn assert_same(whole: &Path, run: &Path, why: &str) {
    let (expected, found) = (files(whole), files(run));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{why}");
    expected.iter().for_each(|(name, bytes)| assert!(found[name] == *bytes, "{why}: {} differs", name.display()));
    assert_eq!(metrics(run), metrics(whole), "{why}");
}

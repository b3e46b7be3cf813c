//! Output that cannot be written, and a terminal that is closed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use crate::fixtures::program::{Workspace, program, text};
use crate::fixtures::wait_until;

const LOST: &str = "standard output cannot be written";

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full")
}

/// A run of two steps. Its last checkpoint must be there, whatever became of its output.
fn trains(run: impl FnOnce(Command) -> Output) -> String {
    let work = Workspace::new();
    let mut command = program();
    command.args(["train", &work.good_config(), "--out", &work.out()]);
    let output = run(command);
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    assert!(work.path("run/checkpoints/step_2").is_dir());
    let log = fs::read_to_string(work.path("run/run.log")).expect("a log");
    assert!(log.contains("step    2/2") && log.contains("report.html"), "{log}");
    text(&output.stderr)
}

#[test]
fn a_run_outlives_its_reader() {
    let said = trains(|mut command| {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut first = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut first).expect("a line");
        assert!(first.starts_with("model"), "{first}");
        child.wait_with_output().expect("it ends")
    });
    assert_eq!(said.matches(LOST).count(), 1, "{said}");
}

#[test]
fn a_run_needs_no_output() {
    let said = trains(|mut command| command.stdout(full()).output().expect("the program starts"));
    assert_eq!(said.matches(LOST).count(), 1, "{said}");
    trains(|mut command| command.stdout(full()).stderr(full()).output().expect("the program starts"));
    trains(|command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-"]).arg(command.get_program()).args(command.get_args());
        shell.output().expect("the shell starts")
    });
}

#[test]
fn a_run_outlives_its_terminal() {
    let work = Workspace::new();
    let config = work.good_config();
    let args = ["train", &config, "--out", &work.out(), "--set", "max_steps=20"];
    let mut child = program().args(args).stdout(Stdio::null()).spawn().expect("the program starts");
    wait_until("a configuration", || work.path("run/config.toml").exists());
    Command::new("kill").args(["-HUP", &child.id().to_string()]).status().expect("a signal");
    assert!(child.wait().expect("it ends").success());
    assert!(work.path("run/checkpoints/step_20").is_dir());
}

/// What a command is for must arrive. A reader that has left ends it as it ends `grep`.
#[test]
fn a_command_needs_its_output() {
    let work = Workspace::new();
    let data = work
        .file("data.jsonl", "{\"question\": \"?\", \"answer\": \"(1) Zoey is a knight\", \"data_source\": \"kk_1\"}\n");
    let many = "{\"index\": 0, \"completion\": \"nobody knows\"}\n".repeat(10_000);
    let (completions, config) = (work.file("given.jsonl", many), work.good_config());
    let grade = ["grade", "--data", &data, "--completions", &completions];
    for args in [&grade[..], &["data", "inspect", &data], &["train", &config, "--dry-run"]] {
        let output = program().args(args).stdout(full()).output().expect("the program starts");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.lines().count() == 1 && said.contains(LOST) && said.contains("No space left"), "{said}");
    }
    let mut child = program().args(grade).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
    assert!(first.contains("format_score"), "{first}");
    let output = child.wait_with_output().expect("it ends");
    const SIGPIPE: i32 = 13;
    assert_eq!((output.status.signal(), text(&output.stderr).as_str()), (Some(SIGPIPE), ""));
}

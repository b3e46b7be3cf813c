//! Signals at many moments of a run: it ends soon, and goes on as if nothing had been.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::fixtures::program::{DATA, HEAD, Workspace, dump_rl, printed, program, text};
use crate::fixtures::{root, wait_until};

/// A stop takes at most this long, on a machine that does other things as well. An evaluation takes much longer.
const SOON: Duration = Duration::from_secs(20);

fn start(args: &[&str]) -> Child {
    program().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

fn send(signal: &str, child: &Child) {
    Command::new("kill").args([signal, &child.id().to_string()]).status().expect("a signal");
}

/// How the process ends after a signal.
fn stopped(signal: &str, mut child: Child) -> ExitStatus {
    send(signal, &child);
    let since = Instant::now();
    let status = child.wait().expect("it ends");
    assert!(since.elapsed() < SOON, "it ended {:?} after {signal}", since.elapsed());
    status
}

fn checkpoints(out: &Path) -> Vec<String> {
    let names = fs::read_dir(out.join("checkpoints")).into_iter().flatten().flatten();
    names.map(|it| it.file_name().to_string_lossy().into_owned()).collect()
}

/// A run of the shipped model with some settings.
fn shipped(work: &Workspace, sets: &str) -> Vec<String> {
    let config = root().join("configs/kk-tiny.toml").display().to_string();
    let sets = sets.split(' ').flat_map(|set| ["--set".to_string(), set.to_string()]);
    ["train".into(), config, "--out".into(), work.out()].into_iter().chain(sets).collect()
}

#[test]
fn a_stop_does_not_wait_for_an_evaluation() {
    let work = Workspace::new();
    let (out, args) = (work.path("run"), shipped(&work, "data.train=20 batch_size=2 max_steps=1 eval.samples=10"));
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--resume"]).collect();
    // An evaluation of 12,000 completions would take minutes.
    for signal in ["-INT", "-TERM"] {
        let child = start(&args);
        // The folder is opened when the engine has started: then the evaluation begins.
        wait_until("a run", || fs::read_to_string(out.join("run.log")).is_ok_and(|log| log.contains("engine")));
        std::thread::sleep(Duration::from_millis(300));
        assert!(stopped(signal, child).success());
        assert_eq!(checkpoints(&out), ["step_0"]);
        assert!(fs::read_to_string(out.join("run.log")).expect("a log").contains("stopped; checkpoint in"));
    }
    printed(&[&args[..], &["--set", "eval.interval=0"]].concat());
    assert!(out.join("checkpoints/step_1").is_dir());
}

/// Whatever a kill leaves, `--resume` makes the run that was never interrupted. On a folder that is not there it begins.
#[test]
fn a_run_that_is_killed_at_any_moment_goes_on() {
    let work = Workspace::new();
    let config = work.config(&format!("{HEAD}{DATA}[ckpt]\ninterval = 2\n"));
    let sets = ["--set", "max_steps=4", "--set", "eval.interval=1"];
    let train = |out: &str| [&["train", &config, "--out", out, "--resume"][..], &sets].concat().join("\n");
    let adapter =
        |out: &str| fs::read(work.path(out).join("checkpoints/step_4/adapter_model.safetensors")).expect("it");
    let path = |out: &str| work.path(out).display().to_string();
    let straight = path("straight");
    let since = Instant::now();
    printed(&train(&straight).lines().collect::<Vec<_>>());
    let whole = since.elapsed();
    for (name, signals) in [("killed", &["-KILL"][..]), ("stopped", &["-TERM"]), ("twice", &["-INT", "-INT"])] {
        let out = path(name);
        for part in 1..6 {
            let mut child = start(&train(&out).lines().collect::<Vec<_>>());
            std::thread::sleep(whole * part / 6);
            signals.iter().for_each(|signal| send(signal, &child));
            child.wait().expect("it ends");
        }
        printed(&train(&out).lines().collect::<Vec<_>>());
        assert!(adapter("straight") == adapter(name), "{name}: the adapters differ");
        let lines = fs::read_to_string(work.path(name).join("metrics.jsonl")).expect("metrics").lines().count();
        assert_eq!(lines, 5, "{name}");
    }
}

/// A command that has nothing to save ends at once, with the shell's status for the signal.
#[test]
fn an_evaluation_ends_at_once() {
    let config = root().join("configs/kk-tiny.toml").display().to_string();
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let child = start(&["eval", &config, "--samples", "10"]);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(stopped(signal, child).code(), Some(status));
    }
}

#[test]
fn supervised_training_saves_what_it_has_learned() {
    let work = Workspace::new();
    let data = work.file("data.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    let model = work.model.path().display().to_string();
    let text = format!(
        "init = {model:?}\nmax_steps = 1000000\nbatch_tokens = 20\nlog_interval = 1\n[data]\nfiles = [{data:?}]\n"
    );
    let (config, out) = (work.file("sft.toml", text), work.out());
    let log = fs::File::create(work.path("said")).expect("a file");
    let child = program().args(["sft", &config, "--out", &out]).stdout(log).spawn().expect("the program starts");
    let said = || fs::read_to_string(work.path("said")).expect("a file");
    wait_until("two steps", || said().contains("step 2/"));
    assert!(stopped("-INT", child).success());
    assert!(said().contains("stopped; the model of step"), "{}", said());
    assert!(work.path("run/model.safetensors").is_file());
}

/// Completions of four tokens never have the right format. A run that learns says nothing.
#[test]
fn a_run_that_cannot_learn_says_so() {
    const SAYS: &str = "this run cannot learn";
    let work = Workspace::new();
    let config = work.config(&format!("{HEAD}{DATA}[engine]\nmax_new_tokens = 4\n"));
    let sets = ["--set", "max_steps=25", "--set", "eval.interval=0"];
    let output = dump_rl(&[&["train", &config, "--out", &work.out()][..], &sets].concat());
    let said = text(&output.stderr);
    assert!(output.status.success() && said.matches(SAYS).count() == 1, "{said}");
    for words in
        ["for 10 steps", "the same reward", "right format", "engine.max_new_tokens = 4", "prompt ends", "cut off"]
    {
        assert!(said.contains(words), "{said}");
    }
    assert!(fs::read_to_string(work.path("run/run.log")).expect("a log").contains(SAYS));

    let work = Workspace::new();
    let sets = "max_steps=11 batch_size=4 group_size=4 eval.interval=0 data.people=3 data.train=50 data.test=0";
    let output = dump_rl(&shipped(&work, sets));
    assert!(output.status.success() && !text(&output.stderr).contains(SAYS), "{}", text(&output.stderr));
}

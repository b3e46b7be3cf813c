//! What a resume compares with the run's beginning, where it goes on, and which checkpoints there are.

use std::fs;
use std::path::Path;

use crate::fixtures::program::{HEAD, Workspace, dump_rl, parse, printed, text};

/// A run on files, with a gradient also where all rewards are equal. The adapter does not stay the same.
const TABLES: &str = "[[data]]\ntrain_files = [\"train.jsonl\"]\ntest_files = [\"test.jsonl\"]\ngrader = \"exact\"\n\
                      [engine]\nmax_new_tokens = 4\n[eval]\nprompts = 2\nsamples = 1\n[loss]\nentropy_coef = 1.0\n[optim]\nlr = 0.01\n";

/// Rows of two distributions. `answer` is the ground truth of the last one.
fn rows(answer: &str) -> String {
    let row = |source: &str, i: usize, answer: &str| {
        format!("{{\"prompt\": \"{source} {i}?\", \"answer\": \"{answer}\", \"data_source\": \"{source}\"}}\n")
    };
    let all = (0..4).flat_map(|i| [row("easy", i, "a"), row("hard", i, if i == 3 { answer } else { "b" })]);
    all.collect()
}

/// A workspace with the files, and the arguments of its run in `out`.
fn workspace(tables: &str) -> (Workspace, impl Fn(&str, &[&str]) -> Vec<String>) {
    let work = Workspace::new();
    work.file("train.jsonl", rows("b"));
    work.file("test.jsonl", rows("b"));
    let config = work.config(&format!("{HEAD}{TABLES}{tables}"));
    let folder = work.path("").display().to_string();
    let train = move |out: &str, more: &[&str]| {
        let out = Path::new(&folder).join(out).display().to_string();
        let args = ["train", &config, "--out", &out];
        args.iter().chain(more).map(ToString::to_string).collect()
    };
    (work, train)
}

fn adapter(work: &Workspace, out: &str, step: u64) -> Vec<u8> {
    let path = work.path(out).join(format!("checkpoints/step_{step}/adapter_model.safetensors"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The folders of checkpoints, in order.
fn checkpoints(work: &Workspace, out: &str) -> Vec<String> {
    let entries = fs::read_dir(work.path(out).join("checkpoints")).expect("checkpoints");
    let mut names: Vec<String> =
        entries.map(|it| it.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// The steps of `metrics.jsonl`.
fn steps(work: &Workspace, out: &str) -> Vec<u64> {
    let text = fs::read_to_string(work.path(out).join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| parse(line)["step"].as_u64().expect("a step")).collect()
}

#[test]
fn changed_rows_are_named_also_where_their_number_is_the_same() {
    let (work, train) = workspace("");
    printed(&train("run", &["--set", "max_steps=1"]));
    let resume = |more: &[&str]| train("run", &[&["--resume"], more].concat());
    work.file("train.jsonl", rows("c"));
    let same_number = ["training rows", "hard has 4 rows as before, but not the same ones", "--allow-changed"];
    work.refused(&resume(&[]), &same_number);
    work.file("train.jsonl", rows("b").lines().rev().map(|line| format!("{line}\n")).collect::<String>());
    work.refused(&resume(&[]), &["training rows", "easy has 4 rows as before"]);
    work.file("train.jsonl", rows("b").lines().skip(1).map(|line| format!("{line}\n")).collect::<String>());
    work.refused(&resume(&[]), &["easy had 4 rows, has 3"]);
    work.file("train.jsonl", rows("b"));
    work.file("test.jsonl", rows("b").replace("easy 0", "easy 9"));
    work.refused(&resume(&[]), &["test rows", "easy has 2 rows as before"]);
    // The same rows somewhere else, and more of an evaluation.
    work.file("test.jsonl", rows("b"));
    fs::rename(work.path("train.jsonl"), work.path("moved.jsonl")).expect("a move");
    let moved = format!("data.train_files=[{:?}]", work.path("moved.jsonl").display().to_string());
    printed(&resume(&["--set", &moved, "--set", "eval.prompts=4", "--set", "engine.max_sequences=3"]));
    assert_eq!(steps(&work, "run"), [0, 1, 2]);
}

#[test]
fn who_knows_may_go_on_with_something_else() {
    let (work, train) = workspace("");
    printed(&train("run", &["--set", "max_steps=1"]));
    work.file("train.jsonl", rows("c"));
    let weights = work.model.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("weights");
    let resume = |more: &[&str]| train("run", &[&["--resume"], more].concat());
    work.refused(&resume(&["--set", "optim.lr=0.02"]), &["optim.lr was 0.01, is 0.02"]);
    work.refused(&resume(&[]), &["not the base model of the run", "model.safetensors differs"]);
    let output = dump_rl(&resume(&["--allow-changed", "--set", "optim.lr=0.02", "--set", "seed=9"]));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    for change in ["optim.lr was 0.01, is 0.02, and seed was 0, is 9", "model.safetensors differs", "hard has 4 rows"] {
        assert!(said.contains(change), "{said}");
    }
    // From now on they are what the run is made of.
    printed(&resume(&["--set", "max_steps=3", "--set", "optim.lr=0.02", "--set", "seed=9"]));
    // What cannot fit is refused all the same.
    let rank = ["--allow-changed", "--set", "lora.rank=2", "--set", "max_steps=3"];
    let output = dump_rl(&resume(&rank));
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("checkpoints/step_3: "), "{said}");
    let alone = dump_rl(&train("run", &["--allow-changed"]));
    assert!(alone.status.code() == Some(2) && text(&alone.stderr).contains("--resume"), "{}", text(&alone.stderr));
}

#[test]
fn a_run_goes_on_from_an_older_checkpoint() {
    let (work, train) = workspace("[ckpt]\ninterval = 1\nkeep_last = 9\n");
    printed(&train("whole", &["--set", "max_steps=4"]));
    printed(&train("run", &["--set", "max_steps=4"]));
    work.refused(&train("run", &["--resume=7"]), &["checkpoint of step 7", "1, 2, 3, 4"]);
    fs::write(work.path("run/checkpoints/step_4/optimizer.safetensors"), "damage").expect("a file");
    let resume = |at: &str| train("run", &[at, "--set", "max_steps=4"]);
    work.refused(&resume("--resume"), &["step_4/optimizer.safetensors", "--resume=3"]);
    work.refused(&train("run", &["--resume=3", "--set", "max_steps=2"]), &["max_steps: is 2", "3 steps"]);
    printed(&resume("--resume=2"));
    assert!(adapter(&work, "run", 4) == adapter(&work, "whole", 4), "the same policy");
    assert_eq!(steps(&work, "run"), [0, 1, 2, 3, 4]);
    let all = ["step_1", "step_2", "step_3", "step_3.set-aside", "step_4", "step_4.set-aside"];
    assert_eq!(checkpoints(&work, "run"), all);
    work.refused(&train("new", &["--resume=2"]), &["checkpoint of step 2", "none"]);
}

#[test]
fn some_checkpoints_are_kept_for_good() {
    let (work, train) = workspace("[ckpt]\ninterval = 1\nkeep_last = 1\nkeep_interval = 2\n");
    printed(&train("run", &["--set", "max_steps=5"]));
    assert_eq!(checkpoints(&work, "run"), ["step_2", "step_4", "step_5"]);
    work.refused(
        &train("other", &["--set", "ckpt.interval=2", "--set", "ckpt.keep_interval=3"]),
        &["ckpt.interval = 2"],
    );
}

/// What a kill left of steps after the checkpoint is gone when the run goes on.
#[test]
fn what_was_written_after_the_checkpoint_is_removed() {
    let (work, train) = workspace("[ckpt]\ninterval = 2\n");
    printed(&train("run", &[]));
    fs::create_dir_all(work.path("run/checkpoints/step_3.tmp")).expect("half a checkpoint");
    work.file("run/rollouts/step_7.jsonl", "{\"left\": 1}\n");
    work.file("run/checkpoints/step_3.tmp/state.json", "{");
    printed(&train("run", &["--resume", "--set", "max_steps=3"]));
    assert_eq!(checkpoints(&work, "run"), ["step_2", "step_3"]);
    assert!(!work.path("run/rollouts/step_7.jsonl").exists());
}

//! A run's folder and its checkpoints: never overwritten, resumed only with the same settings, checked for damage.

use std::fs;

use dump_rl::config::ckpt::CkptConfig;
use dump_rl::run_dir::checkpoint::Checkpoint;
use engine::adapter::hash_bytes;
use serde_json::{Value, json};

use crate::fixtures::program::{DATA, HEAD, Workspace, printed};

#[test]
fn a_run_is_not_overwritten() {
    let work = Workspace::new();
    work.run_with_checkpoint();
    work.file("run/metrics.jsonl", "{\"step\":1}\n");
    work.train_refused(&format!("{HEAD}{DATA}"), &[], &["run", "already holds a run", "--resume", "--out"]);
}

#[test]
fn a_resume_needs_the_same_settings() {
    let work = Workspace::new();
    let good = format!("{HEAD}{DATA}");
    let checkpoint = work.run_with_checkpoint();
    work.train_refused(&good, &["--resume", "--set", "optim.lr=0.5"], &["optim.lr was 0.0001, is 0.5", "max_steps"]);
    work.train_refused(&good, &["--resume", "--set", "lora.rank=2"], &["lora.rank was 16, is 2"]);
    work.train_refused(&good, &["--resume", "--set", "data.people=3-5"], &["config.toml", "data.levels was"]);
    fs::remove_dir_all(checkpoint).expect("a checkpoint");
    work.refused(&["eval", &work.out()], &["checkpoints", "no checkpoint"]);
    work.train_refused(&good, &["--resume", "--set", "lora.rank=2"], &["lora.rank was 16, is 2"]);
}

/// The advice of the refusal works: a run without a checkpoint begins again. What was saved once is not trained over.
#[test]
fn a_run_without_a_checkpoint_begins_again() {
    let work = Workspace::new();
    let (config, out) = (work.good_config(), work.out());
    let resume = ["train", &config, "--out", &out, "--resume"];
    fs::create_dir_all(work.path("run/checkpoints/step_1.tmp")).expect("half a checkpoint");
    work.file("run/metrics.jsonl", "{\"step\":0,\"left\":1}\n{\"step\":1,\"le");
    work.file("run/curriculum.jsonl", "{\"step\":1,\"left\":1}\n");
    work.train_refused(&format!("{HEAD}{DATA}"), &[], &["already holds a run", "--resume"]);
    printed(&resume);
    let read = |name: &str| fs::read_to_string(work.path("run").join(name)).expect(name);
    assert_eq!((read("metrics.jsonl").lines().count(), read("curriculum.jsonl").lines().count()), (3, 2));
    assert!(!read("metrics.jsonl").contains("left") && !read("curriculum.jsonl").contains("left"));
    fs::remove_dir_all(work.path("run/checkpoints")).expect("checkpoints");
    work.refused(&resume, &["checkpoints", "are gone", "to step 2", "--out DIR"]);
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let work = Workspace::new();
    let checkpoint = work.run_with_checkpoint();
    let good = format!("{HEAD}{DATA}");
    let mut names: Vec<String> = fs::read_dir(&checkpoint)
        .expect("a folder")
        .map(|it| it.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", "state.json"]);
    for name in &names {
        let path = checkpoint.join(name);
        let whole = fs::read(&path).expect("a file of the checkpoint");
        let with = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("a file of the checkpoint");
            work.train_refused(&good, &["--resume"], &[name]);
        };
        with(&flipped(&whole, whole.len() / 2, 0x80));
        with(&whole[..whole.len() - 1]);
        fs::remove_file(&path).expect("a file of the checkpoint");
        work.train_refused(&good, &["--resume"], &[name]);
        fs::write(&path, &whole).expect("a file of the checkpoint");
    }
    assert!(Checkpoint::load(&checkpoint).is_ok());
}

/// A checkpoint of an older version is intact: it is not called damaged, and its policy can still be exported.
#[test]
fn a_checkpoint_of_another_version_is_named_as_such() {
    let work = Workspace::new();
    let path = work.run_with_checkpoint().join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).expect("a state")).expect("JSON");
    let zeros = "0".repeat(64);
    state["scheduler"]["weights"] = json!(["0.5", "0.5"]);
    state["sha256"] = json!(zeros);
    let text = state.to_string();
    fs::write(&path, text.replacen(&zeros, &hash_bytes(text.as_bytes()).0, 1)).expect("a state");
    work.train_refused(&format!("{HEAD}{DATA}"), &["--resume"], &["state.json", "another version", "--out DIR"]);
    let out = work.path("adapter").display().to_string();
    printed(&["export", &work.out(), "--out", &out]);
    assert!(work.path("adapter/adapter_model.safetensors").is_file());
}

/// One bit in about a hundred places of each file: a digit of the state that becomes another digit is damage too.
#[test]
fn every_flipped_bit_of_a_checkpoint_is_noticed() {
    let work = Workspace::new();
    let checkpoint = work.run_with_checkpoint();
    for name in ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", "state.json"] {
        let path = checkpoint.join(name);
        let whole = fs::read(&path).expect("a file of the checkpoint");
        let places = (0..whole.len()).step_by(whole.len() / 100 + 1);
        let unnoticed: Vec<String> = places
            .filter(|&at| {
                fs::write(&path, flipped(&whole, at, 1)).expect("a file of the checkpoint");
                Checkpoint::load(&checkpoint).is_ok()
            })
            .map(|at| {
                format!(
                    "byte {at}, in {:?}",
                    String::from_utf8_lossy(&whole[at.saturating_sub(8)..whole.len().min(at + 8)])
                )
            })
            .collect();
        assert!(unnoticed.is_empty(), "{name}: {} places, for example {}", unnoticed.len(), unnoticed[0]);
        fs::write(&path, &whole).expect("a file of the checkpoint");
    }
}

fn flipped(bytes: &[u8], at: usize, bits: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= bits;
    bytes
}

#[test]
fn a_damaged_newest_checkpoint_names_an_older_one() {
    let work = Workspace::new();
    let old = work.run_with_checkpoint();
    let mut newer = Checkpoint::load(&old).expect("a checkpoint");
    newer.scheduler.step = 2;
    let newest = newer.save(&work.path("run"), &CkptConfig::default(), Vec::new()).expect("a checkpoint");
    fs::write(newest.join("optimizer.safetensors"), "broken").expect("a file of the checkpoint");
    let words = ["step_2/optimizer.safetensors", "SHA-256", "--resume=0"];
    work.train_refused(&format!("{HEAD}{DATA}"), &["--resume"], &words);
}

//! `train --dry-run`: resolves, predicts, refuses, and writes nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use dump_rl::config;
use dump_rl::config::resolve::HAS_CUDA;
use dump_rl::config::run::RunConfig;
use dump_rl::model::presets;
use engine::decoder::{DecoderConfig, Weights};
use serde_json::{Value, json};

use crate::fixtures::program::{DATA, HEAD, Workspace, printed, text};
use crate::fixtures::root;

#[test]
fn a_dry_run_says_what_would_run_and_writes_nothing() {
    let work = Workspace::new();
    let (config, before) = (work.good_config(), work.snapshot());
    let said = printed(&["train", &config, "--dry-run", "--out", &work.out(), "--set", "max_steps=9"]);
    for word in
        ["max_steps = 9", "batch_size = 2", "kk_logic_3", "kk_logic_4", "8 rows in 2 distributions", "parameters"]
    {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    let resolved = said.split("\nmodel    ").next().expect("the configuration");
    let resolved: RunConfig = config::load(Path::new(&work.file("r.toml", resolved)), &[]).expect("a configuration");
    assert_eq!(resolved, config::load(Path::new(&config), &["max_steps=9".into()]).expect("a configuration"));
    fs::remove_file(work.path("r.toml")).expect("a file");
    assert_eq!(work.snapshot(), before);
}

#[test]
fn a_dry_run_refuses_what_a_run_refuses() {
    let work = Workspace::new();
    let good = format!("{HEAD}{DATA}");
    work.train_refused(&good, &["--dry-run", "--set", "group_size=1"], &["--set group_size"]);
    work.train_refused(
        &good,
        &["--dry-run", "--set", "engine.dtype=bf16", "--set", "engine.kind=mistralrs"],
        &["engine.dtype"],
    );
    work.model_refused("vocab_size", json!(300), &["tokenizer.json"]);
    let (config, path) = (work.config(&good), work.model.path().join("config.json"));
    let changed =
        text(&fs::read(&path).expect("config.json")).replace("\"intermediate_size\": 64", "\"intermediate_size\": 48");
    fs::write(&path, changed).expect("config.json");
    let words = ["mlp.gate_proj.weight", "expected shape [48, 64]", "found [64, 64]"];
    work.refused(&["train", &config, "--dry-run"], &words);
    fs::write(work.model.path().join("model.safetensors"), "no weights").expect("weights");
    work.refused(&["train", &config, "--dry-run"], &["model.safetensors", "damaged"]);
}

/// It names what is missing, and predicts what can be predicted without it. It needs no GPU.
#[test]
fn a_dry_run_predicts_without_weights_tokenizer_or_gpu() {
    let work = Workspace::new();
    let config = work.good_config();
    let predicts = |more: &[&str], words: &[&str]| {
        let said = printed(&[&["train", &config, "--dry-run"], more].concat());
        let words = ["predicted at most", "parameters"].iter().chain(words);
        words.for_each(|word| assert!(said.contains(word), "{word:?} is not in {said}"));
    };
    predicts(&["--set", "engine.device=cuda"], &["time     not predicted"]);
    if !HAS_CUDA {
        predicts(&["--set", "engine.device=cuda"], &["--features cuda"]);
    }
    fs::remove_file(work.model.path().join("model.safetensors")).expect("weights");
    predicts(&[], &["weights are missing", "prompts of"]);
    fs::remove_file(work.model.path().join("tokenizer.json")).expect("a tokenizer");
    predicts(&[], &["weights are missing", "there is no tokenizer"]);
}

/// The paper's run on GPUs that are not there: what each way to share a card takes, and what to change if none fits.
#[test]
fn a_dry_run_says_what_fits_a_card() {
    let config = root().join("configs/kk-qwen2.5-7b.toml").display().to_string();
    let args = |more: &[&'static str]| {
        let sets = ["engine.kind=mistralrs", "data.train=20", "data.test=2"]
            .iter()
            .chain(more)
            .flat_map(|set| ["--set".into(), set.to_string()]);
        [vec!["train".to_string(), config.clone(), "--dry-run".into()], sets.collect()].concat()
    };
    let said = |more: &[&'static str]| printed(&args(more).iter().map(String::as_str).collect::<Vec<_>>());
    let words = ["side_by_side", "alternate", "24 GB", "141 GB", "completions of the greatest length"];
    let unknown = said(&[]);
    words.iter().for_each(|word| assert!(unknown.contains(word), "no {word} in {unknown}"));
    // The native engine, which a program without mistral.rs takes, has nothing to load again.
    assert_eq!(unknown.contains("reload"), cfg!(feature = "mistralrs"), "{unknown}");
    let large = said(&["engine.device_memory_mb=140000"]);
    assert!(large.contains("146.8 GB here"), "{large}");
    let too_small = args(&["engine.device_memory_mb=40000", "engine.sync=side_by_side"]);
    let too_small: Vec<&str> = too_small.iter().map(String::as_str).collect();
    Workspace::new().refused(&too_small, &["engine.sync = \"side_by_side\"", "GB are free", "what would fit: "]);
}

/// A model of 7 billion parameters is checked in a process with too little memory for it: only the header of its file is read.
#[cfg(target_os = "linux")]
#[test]
fn a_dry_run_does_not_load_the_weights() {
    let work = Workspace::new();
    let path = work.model.path();
    let mut config = serde_json::to_value(presets::find("qwen2.5-7b").expect("a preset")).expect("JSON");
    config["eos_token_id"] = json!(2);
    fs::write(path.join("config.json"), config.to_string()).expect("config.json");
    sparse_weights(path);
    let config = work.good_config();
    let limited = format!("ulimit -v 8000000; exec {} train {config} --dry-run", env!("CARGO_BIN_EXE_dump-rl"));
    let output = Command::new("sh").args(["-c", &limited]).output().expect("a shell");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("7616 M parameters"), "{}", text(&output.stdout));
}

/// Writes bf16 weights for the model in `dir`: a header, and a hole in the file where the numbers would be.
#[cfg(target_os = "linux")]
fn sparse_weights(dir: &Path) {
    let config = DecoderConfig::load(dir).expect("config.json");
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    let zero = Tensor::zeros((), DType::BF16, &Device::Cpu).expect("a tensor");
    let add = |name: &str, shape: &[usize]| {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.into(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
        Ok(zero.clone())
    };
    Weights::from_named(&config, add).expect("names");
    let header = Value::Object(header).to_string();
    let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let path = dir.join("model.safetensors");
    fs::write(&path, &start).expect("a header");
    let file = fs::OpenOptions::new().write(true).open(path).expect("weights");
    file.set_len((start.len() + end) as u64).expect("a hole");
}

//! The model that a configuration names: in a folder, or on the hub.

use std::fs;

use candle_core::{DType, Device};
use engine::decoder::{DecoderConfig, Weights};
use serde_json::json;

use crate::fixtures::model::TinyModel;
use crate::fixtures::program::{DATA, HEAD, Workspace, program, text};
use crate::fixtures::root;

#[test]
fn a_wrong_model_is_named() {
    let work = Workspace::new();
    let elsewhere = work.path("no-model").display().to_string();
    work.train_refused(&format!("{HEAD}{DATA}").replace("{model}", &elsewhere), &[], &["no-model", "config.json"]);
    work.model_refused("vocab_size", json!(300), &["tokenizer.json", "vocab_size is 300", "tokens"]);
    work.model_refused(
        "architectures",
        json!(["GPT2LMHeadModel"]),
        &["config.json", "GPT2LMHeadModel", "LlamaForCausalLM"],
    );
    work.model_refused("rope_scaling", json!({"type": "yarn"}), &["config.json", "rope_scaling"]);
    work.model_refused("hidden_size", json!("wide"), &["config.json", "wide"]);
    let shape = ["model.layers.0.mlp.gate_proj.weight", "expected shape [48, 64]", "found [64, 64]"];
    work.model_refused("intermediate_size", json!(48), &shape);
    work.model_refused("num_hidden_layers", json!(3), &["model.layers.2.", "is missing"]);
    work.model_refused("tie_word_embeddings", json!(false), &["lm_head.weight", "is missing"]);
    let good = format!("{HEAD}{DATA}");
    for (name, word) in
        [("tokenizer_config.json", "tokenizer_config.json"), ("model.safetensors", "weights are missing")]
    {
        let (path, aside) = (work.model.path().join(name), work.path(name));
        fs::copy(&path, &aside).and_then(|_| fs::remove_file(&path)).expect("a file of the model");
        work.train_refused(&good, &[], &[name, word]);
        fs::copy(&aside, &path).expect("a file of the model");
    }
    let path = work.model.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    fs::write(&path, &bytes[..bytes.len() / 2]).expect("weights");
    work.train_refused(&good, &[], &["model.safetensors"]);

    // Tied models may hold the embeddings twice, but not a head that differs.
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).expect("tensors");
    let embeddings = tensors["model.embed_tokens.weight"].clone();
    let other = embeddings.affine(2.0, 0.0).expect("a tensor");
    let config = DecoderConfig::load(work.model.path()).expect("a configuration");
    for (head, words) in [(embeddings, None), (other, Some(["lm_head.weight is not", "tie_word_embeddings"]))] {
        tensors.insert("lm_head.weight".into(), head);
        candle_core::safetensors::save(&tensors, &path).expect("weights");
        match words {
            None => drop(Weights::load(work.model.path(), &config, DType::F32, &Device::Cpu).expect("good")),
            Some(words) => work.train_refused(&good, &[], &words),
        }
    }
}

/// For a model on the hub, memory is predicted from its name. Offline, nothing else is done.
#[test]
fn a_model_on_the_hub_is_predicted_without_a_download() {
    let work = Workspace::new();
    let hub = work.path("hub").display().to_string();
    let dry_run = |model: &str| {
        let config = root().join("configs/kk-qwen2.5-7b.toml");
        let mut command = program();
        command.args(["train", config.to_str().expect("a path"), "--dry-run", "--set", &format!("model={model}")]);
        command.args(["--set", "data.train=20", "--set", "data.test=2"]);
        command.env("HF_HOME", &hub).env("HF_HUB_OFFLINE", "1").output().expect("a run")
    };
    let output = dry_run("Qwen/Qwen2.5-7B-Instruct-1M");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.contains("7616 M parameters") && said.contains("predicted at most"), "{said}");
    let unknown = dry_run("nobody/knows");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("nobody/knows"));
}

/// A model is named as on the hub and found in the cache. It trains, its run resumes, and its adapter names it.
#[test]
fn a_model_in_the_hub_cache_is_used_by_name() {
    let (model, folder) = (TinyModel::new(), temp_dir::TempDir::new().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let repo = folder.path().join("hub/hub/models--someone--tiny");
    let snapshot = repo.join("snapshots/abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), "abc").unwrap();
    for file in fs::read_dir(model.path()).unwrap().map(|file| file.unwrap().path()) {
        fs::copy(&file, snapshot.join(file.file_name().unwrap())).unwrap();
    }
    let config = "model = \"someone/tiny\"\nmax_steps = 1\nbatch_size = 2\ngroup_size = 2\n[data]\npeople = \"3\"\ntrain = 4\n\
                  test = 1\n[engine]\nmax_new_tokens = 4\n[eval]\ninterval = 0\n";
    fs::write(path("c.toml"), config).unwrap();
    let train = |more: &[&str]| {
        let (config, out) = (path("c.toml"), path("run"));
        let args = [&["train", &config, "--out", &out], more].concat();
        let mut command = program();
        let output = command.args(&args).env("HF_HOME", path("hub")).env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    train(&[]);
    train(&["--resume", "--set", "max_steps=2"]);
    let adapter = fs::read_to_string(folder.path().join("run/checkpoints/step_2/adapter_config.json")).unwrap();
    assert!(adapter.contains("\"someone/tiny\""), "{adapter}");
}

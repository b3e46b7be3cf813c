//! The model that a configuration names: in a folder, or on the hub.

use std::fs;

use candle_core::{DType, Device};
use engine::decoder::{DecoderConfig, Weights};
use serde_json::json;

use crate::fixtures::model::TinyModel;
use crate::fixtures::program::{DATA, HEAD, Workspace, parse, printed, program, text};
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
    for key in
        ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "head_dim", "num_attention_heads"]
    {
        work.model_refused(key, json!(1u64 << 62), &["config.json", key, "no model has more than"]);
    }
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
    // A pickle is never read: it can run code.
    let pickle = work.model.path().join("pytorch_model.bin");
    fs::rename(&path, &pickle).expect("a file of the model");
    work.train_refused(&good, &[], &["model.safetensors", "pytorch_model.bin is not read", "save_pretrained"]);
    fs::remove_file(&pickle).expect("a file of the model");
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

/// A run knows its base model by its contents: a copy elsewhere goes on with the same result, another model is refused.
#[test]
fn a_model_folder_may_move() {
    let work = Workspace::new();
    let path = |name: &str| work.path(name).display().to_string();
    let copy = |name: &str| {
        fs::create_dir(work.path(name)).expect("a folder");
        for file in fs::read_dir(work.model.path()).expect("a model").map(|file| file.expect("a file").path()) {
            fs::copy(&file, work.path(name).join(file.file_name().expect("a name"))).expect("a copy");
        }
    };
    ["first", "second", "other"].into_iter().for_each(copy);
    let tables = "[data]\npeople = \"3\"\ntrain = 4\ntest = 1\n[engine]\nmax_new_tokens = 4\n[eval]\ninterval = 0\nsamples = 1\n\
                  [loss]\nentropy_coef = 1.0\n";
    let config = work.file("c.toml", format!("{}{tables}", HEAD.replace("{model}", &path("first"))));
    printed(&["train", &config, "--out", &path("whole")]);
    printed(&["train", &config, "--out", &path("run"), "--set", "max_steps=1"]);
    fs::remove_dir_all(work.path("first")).expect("a folder");

    let moved = ["first", "base model is not here", "moved"];
    let refused = |args: &[&str], more: &[&str]| work.refused(args, &[&moved[..], more].concat());
    refused(&["train", &config, "--out", &path("run"), "--resume"], &["--set model=DIR"]);
    refused(&["export", &path("run"), "--out", &path("adapter")], &["--model DIR"]);
    refused(&["eval", &path("run")], &["--model DIR"]);

    let weights = work.path("other").join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).expect("weights");
    let differs = ["other", "not the base model of the run", "model.safetensors differs"];
    let other = format!("model={}", path("other"));
    work.refused(&["train", &config, "--out", &path("run"), "--resume", "--set", &other], &differs);
    work.refused(&["export", &path("run"), "--out", &path("adapter"), "--merge", "--model", &path("other")], &differs);
    work.refused(&["eval", &path("run"), "--model", &path("other")], &differs);
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).expect("weights");
    fs::write(work.path("other/generation_config.json"), "{}").expect("a file");
    work.refused(
        &["train", &config, "--out", &path("run"), "--resume", "--set", &other],
        &["it has generation_config.json, which the run's model had not"],
    );

    printed(&["eval", &path("run"), "--model", &path("second")]);
    let base_of = |folder: &str| {
        let text = fs::read_to_string(work.path(folder).join("adapter_config.json")).expect("an adapter");
        parse(&text)["base_model_name_or_path"].as_str().expect("a name").to_string()
    };
    printed(&["export", &path("run"), "--out", &path("adapter"), "--model", &path("second")]);
    assert_eq!(base_of("adapter"), path("second"));
    let second = format!("model={}", path("second"));
    printed(&["train", &config, "--out", &path("run"), "--resume", "--set", &second]);
    assert_eq!(base_of("run/checkpoints/step_2"), path("second"));
    let adapter =
        |run: &str| fs::read(work.path(run).join("checkpoints/step_2/adapter_model.safetensors")).expect("an adapter");
    assert!(adapter("run") == adapter("whole"), "the same policy");
    // What the run now names is used without an option.
    printed(&["export", &path("run"), "--out", &path("merged"), "--merge"]);
}

/// A run of an earlier version knows only the path.
#[test]
fn a_run_without_a_record_keeps_its_path() {
    let work = Workspace::new();
    let out = work.out();
    printed(&["train", &work.good_config(), "--out", &out, "--set", "max_steps=1", "--set", "engine.max_new_tokens=4"]);
    fs::remove_file(work.path("run/fingerprints.json")).expect("a record");
    let resume = ["train", &work.good_config(), "--out", &out, "--resume", "--set", "engine.max_new_tokens=4"];
    let other = format!("model={}", root().join("data/kk-tiny").display());
    work.refused(&[&resume[..], &["--set", &other]].concat(), &["config.toml", "model was", "kk-tiny"]);
    printed(&resume);
    assert!(work.path("run/fingerprints.json").exists());
}

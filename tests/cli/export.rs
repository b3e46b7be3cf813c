//! `export`: the adapter of a run, and a model with the adapter merged into it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use engine::decoder::{DecoderConfig, Weights};

use crate::fixtures::model::{TinyModel, shard};
use crate::fixtures::program::{Workspace, dump_rl, printed};
use crate::fixtures::root;

/// A run's policy, exported both ways: the merged weights are those of base and adapter together.
#[test]
fn an_exported_policy_is_that_of_the_run() {
    let (model, folder) = (TinyModel::new(), temp_dir::TempDir::new().unwrap());
    // The tiny model's file is in bf16.
    check_export(model.path(), &["model.safetensors"], 2e-3);
    shard(model.path(), folder.path());
    check_export(folder.path(), &["model-0.safetensors", "model-1.safetensors", "model.safetensors.index.json"], 1e-6);
}

/// Trains on `model` and exports. The merged weights, in files with these names, differ by less than `tolerance`.
fn check_export(model: &Path, files: &[&str], tolerance: f32) {
    let folder = temp_dir::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let config = format!(
        "model = {:?}\nmax_steps = 2\nbatch_size = 2\ngroup_size = 4\n[data]\npeople = \"3\"\ntrain = 4\ntest = 1\n\
         [engine]\nmax_new_tokens = 8\n[eval]\ninterval = 0\n[optim]\nlr = 0.05\n[loss]\nentropy_coef = 1.0\n",
        model
    );
    fs::write(path("c.toml"), config).unwrap();
    let run = |args: &[&str]| {
        let output = dump_rl(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["train", &path("c.toml"), "--out", &path("run")]);
    run(&["export", &path("run"), "--out", &path("adapter")]);
    run(&["export", &path("run"), "--out", &path("merged"), "--merge"]);
    let checkpoint = folder.path().join("run/checkpoints/step_2");
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let same =
            fs::read(checkpoint.join(name)).unwrap() == fs::read(Path::new(&path("adapter")).join(name)).unwrap();
        assert!(same, "{name}");
    }
    let (base, merged) = (model, path("merged"));
    files.iter().for_each(|file| assert!(Path::new(&merged).join(file).exists(), "{file}"));
    let config = DecoderConfig::load(Path::new(&merged)).unwrap();
    let load = |dir: &Path| Weights::load(dir, &config, DType::F32, &Device::Cpu).unwrap().named(&config);
    let adapter = candle_core::safetensors::load(checkpoint.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    let (base, merged) = (load(base), load(Path::new(&merged)));
    for (name, weight) in &base {
        let prefix = format!("base_model.model.{}", name.trim_end_matches(".weight"));
        let want = match adapter.get(&format!("{prefix}.lora_A.weight")) {
            Some(a) => {
                (weight + (adapter[&format!("{prefix}.lora_B.weight")].matmul(a).unwrap() * 2.0).unwrap()).unwrap()
            }
            None => weight.clone(),
        };
        let difference = (&merged[name] - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < tolerance, "{name} differs by {difference}");
    }
    let changed = (&base["model.layers.0.mlp.up_proj.weight"] - &merged["model.layers.0.mlp.up_proj.weight"]).unwrap();
    assert!(changed.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-3, "nothing was merged");
    let again = dump_rl(&["export", &path("run"), "--out", &path("merged")]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));

    // Another base model: nothing is written, not even in part.
    let settings = fs::read_to_string(path("run/config.toml")).unwrap();
    let other = root().join("data/kk-tiny").display().to_string();
    fs::write(path("run/config.toml"), settings.replace(&model.display().to_string(), &other)).unwrap();
    let refused = dump_rl(&["export", &path("run"), "--out", &path("other"), "--merge"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("config.json differs") && said.contains("kk-tiny"), "{said}");
    assert!(!Path::new(&path("other")).exists() && !Path::new(&path("other.tmp")).exists());
}

/// All that belongs to a model comes along, and nothing that is about other weights: in a merged model, beside an adapter, after `sft`.
#[test]
fn what_belongs_to_a_model_comes_along() {
    let work = Workspace::new();
    let extra = ["tokenizer.model", "vocab.json", "preprocessor_config.json", "chat_template.json", "LICENSE.txt"];
    let left_out = [
        "README.md",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "tiny.gguf",
        ".hidden.json",
        "trainer_state.json",
    ];
    let put = |name: &str| fs::write(work.model.path().join(name), "{}").expect("a file");
    extra.iter().chain(&left_out).for_each(|name| put(name));
    ["additional_chat_templates", "original", "onnx"]
        .iter()
        .for_each(|name| fs::create_dir(work.model.path().join(name)).expect("a folder"));
    ["additional_chat_templates/rag.jinja", "original/params.json", "onnx/model.onnx"]
        .iter()
        .for_each(|name| put(name));
    fs::write(work.model.path().join("chat_template.jinja"), work.model.chat_template()).expect("a file");
    let of_tokenizer = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
    let names = |folder: &Path| -> BTreeSet<String> {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let inner = entries(&folder.join("additional_chat_templates"));
        let name = |path: std::path::PathBuf| path.strip_prefix(folder).expect("inside").display().to_string();
        entries(folder).filter(|path| path.is_file()).chain(inner).map(name).collect()
    };
    let check = |folder: &str, more: &[&str]| {
        let expected = extra.iter().chain(&of_tokenizer).chain(more).chain(&["additional_chat_templates/rag.jinja"]);
        let expected: BTreeSet<String> = expected.map(ToString::to_string).collect();
        let found = names(&work.path(folder));
        assert_eq!(found, expected, "{folder}");
    };
    let before = names(work.model.path());
    printed(&[
        "train",
        &work.good_config(),
        "--out",
        &work.out(),
        "--set",
        "engine.max_new_tokens=4",
        "--set",
        "eval.interval=0",
    ]);
    let path = |name: &str| work.path(name).display().to_string();
    printed(&["export", &work.out(), "--out", &path("merged"), "--merge"]);
    check("merged", &["config.json", "model.safetensors"]);
    printed(&["export", &work.out(), "--out", &path("adapter")]);
    check("adapter", &["adapter_config.json", "adapter_model.safetensors"]);
    let sft = work.file("sft.toml", format!("init = {:?}\nmax_steps = 1\n[data]\npeople = \"3\"\n", work.model.path()));
    printed(&["sft", &sft, "--out", &path("tuned")]);
    check("tuned", &["config.json", "model.safetensors"]);
    assert_eq!(names(work.model.path()), before);
}

//! Supervised training.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use engine::decoder::{DecoderConfig, Weights};

use crate::fixtures::model::{TinyModel, shard};
use crate::fixtures::program::{Workspace, dump_rl};
use crate::fixtures::root;

/// The user's conversations are learned, by all weights and by an adapter. Only what the assistant says counts.
#[test]
fn conversations_are_learned() {
    let (model, folder) = (root().join("data/kk-tiny"), temp_dir::TempDir::new().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let lines = [
        r#"{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "a knight"}, {"role": "user", "content": "two"}, {"role": "assistant", "content": "a knave"}]}"#,
        r#"{"prompt": "three", "completion": "a knight and a knave"}"#,
        r#"{"prompt": [{"role": "user", "content": "four"}], "completion": "so who"}"#,
    ];
    fs::write(path("data.jsonl"), format!("\u{feff}{}", lines.join("\n"))).unwrap();
    let config = |extra: &str, files: &str| {
        format!(
            "init = {:?}\nmax_steps = 80\nbatch_tokens = 200\nlog_interval = 40\n{extra}\n\
             [data]\nfiles = [{files:?}]\n[optim]\nlr = 0.005\nwarmup_steps = 0\n",
            model
        )
    };
    let loss = |line: &str| -> f64 {
        line.split("completion loss ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    for (name, extra, share) in [("adapter", "lora.rank = 4", 0.9), ("model", "lora.rank = 0", 0.5)] {
        fs::write(path("c.toml"), config(extra, "data.jsonl")).unwrap();
        let output = dump_rl(&["sft", &path("c.toml"), "--out", &path(name)]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("4 examples"), "{text}");
        let losses: Vec<f64> = text.lines().filter(|line| line.starts_with("step ")).map(loss).collect();
        assert!(losses.len() == 2 && losses[1] < share * losses[0], "{name}: {text}");
    }
    assert!(folder.path().join("adapter/adapter_model.safetensors").exists());
    assert!(!folder.path().join("adapter/model.safetensors").exists());
    let adapter = fs::read_to_string(folder.path().join("adapter/adapter_config.json")).unwrap();
    assert!(adapter.contains(&format!("{:?}", model.display().to_string())), "{adapter}");
    let config_of = |dir: &Path| fs::read(dir.join("config.json")).unwrap();
    assert_eq!(
        config_of(&folder.path().join("model")),
        config_of(&model),
        "the configuration of the model it came from"
    );
    fs::write(path("bad.jsonl"), format!("{}\n{{\"question\": 1}}\n", lines[1])).unwrap();
    let golden = |name: &str| root().join("tests/golden/rows").join(name).display().to_string();
    fs::write(path("c.toml"), config("stop_after = 1", &golden("conversations.parquet"))).unwrap();
    let output = dump_rl(&["sft", &path("c.toml"), "--out", &path("parquet")]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("3 examples"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let rows = golden("verl-zstd.parquet");
    for (file, words) in [
        (path("bad.jsonl").as_str(), ["bad.jsonl:2", "question (a number)", "\"messages\""]),
        (rows.as_str(), ["verl-zstd.parquet: row 0", "prompt (a list)", "\"completion\""]),
    ] {
        fs::write(path("c.toml"), config("", file)).unwrap();
        let refused = dump_rl(&["sft", &path("c.toml"), "--out", &path("bad")]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word}: {said}"));
    }
}

/// A model whose gradients are never finite ends the run with status 1, before a model is saved.
#[test]
fn gradients_that_are_not_finite_end_supervised_training() {
    let (model, folder) = (TinyModel::new(), temp_dir::TempDir::new().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let weights = model.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let norm = tensors.get_mut("model.norm.weight").unwrap();
    *norm = (&*norm * f64::NAN).unwrap();
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    fs::write(path("data.jsonl"), r#"{"prompt": "a", "completion": "b"}"#).unwrap();
    let config =
        format!("init = {:?}\nmax_steps = 9\nbatch_tokens = 20\n[data]\nfiles = [\"data.jsonl\"]\n", model.path());
    fs::write(path("c.toml"), config).unwrap();
    let output = dump_rl(&["sft", &path("c.toml"), "--out", &path("out")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("3 steps in a row up to step 3") && said.contains("not finite"), "{said}");
    assert!(!Path::new(&path("out/model.safetensors")).exists());
}

/// Shards are read like a single file. The trained model keeps the number format and the configuration.
#[test]
fn a_sharded_model_is_loaded_and_trained() {
    let (model, folder) = (TinyModel::new(), temp_dir::TempDir::new().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let sharded = folder.path().join("sharded");
    shard(model.path(), &sharded);
    let config = DecoderConfig::load(&sharded).unwrap();
    let named = |dir: &Path| Weights::load(dir, &config, DType::F32, &Device::Cpu).unwrap().named(&config);
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (one, two) = (named(model.path()), named(&sharded));
    assert!(one.keys().eq(two.keys()) && one.iter().all(|(name, tensor)| flat(tensor) == flat(&two[name])));

    fs::write(path("data.jsonl"), r#"{"prompt": "a", "completion": "b"}"#).unwrap();
    let settings = format!("init = {sharded:?}\nmax_steps = 1\nbatch_tokens = 20\n[data]\nfiles = [\"data.jsonl\"]\n");
    fs::write(path("c.toml"), settings).unwrap();
    let output = dump_rl(&["sft", &path("c.toml"), "--out", &path("out")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(path("out/config.json")).unwrap(), fs::read(sharded.join("config.json")).unwrap());
    let formats = engine::decoder::number_formats(Path::new(&path("out"))).unwrap();
    assert!(formats.len() == one.len() && formats.values().all(|format| *format == DType::F32), "{formats:?}");
    let header = fs::read(path("out/model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&header[..200]).contains(r#"{"format":"pt"}"#));

    fs::remove_file(sharded.join("model-1.safetensors")).unwrap();
    let missing = Weights::load(&sharded, &config, DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(missing.contains("model-1.safetensors"), "{missing}");
}

#[test]
fn a_model_is_not_overwritten() {
    let work = Workspace::new();
    let config = root().join("configs/kk-tiny-sft.toml").display().to_string();
    let model = work.model.path().display().to_string();
    work.refused(&["sft", &config, "--out", &model], &[&model, "already here"]);
    let conversation = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    let files = work.file("sft.jsonl", conversation);
    let own = work.file("own.toml", format!("init = {model:?}\n[data]\nfiles = [{files:?}]\n"));
    work.refused(&["sft", &own, "--out", &model], &[&model, "is the folder of init"]);
    fs::create_dir(work.path("sharded")).expect("a folder");
    work.file("sharded/model.safetensors.index.json", "{}");
    work.file("sharded/tokenizer.json", "{}");
    let sharded = work.path("sharded").display().to_string();
    work.refused(&["sft", &own, "--out", &sharded], &["sharded", "index.json is already here"]);
    let (out, wrong) = (work.out(), work.file("sft.toml", "seed = 1\n[model]\nhiden_size = 64\n"));
    work.refused(
        &["sft", &wrong, "--out", &out],
        &["sft.toml:3", "model.hiden_size", "did you mean \"model.hidden_size\"?"],
    );
    let unset = work.file("sft.toml", "seed = 1\n");
    work.refused(&["sft", &unset], &["sft.toml", "out", "folder"]);
}

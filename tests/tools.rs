//! `bench`, `export`, `import` and `init-model`, from the command line.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use dump_rl::model::tokenizer::ChatTokenizer;
use dump_rl::task::Message;
use engine::decoder::{DecoderConfig, Weights};

use crate::fixtures::{ENGINES, TinyModel, decoder_config, root};

fn dump_rl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dump-rl")).args(args).output().unwrap()
}

#[test]
fn the_native_engine_is_measured() {
    let (model, folder) = (TinyModel::new(), temp_dir::TempDir::new().unwrap());
    let (config, json) = (folder.path().join("c.toml"), folder.path().join("b.json"));
    fs::write(&config, format!("model = {:?}\n[data]\npeople = \"3\"\ntrain = 2\ntest = 1\n", model.path())).unwrap();
    let (config, json) = (config.to_str().unwrap(), json.to_str().unwrap());
    let sets =
        ["bench.engines=[\"native\"]", "bench.prompts=[2,3]", "bench.prompt_tokens=[20]", "bench.new_tokens=[9]"];
    let mut args = vec!["bench", "rollout", config, "--json", json, "--set", "bench.repeats=1"];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    let output = dump_rl(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    for (measured, prompts) in measured.as_array().unwrap().iter().zip([2, 3]) {
        let number = |key: &str| measured[key].as_f64().unwrap();
        assert_eq!(
            (number("sequences"), number("generated_tokens")),
            (8.0 * f64::from(prompts), 72.0 * f64::from(prompts))
        );
        let positive = [
            "tokens_per_s",
            "seconds",
            "peak_rss_mb",
            "publish_ms",
            "step_p50_ms",
            "prefill_tokens_per_s",
            "decode_tokens_per_s",
        ];
        assert!(positive.iter().all(|key| number(key) > 0.0), "{measured}");
        assert_eq!((measured["bench"].as_str(), measured["engine"].as_str()), (Some("rollout"), Some("native")));
    }
    let too_long = [&args[..], &["--set", "bench.new_tokens=[600]"]].concat();
    let refused = dump_rl(&too_long);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bench.new_tokens"));
}

/// Every key that comes with a comparison, and memory as `--dry-run` predicts it, in both ways to compute a step.
#[test]
fn training_is_measured_and_its_memory_predicted() {
    let folder = temp_dir::TempDir::new().unwrap();
    let (config, json) = (root().join("configs/kk-tiny.toml"), folder.path().join("b.json"));
    for recompute in ["always", "never"] {
        let recompute = format!("trainer.recompute={recompute}");
        let mut args = vec!["bench", "train", config.to_str().unwrap(), "--json", json.to_str().unwrap()];
        let sets = [
            &recompute,
            "bench.repeats=1",
            "bench.prompts=[8]",
            "bench.new_tokens=[200]",
            "trainer.micro_batch_tokens=4096",
        ];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        let output = dump_rl(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let measured: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let number = |key: &str| measured[0][key].as_f64().unwrap();
        assert_eq!((number("sequences"), number("tokens")), (64.0, 64.0 * 300.0));
        assert!(number("tokens_per_s") > 0.0 && number("seconds") > 0.0);
        let ratio = number("predicted_mb") / number("peak_rss_mb");
        assert!((0.8..1.2).contains(&ratio), "{recompute}: predicted {ratio} times what was measured: {measured}");
    }
}

/// A whole run, engine included, takes the memory that `--dry-run` says, where every completion is as long as it may be.
#[cfg(target_os = "linux")]
#[test]
fn a_run_takes_the_memory_that_was_predicted() {
    let config = root().join("configs/kk-tiny.toml").display().to_string();
    for more in ["trainer.recompute=always", "trainer.micro_batch_tokens=1536", "trainer.micro_batch_tokens=4096"] {
        let folder = temp_dir::TempDir::new().unwrap();
        let out = folder.path().join("run");
        // The entropy bonus, so that completions without advantage are trained on too; nobody answers in 40 tokens.
        let sets = [
            "max_steps=2",
            "data.people=14",
            "data.train=20",
            "eval.interval=0",
            "engine.max_new_tokens=40",
            "loss.entropy_coef=0.001",
            more,
        ];
        let mut args = vec!["train", &config];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        let said = dump_rl(&[&args[..], &["--dry-run"]].concat());
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let line = said.lines().find_map(|line| line.strip_prefix("memory   ")).expect("a prediction");
        let predicted: f64 = line.split_whitespace().next().unwrap().parse().unwrap();
        let run = dump_rl(&[&args[..], &["--out", out.to_str().unwrap()]].concat());
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let lines = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!(last["completions/mean_length"], 40.0);
        let ratio = predicted * 1e3 / last["perf/peak_memory"].as_f64().unwrap();
        assert!((0.8..1.2).contains(&ratio), "{more}: predicted {ratio} times what was measured: {line}");
    }
}

/// A model by its name on the hub, found in the cache: it trains, its run resumes, and its adapter names it.
#[test]
fn a_model_in_the_hub_s_cache_is_used_by_name() {
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_dump-rl"));
        let output = command.args(&args).env("HF_HOME", path("hub")).env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    train(&[]);
    train(&["--resume", "--set", "max_steps=2"]);
    let adapter = fs::read_to_string(folder.path().join("run/checkpoints/step_2/adapter_config.json")).unwrap();
    assert!(adapter.contains("\"someone/tiny\""), "{adapter}");
}

/// Conversations of one's own are learned, by all weights and by an adapter; only what the assistant says counts.
#[test]
fn conversations_are_learned() {
    let (model, folder) = (root().join("data/kk-tiny"), temp_dir::TempDir::new().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let lines = [
        r#"{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "a knight"}, {"role": "user", "content": "two"}, {"role": "assistant", "content": "a knave"}]}"#,
        r#"{"prompt": "three", "completion": "a knight and a knave"}"#,
        r#"{"prompt": [{"role": "user", "content": "four"}], "completion": "so who"}"#,
    ];
    fs::write(path("data.jsonl"), lines.join("\n")).unwrap();
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
    assert_eq!(config_of(&folder.path().join("model")), config_of(&model), "as it stands in the model it came from");
    fs::write(path("bad.jsonl"), format!("{}\n{{\"question\": 1}}\n", lines[1])).unwrap();
    fs::write(path("c.toml"), config("", "bad.jsonl")).unwrap();
    let refused = dump_rl(&["sft", &path("c.toml"), "--out", &path("bad")]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bad.jsonl:2"));
}

/// A model whose weights give no finite number stops the run, with status 1, before it is saved.
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

/// The same model in two files, as f32, with an entry in its configuration that only others read.
fn shard(model: &Path, out: &Path) {
    fs::create_dir_all(out).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.join(name), out.join(name)).unwrap();
    }
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(out.join("config.json"), config.replacen('{', "{\n  \"initializer_range\": 0.02,", 1)).unwrap();
    let tensors = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut shards = [HashMap::new(), HashMap::new()];
    let (mut map, mut names) = (serde_json::Map::new(), tensors.keys().collect::<Vec<_>>());
    names.sort();
    for (index, name) in names.into_iter().enumerate() {
        shards[index % 2].insert(name.clone(), tensors[name].to_dtype(DType::F32).unwrap());
        map.insert(name.clone(), format!("model-{}.safetensors", index % 2).into());
    }
    for (index, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, out.join(format!("model-{index}.safetensors"))).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(out.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// Shards are read as the one file is, and all weights are trained in their number format, under their configuration.
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

/// A run's policy, exported both ways: the merged model alone samples what base and adapter sample together.
#[test]
fn an_exported_policy_is_the_run_s() {
    let (model, folder) = (TinyModel::new(), temp_dir::TempDir::new().unwrap());
    // Its file is in bf16.
    check_export(model.path(), &["model.safetensors"], 2e-3);
    shard(model.path(), folder.path());
    check_export(folder.path(), &["model-0.safetensors", "model-1.safetensors", "model.safetensors.index.json"], 1e-6);
}

/// Trains on `model` and exports; the merged weights, in files of these names, are off by `tolerance` at most.
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

    // Another base: nothing is written, not even half of it.
    let settings = fs::read_to_string(path("run/config.toml")).unwrap();
    let other = root().join("data/kk-tiny").display().to_string();
    fs::write(path("run/config.toml"), settings.replace(&model.display().to_string(), &other)).unwrap();
    let refused = dump_rl(&["export", &path("run"), "--out", &path("other"), "--merge"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("expected shape") && said.contains("kk-tiny"), "{said}");
    assert!(!Path::new(&path("other")).exists() && !Path::new(&path("other.tmp")).exists());
}

/// A GGUF file with the weights of `named`, as llama.cpp lays them out, and a tokenizer of single bytes and one merge.
fn write_gguf(path: &Path, config: &DecoderConfig, weights: &Weights) {
    let named = weights.named(config);
    let layers = (0..config.num_hidden_layers).flat_map(|i| {
        let parts = [
            ("input_layernorm", "attn_norm", 0),
            ("self_attn.q_proj", "attn_q", config.num_attention_heads),
            ("self_attn.k_proj", "attn_k", config.num_key_value_heads),
            ("self_attn.v_proj", "attn_v", 0),
            ("self_attn.o_proj", "attn_output", 0),
            ("post_attention_layernorm", "ffn_norm", 0),
            ("mlp.gate_proj", "ffn_gate", 0),
            ("mlp.up_proj", "ffn_up", 0),
            ("mlp.down_proj", "ffn_down", 0),
        ];
        parts.map(|(ours, theirs, heads)| {
            (format!("model.layers.{i}.{ours}.weight"), format!("blk.{i}.{theirs}.weight"), heads)
        })
    });
    let whole = [("model.embed_tokens.weight", "token_embd.weight"), ("model.norm.weight", "output_norm.weight")];
    let whole = whole.map(|(ours, theirs)| (ours.to_string(), theirs.to_string(), 0));
    let tensors: Vec<(String, QTensor)> = whole
        .into_iter()
        .chain(layers)
        .map(|(ours, theirs, heads)| {
            let tensor = if heads > 0 { alternate(&named[&ours], heads) } else { named[&ours].clone() };
            (theirs, QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
        })
        .collect();
    let text = |text: &str| Value::String(text.into());
    let count = |count: usize| Value::U32(count as u32);
    let mut tokens: Vec<String> = byte_alphabet();
    tokens.extend(["ab".into(), "<|end|>".into()]);
    let types = (0..tokens.len()).map(|id| Value::I32(if id + 1 == tokens.len() { 3 } else { 1 })).collect();
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.block_count", count(config.num_hidden_layers)),
        ("llama.embedding_length", count(config.hidden_size)),
        ("llama.feed_forward_length", count(config.intermediate_size)),
        ("llama.attention.head_count", count(config.num_attention_heads)),
        ("llama.attention.head_count_kv", count(config.num_key_value_heads)),
        ("llama.context_length", count(config.max_position_embeddings)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.eos_token_id", count(tokens.len() - 1)),
        ("tokenizer.ggml.tokens", Value::Array(tokens.iter().map(|token| text(token)).collect())),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", Value::Array(vec![text("a b")])),
        ("tokenizer.chat_template", text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// The characters that stand for bytes in GPT-2's vocabularies.
fn byte_alphabet() -> Vec<String> {
    let mut all: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    all.sort_unstable();
    all.into_iter().map(String::from).collect()
}

/// The two halves of each head's rows, one row of each in turn.
fn alternate(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = weight.dims2().unwrap();
    let halves = weight.reshape((heads, 2, rows / heads / 2, width)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, width)).unwrap()
}

#[test]
fn a_gguf_file_becomes_the_model_it_was() {
    let folder = temp_dir::TempDir::new().unwrap();
    let config = decoder_config(258);
    let random = |shape: &[usize]| {
        Ok(Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?.to_dtype(DType::BF16)?.to_dtype(DType::F32)?)
    };
    let weights = Weights::from_named(&config, |_, shape| random(shape)).unwrap();
    let (file, out) = (folder.path().join("m.gguf"), folder.path().join("model"));
    write_gguf(&file, &config, &weights);
    let args = ["import", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = dump_rl(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let read = DecoderConfig::load(&out).unwrap();
    assert_eq!((read.rms_norm_eps, read.head_dim, read.tie_word_embeddings), (1e-5, 16, true));
    let loaded = Weights::load(&out, &read, DType::F32, &Device::Cpu).unwrap().named(&read);
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, tensor) in weights.named(&config) {
        assert_eq!(flat(&loaded[&name]), flat(&tensor), "{name}");
    }
    let tokenizer = ChatTokenizer::load(&out, &read).unwrap();
    assert_eq!(tokenizer.stop_tokens[..], [257]);
    let ids = tokenizer.encode_prompt(&[Message::new("user", "ab12")]).unwrap();
    assert_eq!((ids.len(), ids[0], ids[3]), (4, 256, 257), "one merge, digits one by one, the end: {ids:?}");

    let again = dump_rl(&args);
    assert_eq!(again.status.code(), Some(2), "a model is not overwritten");
    let no_gguf = ["import", out.join("config.json").to_str().unwrap(), "--out", "/tmp/never"].map(String::from);
    let refused = dump_rl(&no_gguf.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("config.json: this is no GGUF file"));
}

/// A model of random weights is the same for the same seed, has the numbers that were asked for, and trains with every
/// engine, which all agree with the trainer.
#[test]
fn a_random_model_is_made_and_trained() {
    let folder = temp_dir::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let init = |name: &str, arch: &str, seed: &str| {
        dump_rl(&["init-model", "--arch", arch, "--out", &path(name), "--seed", seed])
    };
    for (name, seed) in [("model", "1"), ("same", "1"), ("other", "2")] {
        let output = init(name, "KK-tiny", seed);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let read = |name: &str, file: &str| fs::read(folder.path().join(name).join(file)).unwrap();
    assert!(read("model", "model.safetensors") == read("same", "model.safetensors"));
    assert!(read("model", "model.safetensors") != read("other", "model.safetensors"));
    assert!(read("model", "tokenizer.json") == read("other", "tokenizer.json"));

    let model = folder.path().join("model");
    let config = DecoderConfig::load(&model).unwrap();
    let shipped = DecoderConfig::load(&root().join("data/kk-tiny")).unwrap();
    assert_eq!(DecoderConfig { eos_token_id: shipped.eos_token_id.clone(), ..config.clone() }, shipped);
    ChatTokenizer::load(&model, &config).unwrap();
    let named = Weights::load(&model, &config, DType::F32, &Device::Cpu).unwrap().named(&config);
    for (name, mean, deviation) in [
        ("model.norm.weight", 1.0, 0.0),
        ("model.embed_tokens.weight", 0.0, 0.02),
        ("model.layers.5.mlp.up_proj.weight", 0.0, 0.02),
        ("model.layers.5.mlp.down_proj.weight", 0.0, 0.02 / 12f32.sqrt()),
    ] {
        let number = |tensor: Tensor| tensor.to_scalar::<f32>().unwrap();
        let found = number(named[name].mean_all().unwrap());
        let spread = number((&named[name] - f64::from(found)).unwrap().sqr().unwrap().mean_all().unwrap()).sqrt();
        assert!((found - mean).abs() < 1e-3 && (spread - deviation).abs() < 5e-4, "{name}: {found} ± {spread}");
    }

    let settings = format!(
        "model = {model:?}\nmax_steps = 1\nbatch_size = 2\ngroup_size = 3\n[data]\npeople = \"3\"\ntrain = 4\ntest = 1\n\
         [engine]\nmax_new_tokens = 12\n[eval]\ninterval = 0\n[loss]\nentropy_coef = 0.001\n"
    );
    fs::write(path("c.toml"), settings).unwrap();
    for &kind in ENGINES {
        let engine = format!("engine.kind={kind}");
        let output = dump_rl(&[
            "train",
            &path("c.toml"),
            "--out",
            &path(kind),
            "--set",
            &engine,
            "--set",
            "engine.check=always",
        ]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("checked  16 completions at a time"), "{said}");
        let lines = fs::read_to_string(folder.path().join(kind).join("metrics.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
        let difference = line["rollout_corr/on_policy_max_diff"].as_f64().unwrap();
        assert!(difference < 1e-4, "{kind}: {difference}");
    }

    let refused = [
        (init("model", "kk-tiny", "1"), "model: is not empty"),
        (init("new", "8b", "1"), "\"8b\" is not known; known are kk-tiny, smollm2-135m, qwen2.5-0.5b,"),
    ];
    for (output, problem) in refused {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(problem), "{said}");
    }
    assert!(!folder.path().join("new").exists() && !folder.path().join("new.tmp").exists());
}

/// What each bench writes as JSON: the fields that scripts rely on.
fn measured(kind: &str, config: &str, sets: &[&str]) -> Vec<serde_json::Value> {
    let folder = temp_dir::TempDir::new().unwrap();
    let json = folder.path().join("b.json");
    let mut args = vec!["bench", kind, config, "--json", json.to_str().unwrap()];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    let output = dump_rl(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    for it in &measured {
        assert!(it["bench"] == *kind && it["engine"].is_string() && it["model"].is_string(), "{it}");
        let positive = ["sequences", "new_tokens", "tokens_per_s", "seconds", "peak_rss_mb"];
        assert!(positive.iter().all(|key| it[key].as_f64().unwrap() > 0.0), "{it}");
        assert!(it.get("prompt_tokens").is_some(), "{it}");
    }
    measured
}

/// A model that lasts as long as the folder, and the configuration that names it.
fn benched() -> (TinyModel, temp_dir::TempDir, String) {
    let (model, folder) = (TinyModel::new(), temp_dir::TempDir::new().unwrap());
    let config = folder.path().join("c.toml");
    let text = format!(
        "model = {:?}\nbatch_size = 2\ngroup_size = 2\n[data]\npeople = \"3\"\ntrain = 4\ntest = 1\n[engine]\n\
         max_new_tokens = 8\n[bench]\nprompts = [3]\ngroup_sizes = [2]\nprompt_tokens = [20]\nnew_tokens = [9]\nrepeats = 2\n",
        model.path()
    );
    fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    (model, folder, config)
}

#[test]
fn a_step_s_arithmetic_is_measured_at_each_length() {
    let (_model, _folder, config) = benched();
    let sets = ["bench.train_tokens=[24,60]", "bench.peak_tflops=0.5", "bench.repeats=1"];
    let lengths = measured("train", &config, &sets);
    assert_eq!(lengths.len(), 2);
    for (it, [prompt, new]) in lengths.iter().zip([[12, 12], [20, 40]]) {
        assert_eq!((it["prompt_tokens"].as_u64(), it["new_tokens"].as_u64()), (Some(prompt), Some(new)));
        let (rate, mfu) = (it["gflops_per_s"].as_f64().unwrap(), it["mfu"].as_f64().unwrap());
        assert!(rate > 0.0 && (mfu - rate / 500.0).abs() < 1e-9, "{it}");
    }
    // Nobody knows a CPU's peak.
    assert!(measured("train", &config, &sets[2..])[0]["mfu"].is_null());
}

#[test]
fn publishes_and_whole_steps_are_measured() {
    let (_model, _folder, config) = benched();
    let sync = &measured("sync", &config, &[])[0];
    assert_eq!(sync["sync"], "side_by_side");
    assert_eq!((sync["publishes"].as_u64(), sync["sequences"].as_u64()), (Some(2), Some(6)));
    // f32 numbers and a table of contents.
    let (numbers, size) = (sync["adapter_parameters"].as_f64().unwrap(), sync["adapter_mb"].as_f64().unwrap());
    assert!((4e-6 * numbers..4e-6 * numbers + 0.01).contains(&size), "{sync}");
    assert!(
        sync["seconds_min"].as_f64() <= sync["seconds"].as_f64()
            && sync["seconds"].as_f64() <= sync["seconds_max"].as_f64()
    );
    let steps = measured("pipeline", &config, &["max_steps=2", "engine.sync=reload"]);
    assert_eq!(steps.iter().map(|step| step["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for step in &steps {
        assert_eq!(step["sync"], "reload");
        let parts = ["generate_seconds", "train_seconds", "publish_seconds"].map(|part| step[part].as_f64().unwrap());
        assert!(
            parts.iter().all(|part| *part > 0.0) && parts.iter().sum::<f64>() < step["seconds"].as_f64().unwrap() * 1.5
        );
    }
}

/// Every engine passes; one of packed weights by bounds of its own, and not by those of whole ones.
#[test]
fn an_engine_is_held_against_the_model() {
    let (_model, _folder, config) = benched();
    let check = |kind: &str, quantization: &str, relative_error: std::ops::Range<f64>| {
        let sets = [format!("engine.kind={kind}"), format!("engine.quantization={quantization}")];
        let found = measured("check", &config, &sets.each_ref().map(String::as_str));
        let it = &found[0];
        assert_eq!((found.len(), it["sequences"].as_u64()), (1, Some(6)));
        assert!(it["engine"] == kind && it["quantization"] == quantization && it["passed"] == true, "{it}");
        assert!(relative_error.contains(&it["relative_error"].as_f64().unwrap()), "{it}");
    };
    for &kind in ENGINES {
        check(kind, "none", 0.0..1e-3);
    }
    if ENGINES.contains(&"mistralrs") {
        check("mistralrs", "q8_0", 0.005..0.2);
    }
}

/// The script for GPUs, on a CPU with a tiny model: every part passes and stands in its results.
#[cfg(target_os = "linux")]
#[test]
fn the_script_for_gpus_runs_on_a_cpu() {
    let folder = temp_dir::TempDir::new().unwrap();
    let mut command = Command::new(root().join("tests/gpu/run.sh"));
    command.arg(env!("CARGO_BIN_EXE_dump-rl")).env("OUT", folder.path()).env("TMPDIR", folder.path());
    command.env("ENGINES", ENGINES.join(" "));
    let output = command.envs([("DEVICE", "cpu"), ("SMALL", "1")]).env_remove("MODELS").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("results.json")).unwrap()).unwrap();
    let parts = results["parts"].as_array().unwrap();
    let with = |begin: &str| {
        let found = parts.iter().filter(|part| part["part"].as_str().unwrap().starts_with(begin));
        found.map(|part| part["results"].as_array().unwrap().len()).collect::<Vec<_>>()
    };
    assert!(parts.iter().all(|part| part["state"] == "passed"), "{said}");
    // Two lengths, and two steps; three counts and a large model; three ways of mistral.rs, two of ours, and a large model.
    let engines = ENGINES.len();
    assert_eq!((with("check"), with("train"), with("pipeline")), (vec![1; engines], vec![2; 3], vec![2; engines]));
    assert_eq!((with("rollout"), with("sync").len()), (vec![1; 4 * engines], if engines == 2 { 7 } else { 3 }));
    for part in parts.iter().filter(|part| part["results"][0]["bench"] == "sync") {
        let (name, mode) = (part["part"].as_str().unwrap(), part["results"][0]["sync"].as_str().unwrap());
        assert!(name.starts_with("sync-large") || name.ends_with(mode), "{part}");
    }

    // A program that fails is recorded, and every part still has its turn.
    let failing = folder.path().join("false");
    fs::write(&failing, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&failing, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(root().join("tests/gpu/run.sh"));
    command.arg(&failing).env("OUT", folder.path()).env("TMPDIR", folder.path());
    let output = command.envs([("DEVICE", "cpu"), ("SMALL", "1")]).env_remove("MODELS").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let results = fs::read_to_string(folder.path().join("results.json")).unwrap();
    assert!(results.matches("failed: exit status 3").count() >= 10, "{results}");
}

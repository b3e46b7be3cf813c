//! The program itself: wrong input ends with status 2, in a line or two that name the place and what would be right, and
//! leaves every file as it was; the commands that need no engine do what they say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{DType, Device, Tensor};
use dump_rl::config::resolve::HAS_CUDA;
use dump_rl::config::{self, run::RunConfig, sft::SftConfig};
use dump_rl::model::presets;
use dump_rl::pipeline::setup::Setup;
use dump_rl::run_dir::RunDir;
use dump_rl::run_dir::checkpoint::{Checkpoint, RunHistory};
use dump_rl::scheduler::Scheduler;
use dump_rl::task::rows;
use engine::decoder::{DecoderConfig, Weights};
use serde_json::{Value, json};
use temp_dir::TempDir;

use crate::fixtures::{TinyModel, root};

/// A small run, before its tables; `{model}` is the model's folder.
const HEAD: &str = "model = \"{model}\"\nmax_steps = 2\nbatch_size = 2\ngroup_size = 2\n";
/// Its data, so that nothing takes long.
const DATA: &str = "[data]\npeople = \"3-4\"\ntrain = 4\ntest = 2\n[eval]\nprompts = 2\n";

fn dump_rl<S: AsRef<str>>(args: &[S]) -> Output {
    let args = args.iter().map(AsRef::as_ref);
    Command::new(env!("CARGO_BIN_EXE_dump-rl")).args(args).env_remove("RUST_LOG").output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// What a command that succeeds prints.
fn printed<S: AsRef<str>>(args: &[S]) -> String {
    let output = dump_rl(args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).expect("JSON")
}

/// A model, a configuration and everything else that a command may touch, in one folder.
struct Bench {
    model: TinyModel,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { model: TinyModel::new(), folder: TempDir::new().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of a file with this content.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).expect("a file");
        self.path(name).display().to_string()
    }

    /// The path of a configuration; the model is the tiny one.
    fn config(&self, content: &str) -> String {
        self.file("c.toml", content.replace("{model}", &self.model.path().display().to_string()))
    }

    fn good_config(&self) -> String {
        self.config(&format!("{HEAD}{DATA}"))
    }

    fn out(&self) -> String {
        self.path("run").display().to_string()
    }

    /// Every file in reach with its content.
    fn snapshot(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut all = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_path_buf(), self.model.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path.clone()),
                    false => drop(all.insert(path.clone(), fs::read(&path).ok())),
                }
                all.entry(path).or_default();
            }
        }
        all
    }

    /// The command is refused as wrong input, in words that hold all of `words`, and no file changes.
    fn refused<S: AsRef<str>>(&self, args: &[S], words: &[&str]) {
        let before = self.snapshot();
        let output = dump_rl(args);
        let (said, args) = (text(&output.stderr), args.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "));
        assert_eq!(output.status.code(), Some(2), "{args}: {said}");
        assert!((1..=2).contains(&said.lines().count()), "{args}: {said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{args}: {said:?} does not contain {word:?}"));
        let after = self.snapshot();
        let changed: Vec<_> = after.keys().filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(changed.is_empty() && before.len() == after.len(), "{args} changed {changed:?}");
    }

    /// `train` with this configuration is refused.
    fn train_refused(&self, config: &str, more: &[&str], words: &[&str]) {
        let (config, out) = (self.config(config), self.out());
        self.refused(&[&["train", &config, "--out", &out], more].concat(), words);
    }

    /// `train` with a model whose config.json has this value is refused.
    fn model_refused(&self, key: &str, value: Value, words: &[&str]) {
        let path = self.model.path().join("config.json");
        let good = fs::read(&path).expect("config.json");
        let mut config = parse(&text(&good));
        config[key] = value;
        fs::write(&path, config.to_string()).expect("config.json");
        self.train_refused(&format!("{HEAD}{DATA}"), &[], words);
        fs::write(&path, good).expect("config.json");
    }

    /// A run's folder with a checkpoint at step 0, as `train` leaves one; its path.
    fn run_with_checkpoint(&self) -> PathBuf {
        let out = self.path("run");
        let config: RunConfig = config::load(Path::new(&self.good_config()), &[]).expect("a good configuration");
        RunDir::create(&out, &config).expect("a folder");
        let Setup { inputs, base } = Setup::for_training(config).expect("a good configuration");
        let scheduler = Scheduler::new(inputs.config.scheduler(), inputs.mixture()).expect("settings that fit").state();
        let trainer = base.trainer().and_then(|trainer| Ok(trainer.state()?)).expect("a trainer");
        let history = RunHistory::default();
        Checkpoint { trainer, scheduler, history }.save(&out, 2).expect("a checkpoint")
    }
}

#[test]
fn wrong_settings_are_named_with_file_line_and_key() {
    let bench = Bench::new();
    bench.train_refused(
        &format!("{HEAD}bach_size = 3\n{DATA}"),
        &[],
        &["c.toml:5", "unknown key \"bach_size\"", "did you mean \"batch_size\"?"],
    );
    bench.train_refused(
        &format!("{HEAD}{DATA}[optim]\nleraning = 1\n"),
        &[],
        &["c.toml:12", "optim.leraning", "optim.lr"],
    );
    bench.train_refused(
        &format!("{HEAD}{DATA}[optim]\nlr = \"fast\"\n"),
        &[],
        &["c.toml:12", "optim.lr", "expected f64"],
    );
    bench.train_refused(&format!("{HEAD}seed = -1\n{DATA}"), &[], &["c.toml:5", "seed", "-1"]);
    bench.train_refused(
        &format!("{HEAD}{DATA}[optim]\nlr = -1.0\n"),
        &[],
        &["c.toml:12", "optim.lr", "from 0 to 10", "-1"],
    );
    bench.train_refused(
        &format!("{HEAD}{DATA}[curriculum]\ntemperature = 0\n"),
        &[],
        &["c.toml:12", "curriculum.temperature", "above 0"],
    );
    bench.train_refused(
        &format!("{HEAD}{DATA}[curriculum]\npolicy = \"dmup\"\n"),
        &[],
        &["c.toml:12", "curriculum.policy", "\"dmup\"", "dump", "uniform"],
    );
    bench.train_refused(
        &format!("{HEAD}[data]\npeople = \"3-40\"\n"),
        &[],
        &["c.toml:6", "data.people", "3-20", "3-40"],
    );
    bench.train_refused(&format!("{HEAD}[data\n"), &[], &["c.toml:5"]);
    bench.train_refused(
        &format!("{HEAD}{DATA}[lora]\ntarget_modules = [\"q\"]\n"),
        &[],
        &["c.toml:12", "lora.target_modules", "q_proj"],
    );
    bench.train_refused("max_steps = 2", &[], &["model", "folder"]);
    bench.train_refused("max_steps = 2", &["--dry-run"], &["model", "folder"]);
    let buffer = ["--set", "reward.overlong_buffer=600"];
    bench.train_refused(&format!("{HEAD}{DATA}"), &buffer, &["reward.overlong_buffer", "at most", "512"]);
    let good = format!("{HEAD}{DATA}");
    bench.train_refused(&good, &["--set", "group_size=1"], &["--set group_size", "at least 2"]);
    bench.train_refused(&good, &["--set", "grup_size=4"], &["--set grup_size=4", "group_size"]);
    bench.train_refused(&good, &["--set", "group_size"], &["--set group_size", "KEY=VALUE"]);
    bench.train_refused(&good, &["--set", "data.test=0"], &["kk_logic_3", "no test rows", "eval.interval = 0"]);
    let missing = bench.path("missing.toml").display().to_string();
    bench.refused(&["train", &missing], &["missing.toml", "cannot read"]);
    bench.refused(&["eval", &missing], &["missing.toml", "cannot read"]);
    bench.refused(&["sft", &missing], &["missing.toml", "cannot read"]);
}

/// A model on the hub: its memory is predicted from its name alone, and offline nothing else is done.
#[test]
fn a_model_on_the_hub_is_predicted_without_a_download() {
    let bench = Bench::new();
    let hub = bench.path("hub").display().to_string();
    let dry_run = |model: &str| {
        let config = root().join("configs/kk-qwen2.5-7b.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_dump-rl"));
        command.args(["train", config.to_str().expect("a path"), "--dry-run", "--set", &format!("model={model}")]);
        command.args(["--set", "data.train=20", "--set", "data.test=2"]);
        command.env("HF_HOME", &hub).env("HF_HUB_OFFLINE", "1").output().expect("a run")
    };
    let output = dry_run("Qwen/Qwen2.5-7B-Instruct-1M");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("7616 M parameters") && text.contains("predicted at most"), "{text}");
    let unknown = dry_run("nobody/knows");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("nobody/knows"));
}

#[test]
fn a_wrong_model_is_named() {
    let bench = Bench::new();
    let elsewhere = bench.path("no-model").display().to_string();
    bench.train_refused(&format!("{HEAD}{DATA}").replace("{model}", &elsewhere), &[], &["no-model", "config.json"]);
    bench.model_refused("vocab_size", json!(300), &["tokenizer.json", "vocab_size is 300", "tokens"]);
    bench.model_refused(
        "architectures",
        json!(["GPT2LMHeadModel"]),
        &["config.json", "GPT2LMHeadModel", "LlamaForCausalLM"],
    );
    bench.model_refused("rope_scaling", json!({"type": "yarn"}), &["config.json", "rope_scaling"]);
    bench.model_refused("hidden_size", json!("wide"), &["config.json", "wide"]);
    let shape = ["model.layers.0.mlp.gate_proj.weight", "expected shape [48, 64]", "found [64, 64]"];
    bench.model_refused("intermediate_size", json!(48), &shape);
    bench.model_refused("num_hidden_layers", json!(3), &["model.layers.2.", "is missing"]);
    bench.model_refused("tie_word_embeddings", json!(false), &["lm_head.weight", "is missing"]);
    let good = format!("{HEAD}{DATA}");
    for (name, word) in
        [("tokenizer_config.json", "tokenizer_config.json"), ("model.safetensors", "weights are missing")]
    {
        let (path, aside) = (bench.model.path().join(name), bench.path(name));
        fs::copy(&path, &aside).and_then(|_| fs::remove_file(&path)).expect("a file of the model");
        bench.train_refused(&good, &[], &[name, word]);
        fs::copy(&aside, &path).expect("a file of the model");
    }
    let path = bench.model.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    fs::write(&path, &bytes[..bytes.len() / 2]).expect("weights");
    bench.train_refused(&good, &[], &["model.safetensors"]);
}

#[test]
fn wrong_rows_are_named_with_file_and_line() {
    let bench = Bench::new();
    let row = |truth: &str| json!({"prompt": "Who?", "answer": truth, "data_source": "kk_x"}).to_string();
    let good = row("(1) Zoey is a knight");
    let check = |content: &str, words: &[&str]| {
        let file = bench.file("rows.jsonl", content);
        let data = |key: &str| format!("[data]\nkind = \"files\"\n{key} = [\"rows.jsonl\"]\n[eval]\ninterval = 0\n");
        bench.train_refused(&format!("{HEAD}{}", data("train_files")), &[], words);
        bench.refused(&["data", "inspect", &file], words);
        bench.file("good.jsonl", &good);
        let both = data("test_files").replace("[eval]", "train_files = [\"good.jsonl\"]\n[eval]");
        bench.train_refused(&format!("{HEAD}{both}"), &[], words);
    };
    check(
        &format!("{good}\n{{\"prompt\": \"?\", \"answer\": \"?\"}}\n"),
        &["rows.jsonl:2", "data_source", "kk_logic_3"],
    );
    check(&format!("{good}\n\n{}\n", row("Zoey knight")), &["rows.jsonl:3", "Zoey knight", "(1) Zoey is a knight"]);
    check(&format!("{good}\n{{\"prompt\": "), &["rows.jsonl:2", "not JSON"]);
    check("", &["rows.jsonl", "no rows", "one JSON object per line"]);
    let files = |name: &str| format!("{HEAD}[data]\nkind = \"files\"\ntrain_files = [{name}]\n[eval]\ninterval = 0\n");
    bench.train_refused(&files("\"nowhere.jsonl\""), &[], &["nowhere.jsonl", "cannot be opened"]);
    bench.train_refused(&files("\"rows.parquet\""), &[], &["rows.parquet", "JSON Lines"]);
    bench.train_refused(&files(""), &[], &["c.toml:7", "data.train_files", "at least one"]);
    let long = json!({"prompt": "Who? ".repeat(600), "answer": "(1) Zoey is a knight", "data_source": "kk_x"});
    bench.file("long.jsonl", long.to_string());
    bench.train_refused(&files("\"long.jsonl\""), &[], &["kk_x row 0", "tokens", "512"]);
}

#[test]
fn a_device_that_cannot_work_is_refused() {
    let bench = Bench::new();
    let good = format!("{HEAD}{DATA}");
    bench.train_refused(
        &good,
        &["--set", "engine.dtype=bf16", "--set", "engine.kind=mistralrs"],
        &["engine.dtype", "bf16", "\"f32\""],
    );
    if HAS_CUDA {
        let words = ["engine.kind", "does not compute on a CPU", "\"native\""];
        bench.train_refused(&good, &["--set", "engine.kind=mistralrs"], &words);
    } else {
        bench.train_refused(&good, &["--set", "engine.device=cuda"], &["engine.device", "--features cuda"]);
    }
}

/// A run that cannot start must not leave a folder that looks like one.
#[cfg(not(any(feature = "mistralrs", feature = "cuda")))]
#[test]
fn an_engine_that_is_not_built_in_is_refused() {
    let bench = Bench::new();
    let words = ["engine.kind", "mistralrs", "default features"];
    bench.train_refused(&format!("{HEAD}{DATA}"), &["--set", "engine.kind=mistralrs"], &words);
}

#[test]
fn a_dry_run_refuses_what_a_run_refuses() {
    let bench = Bench::new();
    let good = format!("{HEAD}{DATA}");
    bench.train_refused(&good, &["--dry-run", "--set", "group_size=1"], &["--set group_size"]);
    bench.train_refused(
        &good,
        &["--dry-run", "--set", "engine.dtype=bf16", "--set", "engine.kind=mistralrs"],
        &["engine.dtype"],
    );
    bench.model_refused("vocab_size", json!(300), &["tokenizer.json"]);
    let (config, path) = (bench.config(&good), bench.model.path().join("config.json"));
    let changed =
        text(&fs::read(&path).expect("config.json")).replace("\"intermediate_size\": 64", "\"intermediate_size\": 48");
    fs::write(&path, changed).expect("config.json");
    let words = ["mlp.gate_proj.weight", "expected shape [48, 64]", "found [64, 64]"];
    bench.refused(&["train", &config, "--dry-run"], &words);
    fs::write(bench.model.path().join("model.safetensors"), "no weights").expect("weights");
    bench.refused(&["train", &config, "--dry-run"], &["model.safetensors", "damaged"]);
}

/// What is missing is said, what can be predicted is; a GPU is not needed either.
#[test]
fn a_dry_run_predicts_without_weights_tokenizer_or_gpu() {
    let bench = Bench::new();
    let config = bench.good_config();
    let predicts = |more: &[&str], words: &[&str]| {
        let said = printed(&[&["train", &config, "--dry-run"], more].concat());
        let words = ["predicted at most", "parameters"].iter().chain(words);
        words.for_each(|word| assert!(said.contains(word), "{word:?} is not in {said}"));
    };
    predicts(&["--set", "engine.device=cuda"], &["time     not predicted"]);
    if !HAS_CUDA {
        predicts(&["--set", "engine.device=cuda"], &["--features cuda"]);
    }
    fs::remove_file(bench.model.path().join("model.safetensors")).expect("weights");
    predicts(&[], &["weights are missing", "prompts of"]);
    fs::remove_file(bench.model.path().join("tokenizer.json")).expect("a tokenizer");
    predicts(&[], &["weights are missing", "there is no tokenizer"]);
}

/// A model of 7 billion parameters is checked where it would not fit: only the headers of its file are read.
#[cfg(target_os = "linux")]
/// The paper's run on cards that are not there: what each way to share one takes, and what to change where none fits.
#[test]
fn a_dry_run_says_what_fits_a_card() {
    let config = root().join("configs/kk-qwen2.5-7b.toml").display().to_string();
    let args = |more: &[&'static str]| {
        let sets =
            ["data.train=20", "data.test=2"].iter().chain(more).flat_map(|set| ["--set".into(), set.to_string()]);
        [vec!["train".to_string(), config.clone(), "--dry-run".into()], sets.collect()].concat()
    };
    let said = |more: &[&'static str]| printed(&args(more).iter().map(String::as_str).collect::<Vec<_>>());
    let words = ["side_by_side", "reload", "alternate", "24 GB", "141 GB", "completions of the greatest length"];
    let unknown = said(&[]);
    words.iter().for_each(|word| assert!(unknown.contains(word), "no {word} in {unknown}"));
    let large = said(&["engine.device_memory_mb=140000"]);
    assert!(large.contains("146.8 GB here"), "{large}");
    let too_small = args(&["engine.device_memory_mb=40000", "engine.sync=side_by_side"]);
    let too_small: Vec<&str> = too_small.iter().map(String::as_str).collect();
    Bench::new().refused(&too_small, &["engine.sync = \"side_by_side\"", "GB are free", "what would fit: "]);
}

#[test]
fn alternating_has_no_overlap() {
    let bench = Bench::new();
    let overlapping = ["--set", "engine.sync=alternate", "--set", "pipeline.max_off_policy_steps=1"];
    let words = ["engine.sync", "pipeline.max_off_policy_steps = 0", "reload"];
    bench.train_refused(&format!("{HEAD}{DATA}"), &overlapping, &words);
    bench.train_refused(
        &format!("{HEAD}{DATA}"),
        &["--set", "engine.block_size=64"],
        &["engine.block_size", "8, 16 or 32"],
    );
    let packed = ["--set", "engine.quantization=q8_0", "--set", "engine.kind=native"];
    bench.train_refused(&format!("{HEAD}{DATA}"), &packed, &["engine.quantization", "mistralrs"]);
}

#[test]
fn a_dry_run_does_not_load_the_weights() {
    let bench = Bench::new();
    let path = bench.model.path();
    let mut config = serde_json::to_value(presets::find("qwen2.5-7b").expect("a preset")).expect("JSON");
    config["eos_token_id"] = json!(2);
    fs::write(path.join("config.json"), config.to_string()).expect("config.json");
    sparse_weights(path);
    let config = bench.good_config();
    let limited = format!("ulimit -v 8000000; exec {} train {config} --dry-run", env!("CARGO_BIN_EXE_dump-rl"));
    let output = Command::new("sh").args(["-c", &limited]).output().expect("a shell");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("7616 M parameters"), "{}", text(&output.stdout));
}

/// Weights of the model in `dir` in bf16: a header, and a hole where the numbers would be.
fn sparse_weights(dir: &Path) {
    let config = DecoderConfig::load(dir).expect("config.json");
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    let nothing = Tensor::zeros((), DType::BF16, &Device::Cpu).expect("a tensor");
    let add = |name: &str, shape: &[usize]| {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.into(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
        Ok(nothing.clone())
    };
    Weights::from_named(&config, add).expect("names");
    let header = Value::Object(header).to_string();
    let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let path = dir.join("model.safetensors");
    fs::write(&path, &start).expect("a header");
    let file = fs::OpenOptions::new().write(true).open(path).expect("weights");
    file.set_len((start.len() + end) as u64).expect("a hole");
}

#[test]
fn a_dry_run_says_what_would_run_and_writes_nothing() {
    let bench = Bench::new();
    let (config, before) = (bench.good_config(), bench.snapshot());
    let said = printed(&["train", &config, "--dry-run", "--out", &bench.out(), "--set", "max_steps=9"]);
    for word in
        ["max_steps = 9", "batch_size = 2", "kk_logic_3", "kk_logic_4", "8 rows in 2 distributions", "parameters"]
    {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    let resolved = said.split("\nmodel    ").next().expect("the configuration");
    let resolved: RunConfig = config::load(Path::new(&bench.file("r.toml", resolved)), &[]).expect("a configuration");
    assert_eq!(resolved, config::load(Path::new(&config), &["max_steps=9".into()]).expect("a configuration"));
    fs::remove_file(bench.path("r.toml")).expect("a file");
    assert_eq!(bench.snapshot(), before);
}

#[test]
fn a_run_is_not_overwritten() {
    let bench = Bench::new();
    bench.run_with_checkpoint();
    bench.file("run/metrics.jsonl", "{\"step\":1}\n");
    bench.train_refused(&format!("{HEAD}{DATA}"), &[], &["run", "already holds a run", "--resume", "--out"]);
}

#[test]
fn a_resume_needs_a_checkpoint_and_the_same_settings() {
    let bench = Bench::new();
    let good = format!("{HEAD}{DATA}");
    bench.train_refused(&good, &["--resume"], &["checkpoints", "no checkpoint", "--out"]);
    let checkpoint = bench.run_with_checkpoint();
    bench.train_refused(&good, &["--resume", "--set", "optim.lr=0.5"], &["optim.lr was 0.0001, is 0.5", "max_steps"]);
    bench.train_refused(&good, &["--resume", "--set", "lora.rank=2"], &["lora.rank was 16, is 2"]);
    bench.train_refused(&good, &["--resume", "--set", "data.people=3-5"], &["config.toml", "data.people was"]);
    fs::remove_dir_all(checkpoint).expect("a checkpoint");
    bench.train_refused(&good, &["--resume"], &["checkpoints", "no checkpoint", "--out"]);
    bench.refused(&["eval", &bench.out()], &["checkpoints", "no checkpoint"]);
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let bench = Bench::new();
    let checkpoint = bench.run_with_checkpoint();
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
            bench.train_refused(&good, &["--resume"], &[name]);
        };
        with(&flipped(&whole, whole.len() / 2, 0x80));
        with(&whole[..whole.len() - 1]);
        fs::remove_file(&path).expect("a file of the checkpoint");
        bench.train_refused(&good, &["--resume"], &[name]);
        fs::write(&path, &whole).expect("a file of the checkpoint");
    }
    assert!(Checkpoint::load(&checkpoint).is_ok());
}

/// One bit in any place: a digit of the state that becomes another digit is damage too.
#[test]
fn every_flipped_bit_of_a_checkpoint_is_noticed() {
    let bench = Bench::new();
    let checkpoint = bench.run_with_checkpoint();
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
        assert!(unnoticed.is_empty(), "{name}: {} places, such as {}", unnoticed.len(), unnoticed[0]);
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
    let bench = Bench::new();
    let old = bench.run_with_checkpoint();
    let mut newer = Checkpoint::load(&old).expect("a checkpoint");
    newer.scheduler.step = 2;
    let newest = newer.save(&bench.path("run"), 2).expect("a checkpoint");
    fs::write(newest.join("optimizer.safetensors"), "broken").expect("a file of the checkpoint");
    let words = ["step_2/optimizer.safetensors", "SHA-256", "remove", "step_0"];
    bench.train_refused(&format!("{HEAD}{DATA}"), &["--resume"], &words);
}

#[test]
fn puzzles_are_made_once_for_a_seed_and_load_again() {
    let bench = Bench::new();
    let make = |name: &str, seed: &str| {
        let out = bench.path(name).display().to_string();
        printed(&["data", "kk", "--people", "3-5", "--train", "7", "--test", "2", "--seed", seed, "--out", &out]);
        ["train.jsonl", "test.jsonl"].map(|file| fs::read(bench.path(name).join(file)).expect("rows"))
    };
    let first = make("a", "42");
    assert!(first == make("b", "42") && first != make("c", "43"));
    let load = |file: &str| rows::load(&bench.path("a").join(file)).expect("rows");
    let sizes =
        |file| rows::group_by_source(load(file)).into_iter().map(|(name, rows)| (name, rows.len())).collect::<Vec<_>>();
    assert_eq!(sizes("train.jsonl"), [3, 4, 5].map(|people| (format!("kk_logic_{people}"), 7)));
    assert_eq!(sizes("test.jsonl"), [3, 4, 5].map(|people| (format!("kk_logic_{people}"), 2)));
    let file = bench.path("a/train.jsonl").display().to_string();
    let said = printed(&["data", "inspect", &file]);
    let example = &load("train.jsonl")[0];
    for word in ["train.jsonl: 21 rows", "kk_logic_3: 7 rows", "kk_logic_5: 7 rows", &example.prompt[1].content] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    // The files serve as a run's data.
    let files = "[data]\nkind = \"files\"\ntrain_files = [\"a/train.jsonl\"]\ntest_files = [\"a/test.jsonl\"]\n";
    let said = printed(&["train", &bench.config(&format!("{HEAD}{files}")), "--dry-run"]);
    assert!(said.contains("21 rows in 3 distributions"), "{said}");
}

#[test]
fn puzzles_that_cannot_be_made_are_refused() {
    let bench = Bench::new();
    let out = bench.out();
    let with = |people: &str, train: &str| {
        ["data", "kk", "--people", people, "--train", train, "--test", "0", "--out", &out].map(String::from)
    };
    bench.refused(&with("2-5", "3"), &["--people", "3-20", "2-5"]);
    bench.refused(&with("three", "3"), &["--people", "three"]);
    bench.refused(&with("3", "0"), &["--train", "at least one"]);
    printed(&with("3", "2"));
    bench.refused(&with("3", "2"), &["train.jsonl", "already", "--out"]);
}

#[test]
fn completions_are_graded() {
    let bench = Bench::new();
    let out = bench.path("kk").display().to_string();
    printed(&["data", "kk", "--people", "3-5", "--train", "2", "--test", "0", "--out", &out]);
    let data = format!("{out}/train.jsonl");
    let rows = rows::load(Path::new(&data)).expect("rows");
    let answer = |index: usize| {
        let truth = parse(&rows[index].reward_model.ground_truth);
        truth["solution_text_format"].as_str().expect("a solution").replace('\n', " ")
    };
    let complete = |answer: &str| format!("<think> … </think>\n<answer> {answer} </answer>");
    let swapped = |answer: &str| answer.replace("knight", "?").replace("knave", "knight").replace('?', "knave");
    // Of the reward as it is defined: right, wrong, unreadable, in the wrong form.
    let given = [
        (5, complete(&answer(5)), 1.0, 2.0, 3.0),
        (0, complete(&swapped(&answer(0))), 1.0, -1.5, -0.5),
        (2, complete("everybody is honest"), 1.0, -2.0, -1.0),
        (2, answer(2), -1.0, -2.0, -3.0),
        (0, complete(&answer(0)) + " Done.", -1.0, -2.0, -3.0),
        (0, complete(&answer(0)) + "<|im_end|>\n", 1.0, 2.0, 3.0),
    ];
    let lines = given
        .iter()
        .map(|(index, completion, ..)| json!({"index": index, "completion": completion}).to_string() + "\n");
    let completions = bench.file("completions.jsonl", lines.collect::<String>());
    let said = printed(&["grade", "--data", &data, "--completions", &completions]);
    assert_eq!(said.lines().count(), given.len());
    for (line, (index, _, format, answer, score)) in said.lines().zip(&given) {
        let source = &rows[*index].data_source;
        let expected = json!({"index": index, "data_source": source, "format_score": format, "answer_score": answer, "score": score});
        assert_eq!(parse(line), expected);
    }
    let wrong =
        bench.file("wrong.jsonl", "{\"index\": 0, \"completion\": \"\"}\n{\"index\": 6, \"completion\": \"\"}\n");
    bench.refused(&["grade", "--data", &data, "--completions", &wrong], &["wrong.jsonl:2", "index 6", "0 to 5"]);
    let wrong = bench.file("wrong.jsonl", "{\"index\": 0}\n");
    bench.refused(&["grade", "--data", &data, "--completions", &wrong], &["wrong.jsonl:1", "completion"]);
    bench.refused(
        &["grade", "--data", "nowhere.jsonl", "--completions", &completions],
        &["nowhere.jsonl", "cannot be opened"],
    );
    bench
        .refused(&["grade", "--data", &data, "--completions", "nowhere.jsonl"], &["nowhere.jsonl", "cannot be opened"]);
}

#[test]
fn a_curriculum_is_replayed() {
    let bench = Bench::new();
    let config = root().join("configs/kk-tiny.toml").display().to_string();
    let events = root().join("tests/golden/curriculum_events.jsonl").display().to_string();
    let replay =
        |sets: &[&str]| printed(&[&["curriculum", "replay", "--config", &config, "--events", &events], sets].concat());
    let said = replay(&[]);
    let names: Vec<String> = (3..=14).map(|people| format!("kk_logic_{people}")).collect();
    let steps: Vec<Value> = said.lines().map(parse).collect();
    assert_eq!(steps.iter().map(|it| it["step"].as_u64()).collect::<Vec<_>>(), (1..=60).map(Some).collect::<Vec<_>>());
    for step in &steps {
        let weights = step["weights"].as_object().expect("weights");
        assert_eq!(weights.keys().cloned().collect::<Vec<_>>(), names);
        let sum: f64 = weights.values().filter_map(Value::as_f64).sum();
        assert!((sum - 1.0).abs() < 1e-9 && weights.values().all(|w| w.as_f64() >= Some(0.0)), "{step}");
    }
    assert_ne!(steps[0]["weights"], steps[59]["weights"]);
    assert_ne!(replay(&["--set", "curriculum.count=groups"]), said);
    let uniform = replay(&["--set", "curriculum.policy=uniform"]);
    assert!(uniform.lines().all(|line| parse(line)["weights"]["kk_logic_9"] == 1.0 / 12.0));
    let wrong = bench.file("events.jsonl", "{\"step\": 1, \"observations\": []}\n{\"step\": 2}\n");
    bench.refused(
        &["curriculum", "replay", "--config", &config, "--events", &wrong],
        &["events.jsonl:2", "observations"],
    );
    bench.refused(&["curriculum", "replay", "--config", &config, "--events", "nowhere.jsonl"], &["nowhere.jsonl"]);
    let set = ["curriculum", "replay", "--config", &config, "--events", &events, "--set", "curriculum.window=0"];
    bench.refused(&set, &["curriculum.window", "at least 1"]);
}

#[test]
fn a_model_is_not_overwritten() {
    let bench = Bench::new();
    let config = root().join("configs/kk-tiny-sft.toml").display().to_string();
    let model = bench.model.path().display().to_string();
    bench.refused(&["sft", &config, "--out", &model], &[&model, "already here"]);
    let conversation = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    let files = bench.file("sft.jsonl", conversation);
    let own = bench.file("own.toml", format!("init = {model:?}\n[data]\nfiles = [{files:?}]\n"));
    bench.refused(&["sft", &own, "--out", &model], &[&model, "is the folder of init"]);
    fs::create_dir(bench.path("sharded")).expect("a folder");
    bench.file("sharded/model.safetensors.index.json", "{}");
    bench.file("sharded/tokenizer.json", "{}");
    let sharded = bench.path("sharded").display().to_string();
    bench.refused(&["sft", &own, "--out", &sharded], &["sharded", "index.json is already here"]);
    let (out, wrong) = (bench.out(), bench.file("sft.toml", "seed = 1\n[model]\nhiden_size = 64\n"));
    bench.refused(
        &["sft", &wrong, "--out", &out],
        &["sft.toml:3", "model.hiden_size", "did you mean \"model.hidden_size\"?"],
    );
    let unset = bench.file("sft.toml", "seed = 1\n");
    bench.refused(&["sft", &unset], &["sft.toml", "out", "folder"]);
}

#[test]
fn every_shipped_configuration_resolves() {
    let files = fs::read_dir(root().join("configs")).expect("configs").map(|it| it.expect("an entry").path());
    let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    assert!(files.len() >= 2);
    for path in files {
        let name = path.display().to_string();
        if name.ends_with("-sft.toml") {
            config::load::<SftConfig>(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            continue;
        }
        let config: RunConfig = config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let is_id = config::is_hub_id(&config.model.to_string_lossy());
        assert!(is_id || config.model.starts_with(root()), "{name}: {:?}", config.model);
        let sources = dump_rl::pipeline::dataset::mixture(&config).unwrap_or_else(|error| panic!("{error}")).sources;
        assert!(!sources.is_empty(), "{name}");
    }
}

#[test]
fn policies_are_compared_and_what_is_done_stays_done() {
    let bench = Bench::new();
    let config = bench.good_config();
    let out = bench.path("bench").display().to_string();
    let compare = |policies: &str| {
        let args = ["curriculum", "bench", &config, "--policies", policies, "--seeds", "2", "--out", &out];
        printed(&[&args[..], &["--set", "eval.interval=1"]].concat())
    };
    let said = compare("uniform,dump[count=groups]");
    assert_eq!(said.matches("took").count(), 4, "{said}");
    let log = fs::read_to_string(bench.path("bench/uniform/seed_0/run.log")).expect("a log");
    assert!(log.starts_with("model ") && log.contains("step    2/2") && log.contains("done in"), "{log}");
    let json = || parse(&fs::read_to_string(bench.path("bench/bench.json")).expect("results"));
    let curve = json()["rows"][1]["curves"][1].clone();
    assert_eq!(curve["points"].as_array().map(Vec::len), Some(3));
    // Cut off before its first checkpoint: made again, and the same. The others are only read.
    let cut = bench.path("bench/dump_count=groups/seed_1");
    fs::remove_dir_all(cut.join("checkpoints")).expect("checkpoints");
    fs::write(cut.join("metrics.jsonl"), "").expect("metrics");
    let said = compare("uniform,dump[count=groups]");
    assert_eq!(said.matches("took").count(), 1, "{said}");
    let rewards = |curve: &Value| -> Vec<Value> {
        curve["points"].as_array().expect("points").iter().map(|point| point["reward"].clone()).collect()
    };
    assert_eq!(rewards(&json()["rows"][1]["curves"][1]), rewards(&curve));

    let refused = |policies: &str, words: &[&str]| {
        bench.refused(&["curriculum", "bench", &config, "--policies", policies, "--out", &out], words);
    };
    refused("uniform,dmup", &["curriculum.policy", "dump"]);
    refused("dump[tau=1]", &["curriculum.dump.tau"]);
    refused("sec[alpha=2]", &["curriculum.sec.alpha"]);
    refused("fixed_mix[curriculum.fixed_mix.weights={kk_logic_9=1}]", &["kk_logic_9", "kk_logic_3"]);
    let other = |set: &[&str], words: &[&str]| {
        let args = ["curriculum", "bench", &config, "--policies", "uniform", "--out", &out];
        bench.refused(&[&args[..], set].concat(), words);
    };
    other(&["--set", "eval.interval=1", "--set", "optim.lr=0.5"], &["optim.lr was"]);
    other(&[], &["eval.interval was 1", "--out"]);
    other(&["--set", "eval.interval=1", "--targets", "nan"], &["--targets", "finite"]);
    let lock = dump_rl::files::lock(&bench.path("bench/uniform/seed_0")).expect("nobody is in it");
    other(&["--set", "eval.interval=1"], &["seed_0", "another dump-rl"]);
    drop(lock);
}

/// A stop from outside reaches the runs, which end at a checkpoint; the same command goes on.
#[test]
fn a_comparison_that_is_stopped_goes_on() {
    let bench = Bench::new();
    let (config, out) = (bench.good_config(), bench.path("bench").display().to_string());
    let args = ["curriculum", "bench", &config, "--policies", "uniform", "--seeds", "1", "--out", &out];
    let sets = ["--set", "eval.interval=1", "--set", "max_steps=40"];
    let child = Command::new(env!("CARGO_BIN_EXE_dump-rl"))
        .args(args)
        .args(sets)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let metrics = bench.path("bench/uniform/seed_0/metrics.jsonl");
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 3 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Command::new("kill").arg(child.id().to_string()).status().expect("a signal");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("stopped at a checkpoint"), "{said}");
    let steps = fs::read_to_string(&metrics).expect("metrics").lines().count();
    assert!(steps < 41, "it was not stopped");
    let said = printed(&[&args[..], &sets].concat());
    assert!(said.contains("took") && said.contains("uniform"), "{said}");
    assert_eq!(fs::read_to_string(&metrics).expect("metrics").lines().count(), 41);
}

#[test]
fn a_simulation_says_that_it_is_one() {
    let bench = Bench::new();
    let (config, out) = (bench.good_config(), bench.path("bench").display().to_string());
    let said = printed(&["curriculum", "bench", &config, "--simulate", "--seeds", "20", "--out", &out]);
    assert!(said.starts_with("SIMULATION"), "{said}");
    let json = parse(&fs::read_to_string(bench.path("bench/simulation.json")).expect("results"));
    assert_eq!(
        (json["simulated"].clone(), json["rows"][0]["curves"].as_array().map(Vec::len)),
        (true.into(), Some(20))
    );
}

//! Wrong settings are refused, and every shipped configuration is right.

use std::fs;
use std::path::PathBuf;

use dump_rl::config::resolve::HAS_CUDA;
use dump_rl::config::{self, run::RunConfig, sft::SftConfig};

use crate::fixtures::program::{DATA, HEAD, Workspace};
use crate::fixtures::root;

#[test]
fn wrong_settings_are_named_with_file_line_and_key() {
    let work = Workspace::new();
    work.train_refused(
        &format!("{HEAD}bach_size = 3\n{DATA}"),
        &[],
        &["c.toml:5", "unknown key \"bach_size\"", "did you mean \"batch_size\"?"],
    );
    work.train_refused(
        &format!("{HEAD}{DATA}[optim]\nleraning = 1\n"),
        &[],
        &["c.toml:12", "optim.leraning", "optim.lr"],
    );
    work.train_refused(
        &format!("{HEAD}{DATA}[optim]\nlr = \"fast\"\n"),
        &[],
        &["c.toml:12", "optim.lr", "expected a number"],
    );
    work.train_refused(&format!("{HEAD}seed = -1\n{DATA}"), &[], &["c.toml:5", "seed", "-1"]);
    work.train_refused(
        &format!("{HEAD}{DATA}[optim]\nlr = -1.0\n"),
        &[],
        &["c.toml:12", "optim.lr", "from 0 to 10", "-1"],
    );
    work.train_refused(
        &format!("{HEAD}{DATA}[curriculum]\ntemperature = 0\n"),
        &[],
        &["c.toml:12", "curriculum.temperature", "above 0"],
    );
    work.train_refused(
        &format!("{HEAD}{DATA}[curriculum]\npolicy = \"dmup\"\n"),
        &[],
        &["c.toml:12", "curriculum.policy", "\"dmup\"", "dump", "uniform"],
    );
    work.train_refused(
        &format!("{HEAD}[data]\npeople = \"3-40\"\n"),
        &[],
        &["c.toml:6", "data.levels", "3-20", "3-40"],
    );
    work.train_refused(&format!("{HEAD}[data\n"), &[], &["c.toml:5"]);
    work.train_refused(
        &format!("{HEAD}{DATA}[lora]\ntarget_modules = [\"q\"]\n"),
        &[],
        &["c.toml:12", "lora.target_modules", "q_proj"],
    );
    work.train_refused("max_steps = 2", &[], &["model", "folder"]);
    work.train_refused("max_steps = 2", &["--dry-run"], &["model", "folder"]);
    let buffer = ["--set", "reward.overlong_buffer=600"];
    work.train_refused(&format!("{HEAD}{DATA}"), &buffer, &["reward.overlong_buffer", "at most", "512"]);
    let good = format!("{HEAD}{DATA}");
    work.train_refused(&good, &["--set", "group_size=1"], &["--set group_size", "at least 2"]);
    work.train_refused(&good, &["--set", "grup_size=4"], &["--set grup_size=4", "group_size"]);
    work.train_refused(&good, &["--set", "group_size"], &["--set group_size", "KEY=VALUE"]);
    work.train_refused(&good, &["--set", "data.test=0"], &["kk_logic_3", "no test rows", "eval.interval = 0"]);
    let missing = work.path("missing.toml").display().to_string();
    work.refused(&["train", &missing], &["missing.toml", "cannot read"]);
    work.refused(&["eval", &missing], &["missing.toml", "cannot read"]);
    work.refused(&["sft", &missing], &["missing.toml", "cannot read"]);
}

#[test]
fn a_device_that_cannot_work_is_refused() {
    let work = Workspace::new();
    let good = format!("{HEAD}{DATA}");
    work.train_refused(
        &good,
        &["--set", "engine.dtype=bf16", "--set", "engine.kind=mistralrs"],
        &["engine.dtype", "bf16", "\"f32\""],
    );
    if HAS_CUDA {
        let words = ["engine.kind", "does not compute on a CPU", "\"native\""];
        work.train_refused(&good, &["--set", "engine.kind=mistralrs"], &words);
    } else {
        work.train_refused(&good, &["--set", "engine.device=cuda"], &["engine.device", "--features cuda"]);
    }
}

/// A run that cannot start must not leave a folder that looks like a run.
#[cfg(not(any(feature = "mistralrs", feature = "cuda")))]
#[test]
fn an_engine_that_is_not_built_in_is_refused() {
    let work = Workspace::new();
    let words = ["engine.kind", "mistralrs", "default features"];
    work.train_refused(&format!("{HEAD}{DATA}"), &["--set", "engine.kind=mistralrs"], &words);
}

#[test]
fn engine_settings_that_contradict_each_other_are_refused() {
    let work = Workspace::new();
    let overlapping = ["--set", "engine.sync=alternate", "--set", "pipeline.max_off_policy_steps=1"];
    let words = ["engine.sync", "pipeline.max_off_policy_steps = 0", "reload"];
    work.train_refused(&format!("{HEAD}{DATA}"), &overlapping, &words);
    work.train_refused(
        &format!("{HEAD}{DATA}"),
        &["--set", "engine.block_size=64"],
        &["engine.block_size", "8, 16 or 32"],
    );
    let packed = ["--set", "engine.quantization=q8_0", "--set", "engine.kind=native"];
    work.train_refused(&format!("{HEAD}{DATA}"), &packed, &["engine.quantization", "mistralrs"]);
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

//! What `--dry-run` predicts, compared with what is measured.

use std::fs;

use crate::fixtures::program::dump_rl;
use crate::fixtures::root;

/// `bench train` in both ways to compute a step: every key of its JSON, and memory as predicted.
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
        assert!(
            (0.8..1.2).contains(&ratio),
            "{recompute}: the prediction is {ratio} times what was measured: {measured}"
        );
    }
}

/// A whole run, with its engine, when every completion has the greatest length.
#[cfg(target_os = "linux")]
#[test]
fn a_run_takes_the_memory_that_was_predicted() {
    let config = root().join("configs/kk-tiny.toml").display().to_string();
    for more in ["trainer.recompute=always", "trainer.micro_batch_tokens=1536", "trainer.micro_batch_tokens=4096"] {
        let folder = temp_dir::TempDir::new().unwrap();
        let out = folder.path().join("run");
        // No completion ends within 40 tokens. With an entropy bonus, completions without advantage are trained on too.
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
        assert!((0.8..1.2).contains(&ratio), "{more}: the prediction is {ratio} times what was measured: {line}");
    }
}

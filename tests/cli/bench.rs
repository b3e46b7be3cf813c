//! `bench`: what is measured, and the JSON that scripts read.

use std::fs;

use crate::fixtures::ENGINES;
use crate::fixtures::model::TinyModel;
use crate::fixtures::program::dump_rl;

/// Runs a bench and returns its JSON. Checks the fields that scripts rely on.
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

/// A tiny model, a folder, and in it a configuration for the model; the model is deleted with its value.
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

#[test]
fn training_speed_is_measured_at_each_length() {
    let (_model, _folder, config) = benched();
    let sets = ["bench.train_tokens=[24,60]", "bench.peak_tflops=0.5", "bench.repeats=1"];
    let lengths = measured("train", &config, &sets);
    assert_eq!(lengths.len(), 2);
    for (it, [prompt, new]) in lengths.iter().zip([[12, 12], [20, 40]]) {
        assert_eq!((it["prompt_tokens"].as_u64(), it["new_tokens"].as_u64()), (Some(prompt), Some(new)));
        let (rate, mfu) = (it["gflops_per_s"].as_f64().unwrap(), it["mfu"].as_f64().unwrap());
        assert!(rate > 0.0 && (mfu - rate / 500.0).abs() < 1e-9, "{it}");
    }
    // The peak of a CPU is not known.
    assert!(measured("train", &config, &sets[2..])[0]["mfu"].is_null());
}

#[test]
fn publishes_and_whole_steps_are_measured() {
    let (_model, _folder, config) = benched();
    let sync = &measured("sync", &config, &[])[0];
    assert_eq!(sync["sync"], "side_by_side");
    assert_eq!((sync["publishes"].as_u64(), sync["sequences"].as_u64()), (Some(2), Some(6)));
    // Numbers in f32, and a header.
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

/// Every engine passes. Packed weights have wider bounds, which they need.
#[test]
fn an_engine_is_compared_with_the_model() {
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

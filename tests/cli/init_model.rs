//! `init-model`: a model of random weights.

use std::fs;

use candle_core::{DType, Device, Tensor};
use dump_rl::model::tokenizer::ChatTokenizer;
use engine::decoder::{DecoderConfig, Weights};

use crate::fixtures::program::dump_rl;
use crate::fixtures::{ENGINES, root};

/// The same seed gives the same model. Its weights have the right mean and deviation. It trains with every engine, and every
/// engine agrees with the trainer.
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
        assert!(said.contains("checked  the engine: 16 completions at a time"), "{said}");
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

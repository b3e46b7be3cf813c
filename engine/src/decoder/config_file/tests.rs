//! What is read and what is refused.

use super::*;
use crate::decoder::Module;
use Architecture::{Llama, Mistral, Qwen2, Qwen3};
use serde_json::json;

fn keys(family: Architecture, changes: Value) -> Map<String, Value> {
    let mut config = json!({
        "architectures": [family.class()], "model_type": family.model_type(), "vocab_size": 100, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 64, "max_position_embeddings": 32768,
    });
    let config = config.as_object_mut().unwrap();
    config.extend(changes.as_object().unwrap().clone());
    std::mem::take(config)
}

fn parse(family: Architecture, changes: Value) -> Result<DecoderConfig, String> {
    let mut keys = keys(family, json!({"head_dim": 2}));
    keys.extend(changes.as_object().unwrap().clone());
    DecoderConfig::parse(&Value::from(keys).to_string())
}

#[test]
fn families_differ_in_biases_and_norms() {
    let check = |family, changes: Value, biased: &[Module], qk_norm: bool| {
        let config = parse(family, changes).unwrap();
        let found: Vec<Module> = Module::ALL.into_iter().filter(|module| config.has_bias(*module)).collect();
        assert_eq!((found.as_slice(), config.has_qk_norm()), (biased, qk_norm), "{family:?}");
    };
    use Module::{K, O, Q, V};
    check(Llama, json!({}), &[], false);
    check(Llama, json!({"attention_bias": true}), &[Q, K, V, O], false);
    check(Llama, json!({"attention_bias": null}), &[], false);
    check(Mistral, json!({}), &[], false);
    check(Qwen2, json!({}), &[Q, K, V], false);
    check(Qwen3, json!({"attention_bias": false}), &[], true);
}

/// Those of the classes `LlamaConfig`, `MistralConfig`, `Qwen2Config` and `Qwen3Config` of transformers 5.24:
/// key-value heads if the key is missing and if it is null, the width of a head, ε, θ.
#[test]
fn missing_keys_have_the_defaults_of_the_family() {
    let check = |family, key_value_heads: [usize; 2], head_dim: usize| {
        let read = |changes: Value| {
            let keys = keys(family, changes);
            DecoderConfig::parse(&Value::from(keys).to_string()).unwrap()
        };
        let config = read(json!({"hidden_size": 256}));
        let null = read(json!({"hidden_size": 256, "num_key_value_heads": null}));
        assert_eq!([&config, &null].map(|config| config.num_key_value_heads), key_value_heads);
        assert_eq!((config.head_dim, config.rms_norm_eps, config.rope_theta), (head_dim, 1e-6, 1e4), "{family:?}");
        assert_eq!((config.tie_word_embeddings, config.hidden_act.as_str()), (false, "silu"));
    };
    check(Llama, [64, 64], 4);
    check(Mistral, [8, 64], 4);
    check(Qwen2, [32, 64], 4);
    check(Qwen3, [32, 64], 128);
    for key in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"] {
        let problem = parse(Llama, json!({key: null, "head_dim": 2})).unwrap_err();
        assert!(problem.contains(&format!("missing field `{key}`")), "{problem}");
    }
}

#[test]
fn windows_do_not_shorten_the_context_but_chunks_do() {
    let config = parse(Mistral, json!({"sliding_window": 4096})).unwrap();
    assert_eq!((config.max_position_embeddings, config.window(0), config.window(1)), (32768, Some(4096), Some(4096)));
    let qwen = json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1});
    let config = parse(Qwen2, qwen).unwrap();
    assert_eq!((config.window(0), config.window(1)), (None, Some(8)));
    assert_eq!(DecoderConfig::parse(&serde_json::to_string(&config).unwrap()), Ok(config));
    let dual = json!({"max_position_embeddings": 1_010_000, "dual_chunk_attention_config": {"chunk_size": 262_144}});
    assert_eq!(parse(Qwen2, dual).unwrap().max_position_embeddings, 262_144);
}

#[test]
fn end_of_answer_ids_come_from_both_files() {
    let check = |config: Value, generation: Value, ids: &[u32]| {
        let config = parse(Llama, json!({"eos_token_id": config})).unwrap();
        let config = config.with_generation(&json!({"eos_token_id": generation}).to_string()).unwrap();
        assert_eq!(config.eos_token_ids(), ids);
    };
    check(Value::Null, json!(7), &[7]);
    check(Value::Null, Value::Null, &[]);
    check(json!(7), Value::Null, &[7]);
    check(json!(7), json!([7, 3]), &[3, 7]);
    check(json!([7, 3]), json!(9), &[3, 7, 9]);
}

#[test]
fn newer_folders_have_the_rotary_settings_in_one_key() {
    let together = json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}});
    let apart = parse(Llama, json!({"rope_theta": 1e6})).unwrap();
    assert_eq!(parse(Llama, together).unwrap().rope(), apart.rope());
}

#[test]
fn models_that_cannot_be_computed_exactly_are_refused_by_name() {
    let check = |family, changes, part: &str| {
        let problem = parse(family, changes).unwrap_err();
        assert!(problem.contains(part), "{problem}");
    };
    check(Llama, json!({"architectures": ["GemmaForCausalLM"]}), "GemmaForCausalLM");
    check(Llama, json!({"architectures": ["LlamaForCausalLM", "MistralForCausalLM"]}), "one architecture");
    check(Llama, json!({"architectures": null}), "one architecture");
    check(Llama, json!({"model_type": "mistral"}), "model_type \"mistral\"");
    check(Llama, json!({"model_type": null}), "model_type null");
    check(Llama, json!({"hidden_act": "gelu"}), "gelu");
    check(Llama, json!({"rope_scaling": {"rope_type": "yarn"}}), "yarn");
    check(Llama, json!({"rms_norm_eps": -1.0}), "rms_norm_eps");
    check(Llama, json!({"hidden_size": "64"}), "hidden_size: invalid type");
    check(Llama, json!({"tie_word_embeddings": 1}), "tie_word_embeddings: invalid type");
    check(Llama, json!({"eos_token_id": -1}), "eos_token_id -1");
    check(Llama, json!({"xyz": 1}), "unknown key `xyz`");
    check(Mistral, json!({"attention_bias": true}), "attention_bias");
    check(Qwen3, json!({"mlp_bias": true}), "mlp_bias");
    check(Qwen2, json!({"dual_chunk_attention_config": {"local_size": 8}}), "dual_chunk_attention_config");
}

/// A folder of its own, which is removed when the value is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str, config: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("engine-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.json"), config).unwrap();
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_generation_config_that_is_there_is_read_or_refused() {
    let config = Value::from(keys(Llama, json!({"head_dim": 2}))).to_string();
    let folder = Folder::new("generation", &format!("\u{feff}{config}"));
    let path = folder.0.join(GENERATION);
    assert!(DecoderConfig::load(&folder.0).unwrap().eos_token_ids().is_empty());
    let check = |text: &[u8], expected: Result<&[u32], &str>| {
        std::fs::write(&path, text).unwrap();
        match (DecoderConfig::load(&folder.0), expected) {
            (Ok(config), Ok(ids)) => assert_eq!(config.eos_token_ids(), ids),
            (Err(error), Err(part)) => {
                let error = error.to_string();
                assert!(error.contains("generation_config.json: ") && error.contains(part), "{error}");
            }
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    };
    check(b"{\"eos_token_id\": [3, 4], \"temperature\": 0.6}", Ok(&[3, 4]));
    check("\u{feff}{\"eos_token_id\": 5}".as_bytes(), Ok(&[5]));
    check(b"{}", Ok(&[]));
    check(b"{\"eos_token_id\": 5,}", Err("trailing comma"));
    check(b"", Err("EOF"));
    check(b"\xff", Err("cannot read it"));
    check(b"{\"eos_token_id\": \"</s>\"}", Err("eos_token_id \"</s>\""));
    check(b"{\"eos_token_id\": 100}", Err("from 0 to 99"));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(DecoderConfig::load(&folder.0).unwrap_err().to_string().contains("cannot read it"));
}

/// `config.json` of models on the hub, with all of their keys, and how many parameters transformers counts in them.
#[test]
fn folders_of_the_hub_are_read() {
    let check = |config: Value, parameters: usize, windows: [Option<usize>; 2]| {
        let config = DecoderConfig::parse(&config.to_string()).unwrap();
        let last = config.num_hidden_layers - 1;
        assert_eq!((config.parameters(), [config.window(0), config.window(last)]), (parameters, windows));
    };
    let smollm2 = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_interleaved": false, "rope_scaling": null,
        "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "transformers_version": "4.42.3",
        "use_cache": true, "vocab_size": 49152,
    });
    check(smollm2, 134_515_008, [None; 2]);
    let llama = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": {"factor": 32.0,
        "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "unsloth_fixed": true, "use_cache": true, "vocab_size": 128256,
    });
    check(llama, 1_235_814_400, [None; 2]);
    let mistral = json!({
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": true, "vocab_size": 32000,
    });
    check(mistral, 7_241_732_096, [Some(4096); 2]);
    let distilled = json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02,
        "intermediate_size": 8960, "max_position_embeddings": 131072, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_theta": 10000, "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.44.0", "use_cache": true, "use_mrope": false, "use_sliding_window": false,
        "vocab_size": 151936,
    });
    check(distilled, 1_777_088_000, [None; 2]);
    let full = vec!["full_attention"; 28];
    let qwen3 = json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "dtype": "bfloat16", "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_types": full, "max_position_embeddings": 40960, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "pad_token_id": null, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
        "sliding_window": null, "tie_word_embeddings": true, "transformers_version": "5.0.0", "use_cache": true,
        "use_sliding_window": false, "vocab_size": 151936,
    });
    check(qwen3, 596_049_920, [None; 2]);
}

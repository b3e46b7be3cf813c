//! What mistral.rs 0.8.1 cannot compute, and which keys of a `config.json` it ignores.
//!
//! If it ignores a key, it silently computes another model than the trainer. So such a model is refused, with the key's
//! name. Check this file again with every new version of mistral.rs.

use serde_json::Value;

use super::settings::{Device, MistralSettings};
use crate::Precision;
use crate::decoder::{Architecture, DecoderConfig, Module, Rope};

/// Refuses a model that mistral.rs computes differently from `config`; `raw` is the same `config.json`, parsed.
///
/// # Errors
/// Names the key.
pub fn check(config: &DecoderConfig, raw: &Value) -> Result<(), String> {
    let refuse = |key: &str, what: &str| {
        let architecture = config.architecture();
        Err(format!(
            "{key}: mistral.rs 0.8.1 {what} of a {architecture:?} model; on a CPU use engine.kind = \"native\""
        ))
    };
    let has_scaling = config.rope() != Rope::new(config.head_dim, config.rope_theta, &Value::Null)?;
    match config.architecture() {
        Architecture::Llama if has_scaling && raw["rope_scaling"].is_null() => {
            return refuse("rope_parameters", "does not read the rotary scaling in it");
        }
        Architecture::Llama => {}
        _ if has_scaling => return refuse("rope_scaling", "ignores the rotary scaling"),
        _ => {}
    }
    let theta = raw["rope_theta"].as_f64().filter(|theta| *theta != config.rope_theta);
    if config.architecture() != Architecture::Mistral && theta.is_some() {
        return refuse("rope_parameters.rope_theta", "uses the other rope_theta");
    }
    if head_dim(config, raw) != Some(config.head_dim) {
        return refuse("head_dim", "computes with heads of another width");
    }
    let is_biased = Module::ALL.into_iter().any(|module| config.has_bias(module));
    match config.architecture() {
        Architecture::Llama | Architecture::Qwen3 if config.attention_bias => {
            refuse("attention_bias", "leaves out the biases")
        }
        Architecture::Llama if is_biased => refuse("mlp_bias", "leaves out the biases"),
        _ => Ok(()),
    }
}

/// The width of a head in mistral.rs, whose Llama and Qwen2 models ignore the key.
fn head_dim(config: &DecoderConfig, raw: &Value) -> Option<usize> {
    let named = raw["head_dim"].as_u64().map(|dim| dim as usize);
    let named = named.filter(|_| !matches!(config.architecture(), Architecture::Llama | Architecture::Qwen2));
    named.or(config.hidden_size.checked_div(config.num_attention_heads))
}

/// How much of the model's context mistral.rs computes as the trainer does, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub usable: usize,
    whole: usize,
}

impl Context {
    /// mistral.rs masks every layer of Mistral and Qwen by `sliding_window`, whatever the other keys say, and knows
    /// neither `layer_types` nor the default of a missing key. Within the shortest of all windows that changes nothing.
    pub fn of(config: &DecoderConfig, raw: &Value) -> Self {
        let theirs = raw["sliding_window"].as_u64().filter(|_| config.architecture() != Architecture::Llama);
        let ours = (0..config.num_hidden_layers).filter_map(|layer| config.window(layer));
        let whole = config.max_position_embeddings;
        Self { usable: ours.chain(theirs.map(|window| window as usize)).fold(whole, usize::min), whole }
    }

    /// Refuses a request of `tokens`, prompt and completion together, that a window would cut off in silence. (The end of
    /// the whole context ends completions in every engine.)
    ///
    /// # Errors
    /// Names the key, and what would be right.
    pub fn check(self, tokens: usize) -> Result<(), String> {
        match tokens.min(self.whole) <= self.usable {
            true => Ok(()),
            false => Err(format!(
                "sliding_window: mistral.rs 0.8.1 applies it to every layer, so prompt and completion may have {} tokens \
                 together, not {tokens}; lower engine.max_new_tokens, or use engine.kind = \"native\"",
                self.usable
            )),
        }
    }
}

/// Refuses settings with which mistral.rs computes wrongly or not at all.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn check_device(settings: MistralSettings) -> Result<(), &'static str> {
    match (settings.device, settings.precision) {
        (Device::Cpu { .. }, Precision::Bf16) => {
            Err("bf16 needs a GPU: candle has no bf16 matrix product on the CPU; use f32")
        }
        // For models without grouped heads its rotary embedding (`layers.rs`) checks the feature, not the tensor's
        // device.
        (Device::Cpu { .. }, _) if cfg!(feature = "cuda") => {
            Err("mistral.rs 0.8.1 built with CUDA cannot compute on a CPU; build without CUDA, or use the GPU")
        }
        // `make_causal_mask_matrix` leaves the mask to flash attention, which `run_attention` does not call for f32: a
        // prompt's tokens would attend to later ones.
        (Device::Gpu { .. }, Precision::F32) if cfg!(feature = "flash-attn") => Err(
            "mistral.rs 0.8.1 with flash-attn computes f32 without a causal mask; use bf16, or build with cuda alone",
        ),
        _ => Ok(()),
    }
}

/// How much of a context of `longest` tokens can be used on a CPU. 0.8.1 grows its cache by 512 positions; when that
/// exceeds what the model allows, the sequence fails.
pub fn usable_context(longest: usize) -> usize {
    const GROWTH: usize = 512;
    if longest < GROWTH { longest } else { longest - longest % GROWTH }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn both(architecture: &str, changes: Value) -> (DecoderConfig, Value) {
        let mut raw = json!({
            "architectures": [architecture], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
            "model_type": architecture.trim_end_matches("ForCausalLM").to_lowercase(), "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768, "rope_theta": 1e4,
        });
        raw.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        (DecoderConfig::parse(&raw.to_string()).expect("a configuration"), raw)
    }

    #[test]
    fn keys_that_mistral_rs_ignores_are_refused_by_name() {
        let refused = |architecture: &str, changes: Value, key: &str| {
            let (config, raw) = both(architecture, changes);
            let problem = check(&config, &raw).expect_err(key);
            assert!(problem.starts_with(&format!("{key}: ")), "{problem}");
        };
        let accepted = |architecture: &str, changes: Value| {
            let (config, raw) = both(architecture, changes);
            assert_eq!(check(&config, &raw), Ok(()), "{raw}");
        };
        let linear = json!({"rope_type": "linear", "factor": 4.0});
        // They would be 16 wide.
        refused("LlamaForCausalLM", json!({"head_dim": 32}), "head_dim");
        refused("Qwen2ForCausalLM", json!({"head_dim": 32}), "head_dim");
        accepted("MistralForCausalLM", json!({"head_dim": 32}));
        accepted("Qwen3ForCausalLM", json!({"head_dim": 32}));
        // 128 in transformers.
        refused("Qwen3ForCausalLM", json!({"head_dim": null}), "head_dim");
        for architecture in ["MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
            refused(architecture, json!({"rope_scaling": linear.clone()}), "rope_scaling");
            accepted(architecture, json!({"rope_scaling": null}));
        }
        accepted("LlamaForCausalLM", json!({"rope_scaling": linear.clone()}));
        refused("LlamaForCausalLM", json!({"rope_parameters": linear}), "rope_parameters");
        let other_theta = json!({"rope_parameters": {"rope_theta": 1e6}});
        accepted("MistralForCausalLM", other_theta.clone());
        refused("LlamaForCausalLM", other_theta.clone(), "rope_parameters.rope_theta");
        refused("Qwen2ForCausalLM", other_theta, "rope_parameters.rope_theta");
        refused("LlamaForCausalLM", json!({"attention_bias": true}), "attention_bias");
        refused("Qwen3ForCausalLM", json!({"attention_bias": true}), "attention_bias");
        refused("LlamaForCausalLM", json!({"mlp_bias": true}), "mlp_bias");
    }

    #[test]
    fn the_context_ends_with_the_window_of_either_side() {
        let check = |architecture: &str, changes: Value, tokens: usize| {
            let (config, raw) = both(architecture, changes);
            assert_eq!(Context::of(&config, &raw).usable, tokens, "{raw}");
        };
        // Unused according to the file, but mistral.rs uses it.
        check("Qwen2ForCausalLM", json!({"sliding_window": 4096, "use_sliding_window": false}), 4096);
        check("Qwen2ForCausalLM", json!({"sliding_window": null}), 32768);
        // The window of transformers if the key is missing.
        check("MistralForCausalLM", json!({}), 4096);
        check("Qwen2ForCausalLM", json!({"dual_chunk_attention_config": {"chunk_size": 8192}}), 8192);
        let named = json!({"sliding_window": 2048, "use_sliding_window": true,
            "layer_types": ["full_attention", "sliding_attention"]});
        check("Qwen3ForCausalLM", named, 2048);
    }

    #[test]
    fn a_request_beyond_the_window_is_refused_and_one_beyond_the_context_ends_with_it() {
        let check = |window: Value, tokens: usize| {
            let (config, raw) = both("MistralForCausalLM", json!({"sliding_window": window}));
            Context::of(&config, &raw).check(tokens).is_ok()
        };
        assert_eq!([4096, 4097, 40_000].map(|tokens| check(json!(4096), tokens)), [true, false, false]);
        assert!(check(Value::Null, 40_000) && check(json!(32_768), 40_000));
    }

    #[test]
    fn a_context_is_used_up_to_a_whole_number_of_cache_growths() {
        assert_eq!([100, 511, 512, 768, 1024, 1500].map(usable_context), [100, 511, 512, 512, 1024, 1024]);
    }
}

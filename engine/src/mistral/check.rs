//! What mistral.rs 0.8.1 reads of a `config.json` and what it passes over.
//!
//! It would compute another model than the trainer without a word, so such a model is refused by name. To be looked
//! through again with every new version of mistral.rs.

use serde_json::Value;

use crate::decoder::{Architecture, DecoderConfig, Module, Rope};

/// Refuses a model that mistral.rs computes otherwise than `config` says; `raw` is the text of the same `config.json`.
///
/// # Errors
/// Which key it is.
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
        return refuse("rope_parameters.rope_theta", "takes the other rope_theta");
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

/// How many tokens of context are computed as `config` says. Its Mistral and Qwen models take `sliding_window` for the window
/// of every layer, whatever stands beside it.
pub fn context(config: &DecoderConfig, raw: &Value) -> usize {
    let window = raw["sliding_window"].as_u64().filter(|_| config.architecture() != Architecture::Llama);
    window.map_or(config.max_position_embeddings, |window| config.max_position_embeddings.min(window as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn both(architecture: &str, changes: Value) -> (DecoderConfig, Value) {
        let mut raw = json!({
            "architectures": [architecture], "model_type": "x", "vocab_size": 100, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768, "rope_theta": 1e4,
        });
        raw.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        (DecoderConfig::parse(&raw.to_string()).expect("a configuration"), raw)
    }

    #[test]
    fn what_mistral_rs_passes_over_is_refused_by_name() {
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
    fn the_context_ends_with_the_window_that_either_side_takes() {
        let check = |architecture: &str, changes: Value, tokens: usize| {
            let (config, raw) = both(architecture, changes);
            assert_eq!(context(&config, &raw), tokens, "{raw}");
        };
        // Not used, says the file; mistral.rs uses it.
        check("Qwen2ForCausalLM", json!({"sliding_window": 4096, "use_sliding_window": false}), 4096);
        check("Qwen2ForCausalLM", json!({"sliding_window": null}), 32768);
        // transformers' window where the key is missing.
        check("MistralForCausalLM", json!({}), 4096);
        check("Qwen2ForCausalLM", json!({"dual_chunk_attention_config": {"chunk_size": 8192}}), 8192);
        check("LlamaForCausalLM", json!({"sliding_window": 2048}), 32768);
    }
}

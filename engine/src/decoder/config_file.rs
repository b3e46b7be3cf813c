//! Reads a model folder's `config.json`, and refuses what would be computed wrongly.

use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::architecture::Architecture;
use super::config::{DecoderConfig, token_ids};
use super::rope::Rope;
use crate::error::EngineError;

/// A `config.json`, with the keys that are read but not kept.
#[derive(Deserialize)]
struct Raw {
    #[serde(flatten)]
    config: DecoderConfig,
    /// Newer folders have `rope_theta` and `rope_scaling` in it.
    #[serde(default)]
    rope_parameters: Value,
    /// `None` if the key is missing, `Some(None)` if it is null.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<usize>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    #[serde(default)]
    dual_chunk_attention_config: Value,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

impl Raw {
    /// The sliding window of any layer, with transformers' defaults for missing keys.
    fn window(&self) -> Option<usize> {
        const WINDOW: usize = 4096;
        const MAX_WINDOW_LAYERS: usize = 28;
        let window = self.sliding_window.unwrap_or(Some(WINDOW)).filter(|window| *window > 0);
        let used = match self.config.architecture() {
            Architecture::Llama => false,
            Architecture::Mistral => true,
            // The layers before `max_window_layers` have full attention.
            Architecture::Qwen2 | Architecture::Qwen3 => {
                let full_layers = self.max_window_layers.unwrap_or(MAX_WINDOW_LAYERS);
                self.use_sliding_window.unwrap_or(false) && full_layers < self.config.num_hidden_layers
            }
        };
        window.filter(|_| used)
    }

    /// The length within which every token attends to all earlier ones.
    fn plain_context(&self) -> usize {
        let chunk = self.dual_chunk_attention_config["chunk_size"].as_u64().map(|chunk| chunk as usize);
        [self.window(), chunk].into_iter().flatten().fold(self.config.max_position_embeddings, usize::min)
    }
}

impl DecoderConfig {
    /// Reads `config.json` in `dir`, and the end-of-answer ids of `generation_config.json` if there is one.
    ///
    /// # Errors
    /// If the file is missing or broken, or the model is not one that this decoder computes exactly.
    pub fn load(dir: &Path) -> Result<Self, EngineError> {
        let path = dir.join("config.json");
        let fail = |problem: String| EngineError::Model { path: path.clone(), problem };
        let text =
            std::fs::read_to_string(&path).map_err(|e| fail(format!("cannot read the model's configuration: {e}")))?;
        let config = Self::parse(&text).map_err(fail)?;
        let generation = std::fs::read_to_string(dir.join("generation_config.json"));
        let generation: Value = generation.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Ok(config.with_generation(&generation))
    }

    /// Adds the end-of-answer ids of a `generation_config.json`.
    fn with_generation(mut self, generation: &Value) -> Self {
        let mut ids = self.eos_token_ids();
        ids.extend(token_ids(&generation["eos_token_id"]));
        ids.sort_unstable();
        ids.dedup();
        if ids != self.eos_token_ids() {
            self.eos_token_id = ids.into();
        }
        self
    }

    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// What is wrong with it, or what cannot be computed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut raw: Raw = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let config = &mut raw.config;
        if config.num_key_value_heads == 0 {
            config.num_key_value_heads = config.num_attention_heads;
        }
        if config.head_dim == 0 {
            config.head_dim = config.hidden_size / config.num_attention_heads.max(1);
        }
        if let Some(theta) = raw.rope_parameters["rope_theta"].as_f64() {
            config.rope_theta = theta;
        }
        if config.rope_scaling.is_null() {
            config.rope_scaling = std::mem::take(&mut raw.rope_parameters);
        }
        config.check()?;
        raw.config.max_position_embeddings = raw.plain_context();
        Ok(raw.config)
    }

    /// Refuses what would be computed wrongly.
    fn check(&self) -> Result<(), String> {
        if self.find_architecture().is_none() {
            return Err(format!(
                "architectures {:?} is not supported; known: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, \
                 Qwen3ForCausalLM",
                self.architectures
            ));
        }
        if self.hidden_act != "silu" {
            return Err(format!("hidden_act {:?}: only \"silu\" is supported", self.hidden_act));
        }
        let sizes = [self.num_hidden_layers, self.hidden_size, self.intermediate_size, self.vocab_size];
        if sizes.contains(&0) {
            return Err(format!("layers, hidden size, intermediate size and vocabulary are {sizes:?}: none may be 0"));
        }
        let heads = (self.num_attention_heads, self.num_key_value_heads);
        if heads.0 == 0
            || heads.1 == 0
            || !heads.0.is_multiple_of(heads.1)
            || !self.head_dim.is_multiple_of(2)
            || self.head_dim == 0
        {
            return Err(format!("{} heads, {} key-value heads of {}: do not divide", heads.0, heads.1, self.head_dim));
        }
        Rope::new(self.head_dim, self.rope_theta, &self.rope_scaling).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::module::Module;
    use super::*;
    use serde_json::json;

    fn parse(architecture: &str, changes: Value) -> Result<DecoderConfig, String> {
        let mut config = json!({
            "architectures": [architecture], "model_type": "x", "vocab_size": 100, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768, "head_dim": null,
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        DecoderConfig::parse(&config.to_string())
    }

    #[test]
    fn families_differ_in_biases_and_norms() {
        let check = |architecture: &str, changes: Value, biased: &[Module], qk_norm: bool| {
            let config = parse(architecture, changes).unwrap();
            let found: Vec<Module> = Module::ALL.into_iter().filter(|module| config.has_bias(*module)).collect();
            assert_eq!((found.as_slice(), config.has_qk_norm()), (biased, qk_norm), "{architecture}");
        };
        use Module::{K, O, Q, V};
        check("LlamaForCausalLM", json!({}), &[], false);
        check("LlamaForCausalLM", json!({"attention_bias": true}), &[Q, K, V, O], false);
        check("MistralForCausalLM", json!({}), &[], false);
        check("Qwen2ForCausalLM", json!({}), &[Q, K, V], false);
        check("Qwen3ForCausalLM", json!({"attention_bias": false}), &[], true);
    }

    #[test]
    fn the_context_ends_where_attention_becomes_partial() {
        let context = |architecture: &str, changes| parse(architecture, changes).unwrap().max_position_embeddings;
        assert_eq!(context("MistralForCausalLM", json!({"sliding_window": 4096})), 4096);
        assert_eq!(context("MistralForCausalLM", json!({"sliding_window": null})), 32768);
        // The defaults of transformers for a missing key: 4096 for Mistral, no window for Qwen and Llama.
        assert_eq!(context("MistralForCausalLM", json!({})), 4096);
        let qwen = |used: Value| json!({"sliding_window": 2048, "max_window_layers": 1, "use_sliding_window": used});
        for architecture in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
            assert_eq!(context(architecture, json!({"sliding_window": 2048, "max_window_layers": 1})), 32768);
            assert_eq!(context(architecture, qwen(false.into())), 32768);
            assert_eq!(context(architecture, qwen(true.into())), 2048);
            // No layer has the window.
            let full = json!({"sliding_window": 2048, "max_window_layers": 2, "use_sliding_window": true});
            assert_eq!(context(architecture, full), 32768);
            assert_eq!(context(architecture, json!({"sliding_window": 2048, "use_sliding_window": true})), 32768);
            let unnamed = json!({"max_window_layers": 0, "use_sliding_window": true});
            assert_eq!(context(architecture, unnamed), 4096);
        }
        assert_eq!(context("LlamaForCausalLM", json!({"sliding_window": 2048})), 32768);
        let dual =
            json!({"max_position_embeddings": 1_010_000, "dual_chunk_attention_config": {"chunk_size": 262_144}});
        assert_eq!(context("Qwen2ForCausalLM", dual), 262_144);
    }

    #[test]
    fn end_of_answer_ids_come_from_both_files() {
        let check = |config: Value, generation: Value, ids: &[u32]| {
            let config = parse("LlamaForCausalLM", json!({"eos_token_id": config})).unwrap();
            let config = config.with_generation(&json!({"eos_token_id": generation}));
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
        let apart = parse("LlamaForCausalLM", json!({"rope_theta": 1e6})).unwrap();
        assert_eq!(parse("LlamaForCausalLM", together).unwrap().rope(), apart.rope());
    }

    #[test]
    fn models_that_cannot_be_computed_exactly_are_refused_by_name() {
        let check = |architecture, changes, part: &str| {
            let problem = parse(architecture, changes).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        };
        check("GemmaForCausalLM", json!({}), "GemmaForCausalLM");
        check("LlamaForCausalLM", json!({"hidden_act": "gelu"}), "gelu");
        check("LlamaForCausalLM", json!({"rope_scaling": {"rope_type": "yarn"}}), "yarn");
    }
}

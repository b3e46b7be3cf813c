//! `config.json` of a Hugging Face folder, as far as a Llama decoder needs it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// Sizes and constants of a Llama-family decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    pub architectures: Vec<String>,
    pub model_type: String,
    pub vocab_size: usize,
    /// D, the width of the residual stream.
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Defaults to `num_attention_heads`.
    #[serde(default)]
    pub num_key_value_heads: usize,
    /// Defaults to `hidden_size / num_attention_heads`.
    #[serde(default)]
    pub head_dim: usize,
    /// Longest sequence, prompt and completion together.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub rope_scaling: serde_json::Value,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub bos_token_id: serde_json::Value,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub eos_token_id: serde_json::Value,
}

fn default_rope_theta() -> f64 {
    10_000.0
}

fn default_act() -> String {
    "silu".into()
}

impl DecoderConfig {
    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// If the file is missing or broken, or the architecture is not one this decoder computes exactly.
    pub fn load(dir: &Path) -> Result<Self, EngineError> {
        let path = dir.join("config.json");
        let fail = |problem: String| EngineError::Model { path: path.clone(), problem };
        let text =
            std::fs::read_to_string(&path).map_err(|e| fail(format!("cannot read the model's configuration: {e}")))?;
        let mut config: Self = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
        if config.num_key_value_heads == 0 {
            config.num_key_value_heads = config.num_attention_heads;
        }
        if config.head_dim == 0 {
            config.head_dim = config.hidden_size / config.num_attention_heads.max(1);
        }
        config.check().map_err(fail)?;
        Ok(config)
    }

    /// Refuses what would be computed wrongly.
    fn check(&self) -> Result<(), String> {
        if self.architectures != ["LlamaForCausalLM"] {
            return Err(format!("architectures {:?}: only LlamaForCausalLM is supported", self.architectures));
        }
        if !self.rope_scaling.is_null() {
            return Err(format!("rope_scaling {}: only plain rotary embeddings are supported", self.rope_scaling));
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
        Ok(())
    }

    /// Ids in `eos_token_id`, a number or a list of them.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let ids = match &self.eos_token_id {
            serde_json::Value::Array(ids) => ids.iter().filter_map(serde_json::Value::as_u64).collect(),
            value => value.as_u64().into_iter().collect::<Vec<_>>(),
        };
        ids.into_iter().map(|id| id as u32).collect()
    }

    /// Input and output width of a linear layer of a block, by its name (`q_proj`, …).
    pub fn linear_shape(&self, module: &str) -> Option<(usize, usize)> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        match module {
            "q_proj" => Some((d, q)),
            "k_proj" | "v_proj" => Some((d, kv)),
            "o_proj" => Some((q, d)),
            "gate_proj" | "up_proj" => Some((d, f)),
            "down_proj" => Some((f, d)),
            _ => None,
        }
    }

    /// cos and sin of the rotary angles, position by position: (positions × head_dim/2) each (arXiv 2104.09864).
    pub fn rope_tables(&self) -> (Vec<f32>, Vec<f32>) {
        let half = self.head_dim / 2;
        let angle = |p: usize, i: usize| p as f64 * self.rope_theta.powf(-2.0 * i as f64 / self.head_dim as f64);
        let table = |f: fn(f64) -> f64| {
            (0..self.max_position_embeddings).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32)).collect()
        };
        (table(f64::cos), table(f64::sin))
    }

    /// Number of parameters, tied embeddings counted once.
    pub fn parameters(&self) -> usize {
        let linear: usize =
            crate::adapter::LINEAR_LAYERS.iter().filter_map(|m| self.linear_shape(m)).map(|s| s.0 * s.1).sum();
        let embeddings = self.vocab_size * self.hidden_size * if self.tie_word_embeddings { 1 } else { 2 };
        self.num_hidden_layers * (linear + 2 * self.hidden_size) + embeddings + self.hidden_size
    }
}

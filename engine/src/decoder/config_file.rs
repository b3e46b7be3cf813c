//! Reads a model folder's `config.json` and `generation_config.json`, and refuses what would be computed wrongly.

use std::path::Path;

use serde_json::{Map, Value};

use super::architecture::Architecture;
use super::config::DecoderConfig;
use super::config_keys;
use super::rope::Rope;
use super::rope_keys::RopeKeys;
use super::token_ids::parse_token_ids;
use super::windows::WindowKeys;
use crate::error::EngineError;
use crate::json;

/// So large that no model has it, and so small that no number of parameters overflows.
const MOST_LAYERS: usize = 1000;
const WIDEST: usize = 1 << 24;
const GENERATION: &str = "generation_config.json";

impl DecoderConfig {
    /// Reads `config.json` in `dir`, and the end-of-answer ids of `generation_config.json` if there is one.
    ///
    /// # Errors
    /// If a file is broken or `config.json` is missing, or the model is not one that this decoder computes exactly.
    pub fn load(dir: &Path) -> Result<Self, EngineError> {
        let fail = |name: &str, problem: String| EngineError::Model { path: dir.join(name), problem };
        let text = json::read_text(&dir.join("config.json"));
        let text = text.map_err(|e| fail("config.json", format!("cannot read the model's configuration: {e}")))?;
        let config = Self::parse(&text).map_err(|problem| fail("config.json", problem))?;
        match json::read_text(&dir.join(GENERATION)) {
            Ok(text) => config.with_generation(&text).map_err(|problem| fail(GENERATION, problem)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(config),
            Err(error) => Err(fail(GENERATION, format!("cannot read it: {error}"))),
        }
    }

    /// Adds the end-of-answer ids of the text of a `generation_config.json`. Its other keys are about sampling, which
    /// the caller decides.
    fn with_generation(mut self, text: &str) -> Result<Self, String> {
        let generation = json::parse_object(text)?;
        let mut ids = self.eos_token_ids();
        ids.extend(parse_token_ids("eos_token_id", generation.get("eos_token_id"), self.vocab_size)?);
        ids.sort_unstable();
        ids.dedup();
        if ids != self.eos_token_ids() {
            self.eos_token_id = ids.into();
        }
        Ok(self)
    }

    /// Reads the text of a `config.json`. A key that is null counts as missing, unless transformers gives null its own
    /// meaning.
    ///
    /// # Errors
    /// What is wrong with it, or what cannot be computed. Names the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = json::parse_object(text)?;
        let family = Architecture::of(&keys)?;
        config_keys::check(&keys)?;
        let windows = WindowKeys::take(&mut keys);
        let rope = RopeKeys::take(&mut keys)?;
        add_defaults(&mut keys, family);
        keys.insert("rope_theta".into(), rope.theta);
        keys.insert("rope_scaling".into(), rope.scaling);
        let chunk = first_chunk(&mut keys)?;
        let mut config: Self = serde_path_to_error::deserialize(Value::from(keys)).map_err(readable)?;
        config.check()?;
        config.max_position_embeddings = config.max_position_embeddings.min(chunk.unwrap_or(usize::MAX));
        config.windows = windows.resolve(family, config.num_hidden_layers, config.max_position_embeddings)?;
        Ok(config)
    }

    /// Refuses what would be computed wrongly.
    fn check(&self) -> Result<(), String> {
        if self.hidden_act != "silu" {
            return Err(format!("hidden_act {:?}: only \"silu\" is supported", self.hidden_act));
        }
        let sizes = [self.num_hidden_layers, self.hidden_size, self.intermediate_size, self.vocab_size];
        if sizes.contains(&0) {
            return Err(format!("layers, hidden size, intermediate size and vocabulary are {sizes:?}: none may be 0"));
        }
        let most = [
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("hidden_size", self.hidden_size, WIDEST),
            ("intermediate_size", self.intermediate_size, WIDEST),
            ("vocab_size", self.vocab_size, WIDEST),
            ("num_attention_heads · head_dim", self.num_attention_heads.saturating_mul(self.head_dim), WIDEST),
            ("num_key_value_heads · head_dim", self.num_key_value_heads.saturating_mul(self.head_dim), WIDEST),
        ];
        if let Some((key, value, most)) = most.iter().find(|(_, value, most)| value > most) {
            return Err(format!("{key} is {value}: no model has more than {most}"));
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
        if !self.rms_norm_eps.is_finite() || self.rms_norm_eps < 0.0 {
            return Err(format!("rms_norm_eps {}: expected a small positive number", self.rms_norm_eps));
        }
        let family = self.architecture();
        let has_biases = match family {
            Architecture::Mistral => (false, false),
            Architecture::Qwen2 | Architecture::Qwen3 => (true, false),
            Architecture::Llama => (true, true),
        };
        for (key, is_set, is_read) in
            [("attention_bias", self.attention_bias, has_biases.0), ("mlp_bias", self.mlp_bias, has_biases.1)]
        {
            if is_set && !is_read {
                return Err(format!("{key}: a {} has no such biases", family.class()));
            }
        }
        parse_token_ids("eos_token_id", Some(&self.eos_token_id), self.vocab_size)?;
        Rope::new(self.head_dim, self.rope_theta, &self.rope_scaling).map(drop)
    }
}

/// The defaults of transformers' configuration classes for keys that are missing. The others must be there.
fn add_defaults(keys: &mut Map<String, Value>, family: Architecture) {
    let number = |key: &str| keys.get(key).and_then(Value::as_u64);
    let (width, heads) = (number("hidden_size"), number("num_attention_heads"));
    let key_value_heads = match (keys.get("num_key_value_heads"), family) {
        (Some(_), _) | (None, Architecture::Llama) => heads,
        (None, Architecture::Mistral) => Some(8),
        (None, Architecture::Qwen2 | Architecture::Qwen3) => Some(32),
    };
    let head_dim = match family {
        Architecture::Qwen3 => Some(128),
        _ => width.zip(heads).map(|(width, heads)| width / heads.max(1)),
    };
    keys.retain(|_, value| !value.is_null());
    let defaults = [
        ("num_key_value_heads", key_value_heads.map(Value::from)),
        ("head_dim", head_dim.map(Value::from)),
        ("rms_norm_eps", Some(1e-6.into())),
    ];
    for (key, default) in defaults {
        if let (None, Some(default)) = (keys.get(key), default) {
            keys.insert(key.into(), default);
        }
    }
}

/// The tokens that attend to all earlier ones in Qwen's dual chunk attention, which transformers does not compute.
fn first_chunk(keys: &mut Map<String, Value>) -> Result<Option<usize>, String> {
    let Some(settings) = keys.shift_remove("dual_chunk_attention_config") else { return Ok(None) };
    match settings["chunk_size"].as_u64().filter(|chunk| *chunk > 0) {
        Some(chunk) => Ok(Some(chunk as usize)),
        None => Err(format!("dual_chunk_attention_config {settings}: chunk_size must be a positive number")),
    }
}

/// The problem, after the key that it is about.
fn readable(error: serde_path_to_error::Error<serde_json::Error>) -> String {
    match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        key => format!("{key}: {}", error.inner()),
    }
}

#[cfg(test)]
mod tests;

//! The supported model families.

use serde_json::{Map, Value};

/// A family that is computed exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM2 and models with the same structure.
    Llama,
    Mistral,
    /// Qwen2 and Qwen2.5: queries, keys and values have biases.
    Qwen2,
    /// Each head of queries and keys is normalised.
    Qwen3,
}

impl Architecture {
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The name in `architectures` of a `config.json`.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The name in `model_type` of a `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The family of a `config.json`.
    ///
    /// # Errors
    /// If it is not supported. If `architectures` and `model_type` name different ones: vLLM reads the first and
    /// transformers the second.
    pub(super) fn of(keys: &Map<String, Value>) -> Result<Self, String> {
        let known = Self::ALL.map(Self::class).join(", ");
        let names = keys.get("architectures").and_then(Value::as_array).map(Vec::as_slice);
        let [name] = names.unwrap_or_default() else {
            return Err(format!("architectures must be a list with the model's one architecture; known: {known}"));
        };
        let family = Self::ALL.into_iter().find(|family| name == family.class());
        let family = family.ok_or_else(|| format!("architectures [{name}] is not supported; known: {known}"))?;
        match keys.get("model_type") {
            Some(found) if found == family.model_type() => Ok(family),
            found => Err(format!(
                "model_type {} is not that of a {}, which is {:?}; correct the one that is wrong",
                found.unwrap_or(&Value::Null),
                family.class(),
                family.model_type()
            )),
        }
    }
}

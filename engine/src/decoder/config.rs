//! The configuration of a decoder: the keys of a Hugging Face `config.json` that it needs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::architecture::Architecture;
use super::heads::Heads;
use super::module::Module;
use super::rope::Rope;
use super::token_ids::token_ids;
use super::windows::SlidingWindows;

/// Sizes and constants of a decoder.
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
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// The greatest length of prompt and completion together. [`DecoderConfig::load`] reduces it to the first chunk of
    /// dual chunk attention, within which attention is the usual one.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub rope_scaling: Value,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mlp_bias: bool,
    #[serde(flatten)]
    pub windows: SlidingWindows,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub bos_token_id: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub eos_token_id: Value,
}

fn default_act() -> String {
    "silu".into()
}

impl DecoderConfig {
    /// The family.
    pub fn architecture(&self) -> Architecture {
        let name = self.architectures.first();
        let family = Architecture::ALL.into_iter().find(|family| name.is_some_and(|name| name == family.class()));
        family.expect("checked when the configuration was read")
    }

    /// How many tokens a layer's attention reaches back to, the token itself included; `None`: to the first one.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.windows.of(layer)
    }

    /// Whether a linear layer has a bias.
    pub fn has_bias(&self, module: Module) -> bool {
        match (self.architecture(), module) {
            (Architecture::Mistral, _) => false,
            (Architecture::Qwen2, Module::Q | Module::K | Module::V) => true,
            (Architecture::Qwen2, _) => false,
            (Architecture::Llama | Architecture::Qwen3, Module::Q | Module::K | Module::V | Module::O) => {
                self.attention_bias
            }
            (Architecture::Llama, _) => self.mlp_bias,
            (Architecture::Qwen3, _) => false,
        }
    }

    /// Whether each head of queries and keys is normalised before its rotation.
    pub fn has_qk_norm(&self) -> bool {
        self.architecture() == Architecture::Qwen3
    }

    /// The ids in `eos_token_id`, which is a number or a list.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        token_ids(&self.eos_token_id)
    }

    /// How attention is divided into heads.
    pub fn heads(&self) -> Heads {
        Heads { query: self.num_attention_heads, key_value: self.num_key_value_heads, dim: self.head_dim }
    }

    /// Input and output width of a linear layer of a block.
    pub fn linear_shape(&self, module: Module) -> (usize, usize) {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        match module {
            Module::Q => (d, q),
            Module::K | Module::V => (d, kv),
            Module::O => (q, d),
            Module::Gate | Module::Up => (d, f),
            Module::Down => (f, d),
        }
    }

    /// The rotary angles.
    pub fn rope(&self) -> Rope {
        Rope::new(self.head_dim, self.rope_theta, &self.rope_scaling).expect("checked when the configuration was read")
    }

    /// Number of parameters; tied embeddings count once.
    pub fn parameters(&self) -> usize {
        let linear = |module: Module| {
            let (input, output) = self.linear_shape(module);
            output * (input + usize::from(self.has_bias(module)))
        };
        let norms = 2 * self.hidden_size + if self.has_qk_norm() { 2 * self.head_dim } else { 0 };
        let layer = Module::ALL.into_iter().map(linear).sum::<usize>() + norms;
        let embeddings = self.vocab_size * self.hidden_size * if self.tie_word_embeddings { 1 } else { 2 };
        self.num_hidden_layers * layer + embeddings + self.hidden_size
    }
}

//! The supported model families.

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

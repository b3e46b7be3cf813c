//! Every key that a `config.json` may have. A key of which nobody knows what it does could change the computation, so it
//! is refused by name.
//!
//! The lists hold the keys of transformers' configuration classes and of model folders from 2023 to 2026.

use serde_json::{Map, Value};

/// Keys that are read.
const READ: [&str; 27] = [
    "architectures",
    "attention_bias",
    "bos_token_id",
    "dual_chunk_attention_config",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

/// Where the file comes from, and how other programs store or run the model.
const BOOKKEEPING: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "attn_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "gradient_checkpointing",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
    "name_or_path",
    // How matrix products were cut in pre-training. Their results are the same.
    "pretraining_tp",
    "tf_legacy_loss",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "use_bfloat16",
    "use_cache",
];

/// Outputs of transformers' classes, which do not change the logits, and heads for other tasks.
const OUTPUTS: &[&str] = &[
    "classifier_dropout",
    "cross_attention_hidden_size",
    "finetuning_task",
    "id2label",
    "is_decoder",
    "label2id",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tie_last_hidden_states",
    "use_return_dict",
];

/// How weights are drawn before pre-training.
const INITIALISATION: &[&str] = &["initializer_factor", "initializer_range"];

/// Tokens that only the tokenizer or a padded batch needs.
const TOKENS: &[&str] = &[
    "cls_token_id",
    "decoder_start_token_id",
    "mask_token_id",
    "pad_token_id",
    "prefix",
    "sep_token_id",
    "tokenizer_class",
    "unk_token_id",
];

/// Defaults of transformers' `generate`, which it ignores in a `config.json`. `[engine]` says how this program samples.
const GENERATION: &[&str] = &[
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "cache_implementation",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_p",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

const HARMLESS: [&[&str]; 5] = [BOOKKEEPING, OUTPUTS, INITIALISATION, TOKENS, GENERATION];

/// The only value with which a key changes nothing. Null, `[]` and `{}` never change anything.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    Zero,
    One,
    False,
    True,
    Empty,
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        let is_empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        let is_neutral = match self {
            Self::Zero => value.as_f64() == Some(0.0),
            Self::One => value.as_f64() == Some(1.0),
            Self::False => value == false,
            Self::True => value == true,
            Self::Empty => false,
        };
        value.is_null() || is_empty || is_neutral
    }
}

/// Keys with which a model is another one than is computed here, unless they are neutral; and what to do.
const LIMITED: &[(Neutral, &[&str], &str)] = &[
    (
        Neutral::Zero,
        &[
            "attention_dropout",
            "attention_probs_dropout_prob",
            "attn_pdrop",
            "dropout",
            "embd_pdrop",
            "embedding_dropout",
            "hidden_dropout",
            "hidden_dropout_prob",
            "resid_dropout",
            "resid_pdrop",
            "residual_dropout",
        ],
        "training here has no dropout; set it to 0",
    ),
    (
        Neutral::One,
        &["embedding_multiplier", "logit_scale", "logits_scaling", "residual_multiplier"],
        "this scaling is not supported",
    ),
    (
        Neutral::Empty,
        &["attention_multiplier", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"],
        "attention scores and logits are not scaled or capped here",
    ),
    (Neutral::Empty, &["clip_qkv"], "queries, keys and values are not clipped here"),
    (
        Neutral::False,
        &["attention_out_bias", "qk_layernorm", "qk_norm", "use_qk_norm"],
        "the family alone says which norms and biases attention has",
    ),
    (Neutral::One, &["rotary_pct"], "only rotary embeddings of whole heads are supported"),
    (
        Neutral::False,
        &["alibi", "rope_interleave", "rope_interleaved", "use_mrope"],
        "this kind of position embedding is not supported",
    ),
    (Neutral::Empty, &["no_rope_layers", "nope_layers"], "layers without rotary embedding are not supported"),
    (Neutral::Empty, &["attention_chunk_size"], "chunked attention is not supported"),
    (Neutral::True, &["is_causal"], "only causal attention is supported"),
    (
        Neutral::False,
        &["add_cross_attention", "is_encoder_decoder", "tie_encoder_decoder", "use_bidirectional_attention"],
        "only decoders with causal attention are supported",
    ),
    (Neutral::Empty, &["pruned_heads"], "pruned heads are not supported"),
    (
        Neutral::Zero,
        &["moe_intermediate_size", "n_routed_experts", "num_experts", "num_experts_per_tok", "num_local_experts"],
        "mixtures of experts are not supported",
    ),
    (Neutral::Zero, &["num_nextn_predict_layers"], "layers that predict further tokens are not supported"),
    (
        Neutral::Empty,
        &["compression_config", "quantization", "quantization_config"],
        "training needs the weights before they were quantized: use the folder of that model",
    ),
];

/// Refuses keys that are not known, and values of known ones with which another model would be computed.
///
/// # Errors
/// Names the key.
pub fn check(keys: &Map<String, Value>) -> Result<(), String> {
    keys.iter().filter(|(_, value)| !value.is_null()).try_for_each(|(key, value)| check_key(key, value))
}

fn check_key(key: &str, value: &Value) -> Result<(), String> {
    let is_harmless = HARMLESS.iter().any(|group| group.contains(&key)) || key.starts_with("unsloth_");
    if is_harmless || READ.contains(&key) {
        return Ok(());
    }
    if key == "auto_map" {
        return check_auto_map(value);
    }
    match LIMITED.iter().find(|(_, keys, _)| keys.contains(&key)) {
        Some((neutral, ..)) if neutral.is(value) => Ok(()),
        Some((.., problem)) => Err(format!("{key} {value}: {problem}")),
        None => Err(format!(
            "unknown key `{key}`: it may change what the model computes. If it does not, use a copy of the folder without \
             it in config.json"
        )),
    }
}

/// A tokenizer may bring its own code, because this program reads `tokenizer.json`. A model may not.
fn check_auto_map(value: &Value) -> Result<(), String> {
    let classes = value.as_object().into_iter().flat_map(Map::keys);
    match classes.into_iter().find(|class| *class != "AutoTokenizer") {
        None => Ok(()),
        Some(class) => Err(format!(
            "auto_map: the model brings its own code for {class}, which is not run; remove the key if its architecture \
             computes the same"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_one(key: &str, value: Value) -> Result<(), String> {
        check(&Map::from_iter([(key.to_string(), value)]))
    }

    #[test]
    fn a_key_is_in_one_list() {
        let limited = LIMITED.iter().flat_map(|(_, keys, _)| keys.iter());
        let mut all: Vec<&str> =
            HARMLESS.iter().flat_map(|group| group.iter()).chain(limited).chain(&READ).copied().collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn keys_that_change_nothing_are_accepted() {
        let accepted = |key: &str, value: Value| assert_eq!(check_one(key, value.clone()), Ok(()), "{key} {value}");
        accepted("torch_dtype", json!("bfloat16"));
        accepted("unsloth_fixed", json!(true));
        accepted("attention_dropout", json!(0.0));
        accepted("attention_dropout", json!(0));
        accepted("rope_interleaved", json!(false));
        accepted("quantization_config", json!(null));
        accepted("pruned_heads", json!({}));
        accepted("is_causal", json!(true));
        accepted("never_heard_of", json!(null));
        accepted("auto_map", json!({"AutoTokenizer": ["tokenization_x.XTokenizer", null]}));
    }

    #[test]
    fn keys_that_change_the_computation_or_are_unknown_are_refused_by_name() {
        let refused = |key: &str, value: Value| {
            let problem = check_one(key, value.clone()).unwrap_err();
            assert!(problem.contains(key), "{key} {value}: {problem}");
        };
        refused("xyz", json!(1));
        refused("Hidden_size", json!(1));
        refused("attention_dropout", json!(0.1));
        refused("attention_dropout", json!("0.1"));
        refused("embedding_multiplier", json!(12.0));
        refused("attn_logit_softcapping", json!(50.0));
        refused("clip_qkv", json!(8));
        refused("qk_layernorm", json!(true));
        refused("rope_interleaved", json!(true));
        refused("no_rope_layers", json!([1, 0]));
        refused("is_causal", json!(false));
        refused("is_encoder_decoder", json!(true));
        refused("num_experts", json!(8));
        refused("quantization_config", json!({"quant_method": "gptq"}));
        refused("auto_map", json!({"AutoModelForCausalLM": "modeling_x.XForCausalLM"}));
        refused("text_config", json!({"hidden_size": 8}));
    }
}

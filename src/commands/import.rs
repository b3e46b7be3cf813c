//! `dump-rl import`: a GGUF file becomes a Hugging Face folder: weights in bf16, tokenizer, chat template.
//!
//! - `header`: whether the lengths in the file fit it

mod header;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use engine::decoder::{DecoderConfig, SlidingWindows, Weights};
use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer};

use crate::error::InputError;
use crate::terminal;

/// Values of `tokenizer.ggml.token_type`: a control token, and a token that the user added.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// Writes the model in `file` into `out`. Never overwrites a model.
///
/// # Errors
/// If the file is not GGUF, or its architecture or tokenizer is not supported.
pub fn run(file: &Path, out: &Path) -> Result<()> {
    if out.join("config.json").exists() {
        let problem = "a model is already here; remove it, or choose another folder with --out";
        return Err(InputError::new(out.display(), problem).into());
    }
    let mut gguf = Gguf::open(file)?;
    let config = gguf.decoder_config()?;
    let tokenizer = gguf.tokenizer()?;
    let settings = gguf.tokenizer_config()?;
    let weights = gguf.weights(&config)?;
    std::fs::create_dir_all(out).map_err(|e| InputError::new(out.display(), e))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        crate::files::write_atomic(&path, bytes).map_err(|e| InputError::new(path.display(), e))
    };
    write("model.safetensors", &crate::train::tensors_to_bytes(&weights.named(&config))?)?;
    let tokenizer = tokenizer.to_string(false).map_err(anyhow::Error::from_boxed)?;
    write("tokenizer.json", tokenizer.as_bytes())?;
    write("tokenizer_config.json", (serde_json::to_string_pretty(&settings)? + "\n").as_bytes())?;
    // Written last, because a folder without it is not a model.
    write("config.json", (serde_json::to_string_pretty(&config)? + "\n").as_bytes())?;
    let (millions, tokens) = (config.parameters() as f64 / 1e6, config.vocab_size);
    terminal::say(format_args!("{}: {millions:.1} M parameters, {tokens} tokens", out.display()));
    Ok(())
}

struct Gguf<'a> {
    path: &'a Path,
    file: File,
    content: Content,
}

impl<'a> Gguf<'a> {
    fn open(path: &'a Path) -> Result<Self, InputError> {
        let fail = |e: std::io::Error| InputError::new(path.display(), e);
        let mut file = File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let unreadable = |e: String| InputError::new(path.display(), format!("this is not a readable GGUF file: {e}"));
        header::check(File::open(path).map_err(fail)?, size).map_err(unreadable)?;
        let content = Content::read(&mut file).map_err(|e| unreadable(e.to_string()))?;
        header::check_tensors(&content, size).map_err(unreadable)?;
        Ok(Self { path, file, content })
    }

    fn fail(&self, problem: impl std::fmt::Display) -> InputError {
        InputError::new(self.path.display(), problem)
    }

    fn value(&self, key: &str) -> Result<&Value, InputError> {
        self.content.metadata.get(key).ok_or_else(|| self.fail(format!("{key} is missing")))
    }

    fn text(&self, key: &str) -> Result<&str, InputError> {
        match self.value(key)? {
            Value::String(text) => Ok(text),
            other => Err(self.fail(format!("{key}: expected text, found {other:?}"))),
        }
    }

    fn number(&self, key: &str) -> Result<f64, InputError> {
        let value = self.value(key)?;
        number(value).ok_or_else(|| self.fail(format!("{key}: expected a number, found {value:?}")))
    }

    fn count(&self, key: &str) -> Result<usize, InputError> {
        self.number(key).map(|number| number as usize)
    }

    fn optional(&self, key: &str) -> Result<Option<f64>, InputError> {
        self.content.metadata.contains_key(key).then(|| self.number(key)).transpose()
    }

    fn list(&self, key: &str) -> Result<&[Value], InputError> {
        match self.value(key)? {
            Value::Array(values) => Ok(values),
            other => Err(self.fail(format!("{key}: expected a list, found {other:?}"))),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, InputError> {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.fail(format!("{key}: expected texts, found {other:?}"))),
        };
        self.list(key)?.iter().map(text).collect()
    }

    fn decoder_config(&self) -> Result<DecoderConfig, InputError> {
        let architecture = self.text("general.architecture")?;
        if architecture != "llama" {
            return Err(self.fail(format!("architecture {architecture:?}: only \"llama\" is supported")));
        }
        let (hidden_size, heads) =
            (self.count("llama.embedding_length")?, self.count("llama.attention.head_count")?.max(1));
        let head_dim = self.optional("llama.attention.key_length")?.map_or(hidden_size / heads, |d| d as usize);
        let rotated = self.optional("llama.rope.dimension_count")?.map_or(head_dim, |d| d as usize);
        if self.content.metadata.keys().any(|key| key.starts_with("llama.rope.scal")) || rotated != head_dim {
            return Err(self.fail("scaled or partial rotary embeddings: only plain ones are supported"));
        }
        let config = DecoderConfig {
            architectures: vec!["LlamaForCausalLM".into()],
            model_type: "llama".into(),
            vocab_size: self.list("tokenizer.ggml.tokens")?.len(),
            hidden_size,
            intermediate_size: self.count("llama.feed_forward_length")?,
            num_hidden_layers: self.count("llama.block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: self.optional("llama.attention.head_count_kv")?.map_or(heads, |heads| heads as usize),
            head_dim,
            max_position_embeddings: self.count("llama.context_length")?,
            rms_norm_eps: self.number("llama.attention.layer_norm_rms_epsilon")?,
            rope_theta: self.optional("llama.rope.freq_base")?.unwrap_or(10_000.0),
            tie_word_embeddings: !self.content.tensor_infos.contains_key("output.weight"),
            hidden_act: "silu".into(),
            rope_scaling: serde_json::Value::Null,
            attention_bias: false,
            mlp_bias: false,
            windows: SlidingWindows::default(),
            bos_token_id: self.count("tokenizer.ggml.bos_token_id").ok().into(),
            eos_token_id: self.count("tokenizer.ggml.eos_token_id")?.into(),
        };
        // As it is read again later.
        let text = serde_json::to_string(&config).map_err(|e| self.fail(e))?;
        DecoderConfig::parse(&text).map(|_| config).map_err(|problem| self.fail(problem))
    }

    fn weights(&mut self, config: &DecoderConfig) -> Result<Weights> {
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let mut unread: BTreeSet<String> = self.content.tensor_infos.keys().cloned().collect();
        let weights = Weights::from_named(config, |name, shape| {
            let fail = |problem: String| engine::EngineError::Model { path: self.path.to_path_buf(), problem };
            let source = gguf_name(name).ok_or_else(|| fail(format!("{name} has no name in a GGUF file")))?;
            unread.remove(&source);
            let stored = self.content.tensor(&mut self.file, &source, &Device::Cpu);
            let tensor = stored.and_then(|tensor| tensor.dequantize(&Device::Cpu));
            let tensor = tensor.map_err(|e| fail(format!("tensor {source}: {e}")))?;
            if tensor.dims() != shape {
                let found = tensor.dims();
                return Err(fail(format!("tensor {source}: expected shape {shape:?}, found {found:?}")));
            }
            let tensor = match name {
                name if name.ends_with("q_proj.weight") => unpermute(&tensor, heads)?,
                name if name.ends_with("k_proj.weight") => unpermute(&tensor, kv_heads)?,
                _ => tensor,
            };
            Ok(tensor.to_dtype(DType::BF16)?)
        })?;
        match unread.first() {
            Some(name) => Err(self.fail(format!("tensor {name}: a plain Llama has none of this name")).into()),
            None => Ok(weights),
        }
    }

    /// The byte-level BPE of GPT-2, with the pre-tokenizer that the file names.
    fn tokenizer(&self) -> Result<Tokenizer, InputError> {
        let (model, splits) = (self.text("tokenizer.ggml.model")?, self.text("tokenizer.ggml.pre")?);
        if model != "gpt2" {
            return Err(self.fail(format!("tokenizer {model:?}: only byte-level BPE (\"gpt2\") is supported")));
        }
        let bytes = ByteLevel::new(false, true, true);
        let pre: PreTokenizerWrapper = match splits {
            "smollm" => Sequence::new(vec![Digits::new(true).into(), bytes.into()]).into(),
            "gpt-2" => bytes.into(),
            other => return Err(self.fail(format!("pre-tokenizer {other:?}: known are \"smollm\" and \"gpt-2\""))),
        };
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let vocab: HashMap<&String, u32> = tokens.iter().zip(0..).collect();
        let bpe = json!({"type": "BPE", "vocab": vocab, "merges": self.texts("tokenizer.ggml.merges")?});
        let bpe: BPE =
            serde_json::from_str(&bpe.to_string()).map_err(|e| self.fail(format!("tokenizer.ggml.merges: {e}")))?;
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(pre)).with_decoder(Some(ByteLevelDecoder::default()));
        let types = self.list("tokenizer.ggml.token_type")?;
        let of_type = |wanted: u64| {
            let typed = tokens.iter().zip(types).filter(move |(_, kind)| number(kind) == Some(wanted as f64));
            typed.map(move |(token, _)| AddedToken::from(token.clone(), wanted == CONTROL)).collect::<Vec<_>>()
        };
        tokenizer.add_special_tokens(&of_type(CONTROL));
        tokenizer.add_tokens(&of_type(USER_DEFINED));
        Ok(tokenizer)
    }

    fn tokenizer_config(&self) -> Result<serde_json::Value, InputError> {
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let special =
            |name: &str| self.count(&format!("tokenizer.ggml.{name}_token_id")).ok().and_then(|id| tokens.get(id));
        Ok(json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": special("bos"),
            "eos_token": special("eos"),
            "unk_token": special("unknown"),
            "pad_token": special("padding"),
            "clean_up_tokenization_spaces": false,
            "model_max_length": self.count("llama.context_length")?,
            "chat_template": self.text("tokenizer.chat_template")?,
        }))
    }
}

fn number(value: &Value) -> Option<f64> {
    match *value {
        Value::U8(x) => Some(x.into()),
        Value::I8(x) => Some(x.into()),
        Value::U16(x) => Some(x.into()),
        Value::I16(x) => Some(x.into()),
        Value::U32(x) => Some(x.into()),
        Value::I32(x) => Some(x.into()),
        Value::U64(x) => Some(x as f64),
        Value::I64(x) => Some(x as f64),
        // Through text, so that 1e-5 does not become 9.999999747378752e-6.
        Value::F32(x) => x.to_string().parse().ok(),
        Value::F64(x) => Some(x),
        Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// llama.cpp's name for a tensor of a Hugging Face Llama.
fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let part = match rest.strip_suffix(".weight")? {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.weight"))
}

/// Reorders the rows of q or k. In llama.cpp the two halves of a head alternate; in Hugging Face models one follows the other.
/// `weight`: (heads · d × in).
fn unpermute(weight: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, width) = weight.dims2()?;
    weight.reshape((heads, rows / heads / 2, 2, width))?.transpose(1, 2)?.contiguous()?.reshape((rows, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternating_rows_become_halves() {
        let rows: Vec<f32> = vec![0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0];
        let weight = Tensor::from_vec(rows, (8, 1), &Device::Cpu).unwrap();
        let halves = unpermute(&weight, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(halves, [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
    }
}

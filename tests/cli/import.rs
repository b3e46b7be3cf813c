//! `import`: a GGUF file becomes a model folder.

use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use dump_rl::model::tokenizer::ChatTokenizer;
use dump_rl::task::Message;
use engine::decoder::{DecoderConfig, Weights};

use crate::fixtures::model::decoder_config;
use crate::fixtures::program::dump_rl;

#[test]
fn a_gguf_file_becomes_the_model_it_was() {
    let folder = temp_dir::TempDir::new().unwrap();
    let config = decoder_config(258);
    let random = |shape: &[usize]| {
        Ok(Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?.to_dtype(DType::BF16)?.to_dtype(DType::F32)?)
    };
    let weights = Weights::from_named(&config, |_, shape| random(shape)).unwrap();
    let (file, out) = (folder.path().join("m.gguf"), folder.path().join("model"));
    write_gguf(&file, &config, &weights);
    let args = ["import", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = dump_rl(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let read = DecoderConfig::load(&out).unwrap();
    assert_eq!((read.rms_norm_eps, read.head_dim, read.tie_word_embeddings), (1e-5, 16, true));
    let loaded = Weights::load(&out, &read, DType::F32, &Device::Cpu).unwrap().named(&read);
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, tensor) in weights.named(&config) {
        assert_eq!(flat(&loaded[&name]), flat(&tensor), "{name}");
    }
    let tokenizer = ChatTokenizer::load(&out, &read).unwrap();
    assert_eq!(tokenizer.stop_tokens[..], [257]);
    let ids = tokenizer.encode_prompt(&[Message::new("user", "ab12")]).unwrap().ids;
    assert_eq!((ids.len(), ids[0], ids[3]), (4, 256, 257), "one merge, single digits, the end: {ids:?}");

    let again = dump_rl(&args);
    assert_eq!(again.status.code(), Some(2), "a model is not overwritten");
    let no_gguf = ["import", out.join("config.json").to_str().unwrap(), "--out", "/tmp/never"].map(String::from);
    let refused = dump_rl(&no_gguf.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("config.json: this is not a readable GGUF file"));
}

/// Writes `weights` as llama.cpp lays them out in a GGUF file, with a tokenizer of single bytes and one merge.
fn write_gguf(path: &Path, config: &DecoderConfig, weights: &Weights) {
    let named = weights.named(config);
    let layers = (0..config.num_hidden_layers).flat_map(|i| {
        let parts = [
            ("input_layernorm", "attn_norm", 0),
            ("self_attn.q_proj", "attn_q", config.num_attention_heads),
            ("self_attn.k_proj", "attn_k", config.num_key_value_heads),
            ("self_attn.v_proj", "attn_v", 0),
            ("self_attn.o_proj", "attn_output", 0),
            ("post_attention_layernorm", "ffn_norm", 0),
            ("mlp.gate_proj", "ffn_gate", 0),
            ("mlp.up_proj", "ffn_up", 0),
            ("mlp.down_proj", "ffn_down", 0),
        ];
        parts.map(|(ours, theirs, heads)| {
            (format!("model.layers.{i}.{ours}.weight"), format!("blk.{i}.{theirs}.weight"), heads)
        })
    });
    let whole = [("model.embed_tokens.weight", "token_embd.weight"), ("model.norm.weight", "output_norm.weight")];
    let whole = whole.map(|(ours, theirs)| (ours.to_string(), theirs.to_string(), 0));
    let tensors: Vec<(String, QTensor)> = whole
        .into_iter()
        .chain(layers)
        .map(|(ours, theirs, heads)| {
            let tensor = if heads > 0 { alternate(&named[&ours], heads) } else { named[&ours].clone() };
            (theirs, QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
        })
        .collect();
    let text = |text: &str| Value::String(text.into());
    let count = |count: usize| Value::U32(count as u32);
    let mut tokens: Vec<String> = byte_alphabet();
    tokens.extend(["ab".into(), "<|end|>".into()]);
    let types = (0..tokens.len()).map(|id| Value::I32(if id + 1 == tokens.len() { 3 } else { 1 })).collect();
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.block_count", count(config.num_hidden_layers)),
        ("llama.embedding_length", count(config.hidden_size)),
        ("llama.feed_forward_length", count(config.intermediate_size)),
        ("llama.attention.head_count", count(config.num_attention_heads)),
        ("llama.attention.head_count_kv", count(config.num_key_value_heads)),
        ("llama.context_length", count(config.max_position_embeddings)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.eos_token_id", count(tokens.len() - 1)),
        ("tokenizer.ggml.tokens", Value::Array(tokens.iter().map(|token| text(token)).collect())),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", Value::Array(vec![text("a b")])),
        ("tokenizer.chat_template", text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// The characters that stand for bytes in GPT-2's vocabularies.
fn byte_alphabet() -> Vec<String> {
    let mut all: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    all.sort_unstable();
    all.into_iter().map(String::from).collect()
}

/// Interleaves the two halves of each head's rows.
fn alternate(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = weight.dims2().unwrap();
    let halves = weight.reshape((heads, 2, rows / heads / 2, width)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, width)).unwrap()
}

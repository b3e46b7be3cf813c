//! A PEFT adapter: `adapter_config.json` and `adapter_model.safetensors`.
#![no_main]

use std::sync::LazyLock;

use dump_rl_fuzz::parts;
use engine::decoder::DecoderConfig;
use engine::{Adapter, LoraConfig};
use libfuzzer_sys::fuzz_target;

static DECODER: LazyLock<DecoderConfig> = LazyLock::new(|| {
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 6,
        "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 1, "max_position_embeddings": 8,
        "rms_norm_eps": 1e-5}"#;
    DecoderConfig::parse(config).expect("a small model")
});

fuzz_target!(|input: &[u8]| {
    let [config, tensors] = parts(input);
    let Ok(config) = LoraConfig::read(&String::from_utf8_lossy(config)) else { return };
    let adapter = Adapter::new(config.into(), tensors.to_vec());
    drop(adapter.target_tensors());
    drop(adapter.pairs(&DECODER));
    drop(adapter.all_pairs(&DECODER));
});

//! `tokenizer.json`, the files beside it, and a text for it.
#![no_main]

use std::sync::LazyLock;

use dump_rl::model::tokenizer::ChatTokenizer;
use dump_rl::task::Message;
use dump_rl_fuzz::{folder, parts, pass_quiet_panics};
use engine::decoder::DecoderConfig;
use libfuzzer_sys::fuzz_target;

static DECODER: LazyLock<DecoderConfig> = LazyLock::new(|| {
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1000, "hidden_size": 6,
        "intermediate_size": 10, "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8,
        "rms_norm_eps": 1e-5, "eos_token_id": 0}"#;
    DecoderConfig::parse(config).expect("a small model")
});
/// Short, because a compiled template is kept as long as the process.
const TEMPLATE: &[u8] = b"{{ messages[0].content }}";

fuzz_target!(init: pass_quiet_panics(), |input: &[u8]| {
    let [tokenizer, settings, special, added, text] = parts(input);
    let folder = folder([
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
        ("special_tokens_map.json", if special.is_empty() { b"{}" } else { special }),
        ("added_tokens.json", if added.is_empty() { b"{}" } else { added }),
        ("chat_template.jinja", TEMPLATE),
    ]);
    let Ok(tokenizer) = ChatTokenizer::load(folder, &DECODER) else { return };
    if let Ok(prompt) = tokenizer.encode_prompt(&[Message::new("user", String::from_utf8_lossy(text))]) {
        drop(tokenizer.decode_completion(&prompt.ids));
    }
});

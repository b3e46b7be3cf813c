//! Chat templates are chosen as transformers chooses them, and the assistant's turn ends where the template says.

use std::fs;

use dump_rl::error::InputError;
use dump_rl::model::tokenizer::ChatTokenizer;
use dump_rl::task::Message;
use engine::decoder::DecoderConfig;
use serde_json::{Value, json};

use crate::fixtures::model::TinyModel;

const PLAIN: &str = "{% for m in messages %}{{ m.content }}\n{% endfor %}";

/// The tiny model's tokenizer, with these changes in its `tokenizer_config.json`.
fn tokenizer(model: &TinyModel, changes: Value) -> Result<ChatTokenizer, InputError> {
    let path = model.path().join("tokenizer_config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fs::write(&path, settings.to_string()).unwrap();
    ChatTokenizer::load(model.path(), &DecoderConfig::load(model.path()).unwrap())
}

/// The text of a prompt that says "hm".
fn prompt(tokenizer: &ChatTokenizer) -> String {
    let ids = tokenizer.encode_prompt(&[Message::new("user", "hm")]).unwrap();
    tokenizer.decode_completion(&ids).unwrap()
}

/// The ids of the answer "no" to "hm".
fn answer(tokenizer: &ChatTokenizer) -> Vec<u32> {
    let messages = [Message::new("user", "hm"), Message::new("assistant", "no")];
    let prompt = tokenizer.encode_prompt(&messages[..1]).unwrap();
    tokenizer.encode_answer(&messages, &prompt).unwrap()
}

fn id(tokenizer: &ChatTokenizer, token: &str) -> u32 {
    let ids = tokenizer.encode(token).unwrap();
    assert_eq!(ids.len(), 1, "{token} is one token");
    ids[0]
}

#[test]
fn a_template_in_its_own_file_takes_precedence() {
    let model = TinyModel::new();
    let settings = json!({"chat_template": "settings"});
    assert_eq!(prompt(&tokenizer(&model, settings.clone()).unwrap()), "settings");
    fs::write(model.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(prompt(&tokenizer(&model, settings).unwrap()), "file");
}

#[test]
fn the_default_of_several_templates_is_used() {
    let model = TinyModel::new();
    let named =
        |name: &str| json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": name, "template": "d"}]});
    assert_eq!(prompt(&tokenizer(&model, named("default")).unwrap()), "d");
    let error = tokenizer(&model, named("rag")).err().unwrap().to_string();
    assert!(error.contains("no chat template") && error.contains("default"), "{error}");
}

/// As in Qwen's base models: the template ends a turn with another token than eos_token.
#[test]
fn an_answer_ends_as_the_template_says() {
    let model = TinyModel::new();
    let base = tokenizer(&model, json!({"eos_token": "<|endoftext|>"})).unwrap();
    let [end, eos] = ["<|im_end|>", "<|endoftext|>"].map(|token| id(&base, token));
    assert_eq!(answer(&base), [base.encode("no").unwrap(), vec![end]].concat());
    assert_eq!(base.end_of_turn, end);
    assert!(base.stop_tokens.contains(&end) && base.stop_tokens.contains(&eos), "{:?}", base.stop_tokens);
    let plain = tokenizer(&model, json!({"chat_template": PLAIN})).unwrap();
    assert_eq!(answer(&plain), base.encode("no").unwrap());
    assert_eq!(plain.end_of_turn, eos);
}

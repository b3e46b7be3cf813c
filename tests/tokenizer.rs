//! Chat templates are chosen as transformers chooses them, and the assistant's turn ends where the template says.

use std::collections::BTreeMap;
use std::fs;

use dump_rl::error::InputError;
use dump_rl::model::tokenizer::ChatTokenizer;
use dump_rl::task::Message;
use engine::decoder::DecoderConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use temp_dir::TempDir;

use crate::fixtures::model::TinyModel;
use crate::fixtures::root;

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
    let prompt = tokenizer.encode_prompt(&[Message::new("user", "hm")]).unwrap();
    tokenizer.decode_completion(&prompt.ids).unwrap()
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

#[derive(Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, Value>,
    text: String,
    ids: Vec<u32>,
}

/// `data/kk-tiny` with these files beside its `tokenizer.json`, for a model with room for more tokens.
fn beside_kk_tiny(files: &BTreeMap<String, Value>) -> Result<ChatTokenizer, InputError> {
    let (model, folder) = (root().join("data/kk-tiny"), TempDir::new().unwrap());
    fs::copy(model.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), PLAIN).unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    let mut config = DecoderConfig::load(&model).unwrap();
    config.vocab_size += 10;
    ChatTokenizer::load(folder.path(), &config)
}

/// Against transformers (`golden/added_tokens.py`).
#[test]
fn tokens_of_all_files_are_added_as_in_transformers() {
    let path = root().join("tests/golden/added_tokens.json");
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for Case { name, files, text, ids } in cases {
        assert_eq!(beside_kk_tiny(&files).unwrap().encode(&text).unwrap(), ids, "{name}");
    }
}

#[test]
fn tokens_without_room_for_their_ids_are_refused() {
    let check = |id: &str, text: &str, word: &str| {
        let settings = json!({"eos_token": "<|im_end|>", "added_tokens_decoder": {id: {"content": text}}});
        let files = BTreeMap::from([("tokenizer_config.json".to_owned(), settings)]);
        let error = beside_kk_tiny(&files).err().unwrap();
        assert!(error.place.ends_with("tokenizer_config.json"), "{error}");
        assert!(error.problem.contains(text) && error.problem.contains(word), "{error}");
    };
    check("849", "<note>", "849");
    check("3", "<note>", "\"<think>\"");
    check("847", "<think>", "not all there");
    let ids = BTreeMap::from([("added_tokens.json".to_owned(), json!({"<note>": 850}))]);
    assert!(beside_kk_tiny(&ids).err().unwrap().place.ends_with("added_tokens.json"));
}

/// Without `tokenizer_config.json`, with a byte order mark in every file, and with lengths that transformers ignores as well.
#[test]
fn unusual_files_are_read() {
    let model = TinyModel::new();
    let config = DecoderConfig::load(model.path()).unwrap();
    let path = |name: &str| model.path().join(name);
    let mut json: Value = serde_json::from_slice(&fs::read(path("tokenizer.json")).unwrap()).unwrap();
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    fs::write(path("tokenizer.json"), format!("\u{feff}{json}")).unwrap();
    fs::write(path("chat_template.jinja"), format!("\u{feff}{PLAIN}")).unwrap();
    fs::write(path("special_tokens_map.json"), "\u{feff}{\"eos_token\": {\"content\": \"<|im_end|>\"}}").unwrap();
    fs::remove_file(path("tokenizer_config.json")).unwrap();
    let tokenizer = ChatTokenizer::load(model.path(), &config).unwrap();
    assert_eq!(prompt(&tokenizer), "hm\n");
    assert_eq!(tokenizer.end_of_turn, id(&tokenizer, "<|im_end|>"));
    assert!(tokenizer.encode("a b c d e f g h i").unwrap().len() > 9);
    assert_eq!(tokenizer.encode("x").unwrap().len(), 1);

    fs::remove_file(path("tokenizer.json")).unwrap();
    fs::write(path("tokenizer.model"), "").unwrap();
    let error = ChatTokenizer::load(model.path(), &config).err().unwrap();
    assert!(error.problem.contains("tokenizer.model") && error.problem.contains("save_pretrained"), "{error}");
}

/// The tokenizers crate panics on both.
#[test]
fn a_damaged_file_is_named() {
    let model = TinyModel::new();
    let config = DecoderConfig::load(model.path()).unwrap();
    let path = model.path().join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["decoder"] = json!("here");
    // A number that is JSON and no f64.
    let too_large = json.to_string().replace("\"here\"", "1e999");
    for (damaged, says) in [(&text[..text.len() / 2], "EOF while parsing"), (&too_large, "is no tokenizer")] {
        fs::write(&path, damaged).unwrap();
        let error = ChatTokenizer::load(model.path(), &config).err().unwrap();
        assert!(error.place.ends_with("tokenizer.json") && error.problem.contains(says), "{error}");
    }
}

#[test]
fn templates_in_a_folder_come_first() {
    let model = TinyModel::new();
    let folder = model.path().join("additional_chat_templates");
    fs::create_dir(&folder).unwrap();
    let error = tokenizer(&model, json!({"chat_template": "settings"})).err().unwrap();
    assert!(error.place.ends_with("additional_chat_templates"), "{error}");
    fs::write(model.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(prompt(&tokenizer(&model, json!({})).unwrap()), "file");
    fs::write(folder.join("default.jinja"), "folder").unwrap();
    assert_eq!(prompt(&tokenizer(&model, json!({})).unwrap()), "folder");
}

/// What a template begins of an answer is found, and is not said twice.
#[test]
fn an_answer_goes_on_from_what_the_template_begins() {
    let model = TinyModel::new();
    let turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}";
    let with_start = |start: &str| {
        let text =
            format!("{turns}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{{{ {start:?} }}}}{{% endif %}}");
        tokenizer(&model, json!({"chat_template": text})).unwrap()
    };
    let ask = [Message::new("user", "<think> or <start>?")];
    let opening = |start: &str| with_start(start).encode_prompt(&ask).unwrap().opening;
    assert_eq!(opening(""), "");
    assert_eq!(opening("<think>\n"), "<think>\n");
    assert_eq!(opening("<think>\nWell,"), "<think>\nWell,");
    assert_eq!(opening("<think>\n\n</think>\n\n"), "");
    assert_eq!(opening("<think></think><answer>"), "<answer>");

    let tokenizer = with_start("<think>\n");
    let answer = |text: &str| {
        let messages = [ask[0].clone(), Message::new("assistant", text)];
        tokenizer.encode_answer(&messages, &tokenizer.encode_prompt(&ask).unwrap())
    };
    let expected = [tokenizer.encode("so</think> no").unwrap(), vec![tokenizer.end_of_turn]].concat();
    assert_eq!(answer("<think>so</think> no").unwrap(), expected);
    assert_eq!(answer("<think>\nso</think> no\n").unwrap(), expected);
    assert!(answer("no").unwrap_err().problem.contains("<think>"));
}

#[test]
fn tags_around_turns_are_no_part_of_an_answer() {
    let model = TinyModel::new();
    for (turns, start) in [
        ("<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n", "<start_of_turn>model\n"),
        ("<{{ m.role }}>{{ m.content }}</{{ m.role }}>", "<assistant>"),
    ] {
        let template = format!(
            "{{% for m in messages %}}{turns}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {start:?} }}}}{{% endif %}}"
        );
        let tokenizer = tokenizer(&model, json!({"chat_template": template})).unwrap();
        assert_eq!(tokenizer.encode_prompt(&[Message::new("user", "hm")]).unwrap().opening, "", "{start}");
    }
}

//! Chat templates against transformers (`golden/templates.py`): the same text and the same ids, and an error where it raises.

use std::collections::BTreeMap;

use dump_rl::error::InputError;
use dump_rl::model::chat_template::ChatTemplate;
use dump_rl::model::chat_template::source::TemplateSource;
use dump_rl::model::tokenizer::ChatTokenizer;
use dump_rl::task::Message;
use engine::decoder::DecoderConfig;
use serde::Deserialize;

use crate::fixtures::root;

#[derive(Deserialize)]
struct Expected {
    conversations: BTreeMap<String, Vec<Message>>,
    now: String,
    tokens: BTreeMap<String, String>,
    /// By template and conversation: without and with the start of the assistant's turn.
    rendered: BTreeMap<String, BTreeMap<String, [Option<String>; 2]>>,
    ids: BTreeMap<String, Vec<u32>>,
}

fn template(text: &str, expected: &Expected) -> Result<ChatTemplate, InputError> {
    let source = TemplateSource { text: text.to_owned(), place: "chat_template.jinja".into() };
    ChatTemplate::new(source, &expected.tokens, expected.now.parse().unwrap())
}

#[test]
fn templates_render_as_in_transformers() {
    let folder = root().join("tests/golden/templates");
    let expected: Expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let model = root().join("data/kk-tiny");
    let tokenizer = ChatTokenizer::load(&model, &DecoderConfig::load(&model).unwrap()).unwrap();
    let mut differences = Vec::new();
    for (name, conversations) in &expected.rendered {
        let text = std::fs::read_to_string(folder.join(name).with_extension("jinja")).unwrap();
        let template = template(&text, &expected);
        for (conversation, both) in conversations {
            for (wanted, start) in both.iter().zip([false, true]) {
                let messages = &expected.conversations[conversation];
                let got = template.as_ref().map_err(Clone::clone).and_then(|it| it.render(messages, start));
                if got.as_ref().ok() != wanted.as_ref() {
                    differences.push(format!("{name} {conversation} {start}: {got:?} instead of {wanted:?}"));
                }
            }
        }
        let first = conversations.values().find_map(|both| both[1].as_ref());
        assert_eq!(first.map(|text| tokenizer.encode(text).unwrap()), expected.ids.get(name).cloned(), "{name}");
    }
    assert!(expected.rendered.len() >= 50);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// What has no equal here is refused, with the template's file and line.
#[test]
fn what_is_not_supported_is_refused() {
    let expected = Expected {
        conversations: BTreeMap::new(),
        now: "2026-03-07T09:05:03".into(),
        tokens: BTreeMap::new(),
        rendered: BTreeMap::new(),
        ids: BTreeMap::new(),
    };
    for (text, line, word) in [
        ("\n{% block a %}{% endblock %}", 2, "block"),
        ("{% autoescape true %}{% endautoescape %}", 1, "autoescape"),
        ("{% for m in messages recursive %}{% endfor %}", 1, "recursive"),
        ("{% with a = 1, b = a %}{% endwith %}", 1, "with"),
        ("{% macro m(a, b='x') %}{{ b }}{% endmacro %}\n\n{{ m(1, nothing) }}", 3, "undefined"),
        ("{{ messages[0].items }}", 1, "items"),
        ("{{ messages|map('upper') }}", 1, "generator"),
        ("{{ [messages[0].content|safe] }}", 1, "safe"),
        ("{{ '\\a' }}", 1, "escape"),
        ("a\n{{ strftime_now('%Z') }}", 2, "%Z"),
        ("{{ -messages.a }}", 1, "minus"),
        ("{{ 1 is odd is true }}", 1, "test"),
    ] {
        let messages = [Message::new("user", "hm")];
        let error = template(text, &expected).and_then(|it| it.render(&messages, true)).unwrap_err();
        let place = format!("line {line}");
        assert!(error.place == "chat_template.jinja" && error.problem.contains(word), "{text}: {error}");
        assert!(error.problem.contains(&place), "{text}: {error}");
    }
}

//! A chat template, and two conversations that it renders.
#![no_main]

use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use dump_rl::model::chat_template::ChatTemplate;
use dump_rl::model::chat_template::source::TemplateSource;
use dump_rl::task::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = TemplateSource { text: text.into(), place: "chat_template.jinja".into() };
    let tokens = BTreeMap::from([("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())]);
    let Ok(template) = ChatTemplate::new(source, &tokens, NaiveDateTime::default()) else { return };
    let messages = [("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "<think>\n</think>2")]
        .map(|(role, content)| Message::new(role, content));
    drop(template.render(&messages, false));
    drop(template.render(&messages[1..2], true));
});

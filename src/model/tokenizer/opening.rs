//! What a chat template begins of an answer: some end a prompt with `<think>`, which then belongs to the text that is graded.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use crate::model::chat_template::ChatTemplate;
use crate::task::Message;

static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<([A-Za-z][\w.-]*)>").expect("a fixed pattern"));

/// The tags of one template that are not part of an answer.
pub struct Openings {
    /// Tags around a turn, such as `<start_of_turn>` or `<assistant>` with an end behind the answer.
    of_turns: HashSet<String>,
}

impl Openings {
    pub fn of(template: &ChatTemplate) -> Self {
        let [question, answer] = [Message::new("user", "?"), Message::new("assistant", "!")];
        let render = |messages: &[Message]| template.render(messages, false).unwrap_or_default();
        let asked = render(std::slice::from_ref(&question));
        let answered = render(&[question, answer]);
        let behind = answered.rsplit_once('!').map_or("", |(_, behind)| behind);
        let ends = |tag: &str| behind.contains(&format!("</{tag}>"));
        let tags = |text: &str| TAG.captures_iter(text).map(|tag| tag[1].to_owned()).collect::<HashSet<_>>();
        let mut of_turns = tags(&asked);
        of_turns.extend(tags(&answered).into_iter().filter(|tag| ends(tag)));
        Self { of_turns }
    }

    /// The end of `prompt` from a tag on that it opens and does not close. `before`: the same conversation without the start of the
    /// assistant's turn.
    pub fn at_the_end_of(&self, prompt: &str, before: &str) -> String {
        let same = prompt.chars().zip(before.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let turn: &str = &prompt[same..];
        let is_open = |tag: &regex::Captures| {
            let (name, end) = (&tag[1], tag.get(0).map_or(0, |it| it.end()));
            !turn[end..].contains(&format!("</{name}>")) && !self.of_turns.contains(name)
        };
        let first = TAG.captures_iter(turn).find(is_open).and_then(|tag| tag.get(0));
        first.map_or_else(String::new, |tag| turn[tag.start()..].to_owned())
    }
}

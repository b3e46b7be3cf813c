//! Where a completion's answer stands, and the rule for its format.
//!
//! Everything here takes time in proportion to the length of the text.

use std::sync::LazyLock;

use regex::Regex;

/// Each tag must occur exactly once, in this order.
const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];
const THOUGHT_END: &str = TAGS[1];
const OPEN: &str = TAGS[2];
const CLOSE: &str = TAGS[3];
/// What a completion may end with in addition to white space.
const END_OF_TURN: &str = "<|im_end|>";

/// The words before an answer: "the answer is", "**Answer:**".
static MARKER: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\banswer\b[\s*_]*(?:would be\b|is\b|:|=)[\s:*_]*"));

/// How strictly an answer is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// An answer counts as right if a careful reader would say so.
    #[default]
    Lenient,
    /// The rules of the graders that were published with DUMP.
    Published,
}

/// An answer, and what is known about its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The text is the answer: it stood in tags or in a box.
    Given(&'a str),
    /// The text begins with the answer: it followed a marker such as "the answer is".
    Marked(&'a str),
    /// Nothing says where the answer is; at best it ends the text.
    Free(&'a str),
}

pub(in crate::task) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("this is a bug: a fixed pattern compiles")
}

/// The text between the answer tags; none if the format is wrong.
///
/// The format is right if each of the four tags occurs exactly once, in their order, and nothing but white space or
/// `<|im_end|>` follows.
pub fn formatted(completion: &str) -> Option<&str> {
    let mut found = [None; 4];
    for (at, _) in completion.match_indices('<') {
        let tag = TAGS.iter().position(|tag| completion[at..].starts_with(tag));
        if tag.is_some_and(|tag| found[tag].replace(at).is_some()) {
            return None;
        }
    }
    let [Some(a), Some(b), Some(c), Some(d)] = found else { return None };
    let at = [a, b, c, d];
    let after = &completion[at[3] + CLOSE.len()..];
    let right = at.is_sorted() && after.replace(END_OF_TURN, "").trim().is_empty();
    right.then(|| &completion[at[2] + OPEN.len()..at[3]])
}

/// The answer as the published graders find it: the last match of `<answer>(.*?)</answer>`, without white space around
/// it.
pub fn published(completion: &str) -> Option<&str> {
    let (mut rest, mut last) = (completion, None);
    while let Some((_, after)) = rest.split_once(OPEN) {
        let Some((text, after)) = after.split_once(CLOSE) else { break };
        (last, rest) = (Some(text.trim()), after);
    }
    last
}

/// The answer, wherever it stands: in the last answer tags, in the last `\boxed{}`, or behind the last marker. None if
/// there is no text.
///
/// A box or a marker inside the tags narrows the text further. An answer tag that is not closed reaches to the end.
pub fn lenient(completion: &str) -> Option<Answer<'_>> {
    let tagged = tagged(completion);
    let scope = tagged.unwrap_or_else(|| after_thought(completion));
    let found = match (boxed(scope), marked(scope), tagged) {
        (Some(text), ..) => Answer::Given(text),
        (None, Some(text), _) => Answer::Marked(text),
        (None, None, Some(text)) => Answer::Given(text.trim()),
        (None, None, None) => Answer::Free(scope.trim()),
    };
    (!found.text().is_empty()).then_some(found)
}

/// The text in the last answer tags; else the text behind the reasoning, or all of it. Trimmed, and never empty.
pub fn whole(completion: &str) -> Option<&str> {
    let text = tagged(completion).unwrap_or_else(|| after_thought(completion)).trim();
    (!text.is_empty()).then_some(text)
}

/// The text in which a grader with an own marker looks for it: as [`whole`], but not trimmed and perhaps empty.
pub(super) fn scope(completion: &str) -> &str {
    tagged(completion).unwrap_or_else(|| after_thought(completion))
}

impl<'a> Answer<'a> {
    pub fn text(self) -> &'a str {
        match self {
            Self::Given(text) | Self::Marked(text) | Self::Free(text) => text,
        }
    }
}

fn tagged(completion: &str) -> Option<&str> {
    if let Some(close) = completion.rfind(CLOSE)
        && let Some(open) = completion[..close].rfind(OPEN)
    {
        return completion[open + OPEN.len()..].split(CLOSE).next();
    }
    let (_, text) = completion.rsplit_once(OPEN)?;
    Some(without_end(text))
}

/// The text behind the reasoning. All of it if nothing follows the reasoning.
fn after_thought(completion: &str) -> &str {
    match completion.rsplit_once(THOUGHT_END) {
        Some((_, text)) if !without_end(text).trim().is_empty() => without_end(text),
        _ => without_end(completion),
    }
}

fn without_end(text: &str) -> &str {
    text.trim_end().trim_end_matches(END_OF_TURN)
}

/// The text in the last `\boxed{}`, if its braces are closed.
fn boxed(text: &str) -> Option<&str> {
    let (_, rest) = text.rsplit_once(r"\boxed")?;
    let inner = rest.trim_start().strip_prefix('{')?;
    let mut depth = 1;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(inner[..at].trim());
        }
    }
    None
}

/// The line behind the last marker.
fn marked(text: &str) -> Option<&str> {
    let found = MARKER.find_iter(text).last()?;
    text[found.end()..].lines().next().map(str::trim).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_answer_is_that_of_the_last_tags() {
        for (completion, expected) in [
            ("<answer> B </answer>", Some("B")),
            ("<answer>A</answer> <answer>B</answer>", Some("B")),
            ("<answer>A<answer>B</answer>", Some("A<answer>B")),
            ("<answer></answer>", Some("")),
            ("<answer>B</answer><answer>C", Some("B")),
            ("</answer>B<answer>", None),
            ("<answer>B", None),
            ("B", None),
            ("", None),
        ] {
            assert_eq!(published(completion), expected, "{completion:?}");
        }
    }

    #[test]
    fn an_answer_is_found_wherever_it_stands() {
        use Answer::{Free, Given, Marked};
        for (completion, expected) in [
            ("<answer> B </answer>", Some(Given("B"))),
            ("<answer>A</answer> <answer>B</answer> Done.", Some(Given("B"))),
            ("<answer>A<answer>B</answer>", Some(Given("B"))),
            ("<answer>B</answer> </answer>", Some(Given("B"))),
            ("<think>The answer is A.</think><answer>B", Some(Given("B"))),
            ("<answer>B<|im_end|>", Some(Given("B"))),
            (r"<answer>So \boxed{\frac{1}{2}}.</answer>", Some(Given(r"\frac{1}{2}"))),
            (r"First \boxed{1}, then \boxed {2} and \[3\]", Some(Given("2"))),
            (r"Open: \boxed{1", Some(Free(r"Open: \boxed{1"))),
            ("The answer is A.\nNo, the answer is **B**.\nBye", Some(Marked("B**."))),
            ("**Answer:** 42", Some(Marked("42"))),
            ("Answer:\n42\nBye", Some(Marked("42"))),
            ("**Answer**: 42", Some(Marked("42"))),
            ("Answers: 42", Some(Free("Answers: 42"))),
            ("<think>The answer is A.</think>B", Some(Free("B"))),
            ("<think>B</think> <|im_end|>", Some(Free("<think>B</think>"))),
            ("<answer> </answer>", None),
            ("", None),
        ] {
            assert_eq!(lenient(completion), expected, "{completion:?}");
        }
    }

    #[test]
    fn the_format_is_four_tags_in_order() {
        assert_eq!(formatted("Well. <think>1</think> so <answer> 2 </answer>\n<|im_end|>"), Some(" 2 "));
        for wrong in
            ["<answer>2</answer>", "<think></think><answer>2</answer>.", "<answer></answer><think></think>", ""]
        {
            assert_eq!(formatted(wrong), None, "{wrong:?}");
        }
    }
}

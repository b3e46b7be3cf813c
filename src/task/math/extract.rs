//! Finds the answer in a completion. Linear in the length of the text.

use std::sync::LazyLock;

use regex::Regex;

use super::answer::{self, Parsed};
use super::tree::Answer;

/// A text without any mark is searched from its end for at most this many bytes.
const TAIL: usize = 4096;
/// Words behind a marker that are a remark, not a part of the answer.
const REMARKS: [&str; 9] = [" because", " since", ", which", ", so ", " as ", " where ", ", as", ", where", " so that"];

static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"[-−]?[$€£]?(?:\d[\d,]*)?(?:\.\d+|\d)(?:\s?/\s?\d+)?(?:e[-+]?\d+)?\s?(?:\\?%)?")
        .expect("this is a bug: a fixed pattern compiles")
});

/// What the ground truth says: the text of its last box, or behind its last `####`, or all of it.
pub fn truth(text: &str) -> &str {
    boxed(text).or_else(|| text.rfind("####").map(|at| &text[at + 4..])).unwrap_or(text)
}

/// The answer of a completion; `None` if there is none. With `wants_text`, words are an answer.
pub fn answer(completion: &str, wants_text: bool) -> Option<Parsed> {
    let found = match tagged(completion) {
        Some(inner) => marked(inner, wants_text).unwrap_or_else(|| whole(inner, wants_text)),
        None => marked(completion, wants_text).unwrap_or_else(|| unmarked(completion, wants_text)),
    };
    found.filter(|it| !it.key.is_empty())
}

/// The text of the last `<answer>…</answer>`.
fn tagged(text: &str) -> Option<&str> {
    let end = text.rfind("</answer>")?;
    let start = text[..end].rfind("<answer>")?;
    Some(&text[start + "<answer>".len()..end])
}

/// The last box, or what follows the last marker. The outer `None`: there is no mark; the inner: nothing follows it.
fn marked(text: &str, wants_text: bool) -> Option<Option<Parsed>> {
    if let Some(inner) = boxed(text) {
        return Some(Some(answer::parse(inner)));
    }
    // The text was cut within its box: `\boxed{1` may be the beginning of 15.
    if text.contains("\\boxed{") {
        return Some(None);
    }
    behind_marker(text).map(|rest| first(rest, wants_text))
}

/// The content of the `\boxed{…}` that begins last, of those that are closed.
fn boxed(text: &str) -> Option<&str> {
    text.rfind("\\boxed")?;
    let bytes = text.as_bytes();
    let mut open: Vec<(usize, bool)> = Vec::new();
    let mut found: Option<(usize, usize)> = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if matches!(bytes.get(at + 1), Some(b'{' | b'}' | b'\\')) => at += 1,
            b'{' => open.push((at + 1, text[..at].trim_end().ends_with("\\boxed"))),
            b'}' => {
                if let Some((start, true)) = open.pop()
                    && found.is_none_or(|it| it.0 < start)
                {
                    found = Some((start, at));
                }
            }
            _ => {}
        }
        at += 1;
    }
    found.map(|(start, end)| &text[start..end])
}

/// The text behind the last "answer is", "answer:" or `####`.
fn behind_marker(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let markers = ["answer is", "answer:", "answer**:", "answer =", "answer\u{ff1a}", "####"];
    let end = markers.iter().filter_map(|it| lower.rfind(it).map(|at| at + it.len())).max()?;
    Some(text[end..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '*' | ':' | '_')))
}

/// The answer at the beginning of a text.
fn first(text: &str, wants_text: bool) -> Option<Parsed> {
    let text = display(text).unwrap_or_else(|| text.lines().next().unwrap_or(""));
    let mut length = 0;
    for part in text.split_inclusive(['.', '。']) {
        length += part.len();
        if text[length..].starts_with(char::is_whitespace) && !part.ends_with("..") {
            break;
        }
    }
    let mut sentence = &text[..length];
    for remark in REMARKS {
        sentence = sentence.find(remark).map_or(sentence, |at| &sentence[..at]);
    }
    let parsed = answer::parse(sentence);
    if wants_text || understood(&parsed) || !(is_prose(sentence) || is_words(&parsed)) {
        return Some(parsed);
    }
    // "5 or maybe 6" and "not 5" are no answers.
    if ["or", "not", "between", "than"].iter().any(|it| sentence.split_whitespace().any(|word| word == *it)) {
        return Some(parsed);
    }
    let found = spans(sentence).first().copied().or_else(|| numbers(sentence).next()).map(answer::parse);
    Some(found.unwrap_or(parsed))
}

/// A formula on lines of its own.
fn display(text: &str) -> Option<&str> {
    [("$$", "$$"), ("\\[", "\\]")].iter().find_map(|(open, close)| {
        let rest = text.strip_prefix(open)?;
        Some(&rest[..rest.find(close)?])
    })
}

/// The whole text as the answer; in a sentence, its last formula or number.
fn whole(text: &str, wants_text: bool) -> Option<Parsed> {
    let parsed = answer::parse(text);
    if wants_text || understood(&parsed) || !is_prose(text) {
        return Some(parsed);
    }
    let line = text.lines().rev().find(|it| !it.trim().is_empty())?;
    Some(ending(line).or_else(|| last(text)).unwrap_or(parsed))
}

/// The answer of a text without marks: its last line, or its last formula or number.
fn unmarked(text: &str, wants_text: bool) -> Option<Parsed> {
    let text = text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..]).trim();
    let text = tail(text.strip_suffix("<|im_end|>").unwrap_or(text));
    let line = text.lines().rev().find(|it| !it.trim().is_empty())?;
    let line = answer::without_remark(answer::trim(line));
    let parsed = answer::parse(line);
    if wants_text || understood(&parsed) {
        return Some(parsed);
    }
    ending(line).or_else(|| last(text)).or(Some(parsed))
}

/// The last formula or number, whichever ends later.
fn last(text: &str) -> Option<Parsed> {
    let (span, number) = (spans(text).last().copied(), numbers(text).last());
    let found = match (span, number) {
        (Some(span), Some(number)) if number.as_ptr() > span.as_bytes().as_ptr_range().end => number,
        (Some(span), _) => span,
        (None, number) => number?,
    };
    Some(answer::parse(found))
}

fn understood(parsed: &Parsed) -> bool {
    match &parsed.answer {
        Answer::Text(_) | Answer::Opaque(_) => false,
        // "The line is y = 2x" is a sentence that ends in a formula.
        Answer::Related(sides, _) => !matches!(sides[0], Answer::Text(_)),
        _ => true,
    }
}

fn is_words(parsed: &Parsed) -> bool {
    matches!(parsed.answer, Answer::Text(_))
}

/// Whether the text has at least three words, so that it is a sentence.
fn is_prose(text: &str) -> bool {
    let word = |it: &&str| it.len() > 1 && it.trim_end_matches(['.', ',', ':']).chars().all(char::is_alphabetic);
    text.split_whitespace().filter(word).take(3).count() == 3
}

/// The formulas in `$…$`, `\(…\)` and `\[…\]`, in order.
fn spans(text: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        let begins = &rest[at..];
        let pair =
            [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")].into_iter().find(|it| begins.starts_with(it.0));
        let Some((open, close)) = pair else {
            // Another command: skip the character behind the backslash, which may be a dollar sign.
            let skip = begins.char_indices().nth(2).map_or(begins.len(), |it| it.0);
            rest = &begins[skip..];
            continue;
        };
        let inner = &begins[open.len()..];
        let Some(length) = inner.find(close) else { break };
        if !inner[..length].trim().is_empty() {
            spans.push(&inner[..length]);
        }
        rest = &inner[length + close.len()..];
    }
    spans
}

/// The numbers in a text that are not a part of a formula such as `x^2` or `\\frac{1}{2}`.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let glue = |c: char| c.is_alphanumeric() || "^_{}[]()\\".contains(c);
    NUMBER
        .find_iter(text)
        .filter(move |it| {
            let end = it.start() + it.as_str().trim_end().len();
            let after = text[end..].chars().next().is_some_and(|c| c != ')' && glue(c));
            !after && !text[..it.start()].ends_with(|c| c != '(' && glue(c))
        })
        .map(|it| it.as_str().trim_end().trim_end_matches(','))
}

/// The formula at the end of a line: all behind its last word.
fn ending(line: &str) -> Option<Parsed> {
    let line = line.trim();
    let word = |it: &&str| {
        let letters = it.trim_matches(|c: char| c.is_ascii_punctuation());
        let word = letters.len() > 1 && letters.chars().all(char::is_alphabetic) && !it.contains('\\');
        (word && letters != "or") || matches!(letters, "a" | "A" | "I")
    };
    let start =
        line.split_whitespace().rfind(word).map_or(0, |it| it.as_ptr() as usize + it.len() - line.as_ptr() as usize);
    let parsed = answer::parse(&line[start..]);
    // A ratio such as 3:4 is no number, but it is an answer.
    let ratio = parsed.key.starts_with('#') && parsed.key.contains(":#");
    (!parsed.key.is_empty() && (ratio || understood(&parsed))).then_some(parsed)
}

/// The end of a long text.
fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

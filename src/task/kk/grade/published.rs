//! The published rule for answers, which is about names of one word.
//!
//! For each person the first match of `\bNAME\b\s+is\s+a\s+\b(knight|knave)\b` counts, ignoring case, and the answer must say as
//! many role words as there are people.

use std::sync::LazyLock;

use regex::Regex;

use crate::task::graders::answer::pattern;
use crate::task::kk::words::{PAIRS, RoleWords};

/// What claims about roles look like, for each of [`PAIRS`].
static CLAIMS: LazyLock<Vec<Claims>> = LazyLock::new(|| PAIRS.into_iter().map(Claims::new).collect());
/// A word character, as `\b` understands it.
static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\w$"));

/// How answers speak of the roles of one pair of words.
#[derive(Debug)]
pub struct Claims {
    words: RoleWords,
    /// A claim about a role, without the name before it.
    claim: Regex,
    /// A role word, in the singular or plural.
    pub role: Regex,
}

/// A claim that somebody has a role.
pub struct Claim<'a> {
    /// The text before it, which ends with a name.
    pub before: &'a str,
    /// Where the role word ends.
    pub end: usize,
    /// Whether it is the first role of the pair.
    pub first: bool,
}

impl Claims {
    /// For the pair at this place in [`PAIRS`].
    pub fn of(pair: usize) -> &'static Self {
        &CLAIMS[pair]
    }

    fn new(words: RoleWords) -> Self {
        let RoleWords { truthful, lying } = words;
        let article = if words == RoleWords::KNIGHTS { "a" } else { "an?" };
        Self {
            words,
            claim: pattern(&format!(r"(?i)\s+is\s+{article}\s+(?:{truthful}|{lying})\b")),
            role: pattern(&format!(r"(?i)\b(?:{truthful}|{lying})(?:e?s)?\b")),
        }
    }

    /// How often the text says a role word. The published rule, which is about knights and knaves, counts parts of longer
    /// words too. Other role words count only as whole words, because they are parts of names such as "Angela".
    pub fn count_roles(&self, text: &str) -> usize {
        if self.words == RoleWords::KNIGHTS { knights_and_knaves(text) } else { self.role.find_iter(text).count() }
    }

    /// The claims of a text.
    ///
    /// Matches cannot overlap. So a match after a name is a match of the pattern with that name.
    pub fn find<'a>(&self, text: &'a str) -> Vec<Claim<'a>> {
        let first =
            |claim: &str| claim.split_whitespace().next_back().is_some_and(|it| same_fold(it, self.words.truthful));
        let claim =
            |it: regex::Match<'a>| Claim { before: &text[..it.start()], end: it.end(), first: first(it.as_str()) };
        self.claim.find_iter(text).map(claim).collect()
    }

    /// Whether the answer gives each person the first role, in the order of `names`. `None` if the number of roles differs
    /// from the number of people, or if a person is missing.
    pub fn read<'a>(&self, names: impl ExactSizeIterator<Item = &'a str>, answer: &str) -> Option<Vec<bool>> {
        if self.count_roles(answer) != names.len() {
            return None;
        }
        let claims = self.find(answer);
        let first = |name: &str| claims.iter().find(|it| ends_with_name(it.before, name)).map(|it| it.first);
        names.map(first).collect()
    }
}

/// How often the text says "knight" or "knave".
fn knights_and_knaves(text: &str) -> usize {
    let lower = if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase() };
    let role = |(at, _): &(usize, &str)| ["knight", "knave"].iter().any(|role| lower[*at..].starts_with(role));
    lower.match_indices('k').filter(role).count()
}

/// Whether `text`, before white space, ends with a match of `\bNAME\b`: with the name, ignoring case, but not as part
/// of a longer word.
fn ends_with_name(text: &str, name: &str) -> bool {
    if let (Some(last), Some(wanted)) = (text.bytes().next_back(), name.bytes().next_back())
        && last.is_ascii()
        && wanted.is_ascii()
        && !last.eq_ignore_ascii_case(&wanted)
    {
        return false; // Most names end here.
    }
    let Some((start, _)) = text.char_indices().rev().nth(name.chars().count() - 1) else { return false };
    let (before, tail) = text.split_at(start);
    same_fold(tail, name)
        && before.chars().next_back().is_some_and(is_word) != tail.chars().next().is_some_and(is_word)
        && tail.chars().next_back().is_some_and(is_word)
}

pub fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() && WORD.is_match(c.encode_utf8(&mut [0; 4]))
}

/// Equality ignoring case, character by character, as in `(?i)`.
pub fn same_fold(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    let fold = |c: char| c.to_uppercase().flat_map(char::to_lowercase);
    a.chars().flat_map(fold).eq(b.chars().flat_map(fold))
}

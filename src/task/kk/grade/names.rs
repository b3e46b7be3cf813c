//! The rule for names that the published rule cannot read or mixes up, such as "C++", "Knightley", or "Mary Ann" beside "Ann".
//!
//! - A claim is about the longest name that it follows.
//! - A name begins at a word's start: neither a letter nor a digit is before it, nor a letter with a hyphen or an apostrophe.
//! - A role word in a name is no role, unless a claim ends with it.
//! - Names are equal however their letters are encoded, in any case, with any white space between their words.

use std::collections::HashSet;

use icu_normalizer::{ComposingNormalizer, ComposingNormalizerBorrowed};

use super::published::{Claims, is_word};

const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizer::new_nfc();

/// The names of a puzzle's people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// As [`folded`] gives them.
    folded: Vec<String>,
    /// Role words in names: whose, and where.
    roles: Vec<(usize, usize)>,
}

impl Names {
    pub fn new<'a>(names: impl Iterator<Item = &'a str>, claims: &Claims) -> Self {
        let folded: Vec<String> = names.map(folded).collect();
        let role_words = |(index, name)| claims.role.find_iter(name).map(move |it| (index, it.start()));
        let roles = folded.iter().map(String::as_str).enumerate().flat_map(role_words).collect();
        Self { folded, roles }
    }

    /// Whether the answer gives each person the first role. `None` if it says a role of nobody or twice of somebody, or if a
    /// person is missing.
    pub fn read(&self, claims: &Claims, answer: &str) -> Option<Vec<bool>> {
        let answer = folded(answer);
        let found = claims.find(&answer);
        let ends: HashSet<usize> = found.iter().map(|it| it.end).collect();
        let others = claims.role.find_iter(&answer).filter(|it| !ends.contains(&it.end()));
        let loose = others.filter(|it| !self.is_in_a_name(&answer, it.start())).count();
        if loose + found.len() != self.folded.len() {
            return None;
        }
        let mut roles = vec![None; self.folded.len()];
        for claim in found {
            roles[self.last_of(claim.before)?] = Some(claim.first);
        }
        roles.into_iter().collect()
    }

    /// The longest name that `text` ends with.
    fn last_of(&self, text: &str) -> Option<usize> {
        let ends = |name: &str| text.strip_suffix(name).is_some_and(is_border);
        let fitting = self.folded.iter().enumerate().filter(|(_, name)| ends(name));
        fitting.max_by_key(|(_, name)| name.len()).map(|(index, _)| index)
    }

    /// Whether the role word at `start` is a part of a name.
    fn is_in_a_name(&self, text: &str, start: usize) -> bool {
        self.roles.iter().any(|&(index, offset)| {
            let Some((before, rest)) = start.checked_sub(offset).and_then(|at| text.split_at_checked(at)) else {
                return false;
            };
            let after = rest.strip_prefix(self.folded[index].as_str());
            is_border(before) && after.is_some_and(|it| !it.starts_with(is_word))
        })
    }
}

/// Whether a name can begin behind `text`.
fn is_border(text: &str) -> bool {
    let mut before = text.chars().rev();
    match (before.next(), before.next()) {
        (Some('-' | '\''), Some(letter)) => !letter.is_alphabetic(),
        (Some(last), _) => !is_word(last),
        (None, _) => true,
    }
}

/// The same text for every way to write it: composed letters (NFC), no case, single spaces, plain hyphens and apostrophes, no
/// invisible marks.
pub fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    let composed = NFC.normalize(text.trim());
    for c in composed.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase) {
        match c {
            c if c.is_whitespace() => folded.extend((!folded.ends_with(' ')).then_some(' ')),
            '\u{2018}' | '\u{2019}' | '\u{2BC}' => folded.push('\''),
            '\u{2010}' | '\u{2011}' => folded.push('-'),
            // A soft hyphen, a zero-width space, and marks of the direction of text.
            '\u{AD}'
            | '\u{200B}'
            | '\u{200E}'
            | '\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2066}'..='\u{2069}'
            | '\u{FEFF}' => {}
            c => folded.push(c),
        }
    }
    folded
}

//! Finds what stands inside and outside of brackets.

use super::token::{Kind, Token};

/// A list has at most this many items.
const MAX_ITEMS: usize = 64;

/// The depth of brackets after each token. Any closing bracket closes any opening one: `[0, 1)` is an interval.
pub fn step(depth: usize, token: &Token) -> usize {
    match &token.kind {
        Kind::Symbol('(' | '[' | '{' | '⦃' | '⟨' | '⌊' | '⌈') => depth + 1,
        Kind::Symbol(')' | ']' | '}' | '⦄' | '⟩' | '⌋' | '⌉') => depth.saturating_sub(1),
        Kind::Name(name) if name.starts_with("begin:") => depth + 1,
        Kind::Name(name) if name.starts_with("end:") => depth.saturating_sub(1),
        _ => depth,
    }
}

/// Splits at the separators outside of all brackets; `None` if there are too many.
pub fn split(tokens: &[Token], separates: impl Fn(&Token) -> bool) -> Option<Vec<&[Token]>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (i, token) in tokens.iter().enumerate() {
        if depth == 0 && separates(token) {
            parts.push(&tokens[start..i]);
            start = i + 1;
        }
        depth = step(depth, token);
    }
    parts.push(&tokens[start..]);
    (parts.len() <= MAX_ITEMS).then_some(parts)
}

/// The tokens within one pair of brackets that encloses everything.
pub fn whole_group(tokens: &[Token], open: char, close: char) -> Option<&[Token]> {
    let (first, rest) = tokens.split_first()?;
    let (last, inner) = rest.split_last()?;
    let closed = || {
        let mut depth = 1;
        inner.iter().all(|it| {
            depth = step(depth, it);
            depth > 0
        })
    };
    (first.is(open) && last.is(close) && closed()).then_some(inner)
}

//! Python's `'%s' % value`.

use minijinja::{Error, Value};

use super::refused;
use super::value::{self, Python};

/// `%s`, `%r`, `%d`, `%i` and `%%`, with a width for those that are numbers.
pub fn format(pattern: &str, given: &Value) -> Result<String, Error> {
    let single = [given.clone()];
    let mut given = match Python::of(given) {
        Python::Tuple(items) => items,
        Python::Dict(_) => return Err(refused("`%` with a dict is not supported")),
        _ => &single,
    }
    .iter();
    let (mut out, mut rest) = (String::new(), pattern);
    while let Some((before, from)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = from.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let end = from.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| refused("a `%` without its letter"))?;
        let (width, from) = from.split_at(end);
        let mut letters = from.chars();
        let letter = letters.next();
        rest = letters.as_str();
        let value = given.next().ok_or_else(|| refused("`%` has too few values"))?;
        out.push_str(&field(letter, width, value)?);
    }
    match given.next() {
        Some(_) => Err(refused("`%` has too many values")),
        None => Ok(out + rest),
    }
}

fn field(letter: Option<char>, width: &str, value: &Value) -> Result<String, Error> {
    match (letter, Python::of(value).into_number()) {
        (Some('s'), _) if width.is_empty() => value::text(value),
        (Some('r'), _) if width.is_empty() => value::repr(value),
        (Some('d' | 'i'), Python::Int(number)) if width.len() < 3 => {
            let size = width.parse().unwrap_or(0);
            Ok(if width.starts_with('0') { format!("{number:0size$}") } else { format!("{number:size$}") })
        }
        (letter, value) => {
            let letter = letter.map(String::from).unwrap_or_default();
            Err(refused(format!("`%{width}{letter}` with {} is not supported", value.name())))
        }
    }
}

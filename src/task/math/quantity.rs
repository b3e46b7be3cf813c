//! A number or an expression with a unit, a currency or a percent sign.

use super::brackets::step;
use super::expr;
use super::token::{Kind, Token};
use super::tree::{Answer, Expr};
use super::units;

/// An expression, with a unit or without.
pub fn quantity(tokens: &[Token]) -> Option<Answer> {
    if let [Token { kind: Kind::Text(word), .. }] = tokens {
        return number_word(word).map(|n| Answer::value(Expr::integer(n)));
    }
    if let [Token { kind: Kind::Symbol(sign @ ('$' | '€' | '£')), .. }, rest @ ..] = tokens {
        let Answer::Value(amount, None) = quantity(rest)? else { return dollars(rest) };
        return Some(Answer::Value(amount, units::parse(&sign.to_string())));
    }
    if let [minus, Token { kind: Kind::Symbol('$'), .. }, rest @ ..] = tokens
        && minus.is('-')
    {
        return Some(Answer::Value(Expr::Negative(Box::new(expr::parse(rest)?)), units::parse("$")));
    }
    let start = unit_start(tokens);
    if let Some(start) = start {
        let (value, rest) = (expr::parse(&tokens[..start])?, unit_text(&tokens[start..])?);
        let (value, rest) = multiplied(value, &rest);
        if rest.is_empty() {
            return Some(Answer::value(value));
        }
        return Some(Answer::Value(value, Some(units::parse(&rest)?)));
    }
    expr::parse(tokens).map(Answer::value)
}

/// `$5 million` and `$5 dollars`.
fn dollars(tokens: &[Token]) -> Option<Answer> {
    match quantity(tokens)? {
        Answer::Value(amount, Some(unit)) if unit.dimension == "dollar" => Some(Answer::Value(amount, Some(unit))),
        _ => None,
    }
}

/// `5 million` is 5,000,000.
fn multiplied(value: Expr, unit: &str) -> (Expr, String) {
    let (first, rest) = unit.split_once(' ').unwrap_or((unit, ""));
    match units::multiplier(first) {
        Some(count) => (Expr::Product(vec![value, Expr::integer(count)]), rest.trim().to_owned()),
        None => (value, unit.to_owned()),
    }
}

pub(super) fn number_word(word: &str) -> Option<i64> {
    let words = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ];
    words.iter().position(|it| word.eq_ignore_ascii_case(it)).map(|n| n as i64)
}

/// Where the unit behind a number begins, if there is one.
fn unit_start(tokens: &[Token]) -> Option<usize> {
    let function = |it: &Token| matches!(&it.kind, Kind::Name(it) if !matches!(it.as_str(), "frac" | "sqrt" | "pi"));
    let (mut depth, mut function_seen) = (0, false);
    for (i, token) in tokens.iter().enumerate() {
        let rest = &tokens[i + 1..];
        let angle = token.is('°') || (token.is('^') && matches!(rest.first(), Some(it) if it.is('°')));
        let braced = token.is('^') && matches!(rest, [a, b, ..] if a.is('{') && b.is('°'));
        let begins = match &token.kind {
            Kind::Text(_) => true,
            Kind::Symbol('%') => rest.is_empty() || matches!(rest[0].kind, Kind::Text(_)),
            _ => (angle || braced) && rest.len() <= 4 && !function_seen,
        };
        // `5 m`: a letter behind a space, behind a number.
        let letter = match token.kind {
            Kind::Letter(it) => {
                let all_before = tokens[..i].iter().all(|it| matches!(it.kind, Kind::Number(_) | Kind::Symbol(_)));
                let after = rest.is_empty() || rest[0].is('/') || rest[0].is('^');
                "mgshLlNJWVAK".contains(it) && token.space && all_before && after
            }
            _ => false,
        };
        if i > 0 && depth == 0 && (begins || letter) {
            return Some(i);
        }
        function_seen |= function(token);
        depth = step(depth, token);
    }
    None
}

fn unit_text(tokens: &[Token]) -> Option<String> {
    let mut text = String::new();
    for token in tokens {
        match &token.kind {
            Kind::Text(word) => {
                if !text.is_empty() && !text.ends_with('/') {
                    text.push(' ');
                }
                text += word;
            }
            Kind::Letter(it) => text.push(*it),
            Kind::Number(it) => text += it,
            Kind::Symbol('^') if text.is_empty() => {}
            Kind::Symbol(it @ ('^' | '/' | '°' | '%')) => text.push(*it),
            Kind::Symbol('{' | '}' | '.') => {}
            _ => return None,
        }
    }
    Some(text)
}

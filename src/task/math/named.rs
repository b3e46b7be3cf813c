//! Answers in an environment or with a name: matrices, the empty set, the real numbers.

use super::brackets::split;
use super::expr;
use super::token::{Kind, Token};
use super::tree::{Answer, Bracket, Expr, Joint};

/// The set without members.
pub fn empty_set() -> Answer {
    Answer::List { open: Bracket::Curly, close: Bracket::Curly, joint: Joint::Comma, items: vec![] }
}

/// All real numbers, as an interval.
pub fn reals() -> Answer {
    let end = |expr| Answer::value(expr);
    let items = vec![end(Expr::Negative(Box::new(Expr::Infinity))), end(Expr::Infinity)];
    Answer::List { open: Bracket::Round, close: Bracket::Round, joint: Joint::Comma, items }
}

/// `∅` and `ℝ`.
pub fn set_name(tokens: &[Token]) -> Option<Answer> {
    let [Token { kind: Kind::Name(name), .. }] = tokens else { return None };
    match name.as_str() {
        "emptyset" => Some(empty_set()),
        "mathbb:R" => Some(reals()),
        _ => None,
    }
}

/// Environments of matrices, and of vectors.
pub fn matrix(tokens: &[Token]) -> Option<Answer> {
    let (first, rest) = tokens.split_first()?;
    let (last, inner) = rest.split_last()?;
    let environment = |token: &Token, side: &str| match &token.kind {
        Kind::Name(name) => name.strip_prefix(side).map(str::to_owned),
        _ => None,
    };
    let name = environment(first, "begin:")?;
    if environment(last, "end:")? != name
        || !matches!(name.as_str(), "pmatrix" | "bmatrix" | "matrix" | "Bmatrix" | "array")
    {
        return None;
    }
    // `\begin{array}{cc}` begins with the alignment of its columns.
    let inner = match inner.iter().position(|it| it.is('}')) {
        Some(end) if name == "array" && inner[0].is('{') => &inner[end + 1..],
        _ => inner,
    };
    let rows = split(inner, |it| it.is('⏎'))?.into_iter().filter(|it| !it.is_empty());
    let row = |row: &[Token]| split(row, |it| it.is('&'))?.into_iter().map(expr::parse).collect::<Option<Vec<_>>>();
    let rows = rows.map(row).collect::<Option<Vec<_>>>()?;
    let even = rows.iter().all(|it| it.len() == rows[0].len());
    (even && !rows.is_empty()).then_some(Answer::Matrix(rows))
}

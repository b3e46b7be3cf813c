//! From text to a whole answer: relations, lists, intervals, sets, matrices, quantities with units, or words.

use super::brackets::{split, step, whole_group};
use super::expr;
use super::named::{empty_set, matrix, reals, set_name};
use super::quantity::quantity;
use super::token::{self, Kind, Token};
use super::tree::{Answer, Bracket, Expr, Joint, Relation};

/// Lists in lists nest at most this deep.
const MAX_DEPTH: usize = 8;

/// An answer, with its symbols in one spelling.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub answer: Answer,
    /// The tokens as text: two answers with the same key are the same.
    pub key: String,
}

/// Reads an answer. Every text is one: what is not understood is [`Answer::Opaque`].
pub fn parse(text: &str) -> Parsed {
    let text = trim(text);
    if text.len() > token::MAX_BYTES {
        return Parsed { answer: Answer::Opaque(text.into()), key: text.into() };
    }
    let tokens = token::tokens(without_remark(text));
    Parsed { answer: read(&tokens, 0), key: key(&tokens) }
}

/// Cuts white space, emphasis and the punctuation of a sentence off both ends.
pub fn trim(text: &str) -> &str {
    let end = |c: char| c.is_whitespace() || matches!(c, '.' | ',' | ';' | ':' | '*' | '"' | '`' | '。' | '?' | '_');
    let start = |c: char| c.is_whitespace() || matches!(c, ':' | '*' | '"' | '`' | ',' | ';');
    let cut = text.trim_start_matches(start);
    let short = cut.trim_end_matches(end);
    // `…` at the end is a part of the answer.
    let dots = cut.get(short.len()..).is_some_and(|rest| rest.starts_with("..."));
    let short = if dots { &cut[..short.len() + 3] } else { short };
    // A backslash belongs to the space that was cut off behind it.
    if cut.len() > short.len() && short.ends_with('\\') { &short[..short.len() - 1] } else { short }
}

/// The text without a remark such as "(not 6)" at its end.
pub fn without_remark(text: &str) -> &str {
    match text.rfind("(not ") {
        Some(at) if at > 0 && text.ends_with(')') && !text[at..text.len() - 1].contains(')') => text[..at].trim_end(),
        _ => text,
    }
}

/// The tokens as text, without white space.
pub(super) fn key(tokens: &[Token]) -> String {
    let mut key = String::new();
    for token in tokens {
        match &token.kind {
            Kind::Number(it) => {
                key.push('#');
                key += it;
            }
            Kind::Letter(it) | Kind::Symbol(it) => key.push(*it),
            Kind::Name(it) => {
                key.push('\\');
                key += it;
                key.push(' ');
            }
            Kind::Text(it) => {
                key += it;
                key.push(' ');
            }
        }
    }
    key
}

/// Letters and digits of the tokens in lower case, without spaces and punctuation.
fn words(tokens: &[Token]) -> String {
    let keep = |c: &char| c.is_alphanumeric() || "+-/".contains(*c);
    key(tokens).chars().filter(keep).collect::<String>().to_lowercase()
}

/// Whether the tokens are words rather than a formula.
fn is_text(tokens: &[Token]) -> bool {
    let wordy = |it: &Token| match it.kind {
        Kind::Text(_) | Kind::Letter(_) | Kind::Number(_) => true,
        Kind::Symbol(it) => "(){},.:;'-/!?&".contains(it),
        Kind::Name(ref it) => matches!(it.as_str(), "and" | "or") || !it.contains(':'),
    };
    tokens.iter().any(|it| matches!(it.kind, Kind::Text(_))) && tokens.iter().all(wordy)
}

fn read(tokens: &[Token], depth: usize) -> Answer {
    if depth < MAX_DEPTH
        && let Some(answer) = understood(tokens, depth)
    {
        return answer;
    }
    if let Some(answer) = all_reals(tokens) {
        return answer;
    }
    if is_text(tokens) { Answer::Text(words(tokens)) } else { Answer::Opaque(key(tokens)) }
}

fn understood(tokens: &[Token], depth: usize) -> Option<Answer> {
    if depth > MAX_DEPTH {
        return None;
    }
    if let [Token { kind: Kind::Symbol('…'), .. }] = tokens {
        return Some(Answer::Dots);
    }
    if let Some(letter) = choice(tokens) {
        return Some(Answer::value(Expr::Variable(letter.into())));
    }
    if let Some(inner) = whole_group(tokens, '{', '}') {
        let items = split(inner, |it| it.is(','))?;
        return if items.len() > 1 {
            list(&items, Bracket::Curly, Bracket::Curly, depth)
        } else {
            understood(inner, depth + 1)
        };
    }
    if let Some((joint, items)) = joined(tokens)? {
        let Answer::List { open, close, items, .. } = list(&items, Bracket::Bare, Bracket::Bare, depth)? else {
            return None;
        };
        return Some(Answer::List { open, close, joint, items });
    }
    if tokens.iter().any(|it| it.is('±') || it.is('∓')) {
        return both_signs(tokens, depth);
    }
    let parts = split(tokens, |it| it.is('∪'))?;
    if parts.len() > 1 {
        return Some(Answer::Union(parts.iter().map(|it| known(it, depth + 1)).collect::<Option<_>>()?));
    }
    if let [Token { kind: Kind::Letter(_), .. }, Token { kind: Kind::Symbol('∈'), .. }, rest @ ..] = tokens {
        return known(rest, depth + 1);
    }
    if let Some(residue) = residue(tokens) {
        return Some(residue);
    }
    related(tokens, depth)
        .or_else(|| bracketed(tokens, depth))
        .or_else(|| matrix(tokens))
        .or_else(|| set_name(tokens))
        .or_else(|| ratio(tokens))
        .or_else(|| quantity(tokens))
}

/// The letter of "B) Paris", "B. Paris", "B: Paris" and "(B) 12".
fn choice(tokens: &[Token]) -> Option<&str> {
    let letter = |it: &Token| matches!(it.kind, Kind::Letter('A'..='H'));
    let letters = ["A", "B", "C", "D", "E", "F", "G", "H"];
    let named = |it: &Token| match it.kind {
        Kind::Letter(it) => letters.into_iter().find(|known| known.starts_with(it)),
        _ => None,
    };
    match tokens {
        [first, close, _, ..] if letter(first) && close.is(')') => named(first),
        [first, dot, Token { kind: Kind::Text(_), .. }, ..] if letter(first) && (dot.is('.') || dot.is(':')) => {
            named(first)
        }
        [Token { kind: Kind::Text(word), .. }, _, ..] => {
            letters.into_iter().find(|it| word.strip_prefix('(').and_then(|it| it.strip_suffix(')')) == Some(it))
        }
        _ => None,
    }
}

/// `4:3` is 4/3. What can be a time of day, such as 3:30, is no ratio.
fn ratio(tokens: &[Token]) -> Option<Answer> {
    let parts = split(tokens, |it| it.is(':'))?;
    let [before, after] = parts.as_slice() else { return None };
    let digits = |part: &[Token]| match part {
        [Token { kind: Kind::Number(it), .. }] => it.len(),
        _ => 0,
    };
    if matches!(digits(before), 1 | 2) && digits(after) == 2 {
        return None;
    }
    let (before, after) = (expr::parse(before)?, expr::parse(after)?);
    let variables = before.has_variables() || after.has_variables();
    (!variables).then(|| Answer::value(Expr::Product(vec![before, Expr::Inverse(Box::new(after))])))
}

/// `x \equiv 3 \pmod{5}` and `3 \bmod 5`: equal if residue and modulus are written alike.
fn residue(tokens: &[Token]) -> Option<Answer> {
    let name = |it: &Token, wanted: &str| matches!(&it.kind, Kind::Name(it) if it == wanted);
    let at = tokens.iter().position(|it| name(it, "pmod") || name(it, "bmod"))?;
    let (value, modulus) = (&tokens[..at], &tokens[at + 1..]);
    let value = match value {
        [Token { kind: Kind::Letter(_), .. }, is, rest @ ..] if name(is, "equiv") => rest,
        all => all,
    };
    let modulus = whole_group(modulus, '{', '}').unwrap_or(modulus);
    let single = |part: &[Token]| matches!(part, [Token { kind: Kind::Number(_), .. }]);
    let negative = value.first().is_some_and(|it| it.is('-'));
    let residue = single(&value[usize::from(negative)..]) && single(modulus);
    residue.then(|| Answer::Opaque(format!("{} mod {}", key(value), key(modulus))))
}

/// `\{x \in \mathbb{R} : x > 2\}` is x > 2. `inner` stands in the braces.
fn set_builder(inner: &[Token], depth: usize) -> Option<Answer> {
    let at = inner.iter().position(|it| it.is('|') || it.is(':'))?;
    let (head, rule) = (&inner[..at], &inner[at + 1..]);
    let real = |it: &Token| it.kind == Kind::Name("mathbb:R".into());
    let name = match head {
        [name] => name,
        [name, within, set] if within.is('∈') && real(set) => name,
        _ => return None,
    };
    // The name of a whole number often stands for whole numbers only.
    let Kind::Letter(letter) = name.kind else { return None };
    if "ijkmnN".contains(letter) {
        return None;
    }
    let answer = known(rule, depth + 1)?;
    let about = |it: &Answer| match it {
        Answer::Related(sides, _) => {
            sides.iter().any(|it| matches!(it, Answer::Value(Expr::Variable(it), None) if it.starts_with(letter)))
        }
        _ => false,
    };
    match &answer {
        Answer::List { joint: Joint::Or, items, .. } if items.iter().all(about) => Some(answer),
        Answer::Related(..) if about(&answer) => Some(answer),
        _ => None,
    }
}

/// An answer that is understood as mathematics or words.
fn known(tokens: &[Token], depth: usize) -> Option<Answer> {
    match read(tokens, depth) {
        Answer::Opaque(_) => None,
        answer => Some(answer),
    }
}

/// Several answers with commas, "and" or "or" between them.
#[allow(clippy::type_complexity)]
fn joined(tokens: &[Token]) -> Option<Option<(Joint, Vec<&[Token]>)>> {
    let name = |it: &Token, name: &str| matches!(&it.kind, Kind::Name(it) if it == name);
    let separates = |it: &Token| it.is(',') || it.is(';') || name(it, "and") || name(it, "or");
    let items: Vec<_> = split(tokens, separates)?.into_iter().filter(|it| !it.is_empty()).collect();
    if items.len() < 2 {
        return Some(None);
    }
    let joint = match () {
        () if tokens.iter().any(|it| name(it, "or")) => Joint::Or,
        () if tokens.iter().any(|it| name(it, "and")) => Joint::And,
        () => Joint::Comma,
    };
    Some(Some((joint, items)))
}

fn list(items: &[&[Token]], open: Bracket, close: Bracket, depth: usize) -> Option<Answer> {
    let items = items.iter().map(|it| known(it, depth + 1)).collect::<Option<Vec<_>>>()?;
    // "We add and get x = 5" is a sentence, not a list of answers.
    let words = |it: &Answer| matches!(it, Answer::Text(_));
    if open == Bracket::Bare && items.iter().any(words) && !items.iter().all(words) {
        return None;
    }
    Some(Answer::List { open, close, joint: Joint::Comma, items })
}

/// `1 ± x` is two answers. Several signs change together.
fn both_signs(tokens: &[Token], depth: usize) -> Option<Answer> {
    let with = |plus: char, minus: char| {
        let choose = |it: &Token| match it.kind {
            Kind::Symbol('±') => Token { kind: Kind::Symbol(plus), space: it.space },
            Kind::Symbol('∓') => Token { kind: Kind::Symbol(minus), space: it.space },
            _ => it.clone(),
        };
        known(&tokens.iter().map(choose).collect::<Vec<_>>(), depth + 1)
    };
    let items = vec![with('+', '-')?, with('-', '+')?];
    Some(Answer::List { open: Bracket::Bare, close: Bracket::Bare, joint: Joint::Or, items })
}

fn relation(token: &Token) -> Option<Relation> {
    Some(match token.kind {
        Kind::Symbol('=') => Relation::Equal,
        Kind::Symbol('≠') => Relation::NotEqual,
        Kind::Symbol('<') => Relation::Less,
        Kind::Symbol('≤') => Relation::LessOrEqual,
        Kind::Symbol('>') => Relation::Greater,
        Kind::Symbol('≥') => Relation::GreaterOrEqual,
        Kind::Symbol('≈') => Relation::Approximately,
        _ => return None,
    })
}

fn related(tokens: &[Token], depth: usize) -> Option<Answer> {
    let sides = split(tokens, |it| relation(it).is_some())?;
    if sides.len() < 2 {
        return None;
    }
    let mut level = 0;
    let mut relations = Vec::new();
    for token in tokens {
        relations.extend(relation(token).filter(|_| level == 0));
        level = step(level, token);
    }
    // "= 5" has an empty left side.
    if let ([[], side], [Relation::Equal | Relation::Approximately]) = (sides.as_slice(), relations.as_slice()) {
        return known(side, depth + 1);
    }
    // The name of an angle only says what is measured.
    let angle = |side: &[Token]| side.iter().any(|it| it.kind == Kind::Name("angle".into()));
    let derivative = |side: &[Token]| matches!(side, [Token { kind: Kind::Letter(_), .. }, prime, .., close] if (prime.is('\'') || prime.is('′')) && close.is(')'));
    let side = |side: &&[Token]| {
        if derivative(side) {
            Some(Answer::Text(key(side)))
        } else if angle(side) {
            Some(Answer::Text(words(side)))
        } else {
            known(side, depth + 1)
        }
    };
    let sides = sides.iter().map(side).collect::<Option<Vec<_>>>()?;
    Some(Answer::Related(sides, relations))
}

fn bracketed(tokens: &[Token], depth: usize) -> Option<Answer> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    let Kind::Symbol(open) = first.kind else { return None };
    let Kind::Symbol(close) = last.kind else { return None };
    let inner = whole_group(tokens, open, close)?;
    let bracket = |symbol| match symbol {
        '(' | ')' | '⟨' | '⟩' => Some(Bracket::Round),
        '[' | ']' => Some(Bracket::Square),
        '⦃' | '⦄' => Some(Bracket::Curly),
        _ => None,
    };
    let (open, close) = (bracket(open)?, bracket(close)?);
    if (open == Bracket::Curly) != (close == Bracket::Curly) {
        return None;
    }
    let mut items = split(inner, |it| it.is(','))?;
    if items.len() == 1 {
        items = split(inner, |it| it.is(';'))?;
    }
    if items.len() == 1 && open == Bracket::Curly {
        if inner.is_empty() {
            return Some(empty_set());
        }
        // `{x | x > 0}` is a rule, not a list.
        let rule = inner.iter().any(|it| it.is('|') || it.is(':'));
        return if rule { set_builder(inner, depth) } else { list(&items, open, close, depth) };
    }
    if items.len() > 1 {
        return list(&items, open, close, depth);
    }
    // A pair of brackets around an answer, as in (x = 5) or (B).
    match (open, close, understood(inner, depth + 1)?) {
        (Bracket::Round, Bracket::Round, Answer::Value(..)) => None,
        (Bracket::Round, Bracket::Round, answer) => Some(answer),
        (Bracket::Square, Bracket::Square, matrix @ Answer::Matrix(_)) => Some(matrix),
        _ => None,
    }
}

fn all_reals(tokens: &[Token]) -> Option<Answer> {
    let text = words(tokens);
    matches!(text.as_str(), "allrealnumbers" | "allreals" | "allrealnumbersx").then(reals)
}

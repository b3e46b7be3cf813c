//! Methods of Python's strings, lists and dicts. Those that change a list or a dict are refused, as transformers refuses them.

use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, State, Value};

use super::value::{self, Python, View};
use super::{bounds, method_names, operators, refused};

pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_function("()", call);
}

/// `args[0].args[1](args[2..])`.
fn call(state: &State, args: Rest<Value>) -> Result<Value, Error> {
    let [object, name, given @ ..] = &args[..] else { return Err(refused("a method call without a method")) };
    let name = value::string(name)?;
    let unknown = || refused(format!("the method `{name}` of {} is not supported", Python::of(object).name()));
    match Python::of(object) {
        Python::Undefined => Err(refused(format!("`.{name}()` of an undefined value"))),
        Python::Str(_) => of_string(value::string(object)?, name, given)?.ok_or_else(unknown),
        Python::Dict(dict) => match (name, given) {
            ("items", []) => {
                let pair =
                    |(key, value): (&Value, &Value)| Value::from_object(value::Tuple(vec![key.clone(), value.clone()]));
                Ok(Value::from_object(View(dict.iter().map(pair).collect())))
            }
            ("keys", []) => Ok(Value::from_object(View(dict.keys().cloned().collect()))),
            ("values", []) => Ok(Value::from_object(View(dict.values().cloned().collect()))),
            ("get", [key]) => Ok(dict.get(key).cloned().unwrap_or(Value::from(()))),
            ("get", [key, default]) if !default.is_kwargs() => Ok(dict.get(key).unwrap_or(default).clone()),
            ("copy", []) => Ok(object.clone()),
            _ if method_names::exists(object, name) => Err(unknown()),
            _ => operators::attribute(object, name)?.call(state, given),
        },
        Python::List(items) => of_items(&items, name, given)?.ok_or_else(unknown),
        Python::Tuple(items) => of_items(items, name, given)?.ok_or_else(unknown),
        Python::Other => match object.get_attr(name) {
            Ok(function) if !function.is_undefined() => function.call(state, given),
            _ => object.call_method(state, name, given),
        },
        _ => Err(unknown()),
    }
}

fn of_items(items: &[Value], name: &str, given: &[Value]) -> Result<Option<Value>, Error> {
    let [wanted] = given else { return Ok(None) };
    let are_equal = items.iter().map(|it| operators::equal(it, wanted)).collect::<Result<Vec<_>, _>>()?;
    Ok(match name {
        "count" => Some(are_equal.into_iter().filter(|&it| it).count().into()),
        "index" => Some(
            are_equal
                .into_iter()
                .position(|it| it)
                .map(Value::from)
                .ok_or_else(|| refused("`index` of what is not there"))?,
        ),
        _ => None,
    })
}

fn of_string(text: &str, name: &str, given: &[Value]) -> Result<Option<Value>, Error> {
    if name == "format" {
        return format(text, given).map(|it| Some(it.into()));
    }
    if ["split", "rsplit"].contains(&name) {
        return split(text, name, given).map(Some);
    }
    let arguments = given.iter().map(Python::of).collect::<Vec<_>>();
    Ok(Some(match (name, &arguments[..]) {
        ("strip", ends) => strip(text, ends, true, true)?.into(),
        ("lstrip", ends) => strip(text, ends, true, false)?.into(),
        ("rstrip", ends) => strip(text, ends, false, true)?.into(),
        ("lower", []) => text.to_lowercase().into(),
        ("upper", []) => text.to_uppercase().into(),
        ("capitalize", []) => capitalized(text)?.into(),
        ("title", []) => title(text)?.into(),
        ("startswith", [Python::Str(start)]) => text.starts_with(start).into(),
        ("endswith", [Python::Str(end)]) => text.ends_with(end).into(),
        ("startswith", [Python::Tuple(all)]) => any(all, |it| text.starts_with(it))?.into(),
        ("endswith", [Python::Tuple(all)]) => any(all, |it| text.ends_with(it))?.into(),
        ("replace", [Python::Str(from), Python::Str(to)]) => replaced(text, from, to, None)?.into(),
        ("replace", [Python::Str(from), Python::Str(to), Python::Int(count)]) => {
            replaced(text, from, to, usize::try_from(*count).ok())?.into()
        }
        ("removeprefix", [Python::Str(start)]) => text.strip_prefix(start).unwrap_or(text).into(),
        ("removesuffix", [Python::Str(end)]) => text.strip_suffix(end).unwrap_or(text).into(),
        ("count", [Python::Str(part)]) if !part.is_empty() => text.matches(part).count().into(),
        ("find", [Python::Str(part)]) => position(text, text.find(part)).into(),
        ("rfind", [Python::Str(part)]) => position(text, text.rfind(part)).into(),
        ("index", [Python::Str(part)]) if text.contains(part) => position(text, text.find(part)).into(),
        ("rindex", [Python::Str(part)]) if text.contains(part) => position(text, text.rfind(part)).into(),
        ("join", [_]) => {
            let parts = value::items(&given[0])?;
            let parts = parts.iter().map(value::string).collect::<Result<Vec<_>, _>>()?;
            joined(&parts, text)?.into()
        }
        ("splitlines", []) => lines(text)?.into(),
        ("partition", [Python::Str(at)]) if !at.is_empty() => match text.split_once(at) {
            Some((before, after)) => three(before, at, after),
            None => three(text, "", ""),
        },
        ("rpartition", [Python::Str(at)]) if !at.is_empty() => match text.rsplit_once(at) {
            Some((before, after)) => three(before, at, after),
            None => three("", "", text),
        },
        ("isdigit", []) if text.is_ascii() => every(text, |c| c.is_ascii_digit()).into(),
        ("isalpha", []) if text.is_ascii() => every(text, |c| c.is_ascii_alphabetic()).into(),
        ("isalnum", []) if text.is_ascii() => every(text, |c| c.is_ascii_alphanumeric()).into(),
        ("isspace", []) => every(text, is_space).into(),
        ("isupper", []) if text.is_ascii() => {
            (text.contains(|c: char| c.is_ascii_uppercase()) && !text.contains(|c: char| c.is_ascii_lowercase())).into()
        }
        ("islower", []) if text.is_ascii() => {
            (text.contains(|c: char| c.is_ascii_lowercase()) && !text.contains(|c: char| c.is_ascii_uppercase())).into()
        }
        ("ljust", [Python::Int(width)]) => (text.to_owned() + &padding(text, *width)?).into(),
        ("rjust", [Python::Int(width)]) => (padding(text, *width)? + text).into(),
        _ => return Ok(None),
    }))
}

fn any(all: &[Value], matches: impl Fn(&str) -> bool) -> Result<bool, Error> {
    let all = all.iter().map(value::string).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().any(matches))
}

fn every(text: &str, is: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(is)
}

fn three(before: &str, at: &str, after: &str) -> Value {
    Value::from_object(value::Tuple([before, at, after].map(Value::from).to_vec()))
}

/// A position in characters; -1 if there is none.
fn position(text: &str, at: Option<usize>) -> i64 {
    at.map_or(-1, |at| text[..at].chars().count() as i64)
}

fn padding(text: &str, width: i128) -> Result<String, Error> {
    let width = usize::try_from(width.clamp(0, 1 << 16)).unwrap_or_default();
    let missing = width.saturating_sub(text.chars().count());
    bounds::charge(missing)?;
    Ok(" ".repeat(missing))
}

/// `str.replace`, at the first `count` places or at all.
pub fn replaced(text: &str, from: &str, to: &str, count: Option<usize>) -> Result<String, Error> {
    let count = count.unwrap_or(usize::MAX);
    bounds::charge(text.matches(from).take(count).count().saturating_mul(to.len()))?;
    Ok(text.replacen(from, to, count))
}

/// `str.join`.
pub fn joined(parts: &[impl AsRef<str>], between: &str) -> Result<String, Error> {
    bounds::charge(parts.len().saturating_mul(between.len()))?;
    Ok(parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(between))
}

/// What `str.isspace` accepts.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.strip` and its one-sided forms.
pub fn strip<'t>(text: &'t str, ends: &[Python], left: bool, right: bool) -> Result<&'t str, Error> {
    let chars = match ends {
        [] | [Python::None] => None,
        [Python::Str(chars)] => Some(*chars),
        _ => return Err(refused("`strip` takes one string")),
    };
    let is_end = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(is_end) } else { text };
    Ok(if right { text.trim_end_matches(is_end) } else { text })
}

/// `str.capitalize`.
pub fn capitalized(text: &str) -> Result<String, Error> {
    let mut chars = text.chars();
    let first = chars.next().map(upper_first).transpose()?;
    // As one text, because a final sigma depends on what is before it.
    let rest = text.to_lowercase().chars().skip(1).collect::<String>();
    Ok(first.map_or_else(String::new, |first| first.to_string() + &rest))
}

/// The title case of a character, where it is one character and that of its upper case.
fn upper_first(c: char) -> Result<char, Error> {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next(), c.to_lowercase().count()) {
        (Some(upper), None, 1) if !('\u{1c4}'..='\u{1f3}').contains(&c) && !('\u{10d0}'..='\u{10ff}').contains(&c) => {
            Ok(upper)
        }
        _ => Err(refused(format!("the title case of {c:?} is not supported"))),
    }
}

/// `str.title`.
fn title(text: &str) -> Result<String, Error> {
    let (mut out, mut inside) = (String::new(), false);
    for c in text.chars() {
        let is_cased = c.is_uppercase() || c.is_lowercase();
        if is_cased && c == 'Σ' {
            return Err(refused("the title case of a sigma is not supported"));
        }
        if is_cased && !inside {
            out.push(upper_first(c)?);
        } else {
            out.extend(c.to_lowercase());
        }
        inside = is_cased;
    }
    Ok(out)
}

/// `str.splitlines`.
fn lines(text: &str) -> Result<Vec<Value>, Error> {
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let text = text.replace("\r\n", "\n");
    bounds::charge_items(text.matches(is_end).count())?;
    let mut all: Vec<_> = text.split(is_end).map(Value::from).collect();
    if text.is_empty() || text.ends_with(is_end) {
        all.pop();
    }
    Ok(all)
}

/// `str.split` and `str.rsplit`.
fn split(text: &str, name: &str, given: &[Value]) -> Result<Value, Error> {
    let wrong = || refused(format!("`{name}` takes a separator and a number of splits"));
    let (given, named) = match given.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Some(Kwargs::try_from(last.clone())?)),
        _ => (given, None),
    };
    let by_name = |key: &str| named.as_ref().and_then(|named| named.get::<Value>(key).ok());
    let (at, most) = match given {
        [] => (by_name("sep"), by_name("maxsplit")),
        [at] => (Some(at.clone()), by_name("maxsplit")),
        [at, most] => (Some(at.clone()), Some(most.clone())),
        _ => return Err(wrong()),
    };
    if let Some(named) = &named {
        named.assert_all_used()?;
    }
    let most = match most.as_ref().map(Python::of) {
        None => None,
        Some(Python::Int(most)) => usize::try_from(most).ok(),
        Some(_) => return Err(wrong()),
    };
    let parts: Vec<&str> = match (at.as_ref().map(Python::of), most) {
        (None | Some(Python::None), None) => text.split(is_space).filter(|it| !it.is_empty()).collect(),
        (Some(Python::Str(at)), most) if !at.is_empty() => match (name, most) {
            ("split", Some(most)) => text.splitn(most + 1, at).collect(),
            (_, Some(most)) => {
                let mut parts: Vec<_> = text.rsplitn(most + 1, at).collect();
                parts.reverse();
                parts
            }
            (_, None) => text.split(at).collect(),
        },
        _ => return Err(wrong()),
    };
    bounds::charge_items(parts.len())?;
    Ok(parts.into_iter().map(Value::from).collect::<Vec<_>>().into())
}

/// `str.format` with plain `{}`, `{0}` and `{name}`.
fn format(text: &str, given: &[Value]) -> Result<String, Error> {
    let (mut out, mut next, mut rest) = (String::new(), 0, text);
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let from = &rest[at..];
        if let Some(literal) = ["{{", "}}"].into_iter().find(|it| from.starts_with(it)) {
            out.push_str(&literal[..1]);
            rest = &from[2..];
            continue;
        }
        let end = from.find('}').filter(|&end| end > 0).ok_or_else(|| refused("a single brace in a format"))?;
        let field = &from[1..end];
        let found = match field.parse::<usize>() {
            _ if field.is_empty() => given.get(next),
            Ok(index) => given.get(index),
            Err(_) => None,
        };
        next += usize::from(field.is_empty());
        let found = match (found, given.last()) {
            (Some(found), _) if !found.is_kwargs() => found.clone(),
            (None, Some(last)) if last.is_kwargs() && !field.is_empty() => {
                Kwargs::try_from(last.clone())?.get::<Value>(field)?
            }
            _ => return Err(refused(format!("the format field {{{field}}} is not supported"))),
        };
        out.push_str(&value::text(&found)?);
        rest = &from[end + 1..];
    }
    Ok(out + rest)
}

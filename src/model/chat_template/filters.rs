//! Jinja2's filters.

use std::cmp::Ordering;
use std::mem::discriminant;

use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, State, Value};

use super::value::{self, Generator, Python, Tuple};
use super::{bounds, json, methods, operators, refused};

pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", |it: Value, options: Kwargs| json::dumps(&it, options));
    environment.add_filter("string", |it: Value| value::text(&it));
    environment.add_filter("safe", |it: Value| value::text(&it).map(Value::from_safe_string));
    environment.add_filter("trim", trim);
    environment.add_filter("lower", |it: Value| Ok::<_, Error>(printed(&it)?.to_lowercase()));
    environment.add_filter("upper", |it: Value| Ok::<_, Error>(printed(&it)?.to_uppercase()));
    environment.add_filter("capitalize", |it: Value| methods::capitalized(&printed(&it)?));
    environment.add_filter("title", |it: Value| title(&printed(&it)?));
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("format", format);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("abs", abs);
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    for name in ["length", "count"] {
        environment.add_filter(name, |it: Value| value::length(&it));
    }
    environment.add_filter("list", |it: Value| value::items(&it));
    environment.add_filter("first", first);
    environment.add_filter("last", last);
    environment.add_filter("reverse", reverse);
    environment.add_filter("join", join);
    environment.add_filter("items", items);
    environment.add_filter("sort", sort);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("unique", unique);
    environment.add_filter("map", map);
    environment
        .add_filter("select", |state: &State, it: Value, args: Rest<Value>| select(state, &it, None, &args, true));
    environment
        .add_filter("reject", |state: &State, it: Value, args: Rest<Value>| select(state, &it, None, &args, false));
    environment.add_filter("selectattr", |state: &State, it: Value, attribute: Value, args: Rest<Value>| {
        select(state, &it, Some(&attribute), &args, true)
    });
    environment.add_filter("rejectattr", |state: &State, it: Value, attribute: Value, args: Rest<Value>| {
        select(state, &it, Some(&attribute), &args, false)
    });
}

/// The text that Jinja2's filters of text make of any value.
fn printed(value: &Value) -> Result<String, Error> {
    if value.is_safe() {
        return Err(refused("a string marked as safe can only be printed"));
    }
    value::text(value)
}

fn trim(value: Value, chars: Option<Value>) -> Result<String, Error> {
    let chars: Vec<_> = chars.iter().map(Python::of).collect();
    methods::strip(&printed(&value)?, &chars, true, true).map(str::to_owned)
}

/// Jinja2's own: a word begins after white space, a hyphen or an opening bracket.
fn title(text: &str) -> Result<String, Error> {
    let is_border = |c: char| methods::is_space(c) || "-({[<".contains(c);
    let words = text.split_inclusive(is_border).map(|word| {
        let border = word.chars().next_back().filter(|&c| is_border(c)).map_or(0, char::len_utf8);
        let (word, border) = word.split_at(word.len() - border);
        Ok(methods::capitalized(word)? + border)
    });
    words.collect()
}

fn replace(value: Value, from: Value, to: Value, count: Option<i64>) -> Result<String, Error> {
    let (text, from, to) = (printed(&value)?, value::string(&from)?, value::string(&to)?);
    methods::replaced(&text, from, to, count.and_then(|count| usize::try_from(count).ok()))
}

fn indent(
    value: Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let text = value::string(&value)?;
    let width = width.or(options.get("width")?);
    let indent = match width.as_ref().map(Python::of) {
        None => "    ".to_owned(),
        Some(Python::Int(width)) => " ".repeat(usize::try_from(width.clamp(0, 64)).unwrap_or_default()),
        Some(Python::Str(indent)) => indent.to_owned(),
        Some(other) => return Err(refused(format!("an indent that is {}", other.name()))),
    };
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = blank.or(options.get("blank")?).unwrap_or(false);
    options.assert_all_used()?;
    let line = |(i, line): (usize, &str)| match (i, line) {
        (0, line) if !first => line.to_owned(),
        (i, "") if i > 0 && !blank => String::new(),
        (_, line) => format!("{indent}{line}"),
    };
    if text
        .contains(|c: char| matches!(c, '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'))
    {
        return Err(refused("`indent` of a text with an unusual end of line"));
    }
    bounds::charge(text.split('\n').count().saturating_mul(indent.len()))?;
    Ok(text.split('\n').enumerate().map(line).collect::<Vec<_>>().join("\n"))
}

fn format(pattern: Value, args: Rest<Value>) -> Result<String, Error> {
    super::percent::format(value::string(&pattern)?, &Value::from_object(Tuple(args.to_vec())))
}

fn int(value: Value, default: Option<Value>) -> Result<Value, Error> {
    let default = default.unwrap_or(Value::from(0));
    Ok(match Python::of(&value).into_number() {
        Python::Int(_) => Value::from(i64::try_from(value).map_err(|_| refused("`int` of a large number"))?),
        Python::Float(it) if it.abs() < 1e15 => Value::from(it as i64),
        Python::Str(text) => match decimal(text, "int")? {
            Some(number) if number.abs() < 1e15 => (number as i64).into(),
            Some(_) => return Err(refused("`int` of a large number")),
            None => default,
        },
        Python::None | Python::List(_) | Python::Tuple(_) | Python::Dict(_) => default,
        other => return Err(refused(format!("`int` of {}", other.name()))),
    })
}

/// The number that a text is; `None` if it is none.
fn decimal(text: &str, filter: &str) -> Result<Option<f64>, Error> {
    let text = methods::strip(text, &[], true, true)?;
    let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.".contains(&b));
    let words = ["nan", "inf", "infinity"];
    let may_be_one =
        text.contains(char::is_numeric) || words.contains(&text.trim_matches(['+', '-']).to_lowercase().as_str());
    match text.parse() {
        Ok(number) if is_plain => Ok(Some(number)),
        // With digits of other scripts, underscores or exponents.
        _ if may_be_one => Err(refused(format!("`{filter}` of {text:?} is not supported"))),
        _ => Ok(None),
    }
}

fn float(value: Value, default: Option<Value>) -> Result<Value, Error> {
    let default = default.unwrap_or(Value::from(0.0));
    Ok(match Python::of(&value).into_number() {
        Python::Int(it) => Value::from(it as f64),
        Python::Float(_) => value,
        Python::Str(text) => decimal(text, "float")?.map_or(default, Value::from),
        Python::None | Python::List(_) | Python::Tuple(_) | Python::Dict(_) => default,
        other => return Err(refused(format!("`float` of {}", other.name()))),
    })
}

fn abs(value: Value) -> Result<Value, Error> {
    match Python::of(&value).into_number() {
        Python::Int(it) => i64::try_from(it.abs()).map(Value::from).map_err(|_| refused("`abs` of a large number")),
        Python::Float(it) => Ok(it.abs().into()),
        other => Err(refused(format!("`abs` of {}", other.name()))),
    }
}

fn default(value: Value, default: Option<Value>, boolean: Option<bool>, options: Kwargs) -> Result<Value, Error> {
    let boolean = boolean.or(options.get("boolean")?).unwrap_or(false);
    let default = default.or(options.get("default_value")?);
    options.assert_all_used()?;
    let is_missing = value.is_undefined() || (boolean && !value.is_true());
    Ok(if is_missing { default.unwrap_or_else(|| Value::from("")) } else { value })
}

fn first(value: Value) -> Result<Value, Error> {
    let first = match Python::of(&value) {
        Python::Generator(generator) => generator.next(),
        _ => value::items(&value)?.into_iter().next(),
    };
    Ok(first.unwrap_or(Value::UNDEFINED))
}

fn last(value: Value) -> Result<Value, Error> {
    if let Python::Generator(_) = Python::of(&value) {
        return Err(refused("`last` of a generator"));
    }
    Ok(value::items(&value)?.into_iter().next_back().unwrap_or(Value::UNDEFINED))
}

fn reverse(value: Value) -> Result<Value, Error> {
    match Python::of(&value) {
        Python::Str(_) => Ok(value::string(&value)?.chars().rev().collect::<String>().into()),
        Python::List(_) | Python::Tuple(_) | Python::View(_) | Python::Generator(_) => {
            let mut items = value::items(&value)?;
            items.reverse();
            Ok(Value::from_object(Generator::new(items)))
        }
        other => Err(refused(format!("`reverse` of {}", other.name()))),
    }
}

fn join(value: Value, between: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let between = between.or(options.get("d")?);
    let between = between.map(|it| printed(&it)).transpose()?.unwrap_or_default();
    let attribute: Option<Value> = options.get("attribute")?;
    options.assert_all_used()?;
    let text = |item: Value| match &attribute {
        Some(path) => printed(&at_path(&item, path)?),
        None => printed(&item),
    };
    let parts = value::items(&value)?.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    methods::joined(&parts, &between)
}

fn items(value: Value) -> Result<Value, Error> {
    match Python::of(&value) {
        Python::Undefined => Ok(Value::from_object(Generator::new(Vec::new()))),
        Python::Dict(dict) => Ok(Value::from_object(Generator::new(pairs(dict.iter())))),
        other => Err(refused(format!("`items` of {}", other.name()))),
    }
}

fn pairs<'a>(entries: impl Iterator<Item = (&'a Value, &'a Value)>) -> Vec<Value> {
    entries.map(|(key, value)| Value::from_object(Tuple(vec![key.clone(), value.clone()]))).collect()
}

/// As Jinja2 sorts: without regard to case, unless asked.
fn sort(value: Value, reverse: Option<bool>, options: Kwargs) -> Result<Value, Error> {
    let reverse = reverse.or(options.get("reverse")?).unwrap_or(false);
    let with_case = options.get::<Option<bool>>("case_sensitive")?.unwrap_or(false);
    let attribute: Option<Value> = options.get("attribute")?;
    options.assert_all_used()?;
    let keyed = value::items(&value)?.into_iter().map(|item| {
        let key = attribute.as_ref().map_or_else(|| Ok(item.clone()), |path| at_path(&item, path))?;
        Ok((folded(key, with_case), item))
    });
    Ok(sorted(keyed.collect::<Result<_, Error>>()?, reverse)?.into())
}

fn folded(key: Value, with_case: bool) -> Value {
    match key.as_str() {
        Some(text) if !with_case => Value::from(text.to_lowercase()),
        _ => key,
    }
}

/// What can be sorted. Between values of several types and with NaN there is no order, and the standard library's sort may panic.
#[derive(PartialEq, PartialOrd)]
enum SortKey {
    Int(i128),
    Float(f64),
    Text(String),
}

impl SortKey {
    fn of(value: &Value) -> Result<Self, Error> {
        match Python::of(value).into_number() {
            Python::Int(it) => Ok(Self::Int(it)),
            Python::Float(it) if !it.is_nan() => Ok(Self::Float(it)),
            Python::Str(_) => Ok(Self::Text(value::string(value)?.to_owned())),
            other => Err(refused(format!("`sort` by {} is not supported", other.name()))),
        }
    }
}

fn sorted(keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>, Error> {
    if keyed.len() < 2 {
        return Ok(keyed.into_iter().map(|(_, item)| item).collect());
    }
    let keyed = keyed.into_iter().map(|(key, item)| Ok((SortKey::of(&key)?, item)));
    let mut keyed = keyed.collect::<Result<Vec<_>, Error>>()?;
    if keyed.windows(2).any(|pair| discriminant(&pair[0].0) != discriminant(&pair[1].0)) {
        return Err(refused("`sort` by values of several types is not supported"));
    }
    keyed.sort_by(|a, b| {
        let order = a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal);
        if reverse { order.reverse() } else { order }
    });
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

fn dictsort(value: Value, options: Kwargs) -> Result<Value, Error> {
    let with_case = options.get::<Option<bool>>("case_sensitive")?.unwrap_or(false);
    let reverse = options.get::<Option<bool>>("reverse")?.unwrap_or(false);
    options.assert_all_used()?;
    let Python::Dict(dict) = Python::of(&value) else {
        return Err(refused(format!("`dictsort` of {}", Python::of(&value).name())));
    };
    let keys = dict.keys().map(|key| folded(key.clone(), with_case));
    Ok(sorted(keys.zip(pairs(dict.iter())).collect(), reverse)?.into())
}

fn unique(value: Value) -> Result<Value, Error> {
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    for item in value::items(&value)? {
        let key = folded(item.clone(), false);
        if !operators::contains(&Value::from(seen.clone()), &key)? {
            seen.push(key);
            kept.push(item);
        }
    }
    Ok(Value::from_object(Generator::new(kept)))
}

/// `map(attribute="a.b", default=…)`, or `map("filter", …)`.
fn map(state: &State, value: Value, args: Rest<Value>) -> Result<Value, Error> {
    let mapped = match &args[..] {
        [named] if named.is_kwargs() => {
            let named = Kwargs::try_from(named.clone())?;
            let (path, default): (Value, Option<Value>) = (named.get("attribute")?, named.get("default")?);
            named.assert_all_used()?;
            let at = |item: Value| {
                let found = at_path(&item, &path)?;
                Ok(if found.is_undefined() { default.clone().unwrap_or(found) } else { found })
            };
            value::items(&value)?.into_iter().map(at).collect::<Result<Vec<_>, Error>>()?
        }
        [filter, rest @ ..] => {
            let filter = value::string(filter)?;
            let apply = |item: Value| state.apply_filter(filter, &[&[item], rest].concat());
            value::items(&value)?.into_iter().map(apply).collect::<Result<Vec<_>, Error>>()?
        }
        [] => return Err(refused("`map` without a filter or an attribute")),
    };
    Ok(Value::from_object(Generator::new(mapped)))
}

fn select(
    state: &State,
    value: &Value,
    attribute: Option<&Value>,
    args: &[Value],
    wanted: bool,
) -> Result<Value, Error> {
    let mut kept = Vec::new();
    for item in value::items(value)? {
        let looked_at = attribute.map_or_else(|| Ok(item.clone()), |path| at_path(&item, path))?;
        let holds = match args {
            [] => looked_at.is_true(),
            [test, rest @ ..] => state.perform_test(value::string(test)?, &[&[looked_at], rest].concat())?,
        };
        if holds == wanted {
            kept.push(item);
        }
    }
    Ok(Value::from_object(Generator::new(kept)))
}

/// The value at `a.b.0`.
fn at_path(value: &Value, path: &Value) -> Result<Value, Error> {
    let Python::Str(path) = Python::of(path) else { return operators::item(value, path) };
    path.split('.').try_fold(value.clone(), |value, part| match part.parse::<i64>() {
        Ok(index) => operators::item(&value, &Value::from(index)),
        Err(_) => operators::item(&value, &Value::from(part)),
    })
}

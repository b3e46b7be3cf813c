//! The filter `tojson` as transformers defines it: Python's `json.dumps`, without Jinja2's escapes for HTML.

use minijinja::value::Kwargs;
use minijinja::{Error, Value};

use super::refused;
use super::value::{self, Python};

struct Style {
    ascii: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sorted: bool,
}

pub fn dumps(value: &Value, options: Kwargs) -> Result<String, Error> {
    let option = |name: &str| options.get::<Option<Value>>(name).map(|it| it.filter(|it| !it.is_none()));
    let indent = match option("indent")? {
        None => None,
        Some(it) => Some(match Python::of(&it) {
            Python::Int(width) => " ".repeat(usize::try_from(width.clamp(0, 64)).unwrap_or_default()),
            Python::Str(text) if text.len() <= 64 => text.to_owned(),
            Python::Str(_) => return Err(refused("tojson with a long indent")),
            other => return Err(refused(format!("tojson with an indent that is {}", other.name()))),
        }),
    };
    let separators = match option("separators")? {
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
        Some(it) => match &value::items(&it)?[..] {
            [items, key] => match [value::string(items)?, value::string(key)?] {
                both if both.iter().all(|it| it.len() <= 64) => both.map(str::to_owned),
                _ => return Err(refused("tojson with long separators")),
            },
            _ => return Err(refused("tojson takes two separators")),
        },
    };
    let [between_items, after_key] = separators;
    let is_set = |name: &str| option(name).map(|it| it.is_some_and(|it| it.is_true()));
    let style =
        Style { ascii: is_set("ensure_ascii")?, indent, between_items, after_key, sorted: is_set("sort_keys")? };
    options.assert_all_used()?;
    let mut out = String::new();
    write(value, &style, 0, &mut out)?;
    Ok(out)
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    match Python::of(value) {
        Python::None => out.push_str("null"),
        Python::Bool(it) => out.push_str(if it { "true" } else { "false" }),
        Python::Int(it) => out.push_str(&it.to_string()),
        Python::Float(it) => out.push_str(&float(it)),
        Python::Str(it) => quote(it, style, out),
        Python::List(items) => write_all(&items, style, depth, out)?,
        Python::Tuple(items) => write_all(items, style, depth, out)?,
        Python::Dict(dict) => {
            let mut entries = dict.iter().map(|(k, v)| Ok((key(k)?, v))).collect::<Result<Vec<_>, Error>>()?;
            if style.sorted {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            block(['{', '}'], &entries, style, depth, out, |(key, value), out| {
                quote(key, style, out);
                out.push_str(&style.after_key);
                write(value, style, depth + 1, out)
            })?;
        }
        other => return Err(refused(format!("tojson of {}", other.name()))),
    }
    Ok(())
}

fn write_all(items: &[Value], style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    block(['[', ']'], items, style, depth, out, |item, out| write(item, style, depth + 1, out))
}

fn block<T>(
    [open, close]: [char; 2],
    items: &[T],
    style: &Style,
    depth: usize,
    out: &mut String,
    write: impl Fn(&T, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(&style.between_items);
        }
        line(depth + 1, out);
        write(item, out)?;
    }
    if !items.is_empty() {
        line(depth, out);
    }
    out.push(close);
    Ok(())
}

fn key(key: &Value) -> Result<String, Error> {
    Ok(match Python::of(key) {
        Python::Str(it) => it.to_owned(),
        Python::Int(it) => it.to_string(),
        other => return Err(refused(format!("tojson of a dict with {} as a key", other.name()))),
    })
}

fn float(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".into(),
        _ if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ => value::float(value),
    }
}

fn quote(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            _ if c < ' ' || (style.ascii && !(' '..='~').contains(&c)) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

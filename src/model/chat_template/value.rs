//! Python's values: which type a value has, and what `str` and `repr` make of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, Value};

use super::{bounds, refused};

/// A value by its type in Python.
pub enum Python<'a> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'a str),
    List(Vec<Value>),
    Tuple(&'a [Value]),
    Dict(&'a IndexMap<Value, Value>),
    /// What `range` and a dict's `items` give.
    View(&'a [Value]),
    Generator(&'a Generator),
    /// A loop, a macro, a namespace or a function.
    Other,
}

impl<'a> Python<'a> {
    /// Charges for what is looked at; an object if nothing is left for that ([`bounds`]).
    pub fn of(value: &'a Value) -> Self {
        if bounds::are_reached() {
            return Self::Other;
        }
        let python = Self::by_kind(value);
        match &python {
            Self::Str(text) => bounds::note(text.len()),
            Self::List(items) => bounds::note(items.len()),
            Self::Tuple(items) | Self::View(items) => bounds::note(items.len()),
            Self::Dict(dict) => bounds::note(dict.len()),
            _ => {}
        }
        python
    }

    fn by_kind(value: &'a Value) -> Self {
        match value.kind() {
            ValueKind::Undefined => Self::Undefined,
            ValueKind::None => Self::None,
            ValueKind::Bool => Self::Bool(value.is_true()),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).map_or(Self::Other, Self::Int),
            ValueKind::Number => f64::try_from(value.clone()).map_or(Self::Other, Self::Float),
            ValueKind::String => value.as_str().map_or(Self::Other, Self::Str),
            _ => Self::of_object(value),
        }
    }

    fn of_object(value: &'a Value) -> Self {
        if let Some(Tuple(items)) = value.downcast_object_ref() {
            return Self::Tuple(items);
        }
        if let Some(View(items)) = value.downcast_object_ref() {
            return Self::View(items);
        }
        if let Some(generator) = value.downcast_object_ref() {
            return Self::Generator(generator);
        }
        if let Some(dict) = value.downcast_object_ref() {
            return Self::Dict(dict);
        }
        match (value.kind(), value.try_iter()) {
            (ValueKind::Seq, Ok(items)) => Self::List(items.collect()),
            _ => Self::Other,
        }
    }

    /// The type's name in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Undefined => "an undefined value",
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Float(_) => "a float",
            Self::Str(_) => "a string",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dict",
            Self::View(_) => "a view",
            Self::Generator(_) => "a generator",
            Self::Other => "an object",
        }
    }

    /// As arithmetic sees it: a bool is 0 or 1.
    pub fn into_number(self) -> Self {
        match self {
            Self::Bool(it) => Self::Int(it.into()),
            other => other,
        }
    }
}

/// A Python tuple.
#[derive(Debug)]
pub struct Tuple(pub Vec<Value>);

/// Something that can be iterated, and has a length, but no items of its own.
#[derive(Debug)]
pub struct View(pub Vec<Value>);

/// Something that can be iterated once.
#[derive(Debug)]
pub struct Generator(Mutex<VecDeque<Value>>);

impl Generator {
    pub fn new(items: Vec<Value>) -> Self {
        Self(Mutex::new(items.into()))
    }

    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// Looks at the items without taking them.
    pub fn with_items<T>(&self, look: impl FnOnce(&VecDeque<Value>) -> T) -> T {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next item.
    pub fn next(&self) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.clone())
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// All items, as a Python loop gets them.
pub fn items(value: &Value) -> Result<Vec<Value>, Error> {
    let items = match Python::of(value) {
        Python::Undefined => Vec::new(),
        Python::Str(text) => {
            bounds::charge_items(text.len())?;
            text.chars().map(|it| Value::from(it.to_string())).collect()
        }
        Python::List(items) => items,
        Python::Tuple(items) | Python::View(items) => items.to_vec(),
        Python::Dict(dict) => dict.keys().cloned().collect(),
        Python::Generator(generator) => generator.take(),
        other => return Err(refused(format!("{} cannot be iterated", other.name()))),
    };
    bounds::charge_items(items.len())?;
    Ok(items)
}

/// Python's `len`.
pub fn length(value: &Value) -> Result<usize, Error> {
    Ok(match Python::of(value) {
        Python::Undefined => 0,
        Python::Str(text) => text.chars().count(),
        Python::List(items) => items.len(),
        Python::Tuple(items) | Python::View(items) => items.len(),
        Python::Dict(dict) => dict.len(),
        other => return Err(refused(format!("{} has no length", other.name()))),
    })
}

/// The text of a string.
///
/// # Errors
/// Another value; a string that is marked as safe, which Jinja2 would combine with others differently.
pub fn string(value: &Value) -> Result<&str, Error> {
    if value.is_safe() {
        return Err(refused("a string marked as safe can only be printed"));
    }
    match Python::of(value) {
        Python::Str(text) => Ok(text),
        other => Err(refused(format!("{} in place of a string", other.name()))),
    }
}

/// Python's `str`.
pub fn text(value: &Value) -> Result<String, Error> {
    match Python::of(value) {
        Python::Undefined => Ok(String::new()),
        Python::Str(text) => Ok(text.to_owned()),
        _ => repr(value),
    }
}

/// Python's `repr`.
pub fn repr(value: &Value) -> Result<String, Error> {
    let list = |items: &[Value]| Ok::<_, Error>(items.iter().map(repr).collect::<Result<Vec<_>, _>>()?.join(", "));
    Ok(match Python::of(value) {
        Python::Undefined => "Undefined".into(),
        Python::None => "None".into(),
        Python::Bool(it) => if it { "True" } else { "False" }.into(),
        Python::Int(it) => it.to_string(),
        Python::Float(it) => float(it),
        Python::Str(_) => quoted(string(value)?)?,
        Python::List(items) => format!("[{}]", list(&items)?),
        Python::Tuple([item]) => format!("({},)", repr(item)?),
        Python::Tuple(items) => format!("({})", list(items)?),
        Python::Dict(dict) => {
            let entry = |(key, value)| Ok::<_, Error>(format!("{}: {}", repr(key)?, repr(value)?));
            format!("{{{}}}", dict.iter().map(entry).collect::<Result<Vec<_>, _>>()?.join(", "))
        }
        other @ (Python::View(_) | Python::Generator(_) | Python::Other) => {
            return Err(refused(format!("{} cannot be printed", other.name())));
        }
    })
}

/// A float as Python prints it: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
pub fn float(value: f64) -> String {
    match value {
        _ if value.is_nan() => "nan".into(),
        _ if value.is_infinite() => if value > 0.0 { "inf" } else { "-inf" }.into(),
        _ if value != 0.0 && !(1e-4..1e16).contains(&value.abs()) => {
            let text = format!("{value:e}");
            match text.split_once('e') {
                Some((digits, exponent)) => {
                    let (sign, size) = exponent.strip_prefix('-').map_or(('+', exponent), |size| ('-', size));
                    format!("{digits}e{sign}{size:0>2}")
                }
                None => text,
            }
        }
        _ => format!("{value:?}"),
    }
}

/// Punctuation, arrows, mathematics and pictures, in the blocks that are full in every version of Unicode that Python has.
fn is_printable_symbol(c: char) -> bool {
    matches!(c, '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}'
        | '\u{2190}'..='\u{23ff}' | '\u{2500}'..='\u{2aff}' | '\u{3001}'..='\u{303f}' | '\u{ff01}'..='\u{ff5e}'
        | '\u{1f300}'..='\u{1f64f}' | '\u{1f900}'..='\u{1f9ff}')
}

fn quoted(text: &str) -> Result<String, Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if c == quote => out.extend(['\\', c]),
            _ if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ if c.is_ascii() || c.is_alphanumeric() || is_printable_symbol(c) => out.push(c),
            // Whether Python prints it or its number depends on its version's table of characters.
            _ => return Err(refused(format!("the character {c:?} inside a printed list or dict is not supported"))),
        }
    }
    out.push(quote);
    Ok(out)
}

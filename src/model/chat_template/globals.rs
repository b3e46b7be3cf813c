//! The functions that transformers gives a template.

use std::fmt::Write;

use chrono::NaiveDateTime;
use indexmap::IndexMap;
use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, Value};

use super::value::{self, Python, View};
use super::{bounds, depth, refused};

/// `now` is what `strftime_now` tells.
pub fn add_to(environment: &mut Environment<'static>, now: NaiveDateTime) {
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(refused(value::text(&message)?))
    });
    environment.add_function("strftime_now", move |format: String| strftime(now, &format));
    environment.add_function("range", range);
    environment.add_function("dict", |args: Rest<Value>| dict(&args).map(Value::from_object));
    environment.add_function("namespace", |args: Rest<Value>| {
        minijinja::functions::namespace(Some(Value::from_object(dict(&args)?)))
    });
}

/// The entries of a dict and of keyword arguments.
fn dict(args: &[Value]) -> Result<IndexMap<Value, Value>, Error> {
    let mut all = IndexMap::new();
    for argument in args {
        if argument.is_kwargs() {
            let named = Kwargs::try_from(argument.clone())?;
            for name in named.args() {
                all.insert(Value::from(name), depth::kept(named.get(name)?)?);
            }
        } else if let Python::Dict(entries) = Python::of(argument) {
            all.extend(entries.clone());
        } else {
            return Err(refused(format!("a dict made of {}", Python::of(argument).name())));
        }
    }
    Ok(all)
}

fn range(args: Rest<Value>) -> Result<Value, Error> {
    let number = |value: &Value| match Python::of(value).into_number() {
        Python::Int(it) => Ok(it),
        other => Err(refused(format!("`range` of {}", other.name()))),
    };
    let (start, stop, step) = match &args.iter().map(number).collect::<Result<Vec<_>, _>>()?[..] {
        [stop] => (0, *stop, 1),
        [start, stop] => (*start, *stop, 1),
        [start, stop, step] if *step != 0 => (*start, *stop, *step),
        _ => return Err(refused("`range` takes one to three numbers")),
    };
    /// Jinja2's limit.
    const MOST: usize = 100_000;
    let all = std::iter::successors(Some(start), |it| Some(it + step));
    let all: Vec<i128> = all.take_while(|&it| if step > 0 { it < stop } else { it > stop }).take(MOST + 1).collect();
    if all.len() > MOST {
        return Err(refused("`range` is too long"));
    }
    bounds::charge_items(all.len())?;
    Ok(Value::from_object(View(all.into_iter().map(|it| Value::from(it as i64)).collect())))
}

/// The letters that mean the same to C and to chrono.
const LETTERS: &str = "aAbBdHIjmMpSyYeF%";

fn strftime(now: NaiveDateTime, format: &str) -> Result<String, Error> {
    let mut letters = format.split('%').skip(1).peekable();
    while let Some(after) = letters.next() {
        let letter = match after.strip_prefix('-').unwrap_or(after).chars().next() {
            Some(letter) => letter,
            // `%%`: what follows the second one is text.
            None if letters.next().is_some() => continue,
            None => return Err(refused(format!("strftime_now: {format:?} ends in %"))),
        };
        if !LETTERS.contains(letter) {
            return Err(refused(format!("strftime_now: %{letter} is not supported; those that are: {LETTERS}")));
        }
    }
    let mut text = String::new();
    // chrono knows some letters only without a hyphen.
    let written = write!(text, "{}", now.format(format));
    written.map(|()| text).map_err(|_| refused(format!("strftime_now: {format:?} is not supported")))
}

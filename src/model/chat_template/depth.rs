//! How deeply lists and dicts may be nested.

use minijinja::{Error, Value};

use super::refused;
use super::value::Python;

/// The most lists and dicts within each other. They are printed, compared and freed by recursion.
const DEPTH: usize = 64;

/// A value that is put into a list, a dict or a namespace.
///
/// # Errors
/// If it is nested too deeply, or holds an object whose depth is not known.
pub fn kept(value: Value) -> Result<Value, Error> {
    check_depth(&value, DEPTH).map(|()| value)
}

fn check_depth(value: &Value, left: usize) -> Result<(), Error> {
    let Some(left) = left.checked_sub(1) else {
        return Err(refused(format!("more than {DEPTH} lists or dicts within each other are not supported")));
    };
    let all = |items: &[Value]| items.iter().try_for_each(|item| check_depth(item, left));
    match Python::of(value) {
        Python::List(items) => all(&items),
        Python::Tuple(items) | Python::View(items) => all(items),
        Python::Dict(dict) => dict.values().try_for_each(|item| check_depth(item, left)),
        Python::Generator(generator) => {
            generator.with_items(|items| items.iter().try_for_each(|it| check_depth(it, left)))
        }
        Python::Other => Err(refused("an object inside a list, a dict or a namespace is not supported")),
        _ => Ok(()),
    }
}

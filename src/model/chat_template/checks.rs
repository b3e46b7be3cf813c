//! Jinja2's tests: what stands behind `is`.

use minijinja::{Environment, Error, Value};

use super::operators;
use super::refused;
use super::value::{self, Python};

pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_test("defined", |it: Value| !it.is_undefined());
    environment.add_test("undefined", |it: Value| it.is_undefined());
    environment.add_test("none", |it: Value| it.is_none());
    environment.add_test("boolean", |it: Value| matches!(Python::of(&it), Python::Bool(_)));
    environment.add_test("true", |it: Value| matches!(Python::of(&it), Python::Bool(true)));
    environment.add_test("false", |it: Value| matches!(Python::of(&it), Python::Bool(false)));
    environment.add_test("integer", |it: Value| matches!(Python::of(&it), Python::Int(_)));
    environment.add_test("float", |it: Value| matches!(Python::of(&it), Python::Float(_)));
    environment
        .add_test("number", |it: Value| matches!(Python::of(&it), Python::Int(_) | Python::Float(_) | Python::Bool(_)));
    environment.add_test("string", |it: Value| matches!(Python::of(&it), Python::Str(_)));
    environment.add_test("mapping", |it: Value| matches!(Python::of(&it), Python::Dict(_)));
    environment.add_test("sequence", |it: Value| is_sequence(&it, "sequence"));
    environment.add_test("iterable", |it: Value| match Python::of(&it) {
        Python::View(_) | Python::Generator(_) => Ok(true),
        _ => is_sequence(&it, "iterable"),
    });
    environment.add_test("in", |it: Value, whole: Value| operators::contains(&whole, &it));
    environment.add_test("odd", |it: Value| remainder(&it, 2).map(|rest| rest == 1));
    environment.add_test("even", |it: Value| remainder(&it, 2).map(|rest| rest == 0));
    environment.add_test("divisibleby", |it: Value, by: i64| remainder(&it, by.into()).map(|rest| rest == 0));
    environment.add_test("lower", |it: Value| {
        value::string(&it).map(|text| is_in(text, char::is_uppercase, text.to_lowercase()))
    });
    environment.add_test("upper", |it: Value| {
        value::string(&it).map(|text| is_in(text, char::is_lowercase, text.to_uppercase()))
    });
    for name in ["==", "eq", "equalto"] {
        environment.add_test(name, |a: Value, b: Value| operators::equal(&a, &b));
    }
    for name in ["!=", "ne"] {
        environment.add_test(name, |a: Value, b: Value| operators::equal(&a, &b).map(|it| !it));
    }
    for name in [">", "gt", "greaterthan"] {
        environment
            .add_test(name, |a: Value, b: Value| operators::order(&a, &b).map(|it| it.is_some_and(|it| it.is_gt())));
    }
    for name in [">=", "ge"] {
        environment
            .add_test(name, |a: Value, b: Value| operators::order(&a, &b).map(|it| it.is_some_and(|it| it.is_ge())));
    }
    for name in ["<", "lt", "lessthan"] {
        environment
            .add_test(name, |a: Value, b: Value| operators::order(&a, &b).map(|it| it.is_some_and(|it| it.is_lt())));
    }
    for name in ["<=", "le"] {
        environment
            .add_test(name, |a: Value, b: Value| operators::order(&a, &b).map(|it| it.is_some_and(|it| it.is_le())));
    }
}

/// Strings and dicts are sequences to Jinja2; an undefined value has no items and is one too.
fn is_sequence(value: &Value, test: &str) -> Result<bool, Error> {
    match Python::of(value) {
        Python::Undefined | Python::Str(_) | Python::List(_) | Python::Tuple(_) | Python::Dict(_) => Ok(true),
        Python::None | Python::Bool(_) | Python::Int(_) | Python::Float(_) => Ok(false),
        other => Err(refused(format!("whether {} is {test}", other.name()))),
    }
}

fn remainder(value: &Value, by: i128) -> Result<i128, Error> {
    match Python::of(value).into_number() {
        Python::Int(it) if by != 0 => Ok(it.rem_euclid(by)),
        other => Err(refused(format!("the remainder of {}", other.name()))),
    }
}

/// Whether a text with cased letters has none of the other case. `changed`: the text in the case that is asked for.
fn is_in(text: &str, other_case: impl Fn(char) -> bool, changed: String) -> bool {
    let is_cased = |c: char| c.is_uppercase() || c.is_lowercase();
    text.contains(is_cased) && !text.contains(other_case) && text == changed
}

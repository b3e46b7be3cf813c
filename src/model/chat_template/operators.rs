//! Python's operators, attributes and items.

use std::cmp::Ordering;

use minijinja::value::Rest;
use minijinja::{Environment, Error, Value};

use super::value::{self, Python, Tuple};
use super::{bounds, depth, method_names, percent, refused};

type Computed = Result<Value, Error>;

/// Adds the functions that [`syntax`](super::syntax) calls.
pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_function("+", |a: Value, b: Value| add(&a, &b));
    environment.add_function("-", |a: Value, b: Value| arithmetic("-", &a, &b, i128::checked_sub, |a, b| a - b));
    environment.add_function("*", |a: Value, b: Value| multiply(&a, &b));
    environment.add_function("/", |a: Value, b: Value| divide(&a, &b));
    environment.add_function("//", |a: Value, b: Value| floor_divide(&a, &b));
    environment.add_function("%", |a: Value, b: Value| remainder(&a, &b));
    environment.add_function("**", |a: Value, b: Value| power(&a, &b));
    environment.add_function("~", |a: Value, b: Value| concatenate(&a, &b));
    environment.add_function("==", |a: Value, b: Value| equal(&a, &b));
    environment.add_function("!=", |a: Value, b: Value| equal(&a, &b).map(|it| !it));
    environment.add_function("<", |a: Value, b: Value| order(&a, &b).map(|it| it == Some(Ordering::Less)));
    environment.add_function(">", |a: Value, b: Value| order(&a, &b).map(|it| it == Some(Ordering::Greater)));
    environment.add_function("<=", |a: Value, b: Value| order(&a, &b).map(|it| it.is_some_and(Ordering::is_le)));
    environment.add_function(">=", |a: Value, b: Value| order(&a, &b).map(|it| it.is_some_and(Ordering::is_ge)));
    environment.add_function("in", |a: Value, b: Value| contains(&b, &a));
    environment.add_function("negate", |a: Value| negate(&a));
    environment.add_function("the", |a: Value| a);
    environment.add_function("given", |a: Value| match a.is_undefined() {
        true => Err(refused("an undefined value for a macro that has defaults is not supported")),
        false => Ok(a),
    });
    environment.add_function("kept", depth::kept);
    environment.add_function("tuple", |items: Rest<Value>| depth::kept(Value::from_object(Tuple(items.to_vec()))));
    environment.add_function("iterate", |a: Value| value::items(&a));
    environment.add_function(".", |a: Value, name: String| attribute(&a, &name));
    environment.add_function("[]", |a: Value, key: Value| item(&a, &key));
    environment.add_function("[:]", |a: Value, start: Value, stop: Value, step: Value| slice(&a, [start, stop, step]));
}

fn unsupported(operator: &str, a: &Value, b: &Value) -> Error {
    refused(format!("`{operator}` of {} and {}", Python::of(a).name(), Python::of(b).name()))
}

fn too_large(operator: &str) -> Error {
    refused(format!("the result of `{operator}` is too large"))
}

fn integer(value: Option<i128>, operator: &str) -> Computed {
    let small = value.and_then(|it| i64::try_from(it).ok());
    small.map(Value::from).ok_or_else(|| too_large(operator))
}

fn arithmetic(
    operator: &str,
    a: &Value,
    b: &Value,
    int: fn(i128, i128) -> Option<i128>,
    float: fn(f64, f64) -> f64,
) -> Computed {
    match (Python::of(a).into_number(), Python::of(b).into_number()) {
        (Python::Int(a), Python::Int(b)) => integer(int(a, b), operator),
        (Python::Float(a), Python::Float(b)) => Ok(float(a, b).into()),
        (Python::Int(a), Python::Float(b)) => Ok(float(a as f64, b).into()),
        (Python::Float(a), Python::Int(b)) => Ok(float(a, b as f64).into()),
        _ => Err(unsupported(operator, a, b)),
    }
}

fn add(a: &Value, b: &Value) -> Computed {
    match (Python::of(a), Python::of(b)) {
        (Python::Str(_), Python::Str(_)) => Ok([value::string(a)?, value::string(b)?].concat().into()),
        (Python::List(a), Python::List(b)) => {
            bounds::charge_items(a.len() + b.len())?;
            Ok([a, b].concat().into())
        }
        (Python::Tuple(a), Python::Tuple(b)) => Ok(Value::from_object(Tuple([a, b].concat()))),
        _ => arithmetic("+", a, b, i128::checked_add, |a, b| a + b),
    }
}

fn multiply(a: &Value, b: &Value) -> Computed {
    const LONGEST: usize = 1 << 20;
    let times = |count: i128, length: usize| {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        if count.saturating_mul(length) > LONGEST { Err(too_large("*")) } else { Ok(count) }
    };
    match (Python::of(a).into_number(), Python::of(b).into_number()) {
        (Python::Str(_), Python::Int(count)) => {
            let text = value::string(a)?;
            let count = times(count, text.len())?;
            bounds::charge(count * text.len())?;
            Ok(text.repeat(count).into())
        }
        (Python::List(items), Python::Int(count)) => {
            let count = times(count, items.len())?;
            bounds::charge_items(count * items.len())?;
            Ok(std::iter::repeat_n(items, count).flatten().collect::<Vec<_>>().into())
        }
        (Python::Int(_), Python::Str(_) | Python::List(_)) => multiply(b, a),
        _ => arithmetic("*", a, b, i128::checked_mul, |a, b| a * b),
    }
}

fn is_zero(value: &Value) -> bool {
    matches!(Python::of(value).into_number(), Python::Int(0)) || matches!(Python::of(value), Python::Float(0.0))
}

fn divide(a: &Value, b: &Value) -> Computed {
    if is_zero(b) {
        return Err(refused("division by zero"));
    }
    // Both as floats, which is exact for every number that a template counts to.
    let as_float = |value: &Value| match Python::of(value).into_number() {
        Python::Int(it) if it.abs() < 1 << 53 => Ok(it as f64),
        Python::Float(it) => Ok(it),
        _ => Err(unsupported("/", a, b)),
    };
    Ok((as_float(a)? / as_float(b)?).into())
}

fn floor_divide(a: &Value, b: &Value) -> Computed {
    if is_zero(b) {
        return Err(refused("division by zero"));
    }
    let floor = |a: i128, b: i128| Some(a.div_euclid(b) - i128::from(b < 0 && a.rem_euclid(b) != 0));
    match (Python::of(a).into_number(), Python::of(b).into_number()) {
        (Python::Int(a), Python::Int(b)) => integer(floor(a, b), "//"),
        _ => Err(unsupported("//", a, b)),
    }
}

fn remainder(a: &Value, b: &Value) -> Computed {
    if let Python::Str(_) = Python::of(a) {
        return percent::format(value::string(a)?, b).map(Value::from);
    }
    if is_zero(b) {
        return Err(refused("division by zero"));
    }
    match (Python::of(a).into_number(), Python::of(b).into_number()) {
        // The result has the sign of the divisor.
        (Python::Int(a), Python::Int(b)) => integer(Some((a % b + b) % b), "%"),
        _ => Err(unsupported("%", a, b)),
    }
}

fn power(a: &Value, b: &Value) -> Computed {
    match (Python::of(a).into_number(), Python::of(b).into_number()) {
        (Python::Int(a), Python::Int(b)) => match u32::try_from(b) {
            Ok(exponent) => integer(a.checked_pow(exponent), "**"),
            Err(_) => Err(too_large("**")),
        },
        _ => Err(unsupported("**", a, b)),
    }
}

fn negate(a: &Value) -> Computed {
    match Python::of(a).into_number() {
        Python::Int(it) => integer(it.checked_neg(), "-"),
        Python::Float(it) => Ok((-it).into()),
        other => Err(refused(format!("`-` of {}", other.name()))),
    }
}

fn concatenate(a: &Value, b: &Value) -> Computed {
    Ok((value::text(a)? + &value::text(b)?).into())
}

/// Python's `==`.
pub fn equal(a: &Value, b: &Value) -> Result<bool, Error> {
    let all = |a: &[Value], b: &[Value]| {
        let pairs = a.iter().zip(b).map(|(a, b)| equal(a, b));
        Ok::<_, Error>(a.len() == b.len() && pairs.collect::<Result<Vec<_>, _>>()?.into_iter().all(|it| it))
    };
    Ok(match (Python::of(a).into_number(), Python::of(b).into_number()) {
        (Python::Int(a), Python::Int(b)) => a == b,
        (Python::Float(a), Python::Float(b)) => a == b,
        (Python::Int(a), Python::Float(b)) | (Python::Float(b), Python::Int(a)) => a as f64 == b,
        (Python::Str(a), Python::Str(b)) => a == b,
        (Python::List(a), Python::List(b)) => all(&a, &b)?,
        (Python::Tuple(a), Python::Tuple(b)) => all(a, b)?,
        (Python::Dict(a), Python::Dict(b)) => {
            let same = |(key, value): (&Value, &Value)| b.get(key).map_or(Ok(false), |other| equal(value, other));
            a.len() == b.len() && a.iter().map(same).collect::<Result<Vec<_>, _>>()?.into_iter().all(|it| it)
        }
        (Python::Undefined, Python::Undefined) | (Python::None, Python::None) => true,
        (Python::Other | Python::View(_) | Python::Generator(_), _)
        | (_, Python::Other | Python::View(_) | Python::Generator(_)) => return Err(unsupported("==", a, b)),
        _ => false,
    })
}

/// The order of two values; `None` if one is no number.
pub fn order(a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    let in_order = |a: &[Value], b: &[Value]| {
        for (a, b) in a.iter().zip(b) {
            if !equal(a, b)? {
                return order(a, b);
            }
        }
        Ok(Some(a.len().cmp(&b.len())))
    };
    match (Python::of(a).into_number(), Python::of(b).into_number()) {
        (Python::Int(a), Python::Int(b)) => Ok(Some(a.cmp(&b))),
        (Python::Float(a), Python::Float(b)) => Ok(a.partial_cmp(&b)),
        (Python::Int(a), Python::Float(b)) => Ok((a as f64).partial_cmp(&b)),
        (Python::Float(a), Python::Int(b)) => Ok(a.partial_cmp(&(b as f64))),
        (Python::Str(a), Python::Str(b)) => Ok(Some(a.cmp(b))),
        (Python::List(a), Python::List(b)) => in_order(&a, &b),
        (Python::Tuple(a), Python::Tuple(b)) => in_order(a, b),
        _ => Err(unsupported("<", a, b)),
    }
}

/// Python's `in`.
pub fn contains(whole: &Value, part: &Value) -> Result<bool, Error> {
    match Python::of(whole) {
        Python::Str(_) => Ok(value::string(whole)?.contains(value::string(part)?)),
        Python::Dict(dict) => match Python::of(part) {
            Python::Str(_) | Python::Int(_) | Python::None => Ok(dict.contains_key(part)),
            other => Err(refused(format!("{} as a key of a dict", other.name()))),
        },
        Python::Other => Err(unsupported("in", part, whole)),
        _ => {
            for item in value::items(whole)? {
                if equal(&item, part)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// `whole.name`.
pub fn attribute(whole: &Value, name: &str) -> Computed {
    match Python::of(whole) {
        Python::Undefined => Err(refused(format!("`.{name}` of an undefined value"))),
        Python::Other if name.starts_with('_') => Err(refused(format!("`.{name}` is not allowed"))),
        // Loops, macros and namespaces are minijinja's, with Jinja2's attributes.
        Python::Other => Ok(whole.get_attr(name).unwrap_or(Value::UNDEFINED)),
        _ if method_names::exists(whole, name) || name.starts_with("__") => {
            Err(refused(format!("`.{name}` without a call is not supported")))
        }
        Python::Dict(dict) => Ok(dict.get(&Value::from(name)).cloned().unwrap_or(Value::UNDEFINED)),
        _ => Ok(Value::UNDEFINED),
    }
}

/// `whole[key]`.
pub fn item(whole: &Value, key: &Value) -> Computed {
    let at = |length: usize| {
        let index = match Python::of(key).into_number() {
            Python::Int(index) => index,
            _ => return Ok(None),
        };
        let index = if index < 0 { index + length as i128 } else { index };
        Ok::<_, Error>(usize::try_from(index).ok().filter(|&index| index < length))
    };
    let found = match Python::of(whole) {
        Python::Undefined => return Err(refused("an item of an undefined value")),
        Python::Dict(dict) => match Python::of(key) {
            Python::Str(_) | Python::Int(_) | Python::None => dict.get(key).cloned(),
            Python::Undefined | Python::List(_) | Python::Dict(_) => None,
            other => return Err(refused(format!("{} as a key of a dict", other.name()))),
        },
        Python::Str(text) => {
            value::string(whole)?;
            at(text.chars().count())?.and_then(|index| text.chars().nth(index)).map(|it| Value::from(it.to_string()))
        }
        Python::List(items) => at(items.len())?.map(|index| items[index].clone()),
        Python::Tuple(items) => at(items.len())?.map(|index| items[index].clone()),
        Python::View(_) | Python::Generator(_) => return Err(refused("an item of a view or generator")),
        _ => None,
    };
    match (found, Python::of(key)) {
        (Some(found), _) => Ok(found),
        // As Jinja2, which then looks for an attribute of this name.
        (None, Python::Str(name)) => attribute(whole, name),
        (None, _) => Ok(Value::UNDEFINED),
    }
}

fn slice(whole: &Value, bounds: [Value; 3]) -> Computed {
    let bound = |value: &Value| match Python::of(value).into_number() {
        Python::None => Ok(None),
        Python::Int(it) => Ok(Some(it)),
        other => Err(refused(format!("a slice with {}", other.name()))),
    };
    let [start, stop, step] = bounds;
    let (start, stop, step) = (bound(&start)?, bound(&stop)?, bound(&step)?.unwrap_or(1));
    if step == 0 {
        return Err(refused("a slice with step 0"));
    }
    let pick = |length: usize| indices(length as i128, start, stop, step);
    match Python::of(whole) {
        Python::Str(_) => {
            let all: Vec<char> = value::string(whole)?.chars().collect();
            Ok(pick(all.len()).map(|index| all[index]).collect::<String>().into())
        }
        Python::List(all) => {
            bounds::charge_items(all.len())?;
            Ok(pick(all.len()).map(|index| all[index].clone()).collect::<Vec<_>>().into())
        }
        Python::Tuple(all) => Ok(Value::from_object(Tuple(pick(all.len()).map(|index| all[index].clone()).collect()))),
        other => Err(refused(format!("a slice of {}", other.name()))),
    }
}

/// The indices of `[start:stop:step]` (`PySlice_AdjustIndices`).
fn indices(length: i128, start: Option<i128>, stop: Option<i128>, step: i128) -> impl Iterator<Item = usize> {
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let within = |bound: i128| (if bound < 0 { bound + length } else { bound }).clamp(lowest, highest);
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (start.map_or(first, within), stop.map_or(last, within));
    let next = move |&index: &i128| Some(index + step);
    let inside = move |&index: &i128| if step > 0 { index < stop } else { index > stop };
    std::iter::successors(Some(start), next).take_while(inside).map(|index| index as usize)
}

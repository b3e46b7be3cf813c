//! From a configuration file and `--set` overrides to a checked value.

use std::path::Path;

use toml::{Table, Value};

use super::data::old_names::is_indexed;
use super::paths::absolute;
use super::{Config, grader_spec, is_hub_id};
use crate::error::{InputError, KeyError};
use crate::files;

/// The most parts of a key in `--set`. What it makes is walked and freed by recursion.
const DEEPEST_KEY: usize = 32;

/// Reads `path`, applies `sets` (`key.path=value`; later ones win) and checks the result.
///
/// # Errors
/// An unreadable file, broken TOML, an unknown key, or a value of the wrong type or out of range. Names file, line and key.
pub fn load<C: Config>(path: &Path, sets: &[String]) -> Result<C, InputError> {
    let text = files::read_text(path)?;
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| syntax_error(path, &text, &e))?;
    let known = Value::try_from(C::default()).map_err(|e| InputError::new("defaults", e))?;
    let place = |key: &str| Place { path, text: &text, old_names: C::OLD_NAMES }.of(key);
    C::modernise(&mut table);
    check_keys::<C>(&table, &known, "", &place)?;
    absolute_paths::<C>(&mut table, path.parent().unwrap_or(Path::new(".")));
    let names: Vec<String> = table.keys().cloned().collect();
    complete_lists::<C>(&mut table, &names, &known).map_err(|error| InputError::at(place(&error.key), error))?;
    for set in sets {
        apply_set::<C>(&mut table, set, &known)?;
    }
    let place = |key: &str| if is_set(sets, key) { format!("--set {key}") } else { place(key) };
    let mut all = Table::try_from(C::defaults(&table)).map_err(|e| InputError::new("defaults", e))?;
    merge::<C>(&mut all, table, "").map_err(|error| InputError::at(place(&error.key), error))?;
    let single = |list: &str| all.get(list).and_then(Value::as_array).is_some_and(|list| list.len() == 1);
    let lists: Vec<String> = all.keys().filter(|key| single(key)).map(|key| format!("{key}[0].")).collect();
    let config: C = serde_path_to_error::deserialize(Value::Table(all)).map_err(|e| {
        let path = e.path().to_string();
        // The only table of a list is called as if there were no list.
        let list = lists.iter().find(|list| path.starts_with(list.as_str()));
        let key = list.map_or_else(|| path.clone(), |list| path.replacen(list.as_str(), &list.replace("[0]", ""), 1));
        InputError::new(place(&key), format!("{key}: {}", plain(e.inner().message())))
    })?;
    config.check().map_err(|error| InputError::at(place(&error.key), error))?;
    Ok(config)
}

fn is_set(sets: &[String], key: &str) -> bool {
    let key = without_indices(key);
    sets.iter().any(|set| set.split('=').next().is_some_and(|name| without_indices(name.trim()) == key))
}

/// A message of the TOML reader without the names of Rust's types.
fn plain(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_string() };
    let expected = match expected {
        "usize" | "u64" | "u32" | "u8" => "a whole number from 0",
        "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a string" => "text in quotes",
        "a sequence" => "a list in brackets",
        "a map" => "a table",
        "a boolean" => "true or false",
        other => other,
    };
    format!("{}, expected {expected}", found.replace("invalid type: ", "got ").replace("invalid value: ", "got "))
}

fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> InputError {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    InputError::new(format!("{}:{line}", path.display()), error.message())
}

/// Finds the line of a key, for error messages.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
    old_names: &'a [(&'a str, &'a str)],
}

impl Place<'_> {
    fn of(&self, key: &str) -> String {
        match self.line(key) {
            Some(line) => format!("{}:{line}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    fn line(&self, key: &str) -> Option<usize> {
        let document = toml::de::DeTable::parse(self.text).ok()?;
        let (mut table, mut start) = (document.get_ref(), None);
        for part in key.split('.') {
            let (part, index) = part.strip_suffix(']').and_then(|it| it.split_once('[')).unwrap_or((part, "0"));
            let old = self.old_names.iter().find(|(_, new)| *new == part).map(|(old, _)| *old);
            let named = |name: &str| table.iter().find(|(it, _)| it.get_ref() == name);
            let Some((name, value)) = named(part).or_else(|| named(old?)) else { break };
            start = Some(name.span().start);
            match value.get_ref() {
                toml::de::DeValue::Table(inner) => table = inner,
                toml::de::DeValue::Array(items) => {
                    let Some(item) = items.get(index.parse::<usize>().ok()?) else { break };
                    let toml::de::DeValue::Table(inner) = item.get_ref() else { break };
                    (table, start) = (inner, Some(item.span().start));
                }
                _ => break,
            }
        }
        start.map(|start| self.text[..start].matches('\n').count() + 1)
    }
}

/// Every key of `given` must be one of `known`, at every level.
fn check_keys<C: Config>(
    given: &Table,
    known: &Value,
    prefix: &str,
    place: &dyn Fn(&str) -> String,
) -> Result<(), InputError> {
    for (name, value) in given {
        let key = format!("{prefix}{name}");
        let Some(inner) = known.get(name) else {
            return Err(InputError::new(place(&key), unknown_key(&key, known, prefix)));
        };
        let by_name = C::BY_NAME.contains(&without_indices(&key).as_str());
        match (value, inner) {
            (Value::Table(given), Value::Table(_)) if !by_name => {
                check_keys::<C>(given, inner, &format!("{key}."), place)?;
            }
            (_, Value::Array(known)) => {
                for (key, given) in tables_of(value, &key) {
                    let Some(known @ Value::Table(_)) = known.first() else { break };
                    check_keys::<C>(given, known, &format!("{key}."), place)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The tables of a list: `[[key]]`, a single `[key]`, or those that `--set key.1.…` names. Each with its key.
fn tables_of<'a>(value: &'a Value, key: &str) -> Vec<(String, &'a Table)> {
    match value {
        Value::Array(items) if items.len() == 1 => {
            items.iter().filter_map(|it| Some((key.into(), it.as_table()?))).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().filter_map(|(i, it)| Some((format!("{key}[{i}]"), it.as_table()?))).collect()
        }
        Value::Table(table) if is_indexed(table) => {
            table.iter().filter_map(|(i, it)| Some((format!("{key}.{i}"), it.as_table()?))).collect()
        }
        Value::Table(table) => vec![(key.into(), table)],
        _ => Vec::new(),
    }
}

/// `data[1].where` and `data.1.where` as `data.where`.
fn without_indices(key: &str) -> String {
    let names = key.split('.').filter(|part| part.parse::<usize>().is_err());
    names.map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}

/// The error message for `key`, which is not among the keys of `known` under `prefix`.
fn unknown_key(key: &str, known: &Value, prefix: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    let names: Vec<&String> = known.as_table().into_iter().flat_map(|table| table.keys()).collect();
    let likeness = |candidate: &str| strsim::normalized_damerau_levenshtein(candidate, name);
    match names.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        Some(nearest) if likeness(nearest) > 0.5 => {
            format!("unknown key {key:?}; did you mean \"{prefix}{nearest}\"?")
        }
        _ => {
            let all: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
            format!("unknown key {key:?}; known here: {}", all.join(", "))
        }
    }
}

fn absolute_paths<C: Config>(table: &mut Table, base: &Path) {
    for key in C::PATHS {
        let absolute = |path: &str| match C::MODELS.contains(key) && is_hub_id(path) && !base.join(path).exists() {
            true => path.to_string(),
            false => absolute(base, path),
        };
        change_values(table, key, &|value| match value {
            Value::String(path) => *path = absolute(path),
            Value::Array(paths) => paths.iter_mut().for_each(|path| {
                if let Value::String(path) = path {
                    *path = absolute(path);
                }
            }),
            _ => {}
        });
    }
    for key in C::GRADERS {
        change_values(table, key, &|grader| grader_spec::resolve_paths(grader, base));
    }
}

/// Changes the values of a dotted key, in every table of a list.
fn change_values(table: &mut Table, key: &str, change: &dyn Fn(&mut Value)) {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    match (table.get_mut(first), rest) {
        (Some(value), None) => change(value),
        (Some(Value::Table(list)), Some(rest)) if is_indexed(list) => {
            let items = list.iter_mut().filter_map(|(_, item)| item.as_table_mut());
            items.for_each(|item| change_values(item, rest, change));
        }
        (Some(Value::Table(inner)), Some(rest)) => change_values(inner, rest, change),
        (Some(Value::Array(items)), Some(rest)) => {
            items.iter_mut().filter_map(Value::as_table_mut).for_each(|item| change_values(item, rest, change));
        }
        _ => {}
    }
}

/// Applies one `--set key.path=value`. The value is read as TOML, and as plain text if it is not TOML.
fn apply_set<C: Config>(table: &mut Table, set: &str, known: &Value) -> Result<(), InputError> {
    let place = format!("--set {set}");
    let (key, text) = set.split_once('=').ok_or_else(|| InputError::new(&place, "expected KEY=VALUE"))?;
    let (key, text) = (key.trim(), text.trim());
    if key.split('.').nth(DEEPEST_KEY).is_some() {
        return Err(InputError::new(&place, format!("no key has more than {DEEPEST_KEY} parts")));
    }
    let parsed = format!("x = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
    let is_text = known_value(known, key, C::OLD_NAMES).is_some_and(Value::is_str);
    let value = parsed.filter(|value| !is_text || value.is_str()).unwrap_or_else(|| Value::String(text.to_string()));
    let mut single =
        key.rsplit('.').fold(value, |value, part| Value::Table(Table::from_iter([(part.to_string(), value)])));
    let Some(wrapped) = single.as_table_mut() else { return Err(InputError::new(&place, "expected KEY=VALUE")) };
    C::modernise(wrapped);
    check_keys::<C>(wrapped, known, "", &|_| place.clone())?;
    absolute_paths::<C>(wrapped, Path::new("."));
    let names: Vec<String> = wrapped.keys().cloned().collect();
    complete_lists::<C>(table, &names, known).map_err(|error| InputError::new(&place, error.problem))?;
    merge::<C>(table, std::mem::take(wrapped), "").map_err(|error| InputError::new(&place, error.problem))
}

/// Makes a list of each of the `names` that should be a list of tables: a single `[data]` changes the usual `[[data]]`.
fn complete_lists<C: Config>(table: &mut Table, names: &[String], known: &Value) -> Result<(), KeyError> {
    for name in names {
        let Some(usual @ [Value::Table(_)]) = known.get(name).and_then(Value::as_array).map(Vec::as_slice) else {
            continue;
        };
        let mut list = usual.to_vec();
        match table.remove(name) {
            Some(Value::Table(single)) => merge_items::<C>(&mut list, single, name)?,
            Some(Value::Array(items)) => list = items,
            Some(other) => drop(table.insert(name.clone(), other)),
            None => {}
        }
        table.entry(name).or_insert(Value::Array(list));
    }
    Ok(())
}

/// The default of a key, whose numbers choose a table of a list.
fn known_value<'a>(known: &'a Value, key: &str, old_names: &[(&str, &str)]) -> Option<&'a Value> {
    key.split('.').try_fold(known, |value, part| {
        let today = |name| old_names.iter().find(|(old, _)| *old == name).map(|(_, new)| *new);
        match value {
            Value::Array(items) if part.parse::<usize>().is_ok() => items.first(),
            Value::Array(items) => items.first()?.get(part).or_else(|| items.first()?.get(today(part)?)),
            other => other.get(part),
        }
    })
}

/// Puts `from`, the table of the key `under`, into `into`. A single table goes into the only table of a list, and `1` into the second.
fn merge<C: Config>(into: &mut Table, from: Table, under: &str) -> Result<(), KeyError> {
    for (name, value) in from {
        let key = if under.is_empty() { name.clone() } else { format!("{under}.{name}") };
        match (into.get_mut(&name), value) {
            (Some(Value::Table(old)), Value::Table(new)) if !is_whole::<C>(&key) => merge::<C>(old, new, &key)?,
            (Some(Value::Array(items)), Value::Table(new)) => merge_items::<C>(items, new, &key)?,
            (_, value) => drop(into.insert(name, value)),
        }
    }
    Ok(())
}

/// Whether a table is one value: a grader, or what stands under a name from the data.
fn is_whole<C: Config>(key: &str) -> bool {
    C::GRADERS.contains(&key) || C::BY_NAME.iter().any(|it| key.strip_prefix(it).is_some_and(|it| it.starts_with('.')))
}

fn merge_items<C: Config>(items: &mut [Value], new: Table, name: &str) -> Result<(), KeyError> {
    let count = items.len();
    if !is_indexed(&new) {
        return match items {
            [Value::Table(only)] => merge::<C>(only, new, name),
            _ => {
                let key = new.keys().next().map_or("", String::as_str);
                let problem = format!("there are {count} [[{name}]] tables; say which, from 0: {name}.0.{key}");
                Err(KeyError::new(name, problem))
            }
        };
    }
    for (index, value) in new {
        match (index.parse::<usize>().ok().and_then(|it| items.get_mut(it)), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge::<C>(old, new, name)?,
            (Some(old), value) => *old = value,
            (None, _) => {
                let problem = format!("there is no table {index}; there are {count}, counted from 0");
                return Err(KeyError::new(name, problem));
            }
        }
    }
    Ok(())
}

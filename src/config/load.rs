//! From a configuration file and `--set` overrides to a checked value.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, grader_spec, is_hub_id};
use crate::error::InputError;

/// Reads `path`, applies `sets` (`key.path=value`; later ones win) and checks the result.
///
/// # Errors
/// An unreadable file, broken TOML, an unknown key, or a value of the wrong type or out of range. Names file, line and key.
pub fn load<C: Config>(path: &Path, sets: &[String]) -> Result<C, InputError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| InputError::new(path.display(), format!("cannot read the configuration: {e}")))?;
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| syntax_error(path, &text, &e))?;
    let known = Value::try_from(C::default()).map_err(|e| InputError::new("defaults", e))?;
    let place = |key: &str| Place { path, text: &text }.of(key);
    check_keys::<C>(&table, &known, "", &place)?;
    absolute_paths::<C>(&mut table, path.parent().unwrap_or(Path::new(".")));
    for set in sets {
        apply_set::<C>(&mut table, set, &known)?;
    }
    let place = |key: &str| if is_set(sets, key) { format!("--set {key}") } else { place(key) };
    let mut all = Table::try_from(C::defaults(&table)).map_err(|e| InputError::new("defaults", e))?;
    merge(&mut all, table);
    let config: C = serde_path_to_error::deserialize(Value::Table(all))
        .map_err(|e| InputError::new(place(&e.path().to_string()), format!("{}: {}", e.path(), e.inner().message())))?;
    config.check().map_err(|error| InputError::at(place(&error.key), error))?;
    Ok(config)
}

fn is_set(sets: &[String], key: &str) -> bool {
    sets.iter().any(|set| set.split('=').next().is_some_and(|name| name.trim() == key))
}

fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> InputError {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    InputError::new(format!("{}:{line}", path.display()), error.message())
}

/// Finds the line of a key, for error messages.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
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
            let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
            start = Some(name.span().start);
            match value.get_ref() {
                toml::de::DeValue::Table(inner) => table = inner,
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
        if let (Value::Table(given), Value::Table(_), false) = (value, inner, C::BY_NAME.contains(&key.as_str())) {
            check_keys::<C>(given, inner, &format!("{key}."), place)?;
        }
    }
    Ok(())
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
        match value_at(table, key) {
            Some(Value::String(path)) => *path = absolute(path),
            Some(Value::Array(paths)) => {
                paths
                    .iter_mut()
                    .filter_map(|p| if let Value::String(p) = p { Some(p) } else { None })
                    .for_each(|p| *p = absolute(p));
            }
            _ => {}
        }
    }
    for key in C::GRADERS {
        if let Some(grader) = value_at(table, key) {
            grader_spec::resolve_paths(grader, base);
        }
    }
}

/// The value of a dotted key.
fn value_at<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    let mut parts = key.split('.');
    let first = table.get_mut(parts.next()?);
    parts.fold(first, |value, part| value?.get_mut(part))
}

/// `path` relative to `base`, as an absolute path without `.` and `..`. An empty path stays empty.
pub(super) fn absolute(base: &Path, path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let joined = base.join(path);
    let full = std::path::absolute(&joined).unwrap_or(joined);
    let mut clean = PathBuf::new();
    for part in full.components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean.to_string_lossy().into_owned()
}

/// Applies one `--set key.path=value`. The value is read as TOML, and as plain text if it is not TOML.
fn apply_set<C: Config>(table: &mut Table, set: &str, known: &Value) -> Result<(), InputError> {
    let place = format!("--set {set}");
    let (key, text) = set.split_once('=').ok_or_else(|| InputError::new(&place, "expected KEY=VALUE"))?;
    let (key, text) = (key.trim(), text.trim());
    let parsed = format!("x = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
    let is_text = key.split('.').try_fold(known, |value, part| value.get(part)).is_some_and(Value::is_str);
    let value = parsed.filter(|value| !is_text || value.is_str()).unwrap_or_else(|| Value::String(text.to_string()));
    let mut single =
        key.rsplit('.').fold(value, |value, part| Value::Table(Table::from_iter([(part.to_string(), value)])));
    let Some(wrapped) = single.as_table_mut() else { return Err(InputError::new(&place, "expected KEY=VALUE")) };
    check_keys::<C>(wrapped, known, "", &|_| place.clone())?;
    absolute_paths::<C>(wrapped, Path::new("."));
    merge(table, std::mem::take(wrapped));
    Ok(())
}

fn merge(into: &mut Table, from: Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(name, value)),
        }
    }
}

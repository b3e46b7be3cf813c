//! Which settings of a run differ from those that it began with, and which of them may.

use anyhow::Result;

use crate::config::Config;

/// Settings that a resume may change: how long a run is, what is measured and saved, and how fast it goes.
const MAY_CHANGE: [&str; 20] = [
    "max_steps",
    "eval",
    "ckpt",
    "log",
    "bench",
    "simulate",
    "pipeline.rollout_workers",
    "pipeline.engine_timeout_s",
    "pipeline.stall_warning_s",
    "pipeline.stall_timeout_s",
    "engine.endpoints",
    "engine.remote",
    "engine.sync",
    "engine.check",
    "engine.max_sequences",
    "engine.replicas",
    "engine.cache_mb",
    "engine.gpu_memory_utilization",
    "engine.device_memory_mb",
    "engine.device_index",
];

/// Settings that say where something is. They may change too where the contents can be compared: see [`fingerprints`](super::fingerprints).
const PATHS: [&str; 3] = ["model", "data.train_files", "data.test_files"];

/// The settings that a resume may change. `is_recorded`: whether the run knows the contents of model and rows.
pub fn may_change(is_recorded: bool) -> Vec<&'static str> {
    let paths: &[&str] = if is_recorded { &PATHS } else { &[] };
    [&MAY_CHANGE, paths].concat()
}

/// What helps where another setting differs.
pub fn advice() -> String {
    let all = MAY_CHANGE.join(", ");
    format!("only {all} may change on a resume, and where model and data are; --allow-changed goes on all the same")
}

/// The first key in each table whose value differs and must not, as "key was X, is Y".
pub fn differences<C: Config>(old: &C, new: &C, may_change: &[&str]) -> Result<Vec<String>> {
    let (mut old, mut new) = (toml::Table::try_from(old)?, toml::Table::try_from(new)?);
    may_change.iter().for_each(|key| [&mut old, &mut new].into_iter().for_each(|table| remove(table, key)));
    let differing = new.keys().filter(|key| old.get(*key) != new.get(*key));
    Ok(differing.map(|key| difference(key, old.get(key), new.get(key))).collect())
}

/// Removes a dotted key, from every table of a list of tables too.
fn remove(table: &mut toml::Table, key: &str) {
    let Some((outer, inner)) = key.split_once('.') else {
        table.remove(key);
        return;
    };
    match table.get_mut(outer) {
        Some(toml::Value::Table(table)) => remove(table, inner),
        Some(toml::Value::Array(list)) => {
            list.iter_mut().filter_map(toml::Value::as_table_mut).for_each(|table| remove(table, inner));
        }
        _ => {}
    }
}

/// Goes into tables, and into lists of tables that are as long as before.
fn difference(key: &str, old: Option<&toml::Value>, new: Option<&toml::Value>) -> String {
    match (old, new) {
        (Some(toml::Value::Table(old)), Some(toml::Value::Table(new))) => {
            let differing = old.keys().chain(new.keys()).find(|it| old.get(*it) != new.get(*it));
            let inner = differing.map_or("", String::as_str);
            difference(&format!("{key}.{inner}"), old.get(inner), new.get(inner))
        }
        (Some(toml::Value::Array(old)), Some(toml::Value::Array(new))) if old.len() == new.len() && is_tables(new) => {
            let index = (0..new.len()).find(|it| old[*it] != new[*it]).unwrap_or(0);
            let key = if new.len() == 1 { key.to_string() } else { format!("{key}[{index}]") };
            difference(&key, old.get(index), new.get(index))
        }
        _ => format!("{key} was {}, is {}", show(old), show(new)),
    }
}

fn is_tables(values: &[toml::Value]) -> bool {
    !values.is_empty() && values.iter().all(toml::Value::is_table)
}

fn show(value: Option<&toml::Value>) -> String {
    value.map_or_else(|| "unset".into(), ToString::to_string)
}

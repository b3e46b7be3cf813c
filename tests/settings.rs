//! `docs/settings.md` against the program: every key is there once, with the default that the struct has.

use std::collections::BTreeMap;

use dump_rl::config::data::DataEntry;
use dump_rl::config::run::RunConfig;
use dump_rl::config::sft::SftConfig;
use dump_rl::config::{Config, to_toml};
use toml::{Table, Value};

use crate::fixtures::root;

/// The headings under which the document lists the keys of each type.
const RUN: &str = "# Settings of a run";
const SFT: &str = "# Settings of supervised training";

#[test]
fn every_setting_of_a_run_is_documented_with_its_default() {
    assert_documented::<RunConfig>(RUN);
}

#[test]
fn every_setting_of_supervised_training_is_documented_with_its_default() {
    assert_documented::<SftConfig>(SFT);
}

#[test]
fn a_stale_document_is_noticed() {
    let settings = BTreeMap::from([("a.b".into(), Value::Float(1.0)), ("c".into(), Value::Array(Vec::new()))]);
    check("| `a.b` | `1.0` | x |\n| `c` | `[]` | y |", &settings, &[]);
    check("| `c` | `[]` |", &settings, &["a.b is missing"]);
    check("| `a.b` | `1` |\n| `c` | `[]` |", &settings, &["a.b is 1.0 in the program, 1 in the document"]);
    check("| `a.b` | `1.0` |\n| `c` | `[]` |\n| `c` | `[]` |", &settings, &["c is listed 2 times"]);
    check("| `a.b` | `1.0` |\n| `c` | `[]` |\n| `d` | `0` |", &settings, &["d does not exist"]);
}

fn check(section: &str, settings: &BTreeMap<String, Value>, expected: &[&str]) {
    assert_eq!(problems(section, settings), expected, "{section}");
}

fn assert_documented<C: Config>(heading: &str) {
    let text = std::fs::read_to_string(root().join("docs/settings.md")).expect("docs/settings.md");
    // What `--dry-run` prints: in text an f32 is as short as in the document.
    let defaults: Table = to_toml(&C::default()).expect("TOML").parse().expect("TOML");
    let mut settings = BTreeMap::new();
    flatten::<C>("", defaults, &mut settings);
    let problems = problems(section(&text, heading), &settings);
    assert!(problems.is_empty(), "docs/settings.md, {heading:?}: {problems:#?}");
}

/// The lines from a first-level heading to the next.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).expect("the heading") + 1 + heading.len();
    let end = text[start..].find("\n# ").map_or(text.len(), |length| start + length);
    &text[start..end]
}

/// Dotted keys with their values. A table whose keys come from the data is one value. The keys of `[[data]]` have the values of an empty
/// table.
fn flatten<C: Config>(prefix: &str, table: Table, settings: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            Value::Table(inner) if !C::BY_NAME.contains(&key.as_str()) => {
                flatten::<C>(&format!("{key}."), inner, settings);
            }
            Value::Array(tables) if tables.first().is_some_and(Value::is_table) => {
                let empty = Table::try_from(DataEntry::default()).expect("TOML").to_string().parse().expect("TOML");
                flatten::<C>(&format!("{key}."), empty, settings);
            }
            value => drop(settings.insert(key, value)),
        }
    }
}

/// What differs between a section of the document and the settings of the program.
fn problems(section: &str, settings: &BTreeMap<String, Value>) -> Vec<String> {
    let mut documented: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, default) in section.lines().filter_map(row) {
        documented.entry(key).or_default().push(default);
    }
    let missing = settings.keys().filter(|key| !documented.contains_key(key.as_str()));
    let missing = missing.map(|key| format!("{key} is missing"));
    let wrong = documented.iter().filter_map(|(key, defaults)| match (settings.get(*key), defaults.as_slice()) {
        (None, _) => Some(format!("{key} does not exist")),
        (Some(value), [default]) if parse(default).as_ref() == Some(value) => None,
        (Some(value), [default]) => Some(format!("{key} is {value} in the program, {default} in the document")),
        (Some(_), defaults) => Some(format!("{key} is listed {} times", defaults.len())),
    });
    missing.chain(wrong).collect()
}

/// Key and default of a table's row: "| `key` | `default` | …".
fn row(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line.strip_prefix("| `")?.split_once("` | `")?;
    Some((key, rest.split_once("` |")?.0))
}

fn parse(value: &str) -> Option<Value> {
    format!("value = {value}").parse::<Table>().ok()?.remove("value")
}

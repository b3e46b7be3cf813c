//! Keys of earlier versions. They keep working, and are read as today's.

use toml::{Table, Value};

/// An old key, and the one that it became.
pub const OLD_NAMES: [(&str, &str); 2] = [("people", "levels"), ("kind", "task")];

/// Rewrites the old keys of `data`: `people`, and `kind`, which was "kk" or "files".
///
/// A single `[data]` table changes the usual one, whose task is Knights and Knaves; files take the task's place.
pub fn modernise(table: &mut Table) {
    match table.get_mut("data") {
        Some(Value::Table(data)) if is_indexed(data) => {
            data.iter_mut().filter_map(|(_, entry)| entry.as_table_mut()).for_each(modernise_entry);
        }
        Some(Value::Table(data)) => modernise_entry(data),
        Some(Value::Array(entries)) => entries.iter_mut().filter_map(Value::as_table_mut).for_each(modernise_entry),
        _ => {}
    }
}

/// Whether the keys are the numbers of tables, as in `--set data.1.train=20`.
pub fn is_indexed(table: &Table) -> bool {
    !table.is_empty() && table.keys().all(|key| key.parse::<usize>().is_ok())
}

fn modernise_entry(entry: &mut Table) {
    let kind = entry.remove("kind");
    match kind.as_ref().and_then(Value::as_str) {
        // Keys of the other kind had no meaning, and older runs wrote them out.
        Some("files") => drop(entry.remove("people")),
        Some("kk") => ["train_files", "test_files"].iter().for_each(|key| drop(entry.remove(*key))),
        _ => {}
    }
    if let Some(people) = entry.remove("people") {
        entry.insert("levels".into(), people);
    }
    if let Some(kind) = kind {
        let task = if kind.as_str() == Some("files") { "".into() } else { kind };
        entry.entry("task").or_insert(task);
    }
    // Files take the place of the task in the table that they are set in.
    if entry.contains_key("train_files") {
        entry.entry("task").or_insert("".into());
    }
    if entry.get("task").and_then(Value::as_str) == Some("") {
        entry.entry("levels").or_insert("".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_keys_become_new_ones() {
        for (old, new) in [
            ("[data]\nkind = 'kk'\npeople = '3-4'", "[data]\nlevels = '3-4'\ntask = 'kk'"),
            ("[data]\nkind = 'files'\ntrain_files = ['a']", "[data]\ntask = ''\nlevels = ''\ntrain_files = ['a']"),
            ("[data]\ntrain_files = ['a']", "[data]\ntask = ''\nlevels = ''\ntrain_files = ['a']"),
            (
                "[data]\nkind = 'files'\npeople = '3-14'\ntrain_files = ['a']",
                "[data]\ntask = ''\nlevels = ''\ntrain_files = ['a']",
            ),
            ("[data]\nkind = 'kk'\npeople = '3'\ntrain_files = ['a']", "[data]\nlevels = '3'\ntask = 'kk'"),
            ("[data]\ntrain = 3", "[data]\ntrain = 3"),
            ("[[data]]\nkind = 'kk'\n[[data]]\ntask = 'kk'", "[[data]]\ntask = 'kk'\n[[data]]\ntask = 'kk'"),
            ("[data.1]\npeople = 3", "[data.1]\nlevels = 3"),
        ] {
            let mut table: Table = old.parse().unwrap();
            modernise(&mut table);
            assert_eq!(table, new.parse::<Table>().unwrap(), "{old}");
        }
    }
}

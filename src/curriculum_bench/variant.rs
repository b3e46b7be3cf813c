//! The argument of `--policies`: policies, each with optional settings that override the configuration.

use toml::Value;

use crate::curriculum::CurriculumConfig;
use crate::error::InputError;

/// A policy in the comparison: `dump`, or `dump_plus[floor=0,filter.zero_variance=true]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The text in the argument.
    pub label: String,
    /// `KEY=VALUE` for the configuration.
    pub sets: Vec<String>,
}

impl Variant {
    /// The label as the name of a folder.
    pub fn folder(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._=-+".contains(c) { c } else { '_' };
        self.label.chars().map(plain).collect::<String>().trim_end_matches('_').to_string()
    }
}

/// The variants of a comma-separated list. The settings in brackets are keys of the table of the policy, of
/// `[curriculum]`, or, with a dot, of a table in `[curriculum]` or of the whole configuration.
///
/// # Errors
/// An empty name, a repeated variant, a missing closing bracket, or a setting without a value.
pub fn parse(list: &str) -> Result<Vec<Variant>, InputError> {
    let wrong = |problem: String| InputError::new("--policies", problem);
    let mut variants: Vec<Variant> = Vec::new();
    for label in split(list) {
        let variant = one(label.trim()).map_err(&wrong)?;
        if variants.iter().any(|other| other.folder() == variant.folder()) {
            return Err(wrong(format!("{:?} is listed twice", variant.label)));
        }
        variants.push(variant);
    }
    Ok(variants)
}

/// The parts between the commas outside brackets.
fn split(list: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    list.split(|c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn one(label: &str) -> Result<Variant, String> {
    let (policy, settings) = match label.split_once('[') {
        None => (label, ""),
        Some((policy, rest)) => {
            (policy, rest.strip_suffix(']').ok_or_else(|| format!("{label:?} needs a ] at its end"))?)
        }
    };
    if policy.is_empty() || policy.contains(']') {
        return Err(format!("{label:?} names no policy"));
    }
    let mut sets = vec![format!("curriculum.policy={policy}")];
    for setting in settings.split(',').map(str::trim).filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=').ok_or_else(|| format!("{setting:?} should be KEY=VALUE"))?;
        sets.push(format!("{}={value}", full_key(policy, key.trim())));
    }
    Ok(Variant { label: label.to_string(), sets })
}

/// The table of the policy comes before `[curriculum]`, because both may have a key of this name.
fn full_key(policy: &str, key: &str) -> String {
    let defaults = Value::try_from(CurriculumConfig::default()).ok();
    let has = |path: &[&str]| {
        let found = path.iter().try_fold(defaults.as_ref()?, |value, part| value.get(part));
        found.map(|value| !value.is_table())
    };
    let own = policy.replace('+', "_plus");
    if key.contains('.') {
        let is_table_of_curriculum = has(&key.split('.').collect::<Vec<_>>()).is_some();
        return if is_table_of_curriculum { format!("curriculum.{key}") } else { key.to_string() };
    }
    match (has(&[&own, key]), has(&[key])) {
        (None, Some(true)) => format!("curriculum.{key}"),
        _ => format!("curriculum.{own}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_get_their_full_keys() {
        let variants = parse("uniform, dump[temperature=1,filter.zero_variance=true],dump+[temperature=2]").unwrap();
        assert_eq!(variants[0].sets, ["curriculum.policy=uniform"]);
        let dump = ["curriculum.policy=dump", "curriculum.temperature=1", "filter.zero_variance=true"];
        assert_eq!(variants[1].sets, dump);
        assert_eq!(variants[2].sets, ["curriculum.policy=dump+", "curriculum.dump_plus.temperature=2"]);
        let rows = &parse("dump[rows=mopps,mopps.discount=1]").unwrap()[0].sets[1..];
        assert_eq!(rows, ["curriculum.rows=mopps", "curriculum.mopps.discount=1"]);
        assert_eq!(variants[1].folder(), "dump_temperature=1_filter.zero_variance=true");
    }

    #[test]
    fn wrong_variants_are_named() {
        for (list, word) in [
            ("dump,,uniform", "names no policy"),
            ("dump[a=1", "needs a ]"),
            ("dump[a]", "KEY=VALUE"),
            ("a,a", "twice"),
        ] {
            let error = parse(list).unwrap_err();
            assert!(error.place == "--policies" && error.problem.contains(word), "{error}");
        }
    }
}

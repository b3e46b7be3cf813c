//! The keys of a `config.json` about rotary angles, in their older and newer spellings.

use serde_json::{Map, Value};

/// What they say together.
pub struct RopeKeys {
    /// `rope_theta`.
    pub theta: Value,
    /// Kind and numbers of the scaling to longer contexts; null if there is none.
    pub scaling: Value,
}

impl RopeKeys {
    /// Removes them from `keys`. As in transformers, `rope_theta` counts where it is beside the scaling
    /// (`rope_parameters` of newer folders), and `original_max_position_embeddings` where it is outside.
    ///
    /// # Errors
    /// A key that is not known, or a value that is not supported. Names the key.
    pub fn take(keys: &mut Map<String, Value>) -> Result<Self, String> {
        let mut take = |key: &str| keys.shift_remove(key).unwrap_or_default();
        let (name, mut scaling) = scaling(take("rope_scaling"), take("rope_parameters"))?;
        let (theta, whole) = (take("rope_theta"), take("partial_rotary_factor"));
        let original = take("original_max_position_embeddings");
        let kind = kind(name, &scaling)?;
        check_keys(name, &kind, &scaling)?;
        check_whole("partial_rotary_factor", &whole)?;
        if kind == "llama3" && !original.is_null() {
            scaling.insert("original_max_position_embeddings".into(), original);
        }
        let theta = scaling.get("rope_theta").cloned().unwrap_or(theta);
        let theta = if theta.is_null() { DEFAULT_THETA.into() } else { theta };
        if !theta.as_f64().is_some_and(|theta| theta > 0.0) {
            return Err(format!("rope_theta {theta}: expected a positive number"));
        }
        Ok(Self { theta, scaling: if scaling.is_empty() { Value::Null } else { scaling.into() } })
    }
}

/// transformers' default in all families.
const DEFAULT_THETA: f64 = 10_000.0;

/// The key that is set, and its entries that are not null.
fn scaling(old: Value, new: Value) -> Result<(&'static str, Map<String, Value>), String> {
    let is_set = |value: &Value| !value.is_null() && *value != Value::Object(Map::new());
    let (name, value) = match (is_set(&old), is_set(&new)) {
        (true, true) if old != new => {
            return Err("rope_scaling and rope_parameters differ; remove the one that is wrong".into());
        }
        (true, _) => ("rope_scaling", old),
        (false, true) => ("rope_parameters", new),
        (false, false) => return Ok(("rope_scaling", Map::new())),
    };
    match value {
        Value::Object(entries) => Ok((name, entries.into_iter().filter(|(_, value)| !value.is_null()).collect())),
        other => Err(format!("{name} {other}: expected an object or null")),
    }
}

/// `rope_type`, which older folders call `type`.
fn kind(name: &str, scaling: &Map<String, Value>) -> Result<String, String> {
    let [new, old] = ["rope_type", "type"].map(|key| scaling.get(key));
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            Err(format!("{name}: rope_type is {new} and type is {old}; remove the one that is wrong"))
        }
        (Some(Value::String(kind)), _) | (None, Some(Value::String(kind))) => Ok(kind.clone()),
        (None, None) => Ok("default".into()),
        (Some(other), _) | (_, Some(other)) => Err(format!("{name}: rope_type {other} is no text")),
    }
}

fn check_keys(name: &str, kind: &str, scaling: &Map<String, Value>) -> Result<(), String> {
    const ALWAYS: [&str; 5] =
        ["rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"];
    let numbers: &[&str] = match kind {
        "default" => &[],
        "linear" => &["factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor"],
        other => return Err(format!("{name} of type {other:?} is not supported; known: default, linear, llama3")),
    };
    check_whole("partial_rotary_factor", scaling.get("partial_rotary_factor").unwrap_or(&Value::Null))?;
    match scaling.keys().find(|key| !ALWAYS.contains(&key.as_str()) && !numbers.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(format!("{name} of type {kind:?}: unknown key `{key}`")),
    }
}

fn check_whole(key: &str, share: &Value) -> Result<(), String> {
    match share.is_null() || share.as_f64() == Some(1.0) {
        true => Ok(()),
        false => Err(format!("{key} {share}: only rotary embeddings of whole heads are supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn take(keys: Value) -> Result<(Value, Value), String> {
        RopeKeys::take(&mut keys.as_object().unwrap().clone()).map(|keys| (keys.theta, keys.scaling))
    }

    #[test]
    fn spellings_of_old_and_new_folders_mean_the_same() {
        let check = |keys: Value, theta: f64, scaling: Value| assert_eq!(take(keys), Ok((theta.into(), scaling)));
        check(json!({}), 1e4, Value::Null);
        check(json!({"rope_theta": 1e6, "rope_scaling": null}), 1e6, Value::Null);
        check(json!({"rope_theta": 1e6, "rope_scaling": {}}), 1e6, Value::Null);
        let linear = json!({"type": "linear", "factor": 4.0});
        check(json!({"rope_theta": 1e6, "rope_scaling": linear.clone()}), 1e6, linear);
        let new = json!({"rope_type": "default", "rope_theta": 1e6});
        check(json!({"rope_parameters": new.clone()}), 1e6, new.clone());
        check(json!({"rope_parameters": new.clone(), "rope_theta": 5e5}), 1e6, new.clone());
        check(json!({"rope_parameters": new.clone(), "rope_scaling": new.clone()}), 1e6, new);
        check(json!({"partial_rotary_factor": 1.0}), 1e4, Value::Null);
        let llama3 = |original: Option<usize>| {
            let mut scaling =
                json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4});
            if let Some(original) = original {
                scaling["original_max_position_embeddings"] = original.into();
            }
            scaling
        };
        check(json!({"rope_scaling": llama3(Some(8192))}), 1e4, llama3(Some(8192)));
        let outside = json!({"rope_scaling": llama3(None), "original_max_position_embeddings": 4096});
        check(outside, 1e4, llama3(Some(4096)));
    }

    #[test]
    fn other_rotations_and_unknown_keys_are_refused_by_name() {
        let refused = |keys: Value, part: &str| {
            let problem = take(keys).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        };
        for kind in ["yarn", "dynamic", "longrope", "su", "mrope"] {
            refused(json!({"rope_scaling": {"type": kind, "factor": 4.0}}), kind);
        }
        refused(json!({"rope_scaling": {"type": "linear", "factor": 4.0, "beta_fast": 32}}), "beta_fast");
        refused(json!({"rope_scaling": {"factor": 4.0}}), "factor");
        refused(json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}), "full_attention");
        refused(json!({"rope_scaling": {"type": "linear", "rope_type": "default"}}), "rope_type");
        refused(
            json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1e6}}),
            "differ",
        );
        refused(json!({"rope_scaling": [4]}), "rope_scaling [4]");
        refused(json!({"rope_scaling": {"rope_type": 3}}), "rope_type 3");
        refused(json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor");
        refused(json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor");
        refused(json!({"rope_theta": "1e6"}), "rope_theta");
        refused(json!({"rope_theta": 0}), "rope_theta");
    }
}

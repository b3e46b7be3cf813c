//! Token ids in a model's configuration: a number, a list of numbers, or nothing.

use serde_json::Value;

/// The ids of the key `key` in a vocabulary of `vocab_size` tokens.
///
/// # Errors
/// Names the key and the first value that is no id.
pub fn parse_token_ids(key: &str, value: Option<&Value>, vocab_size: usize) -> Result<Vec<u32>, String> {
    let id = |value: &Value| {
        let id = value.as_u64().filter(|id| *id < vocab_size as u64).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| format!("{key} {value}: expected ids from 0 to {}", vocab_size.saturating_sub(1)))
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(value) => Ok(vec![id(value)?]),
    }
}

/// The ids of a value that was checked.
pub fn token_ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_are_numbers_within_the_vocabulary() {
        let good = |value: Value, ids: &[u32]| {
            assert_eq!(parse_token_ids("eos_token_id", Some(&value), 100).as_deref(), Ok(ids));
            assert_eq!(token_ids(&value), ids);
        };
        good(json!(null), &[]);
        good(json!(0), &[0]);
        good(json!([99, 3]), &[99, 3]);
        for value in [json!("2"), json!(-1), json!(100), json!(1u64 << 32), json!(2.5), json!([1, null]), json!([[1]])]
        {
            let problem = parse_token_ids("eos_token_id", Some(&value), 100).unwrap_err();
            assert!(problem.starts_with("eos_token_id "), "{problem}");
        }
    }
}

//! Checks of values that several tables share. Keys are those inside the table.

use crate::error::KeyError;

/// # Errors
/// The first key whose value is 0.
pub fn at_least_one(values: &[(&str, usize)]) -> Result<(), KeyError> {
    match values.iter().find(|(_, value)| *value == 0) {
        Some((key, _)) => Err(KeyError::new(*key, "must be at least 1")),
        None => Ok(()),
    }
}

/// # Errors
/// The first key whose value is above its limit.
pub fn at_most(values: &[(&str, u64, u64)]) -> Result<(), KeyError> {
    match values.iter().find(|(_, value, most)| value > most) {
        Some((key, value, most)) => Err(KeyError::new(*key, format!("must be at most {most}, got {value}"))),
        None => Ok(()),
    }
}

/// Each value must be from its lower to its upper limit. NaN is outside every range.
///
/// # Errors
/// The first key whose value is outside.
pub fn ranges(values: &[(&str, f64, f64, f64)]) -> Result<(), KeyError> {
    match values.iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
        Some((key, value, low, high)) => Err(KeyError::new(*key, format!("must be from {low} to {high}, got {value}"))),
        None => Ok(()),
    }
}

//! Ranges of settings. An error names the key, and what would be right.

use crate::error::KeyError;

/// Refuses a number that is not finite or not above 0.
pub fn above_zero(key: &str, value: f64) -> Result<(), KeyError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(KeyError::new(key, format!("must be a finite number above 0, got {value}"))),
    }
}

/// Refuses a number that is not finite or below 0.
pub fn not_negative(key: &str, value: f64) -> Result<(), KeyError> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(KeyError::new(key, format!("must be a finite number of at least 0, got {value}"))),
    }
}

/// Refuses a number outside `low` to `high`.
pub fn within(key: &str, value: f64, low: f64, high: f64) -> Result<(), KeyError> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(KeyError::new(key, format!("must be from {low} to {high}, got {value}"))),
    }
}

/// Refuses a rate outside 0 (exclusive) to 1 (inclusive).
pub fn rate(key: &str, value: f64) -> Result<(), KeyError> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(()),
        false => Err(KeyError::new(key, format!("must be above 0 and at most 1, got {value}"))),
    }
}

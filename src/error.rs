//! The errors that mean "the input is wrong": they end the program with exit status 2.
//!
//! A [`KeyError`] knows the configuration key only. Whoever knows the file turns it into an [`InputError`].

use std::fmt;

/// Wrong input: its place (file, line, key), what is wrong, and what would be right.
///
/// Any other failure is an ordinary error, and ends the program with exit status 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    /// File, `file:line` or config key.
    pub place: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl InputError {
    pub fn new(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self { place: place.to_string(), problem: problem.to_string() }
    }

    /// A wrong key at `place`, for example in a line of a file.
    pub fn at(place: impl fmt::Display, error: KeyError) -> Self {
        Self::new(place, error)
    }

    /// A wrong key inside `[curriculum]`, whose file is not known.
    pub fn in_curriculum(error: KeyError) -> Self {
        let KeyError { key, problem } = error.under("curriculum");
        Self { place: key, problem }
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl std::error::Error for InputError {}

/// A configuration key with a wrong value. It does not know in which file the key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    /// The dotted key, for example `curriculum.temperature`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl KeyError {
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    /// The same error for a key inside the table `prefix`: puts `prefix.` before the key.
    pub fn under(self, prefix: &str) -> Self {
        Self { key: format!("{prefix}.{}", self.key), ..self }
    }

    /// # Errors
    /// The first key whose value is 0.
    pub fn if_zero(values: &[(&str, usize)]) -> Result<(), Self> {
        match values.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(Self::new(*key, "must be at least 1")),
            None => Ok(()),
        }
    }

    /// # Errors
    /// The first key whose value is above its limit.
    pub fn if_above(values: &[(&str, u64, u64)]) -> Result<(), Self> {
        match values.iter().find(|(_, value, most)| value > most) {
            Some((key, value, most)) => Err(Self::new(*key, format!("must be at most {most}, got {value}"))),
            None => Ok(()),
        }
    }

    /// Each value must be from its lower to its upper limit. NaN is outside every range.
    ///
    /// # Errors
    /// The first key whose value is outside.
    pub fn if_outside(values: &[(&str, f64, f64, f64)]) -> Result<(), Self> {
        match values.iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
            Some((key, value, low, high)) => Err(Self::new(*key, format!("must be from {low} to {high}, got {value}"))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

impl std::error::Error for KeyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_their_limits_are_named() {
        assert_eq!(KeyError::if_zero(&[("a", 1), ("b", 0)]), Err(KeyError::new("b", "must be at least 1")));
        assert_eq!(
            KeyError::if_above(&[("a", 3, 3), ("b", 4, 3)]),
            Err(KeyError::new("b", "must be at most 3, got 4"))
        );
        assert_eq!(KeyError::if_outside(&[("a", 0.0, 0.0, 1.0), ("b", 1.0, 0.0, 1.0)]), Ok(()));
        assert!(KeyError::if_outside(&[("a", f64::NAN, 0.0, 1.0)]).is_err(), "NaN is in no range");
    }

    #[test]
    fn a_key_error_names_its_table_and_its_place() {
        let error = || KeyError::new("temperature", "must be above 0").under("curriculum");
        assert_eq!(error().to_string(), "curriculum.temperature: must be above 0");
        let at = InputError::at("run.toml:3", error());
        assert_eq!(at.to_string(), "run.toml:3: curriculum.temperature: must be above 0");
        let inside = InputError::in_curriculum(KeyError::new("temperature", "must be above 0"));
        assert_eq!(inside, InputError::new("curriculum.temperature", "must be above 0"));
    }
}

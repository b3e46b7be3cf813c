//! The settings of a run, as the report shows them.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use crate::error::InputError;
use crate::files;

/// Every setting by its dotted key, as written in the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSettings(BTreeMap<String, String>);

impl RunSettings {
    /// Reads config.toml; empty if there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = files::read_text(path)?;
        let table: Table = text.parse().map_err(|e| InputError::new(path.display(), format!("is not TOML: {e}")))?;
        let mut settings = Self::default();
        settings.flatten("", table);
        Ok(settings)
    }

    fn flatten(&mut self, prefix: &str, table: Table) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                Value::Table(inner) => self.flatten(&format!("{key}."), inner),
                Value::String(text) => drop(self.0.insert(key, text)),
                other => drop(self.0.insert(key, other.to_string())),
            }
        }
    }

    /// The keys in the file, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The value; "–" if the file does not have it.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("–", String::as_str)
    }

    /// The value as a number; 0 if it is not a number.
    pub fn number(&self, key: &str) -> f64 {
        self.get(key).parse().unwrap_or(0.0)
    }

    /// The model's name without the folders above it.
    pub fn model(&self) -> &str {
        let model = self.get("model");
        model.trim_end_matches('/').rsplit('/').next().unwrap_or(model)
    }
}

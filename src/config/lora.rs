//! The `[lora]` table: the adapter that is trained.

use engine::decoder::Module;
use serde::{Deserialize, Serialize};

use crate::error::KeyError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraSettings {
    pub rank: usize,
    pub alpha: f64,
    pub target_modules: Vec<String>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        let target_modules = engine::adapter::LINEAR_LAYERS.map(String::from).to_vec();
        Self { rank: 16, alpha: 32.0, target_modules }
    }
}

impl LoraSettings {
    /// Refuses an adapter that changes nothing, and names that are no linear layer of a block.
    ///
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_outside(&[("alpha", self.alpha, f64::MIN_POSITIVE, 1e6)])?;
        if self.target_modules.is_empty() {
            return Err(KeyError::new("target_modules", "must name at least one linear layer"));
        }
        match self.target_modules.iter().find(|name| Module::from_name(name).is_none()) {
            Some(name) => {
                let known = Module::ALL.map(Module::name).join(", ");
                Err(KeyError::new("target_modules", format!("{name:?} is not a linear layer; known: {known}")))
            }
            None => Ok(()),
        }
    }
}

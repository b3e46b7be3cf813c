//! The `[data]` table: where the rows come from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::KeyError;
use crate::task::kk::parse_people;

/// Where the rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// Generated Knights-and-Knaves puzzles.
    Kk,
    /// JSON Lines or parquet files.
    Files,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataConfig {
    pub kind: DataKind,
    /// For `kk`: numbers of people, such as "3-14". Each is one distribution.
    pub people: String,
    /// For `kk`: training and test puzzles per number of people.
    pub train: usize,
    pub test: usize,
    /// For `kk`: seed of the generator. It is independent of the run's seed.
    pub seed: u64,
    /// For `files`: JSON Lines or parquet files of training and test rows.
    pub train_files: Vec<PathBuf>,
    pub test_files: Vec<PathBuf>,
}

impl Default for DataConfig {
    fn default() -> Self {
        let (train_files, test_files) = (Vec::new(), Vec::new());
        Self { kind: DataKind::Kk, people: "3-14".into(), train: 900, test: 100, seed: 42, train_files, test_files }
    }
}

impl DataConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_zero(&[("train", self.train)])?;
        match self.kind {
            DataKind::Kk => parse_people(&self.people).map(drop).map_err(|problem| KeyError::new("people", problem)),
            DataKind::Files if self.train_files.is_empty() => {
                Err(KeyError::new("train_files", "data.kind = \"files\" needs at least one file"))
            }
            DataKind::Files => Ok(()),
        }
    }
}

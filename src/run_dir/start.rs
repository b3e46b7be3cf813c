//! Where a run starts: in a new folder, in one whose run was stopped before its first checkpoint, or at a checkpoint.

use std::path::Path;

use anyhow::Result;

use super::RunDir;
use super::checkpoint::Checkpoint;
use crate::config::run::RunConfig;

/// See the module. It was found fit for the run's folder.
pub enum StartFrom {
    /// The folder holds no run.
    Nothing,
    /// Nothing that was saved: what the folder's run logged of its steps is removed. There may be no run at all.
    Unsaved,
    Checkpoint(Box<Checkpoint>),
}

impl StartFrom {
    /// # Errors
    /// If `out` holds a run.
    pub fn new_run(out: &Path) -> Result<Self> {
        RunDir::check_free(out)?;
        Ok(Self::Nothing)
    }

    /// The newest checkpoint in `out`. Without one, the beginning.
    ///
    /// # Errors
    /// A damaged checkpoint; a run with other settings; checkpoints that were removed.
    pub fn resume(out: &Path, config: &RunConfig) -> Result<Self> {
        match Checkpoint::newest(out)? {
            Some(checkpoint) => {
                RunDir::check_same(out, config)?;
                Ok(Self::Checkpoint(Box::new(checkpoint)))
            }
            None => {
                RunDir::check_unsaved(out, config)?;
                Ok(Self::Unsaved)
            }
        }
    }

    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Self::Nothing | Self::Unsaved => None,
            Self::Checkpoint(checkpoint) => Some(checkpoint),
        }
    }

    /// Opens the folder, and removes from its logs what comes after the start.
    ///
    /// # Errors
    /// As the functions that make this value: the folder may have changed.
    pub fn open(&self, out: &Path, config: &RunConfig) -> Result<RunDir> {
        match self {
            Self::Nothing => RunDir::create(out, config),
            Self::Unsaved => RunDir::begin_again(out, config),
            Self::Checkpoint(it) => RunDir::resume(out, config, it.step(), it.last_measured()),
        }
    }
}

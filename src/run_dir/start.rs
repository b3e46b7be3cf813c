//! Where a run starts: in a new folder, in one whose run was stopped before its first checkpoint, or at a checkpoint.

use std::path::Path;

use anyhow::Result;

use super::RunDir;
use super::checkpoint::Checkpoint;
use crate::config::run::RunConfig;
use crate::error::InputError;

/// Whether a resume may go on with a model, rows or settings that the run did not begin with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Changes {
    #[default]
    Refused,
    /// They are warned of.
    Allowed,
}

impl Changes {
    /// `advice` is what helps where a difference is refused.
    ///
    /// # Errors
    /// The difference with the advice, if there is one and it is refused.
    pub fn judge(self, difference: Option<InputError>, advice: &str) -> Result<(), InputError> {
        match (self, difference) {
            (_, None) => Ok(()),
            (Self::Refused, Some(InputError { place, problem })) => {
                Err(InputError::new(place, format!("{problem}; {advice}")))
            }
            (Self::Allowed, Some(difference)) => {
                tracing::warn!("--allow-changed: {difference}");
                Ok(())
            }
        }
    }
}

/// How a run goes on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resume {
    /// The step of the checkpoint. `None`: the newest one, or the beginning where there is none.
    pub at: Option<u64>,
    pub changes: Changes,
}

/// See the module. It was found fit for the run's folder.
pub enum StartFrom {
    /// The folder holds no run.
    Nothing,
    /// Nothing that was saved: what the folder's run logged of its steps is removed. There may be no run at all.
    Unsaved(Changes),
    Checkpoint(Box<Checkpoint>, Changes),
}

impl StartFrom {
    /// # Errors
    /// If `out` holds a run.
    pub fn new_run(out: &Path) -> Result<Self> {
        RunDir::check_free(out)?;
        Ok(Self::Nothing)
    }

    /// The checkpoint in `out` that is asked for.
    ///
    /// # Errors
    /// A damaged checkpoint, none of that step, or one after the last step; a run with other settings; checkpoints that were removed.
    pub fn resume(out: &Path, config: &RunConfig, Resume { at, changes }: Resume) -> Result<Self> {
        let checkpoint = match at {
            Some(step) => Some(Checkpoint::load_step(out, step)?),
            None => Checkpoint::newest(out)?,
        };
        match checkpoint {
            Some(checkpoint) => {
                RunDir::check_same(out, config, changes)?;
                check_not_past(&checkpoint, config.max_steps)?;
                Ok(Self::Checkpoint(Box::new(checkpoint), changes))
            }
            None => {
                RunDir::check_unsaved(out, config, changes)?;
                Ok(Self::Unsaved(changes))
            }
        }
    }

    /// `None` if the run begins.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Self::Nothing | Self::Unsaved(_) => None,
            Self::Checkpoint(checkpoint, _) => Some(checkpoint),
        }
    }

    pub fn changes(&self) -> Changes {
        match self {
            Self::Nothing => Changes::Refused,
            Self::Unsaved(changes) | Self::Checkpoint(_, changes) => *changes,
        }
    }

    /// Opens the folder, and removes from it what comes after the start.
    ///
    /// # Errors
    /// As the functions that make this value: the folder may have changed.
    pub fn open(&self, out: &Path, config: &RunConfig) -> Result<RunDir> {
        match self {
            Self::Nothing => RunDir::create(out, config),
            Self::Unsaved(changes) => RunDir::begin_again(out, config, *changes),
            Self::Checkpoint(checkpoint, changes) => RunDir::resume(out, config, checkpoint, *changes),
        }
    }
}

/// # Errors
/// A checkpoint that has more steps than the run shall have. One with as many is a run that is done.
fn check_not_past(checkpoint: &Checkpoint, max_steps: u64) -> Result<(), InputError> {
    let step = checkpoint.step();
    if step <= max_steps {
        return Ok(());
    }
    let problem = format!(
        "is {max_steps}, and the checkpoint has {step} steps; allow more, or name an older checkpoint with --resume=STEP"
    );
    Err(InputError::new("max_steps", problem))
}

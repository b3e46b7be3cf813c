//! How a long computation is asked to end early.

use candle_core::{Error, Result};
use tokio::sync::watch;

/// Looked at before every block, so a computation ends within the time of a block's forward, or of one backward pass.
#[derive(Clone)]
pub struct GiveUp(watch::Receiver<bool>);

impl GiveUp {
    /// Asked once `asked` turns true.
    pub fn when(asked: watch::Receiver<bool>) -> Self {
        Self(asked)
    }

    /// Never asked.
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// # Errors
    /// Once it is asked.
    pub fn check(&self) -> Result<()> {
        match self.is_asked() {
            true => Err(Error::Msg("given up: the run stops".into())),
            false => Ok(()),
        }
    }
}

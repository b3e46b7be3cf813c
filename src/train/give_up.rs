//! How a long computation is asked to end early, and how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Error, Result};
use tokio::sync::watch;

/// Looked at before every block, so a computation ends within the time of a block's forward, or of one backward pass.
#[derive(Clone)]
pub struct GiveUp {
    asked: watch::Receiver<bool>,
    blocks: Arc<AtomicU64>,
}

impl GiveUp {
    /// Asked once `asked` turns true.
    pub fn when(asked: watch::Receiver<bool>) -> Self {
        Self { asked, blocks: Arc::default() }
    }

    /// Never asked.
    pub fn never() -> Self {
        Self::when(watch::channel(false).1)
    }

    pub fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// How many blocks were begun. It grows as long as something is computed.
    pub fn blocks(&self) -> Arc<AtomicU64> {
        self.blocks.clone()
    }

    /// Counts a block.
    ///
    /// # Errors
    /// Once it is asked.
    pub fn check(&self) -> Result<()> {
        self.blocks.fetch_add(1, Ordering::Relaxed);
        match self.is_asked() {
            true => Err(Error::Msg("given up: the run stops".into())),
            false => Ok(()),
        }
    }
}

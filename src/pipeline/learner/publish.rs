//! A policy into the engine, and room for the trainer on a shared device.

use anyhow::{Context, Result};
use engine::{Adapter, Engine, EngineError};

use super::{Learner, PolicyTrainer};
use crate::config::resolve::Sharing;
use crate::pipeline::activity::Work;

impl<E: Engine, T: PolicyTrainer> Learner<E, T> {
    /// Unloads the engine where it and the trainer take turns. Requests that arrive until the next publish wait for it.
    pub(super) async fn make_room(&self) -> Result<()> {
        match self.resolved.sharing {
            Sharing::Alternate => {
                let _working = self.shared.activity.begin(Work::Suspending);
                self.engine.suspend().await.context("unloading the engine")
            }
            Sharing::SideBySide | Sharing::Reload => Ok(()),
        }
    }

    /// Makes `adapter` the engine's policy of `step`.
    ///
    /// # Errors
    /// If the engine fails, or loads another adapter.
    pub(super) async fn publish(&mut self, step: u64, adapter: Adapter) -> Result<()> {
        let _working = self.shared.activity.begin(Work::Publishing);
        let published = adapter.hash.clone();
        let loaded = self.engine.publish(step, adapter).await.context("publishing the policy")?;
        if loaded.adapter != published {
            return Err(EngineError::WrongAdapter { published, loaded: loaded.adapter }.into());
        }
        self.published.insert(step, published);
        let max_age = self.inputs.config.pipeline.max_off_policy_steps + 1;
        self.published = self.published.split_off(&step.saturating_sub(max_age));
        Ok(())
    }
}

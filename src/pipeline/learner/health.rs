//! What a step shows of the run's health: gradients that are not finite, an engine that computes something else, nothing to learn.

use anyhow::{Result, bail};
use engine::Engine;

use super::logprob_check::mismatch_limit;
use super::{Learner, PolicyTrainer, record, stuck};
use crate::pipeline::group::ScoredGroup;
use crate::run_dir::drift::Drifted;
use crate::train::MAX_SKIPPED;
use crate::train::stats::StepStats;

impl<E: Engine, T: PolicyTrainer> Learner<E, T> {
    /// # Errors
    /// Too many gradients in a row that are not finite.
    pub(super) fn check_health(&mut self, step: u64, stats: &StepStats, batch: &[ScoredGroup]) -> Result<()> {
        let skipped = &mut self.history.skipped_in_a_row;
        *skipped = if stats.skipped_updates > 0 { *skipped + 1 } else { 0 };
        if stats.skipped_updates > 0 {
            tracing::warn!("the gradient was not finite; the update was skipped");
        }
        if self.history.skipped_in_a_row >= MAX_SKIPPED {
            let (samples, sources) = (self.samples(batch)?, self.inputs.train.names());
            let path = self.run.failed_batch(step + 1, record::sample_lines(batch, &samples, &sources))?;
            bail!(
                "{MAX_SKIPPED} steps in a row had a gradient that is not finite; lower optim.lr or optim.max_grad_norm. \
                 The last batch is in {}",
                path.display()
            );
        }
        let limit = self.mismatch_limit();
        if stats.mismatch.on_policy_max > limit {
            let difference = stats.mismatch.on_policy_max;
            tracing::warn!(difference, "engine and trainer disagree on log-probabilities of the same policy");
        }
        Ok(())
    }

    /// Where all tokens of a batch are of older policies, only the canary counts. Without either the step says nothing.
    pub(super) fn warn_of_drift(&mut self, stats: &StepStats, canary: Option<f64>) {
        let Some(difference) = stats.mismatch.on_policy().into_iter().chain(canary).reduce(f64::max) else { return };
        let limit = self.mismatch_limit();
        let Some(Drifted { first, latest }) = self.history.drift.step(difference, limit) else { return };
        tracing::warn!(
            "engine and trainer drift apart: the largest difference of a log-probability under the same policy was {first:.1e} in the \
             first steps, and is {latest:.1e} now; above {limit} the engine samples from another policy than the one that is trained. \
             Older policies do not count, so this is not staleness. Look at actor/grad_norm and the entropy: a policy that diverges \
             makes rounding matter. A lower optim.lr or engine.dtype = \"f32\" helps"
        );
    }

    pub(super) fn warn_if_stuck(&mut self, batch: &[ScoredGroup]) -> Result<()> {
        let told = self.history.watch.step(&stuck::signs(batch, &self.inputs)?);
        if !told.is_empty() {
            tracing::warn!("{}", stuck::describe(&told, batch, &self.inputs)?);
        }
        Ok(())
    }

    /// What a log-probability of the engine may differ by from the trainer's.
    pub(super) fn mismatch_limit(&self) -> f64 {
        mismatch_limit(self.resolved.engine_precision, self.inputs.config.engine.quantization)
    }
}

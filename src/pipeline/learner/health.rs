//! What a step shows of the run's health: gradients that are not finite, an engine that computes something else, nothing to learn.

use anyhow::{Result, bail, ensure};
use engine::{Engine, Precision, Quantization};

use super::logprob_check::mismatch_limit;
use super::{Learner, PolicyTrainer, record, stuck};
use crate::config::engine::EngineCheck;
use crate::pipeline::group::ScoredGroup;
use crate::run_dir::drift::Drifted;
use crate::train::MAX_SKIPPED;
use crate::train::stats::StepStats;

/// So many steps in a row may differ by more than the limit. A single one may be a policy that has just diverged.
const MAX_MISMATCHED: usize = 10;

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
        Ok(())
    }

    /// Looks at log-probabilities of the present policy. Where all tokens of a batch are of older policies, only the canary counts.
    /// Without either the step says nothing.
    ///
    /// # Errors
    /// Too many steps in a row whose difference rounding cannot explain.
    pub(super) fn check_mismatch(&mut self, stats: &StepStats, canary: Option<f64>) -> Result<()> {
        let difference = stats.mismatch.on_policy().into_iter().chain(canary).reduce(f64::max);
        let Some(difference) = difference else { return Ok(()) };
        let limit = self.mismatch_limit();
        self.warn_of_drift(difference, limit);
        let (engine, precision) = (&self.inputs.config.engine, self.resolved.engine_precision);
        let is_exact = precision == Precision::F32 && engine.quantization == Quantization::None;
        let must_agree = is_exact && engine.check != EngineCheck::Never;
        let mismatched = &mut self.history.mismatched_in_a_row;
        *mismatched = if difference > limit { *mismatched + 1 } else { 0 };
        if *mismatched > 0 {
            tracing::warn!(difference, "engine and trainer disagree on log-probabilities of the same policy");
        }
        ensure!(
            *mismatched < MAX_MISMATCHED || !must_agree,
            "in {MAX_MISMATCHED} steps in a row a log-probability of the engine differed from the trainer's under the same \
             policy, now by {difference:.3} (limit {limit}). In f32 that is no rounding: the engine samples from another policy \
             than it names, or computes something else. engine.check = \"never\" trains on it all the same"
        );
        Ok(())
    }

    fn warn_of_drift(&mut self, difference: f64, limit: f64) {
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

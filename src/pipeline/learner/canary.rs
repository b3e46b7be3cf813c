//! After each publish: does the engine really answer by the new policy, and as the trainer computes it?

use anyhow::{Result, ensure};
use engine::{Engine, Request};

use super::{Learner, PolicyTrainer, logprob_check};
use crate::seed::mix_seed;

impl<E: Engine, T: PolicyTrainer> Learner<E, T> {
    /// Samples a group from the policy just published and scores it with the trainer, which has the same policy. So any
    /// difference comes from the engine, not from staleness. Returns the largest difference of a token, in nats.
    ///
    /// `None` with η = 0, where every batch shows the same.
    ///
    /// # Errors
    /// If another policy answered.
    pub(super) async fn canary(&self, step: u64) -> Result<Option<f64>> {
        if self.inputs.config.pipeline.max_off_policy_steps == 0 {
            return Ok(None);
        }
        let sources = &self.inputs.train.sources;
        let items = sources[step as usize % sources.len()].known();
        let prompt = items[step as usize % items.len()].prompt.clone();
        let seed = mix_seed(self.inputs.config.seed ^ 0xCA9A, step);
        let request = Request { prompt: prompt.clone(), group_size: 2, seed, sampling: self.sampling.clone() };
        let completions = match self.engine.generate(request).await {
            Ok(completions) => completions,
            Err(error) => {
                tracing::warn!(%error, "the canary was not sampled");
                return Ok(None);
            }
        };
        let is_published = |policy: &engine::PolicyVersion| self.published.get(&step) == Some(&policy.adapter);
        let fresh = completions.iter().all(|c| c.policy.step == step && is_published(&c.policy));
        ensure!(fresh, "after step {step} was published, the engine still answered by another policy");
        let samples = completions.into_iter().map(|it| logprob_check::sample(prompt.clone(), it)).collect();
        Ok(Some(self.trainer.mismatch(step, samples).await?.on_policy_max))
    }
}

//! Before the first step: does the engine compute what the trainer computes, with several completions at a time?

use anyhow::{Context, Result, ensure};
use engine::{Engine, Request, Sampling};

use super::logprob_check::{mismatch_limit, sample_together};
use super::{Learner, PolicyTrainer};
use crate::config::resolve::Sharing;
use crate::run_dir::log;
use crate::seed::mix_seed;

/// Requests at a time, completions per request, and tokens of the first request's completions. Each further request's completions
/// are longer by the same number of tokens.
const REQUESTS: usize = 4;
const EACH: usize = 4;
const TOKENS: usize = 12;

impl<E: Engine, T: PolicyTrainer> Learner<E, T> {
    /// Samples completions that differ in prompt, length and tokens, all at the same time, and scores them with the trainer.
    ///
    /// # Errors
    /// If a log-probability differs by more than [`mismatch_limit`]. Then this engine's samples must not be trained on.
    pub(super) async fn check_engine(&self) -> Result<()> {
        if !self.resolved.checks_engine {
            return Ok(());
        }
        let samples = sample_together(&self.engine, self.check_requests())
            .await
            .context("checking the engine before training")?;
        let (completions, tokens) = (samples.len(), samples.iter().map(|it| it.completion.len()).sum::<usize>());
        self.make_room().await?;
        let difference = self.trainer.mismatch(self.step(), samples).await?.on_policy_max;
        if self.resolved.sharing == Sharing::Alternate {
            let adapter = self.trainer.state().await?.adapter;
            self.engine.publish(self.step(), adapter).await.context("loading the engine again")?;
        }
        let limit = mismatch_limit(self.resolved.engine_precision, self.inputs.config.engine.quantization);
        ensure!(
            difference <= limit,
            "the engine does not compute what the trainer computes, so nothing was trained: among {tokens} tokens of \
             {completions} completions that it sampled together, one has a log-probability that differs by {difference:.3} \
             from the trainer's (limit {limit}); `dump-rl bench check` says more; train with another engine or device"
        );
        log::say(&format!(
            "checked  {completions} completions at a time differ from the trainer's by {difference:.2e}"
        ));
        Ok(())
    }

    fn check_requests(&self) -> Vec<Request> {
        let sources = &self.inputs.train.sources;
        let request = |index: usize| {
            let items = sources[index % sources.len()].known();
            let max_new_tokens = self.sampling.max_new_tokens.min(TOKENS * (index + 1));
            Request {
                prompt: items[index % items.len()].prompt.clone(),
                group_size: EACH,
                seed: mix_seed(self.inputs.config.seed ^ 0xC4EC, index as u64),
                sampling: Sampling { max_new_tokens, ..self.sampling.clone() },
            }
        };
        (0..REQUESTS).map(request).collect()
    }
}

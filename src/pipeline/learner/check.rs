//! Before an engine's samples are trained on: does it compute what the trainer computes, with several completions at a time?
//!
//! Of servers each is checked, those of the start before the first step, those that come later before the first batch that
//! they took part in.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use engine::{Engine, Request, Sampling};
use futures_util::future::join_all;

use super::logprob_check::sample_together;
use super::{Learner, PolicyTrainer};
use crate::config::resolve::Sharing;
use crate::pipeline::activity::Work;
use crate::pipeline::group::ScoredGroup;
use crate::run_dir::log;
use crate::seed::mix_seed;
use crate::train::sample::Sample;

/// Requests at a time, completions per request, and tokens of the first request's completions. Each further request's completions
/// are longer by the same number of tokens.
const REQUESTS: usize = 4;
const EACH: usize = 4;
const TOKENS: usize = 12;

impl<E: Engine, T: PolicyTrainer> Learner<E, T> {
    /// Samples completions that differ in prompt, length and tokens, all at the same time, and scores them with the trainer.
    ///
    /// # Errors
    /// If a log-probability differs by more than `Learner::mismatch_limit`. Then this engine's samples must not be trained on.
    pub(super) async fn check_engine(&mut self) -> Result<()> {
        if !self.resolved.checks_engine {
            return Ok(());
        }
        let _working = self.shared.activity.begin(Work::Checking);
        let servers = self.engine.endpoints();
        if !servers.is_empty() {
            return self.check_servers(servers).await;
        }
        let samples = sample_together(&self.engine, None, self.check_requests())
            .await
            .context("checking the engine before training")?;
        self.make_room().await?;
        self.compare(samples, "the engine").await?;
        if self.resolved.sharing == Sharing::Alternate {
            let adapter = self.trainer.state().await?.adapter;
            self.engine.publish(self.step(), adapter).await.context("loading the engine again")?;
        }
        Ok(())
    }

    /// Checks the servers that took part in a batch and were not checked before.
    ///
    /// # Errors
    /// As [`Learner::check_engine`].
    pub(super) async fn check_new_servers(&mut self, batch: &[ScoredGroup]) -> Result<()> {
        if !self.resolved.checks_engine {
            return Ok(());
        }
        let _working = self.shared.activity.begin(Work::Checking);
        let servers = batch.iter().flat_map(|group| &group.completions).filter_map(|it| it.endpoint.clone());
        let new: BTreeSet<Arc<str>> = servers.filter(|server| !self.checked.contains(server)).collect();
        self.check_servers(new.into_iter().collect()).await
    }

    /// One that does not answer is checked when it has taken part in a batch.
    async fn check_servers(&mut self, servers: Vec<Arc<str>>) -> Result<()> {
        let (engine, requests) = (&self.engine, self.check_requests());
        let asked = servers.iter().map(|server| sample_together(engine, Some(server.clone()), requests.clone()));
        let answers = join_all(asked).await;
        for (server, samples) in servers.into_iter().zip(answers) {
            match samples {
                Ok(samples) => {
                    self.compare(samples, &server).await?;
                    self.checked.insert(server);
                }
                Err(error) => tracing::warn!(%server, "could not be checked: {error:#}"),
            }
        }
        Ok(())
    }

    /// Scores with the trainer what `place` has sampled together.
    async fn compare(&self, samples: Vec<Sample>, place: &str) -> Result<()> {
        let (completions, tokens) = (samples.len(), samples.iter().map(|it| it.completion.len()).sum::<usize>());
        let difference = self.trainer.mismatch(self.step(), samples).await?.on_policy_max;
        let limit = self.mismatch_limit();
        ensure!(
            difference <= limit,
            "{place} does not compute what the trainer computes, so training ends here: among {tokens} tokens of \
             {completions} completions that it sampled together, one has a log-probability that differs by {difference:.3} \
             from the trainer's (limit {limit}); `dump-rl bench check` says more; train with another engine or device"
        );
        log::say(&format!(
            "checked  {place}: {completions} completions at a time differ from the trainer's by {difference:.2e}"
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

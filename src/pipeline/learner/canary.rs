//! After each publish: does the engine really answer by the new policy, and as the trainer computes it?

use std::sync::Arc;

use anyhow::{Result, ensure};
use engine::{Completion, Engine, EngineError, Request, Sampling};
use futures_util::future::join_all;

use super::logprob_check;
use super::{Learner, PolicyTrainer};
use crate::pipeline::activity::Work;
use crate::seed::mix_seed;

/// How many servers are asked after a publish. All have their turn.
const SERVERS: usize = 8;

/// The most tokens of a completion of a server, for which the next step may wait.
const TOKENS: usize = 64;

impl<E: Engine, T: PolicyTrainer> Learner<E, T> {
    /// Samples a group from the policy just published and scores it with the trainer, which has the same policy. So any
    /// difference comes from the engine, not from staleness. Returns the largest difference of a token, in nats.
    ///
    /// An engine in this process is not asked with η = 0, where every batch shows the same.
    ///
    /// # Errors
    /// If another policy answered. A server that only says that it has loaded the policy is noticed by its log-probabilities.
    pub(super) async fn canary(&self, step: u64) -> Result<Option<f64>> {
        let servers = in_turn(self.engine.endpoints(), step);
        let request = self.canary_request(step);
        if servers.is_empty() && self.inputs.config.pipeline.max_off_policy_steps == 0 {
            return Ok(None);
        }
        let _working = self.shared.activity.begin(Work::Checking);
        if servers.is_empty() {
            return match self.engine.generate(request.clone()).await {
                Ok(completions) => self.fresh_difference(step, &request, completions).await.map(Some),
                Err(error) => not_sampled(error),
            };
        }
        let sampling = Sampling { max_new_tokens: request.sampling.max_new_tokens.min(TOKENS), ..request.sampling };
        let request = Request { sampling, ..request };
        let answers = join_all(servers.iter().map(|server| self.engine.generate_at(server, request.clone()))).await;
        let mut largest = None;
        for (server, answer) in servers.iter().zip(answers) {
            let difference = match answer {
                Ok(completions) => Some(self.fresh_difference(step, &request, completions).await?),
                Err(error) => not_sampled(error)?,
            };
            let limit = self.mismatch_limit();
            ensure!(
                difference.is_none_or(|difference| difference <= limit),
                "{server} does not sample from the policy of step {step}, although it says that it has loaded it: a \
                 log-probability differs by {:.3} from the trainer's (limit {limit})",
                difference.unwrap_or_default()
            );
            largest = largest.into_iter().chain(difference).reduce(f64::max);
        }
        Ok(largest)
    }

    fn canary_request(&self, step: u64) -> Request {
        let sources = &self.inputs.train.sources;
        let items = sources[step as usize % sources.len()].known();
        Request {
            prompt: items[step as usize % items.len()].prompt.clone(),
            group_size: 2,
            seed: mix_seed(self.inputs.config.seed ^ 0xCA9A, step),
            sampling: self.sampling.clone(),
        }
    }

    /// The largest difference from the trainer's log-probabilities of the policy of `step`.
    async fn fresh_difference(&self, step: u64, request: &Request, completions: Vec<Completion>) -> Result<f64> {
        let is_published = |policy: &engine::PolicyVersion| self.published.get(&step) == Some(&policy.adapter);
        let fresh = completions.iter().all(|c| c.policy.step == step && is_published(&c.policy));
        ensure!(fresh, "after step {step} was published, the engine still answered by another policy");
        let samples = completions.into_iter().map(|it| logprob_check::sample(request.prompt.clone(), it)).collect();
        Ok(self.trainer.mismatch(step, samples).await?.on_policy_max)
    }
}

/// One that fails says nothing about the policy, unless another policy answered.
fn not_sampled(error: EngineError) -> Result<Option<f64>> {
    if error.is_final() {
        return Err(error.into());
    }
    tracing::warn!(%error, "the canary was not sampled");
    Ok(None)
}

/// Those whose turn it is after `step`.
fn in_turn(mut servers: Vec<Arc<str>>, step: u64) -> Vec<Arc<str>> {
    if servers.len() > SERVERS {
        let first = (step as usize).wrapping_mul(SERVERS) % servers.len();
        servers.rotate_left(first);
        servers.truncate(SERVERS);
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_turn() {
        let servers: Vec<Arc<str>> = (0..20).map(|server| server.to_string().into()).collect();
        let asked = |step| in_turn(servers.clone(), step).iter().map(|it| it.parse().unwrap()).collect::<Vec<usize>>();
        assert_eq!(asked(0), (0..8).collect::<Vec<_>>());
        assert_eq!(asked(2), [16, 17, 18, 19, 0, 1, 2, 3]);
        assert_eq!(in_turn(servers[..3].to_vec(), 5), servers[..3]);
    }
}

//! A model of a learner in place of a language model: the pipeline's own scheduler, thousands of runs a minute.
//!
//! **A simulation, not training.** What it shows is how a policy behaves when success follows from practice in the way
//! below; whether a language model learns like that is another question (`docs/curriculum.md`).
//!
//! - Distribution d (0 is the easiest) has a skill s_d; prompt x of d is solved with probability σ(s_d + spread·ℓ_x), where
//!   ℓ_x is drawn once from the standard logistic distribution. At the start s_d = `skill_easiest` − `skill_slope`·d.
//! - A completion that is right earns 3, another −0.5: Knights and Knaves with every format right.
//! - A policy step over B groups raises each skill: s_j += `rate` · Σ_groups mean|Â| · `transfer`^|j − d| / B. So practice
//!   helps as much as it has advantage, and helps neighbours a share of it.
//! - After each step skills fall back: s_j −= `drift` · (s_j − s_j at the start).
//! - A completion of d takes `tokens_easiest` + `tokens_slope`·d tokens, and a group as long as its completions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::curve::{Curve, Point};
use crate::advantage::{AdvantageScale, group_advantages};
use crate::config::run::RunConfig;
use crate::curriculum::Mixture;
use crate::error::KeyError;
use crate::scheduler::{Finished, Next, Outcome, Scheduler, SchedulerConfig};
use crate::types::Job;

/// The learner: `[simulate]`. Skills are log-odds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SimulateConfig {
    pub skill_easiest: f64,
    /// How much less each next distribution has.
    pub skill_slope: f64,
    /// How much prompts of one distribution differ, in log-odds.
    pub spread: f64,
    /// Log-odds that a step of groups with mean |Â| = 1 on one distribution gives it.
    pub rate: f64,
    /// The share of it that a neighbour gets; 0 to 1.
    pub transfer: f64,
    /// The share of what was learnt that is lost a step; 0 to 1.
    pub drift: f64,
    pub tokens_easiest: f64,
    pub tokens_slope: f64,
}

impl Default for SimulateConfig {
    /// Set by hand so that success rates at the start, and after 60 steps of uniform sampling, are about kk-tiny's.
    fn default() -> Self {
        Self {
            skill_easiest: -0.8,
            skill_slope: 0.7,
            spread: 1.0,
            rate: 0.25,
            transfer: 0.5,
            drift: 0.002,
            tokens_easiest: 110.0,
            tokens_slope: 30.0,
        }
    }
}

const RIGHT: f32 = 3.0;
const WRONG: f32 = -0.5;

/// The answer's part of these rewards.
const ANSWER_RIGHT: f64 = 2.0;
const ANSWER_WRONG: f64 = -1.5;

/// Evaluations of a run whose configuration names no interval.
const EVALUATIONS: u64 = 50;

struct Learner<'a> {
    config: &'a SimulateConfig,
    start: Vec<f64>,
    skills: Vec<f64>,
}

/// A job under way; the earliest end comes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Running {
    /// When it ends, in tokens of its longest completion.
    end: u64,
    id: u64,
}

/// What is known of a job when it is dispatched.
struct Answered {
    job: Job,
    policy_step: u64,
    rewards: Vec<f32>,
}

/// One run under the policy of `config`.
///
/// # Errors
/// The key inside `[curriculum]` that does not fit the data, and what would.
pub fn run(config: &RunConfig, mixture: &Mixture, seed: u64) -> Result<Curve, KeyError> {
    let mut scheduler = Scheduler::new(SchedulerConfig { seed, ..SchedulerConfig::of(config) }, mixture.clone())?;
    let mut learner = Learner::new(&config.simulate, mixture.arms());
    let mut rng = ChaCha8Rng::seed_from_u64(engine::sampler::mix_seed(seed, 1));
    let interval = if config.eval.interval > 0 { config.eval.interval } else { config.max_steps.div_ceil(EVALUATIONS) };
    let mut points = vec![learner.point(&scheduler)];
    let (mut running, mut answers) = (BinaryHeap::new(), std::collections::BTreeMap::new());
    let (mut batch, mut now) = (Vec::new(), 0);
    loop {
        while let Next::Dispatch(job) = scheduler.next_job() {
            let length = learner.tokens(job.arm);
            running.push(Reverse(Running { end: now + length, id: job.id }));
            let rewards = learner.answer(&job, config.group_size, &mut rng);
            answers.insert(job.id, Answered { policy_step: scheduler.step(), job, rewards });
        }
        // Nothing runs and nothing can be dispatched: the last step is made.
        let Some(Reverse(Running { end, id })) = running.pop() else { break };
        now = end;
        let Some(Answered { job, policy_step, rewards }) = answers.remove(&id) else { continue };
        let advantages = group_advantages(&rewards, AdvantageScale::GroupStd);
        let signal = advantages.iter().map(|a| f64::from(a.abs())).sum::<f64>() / advantages.len() as f64;
        let right = rewards.iter().all(|reward| *reward == RIGHT);
        let outcome = scheduler.judge(&Finished { job: &job, policy_step, rewards: &rewards, right }, scheduler.step());
        scheduler.observe(id, rewards, advantages, config.group_size as u64 * learner.tokens(job.arm));
        scheduler.settle(id, outcome);
        if outcome == Outcome::Accepted {
            batch.push((job, signal));
        }
        if batch.len() == config.batch_size {
            learner.step(&batch);
            scheduler.trained(&batch.drain(..).map(|(job, _)| job.id).collect::<Vec<_>>());
            drop(scheduler.take_history());
            if scheduler.step().is_multiple_of(interval) || scheduler.step() == config.max_steps {
                points.push(learner.point(&scheduler));
            }
        }
    }
    Ok(Curve { seed, points })
}

impl<'a> Learner<'a> {
    fn new(config: &'a SimulateConfig, arms: usize) -> Self {
        let start: Vec<f64> = (0..arms).map(|d| config.skill_easiest - config.skill_slope * d as f64).collect();
        Self { config, skills: start.clone(), start }
    }

    /// Tokens of a completion.
    fn tokens(&self, arm: usize) -> u64 {
        (self.config.tokens_easiest + self.config.tokens_slope * arm as f64).max(1.0) as u64
    }

    /// The rewards of a group.
    fn answer(&self, job: &Job, group_size: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        // The prompt's own difficulty: the same whenever the row is drawn, and in every run.
        let row = engine::sampler::mix_seed(job.arm as u64, job.row as u64);
        let success = self.success(job.arm, (row >> 11) as f64 / (1_u64 << 53) as f64);
        (0..group_size).map(|_| if rng.random::<f64>() < success { RIGHT } else { WRONG }).collect()
    }

    /// The success rate of the prompt that a share `quantile` of its distribution's prompts is harder than.
    fn success(&self, arm: usize, quantile: f64) -> f64 {
        let quantile = quantile.clamp(1e-9, 1.0 - 1e-9);
        let logit = self.skills[arm] + self.config.spread * (quantile / (1.0 - quantile)).ln();
        1.0 / (1.0 + (-logit).exp())
    }

    fn step(&mut self, batch: &[(Job, f64)]) {
        let mut practice = vec![0.0; self.skills.len()];
        batch.iter().for_each(|(job, signal)| practice[job.arm] += signal / batch.len() as f64);
        for (j, skill) in self.skills.iter_mut().enumerate() {
            let reach = |d: usize| self.config.transfer.powi(d.abs_diff(j) as i32);
            let gain: f64 = practice.iter().enumerate().map(|(d, practice)| practice * reach(d)).sum();
            *skill += self.config.rate * gain - self.config.drift * (*skill - self.start[j]);
        }
    }

    /// The expected answer reward, exactly up to the grid of prompts.
    fn point(&self, scheduler: &Scheduler) -> Point {
        const GRID: usize = 64;
        let quantile = |i: usize| (i as f64 + 0.5) / GRID as f64;
        let success = |arm: usize| (0..GRID).map(|i| self.success(arm, quantile(i))).sum::<f64>() / GRID as f64;
        let mean = (0..self.skills.len()).map(success).sum::<f64>() / self.skills.len() as f64;
        let reward = ANSWER_WRONG + (ANSWER_RIGHT - ANSWER_WRONG) * mean;
        Point { step: scheduler.step(), tokens: scheduler.ledger().tokens as f64, seconds: 0.0, reward }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::run::{FilterConfig, PipelineConfig};

    fn config(policy: &str) -> RunConfig {
        let mut config = RunConfig { max_steps: 100, ..RunConfig::default() };
        config.curriculum.policy = policy.into();
        config
    }

    fn simulate(config: &RunConfig, seed: u64) -> Curve {
        run(config, &crate::dataset::mixture(config).unwrap(), seed).unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_run_and_another_seed_another() {
        let config = config("dump");
        assert_eq!(simulate(&config, 3), simulate(&config, 3));
        assert_ne!(simulate(&config, 3).points, simulate(&config, 4).points);
    }

    #[test]
    fn practice_pays_and_every_pipeline_ends() {
        for (eta, zero_variance) in [(0, false), (1, false), (0, true), (2, true)] {
            let config = RunConfig {
                pipeline: PipelineConfig { max_off_policy_steps: eta, ..PipelineConfig::default() },
                filter: FilterConfig { zero_variance, ..FilterConfig::default() },
                ..config("uniform")
            };
            let curve = simulate(&config, 0);
            assert_eq!(curve.last().step, 100, "η = {eta}");
            assert!(curve.last().reward > curve.first().reward + 0.2, "{curve:?}");
        }
    }

    /// Groups without variance teach nothing: refilled, as many steps teach more and take more tokens.
    #[test]
    fn refilling_costs_tokens_and_saves_steps() {
        let mut config = config("uniform");
        let without = simulate(&config, 0).last();
        config.filter.zero_variance = true;
        let with = simulate(&config, 0).last();
        assert!(with.tokens > 1.2 * without.tokens && with.reward > without.reward + 0.05, "{with:?} {without:?}");
    }

    #[test]
    fn without_a_rate_nothing_is_learnt() {
        let mut config = config("dump");
        config.simulate.rate = 0.0;
        let curve = simulate(&config, 0);
        assert_eq!(curve.first().reward, curve.last().reward);
    }
}

//! The pipeline's scheduler with a formula in place of a language model: thousands of runs per minute.
//!
//! **This is a simulation, not training.** It shows how a curriculum behaves if practice leads to success by the rules below.
//! Whether a language model learns like that is another question (`docs/curriculum.md`).
//!
//! - Distribution d (0 is the easiest) has a skill s_d; prompt x of d is solved with probability σ(s_d + spread·ℓ_x), where
//!   ℓ_x is drawn once from the standard logistic distribution. At the start s_d = `skill_easiest` − `skill_slope`·d.
//! - A right completion earns 3, a wrong one −0.5, as in Knights and Knaves with the right format.
//! - A policy step over B groups raises each skill: s_j += `rate` · Σ_groups mean|Â| · `transfer`^|j − d| / B. So practice
//!   helps in proportion to its advantages, and neighbours get a share of that.
//! - After each step skills fall back: s_j −= `drift` · (s_j − s_j at the start).
//! - A completion of d takes `tokens_easiest` + `tokens_slope`·d tokens, and a group as long as its completions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::advantage::{AdvantageScale, group_advantages};
use crate::curriculum::{Gradients, Mixture};
use crate::error::KeyError;
use crate::scheduler::{FinishedGroup, Job, Next, Outcome, Scheduler, SchedulerConfig};
use crate::seed::mix_seed;

/// The learner: `[simulate]`. Skills are log-odds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SimulateConfig {
    pub skill_easiest: f64,
    /// How much less each next distribution has.
    pub skill_slope: f64,
    /// The skill of each distribution at the start, instead of the two above. Empty: the two above.
    pub skills: Vec<f64>,
    /// How much prompts of one distribution differ, in log-odds.
    pub spread: f64,
    /// Log-odds that one step on one distribution adds to it, if all groups have mean |Â| = 1.
    pub rate: f64,
    /// The share of it that a neighbour gets; 0 to 1.
    pub transfer: f64,
    /// The share of what was learned that is lost per step; 0 to 1.
    pub drift: f64,
    pub tokens_easiest: f64,
    pub tokens_slope: f64,
}

impl Default for SimulateConfig {
    /// Chosen so that success rates at the start, and after 60 steps of uniform sampling, are close to those of kk-tiny.
    fn default() -> Self {
        Self {
            skill_easiest: -0.8,
            skill_slope: 0.7,
            skills: Vec::new(),
            spread: 1.0,
            rate: 0.25,
            transfer: 0.5,
            drift: 0.002,
            tokens_easiest: 110.0,
            tokens_slope: 30.0,
        }
    }
}

impl SimulateConfig {
    /// # Errors
    /// A key inside `[simulate]` whose value is outside its range.
    pub fn check(&self) -> Result<(), KeyError> {
        if let Some(skill) = self.skills.iter().find(|skill| !(-1e3..=1e3).contains(*skill)) {
            return Err(KeyError::new("skills", format!("must be from -1000 to 1000, got {skill}")));
        }
        KeyError::if_outside(&[
            ("skill_easiest", self.skill_easiest, -1e3, 1e3),
            ("skill_slope", self.skill_slope, -1e3, 1e3),
            ("transfer", self.transfer, 0.0, 1.0),
            ("drift", self.drift, 0.0, 1.0),
            ("rate", self.rate, 0.0, 1e3),
            ("spread", self.spread, 0.0, 1e3),
            ("tokens_easiest", self.tokens_easiest, 1.0, 1e9),
            ("tokens_slope", self.tokens_slope, 0.0, 1e9),
        ])
    }
}

/// What a simulated run depends on.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// The same as in a real run.
    pub scheduler: SchedulerConfig,
    pub learner: SimulateConfig,
    /// G: completions of a prompt.
    pub group_size: usize,
    /// Steps between two evaluations. 0: as many as give about fifty evaluations.
    pub eval_interval: u64,
}

/// An evaluation of the simulated learner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    pub step: u64,
    /// Tokens of all completions up to then, also of groups that were dropped.
    pub tokens: u64,
    /// The mean over distributions of the expected answer reward.
    pub reward: f64,
    /// The mean over distributions of the expected success rate.
    pub success: f64,
}

const RIGHT: f32 = 3.0;
const WRONG: f32 = -0.5;

/// The answer's part of these rewards.
const ANSWER_RIGHT: f64 = 2.0;
const ANSWER_WRONG: f64 = -1.5;

/// Evaluations of a run whose configuration names no interval.
const EVALUATIONS: u64 = 50;

/// Skills that grow with practice.
pub struct SimulatedLearner<'a> {
    config: &'a SimulateConfig,
    start: Vec<f64>,
    skills: Vec<f64>,
}

/// A job that is running. The one that ends first is first in the order.
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

/// One run with `seed` instead of the configured one: its evaluations from step 0 on.
///
/// # Errors
/// The key inside `[curriculum]` that does not fit the data, and what would.
pub fn run(simulation: &Simulation, mixture: &Mixture, seed: u64) -> Result<Vec<Evaluation>, KeyError> {
    let Simulation { scheduler: config, group_size, .. } = simulation;
    let mut scheduler = Scheduler::new(SchedulerConfig { seed, ..config.clone() }, mixture.clone())?;
    let mut learner = SimulatedLearner::new(&simulation.learner, mixture.arms());
    let mut rng = ChaCha8Rng::seed_from_u64(mix_seed(seed, 1));
    let interval = match simulation.eval_interval {
        0 => config.max_steps.div_ceil(EVALUATIONS),
        interval => interval,
    };
    let mut evaluations = vec![learner.evaluation(&scheduler)];
    let (mut running, mut answers) = (BinaryHeap::new(), std::collections::BTreeMap::new());
    let (mut batch, mut now) = (Vec::new(), 0);
    loop {
        while let Next::Dispatch(job) = scheduler.next_job() {
            let length = learner.tokens(job.arm);
            running.push(Reverse(Running { end: now + length, id: job.id }));
            let rewards = learner.answer(&job, *group_size, &mut rng);
            answers.insert(job.id, Answered { policy_step: scheduler.step(), job, rewards });
        }
        // If nothing runs and nothing can be dispatched, the last step was made.
        let Some(Reverse(Running { end, id })) = running.pop() else { break };
        now = end;
        let Some(Answered { job, policy_step, rewards }) = answers.remove(&id) else { continue };
        let advantages = group_advantages(&rewards, AdvantageScale::GroupStd);
        let signal = advantages.iter().map(|a| f64::from(a.abs())).sum::<f64>() / advantages.len() as f64;
        let right = rewards.iter().all(|reward| *reward == RIGHT);
        let outcome =
            scheduler.judge(&FinishedGroup { job: &job, policy_step, rewards: &rewards, right }, scheduler.step());
        scheduler.observe(id, rewards, advantages, *group_size as u64 * learner.tokens(job.arm));
        scheduler.settle(id, outcome);
        if outcome == Outcome::Accepted {
            batch.push((job, signal));
        }
        if batch.len() == config.batch_size {
            learner.step(&batch);
            scheduler.observe_gradients(&learner.gradients(&batch));
            scheduler.trained(&batch.drain(..).map(|(job, _)| job.id).collect::<Vec<_>>());
            drop(scheduler.take_history());
            if scheduler.step().is_multiple_of(interval) || scheduler.step() == config.max_steps {
                evaluations.push(learner.evaluation(&scheduler));
            }
        }
    }
    Ok(evaluations)
}

/// Prompts of a distribution that stand for all of them.
const GRID: usize = 64;

/// The quantiles of these prompts.
pub fn quantiles() -> impl Iterator<Item = f64> {
    (0..GRID).map(|i| (i as f64 + 0.5) / GRID as f64)
}

impl<'a> SimulatedLearner<'a> {
    /// Of a configuration whose `skills` are of so many arms, or empty.
    pub fn new(config: &'a SimulateConfig, arms: usize) -> Self {
        let start: Vec<f64> = match config.skills.is_empty() {
            true => (0..arms).map(|d| config.skill_easiest - config.skill_slope * d as f64).collect(),
            false => config.skills.clone(),
        };
        Self { config, skills: start.clone(), start }
    }

    /// Tokens of a completion.
    fn tokens(&self, arm: usize) -> u64 {
        (self.config.tokens_easiest + self.config.tokens_slope * arm as f64).max(1.0) as u64
    }

    /// The rewards of a group.
    fn answer(&self, job: &Job, group_size: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        // A prompt has the same difficulty whenever it is drawn, in every run.
        let row = mix_seed(job.arm as u64, job.row as u64);
        let success = self.success(job.arm, (row >> 11) as f64 / (1_u64 << 53) as f64);
        (0..group_size).map(|_| if rng.random::<f64>() < success { RIGHT } else { WRONG }).collect()
    }

    /// The success rate of the prompt at this quantile of its distribution; at 1 is the easiest prompt.
    pub fn success(&self, arm: usize, quantile: f64) -> f64 {
        let quantile = quantile.clamp(1e-9, 1.0 - 1e-9);
        let logit = self.skills[arm] + self.config.spread * (quantile / (1.0 - quantile)).ln();
        1.0 / (1.0 + (-logit).exp())
    }

    /// The mean success rate over the prompts of an arm.
    pub fn mean_success(&self, arm: usize) -> f64 {
        quantiles().map(|quantile| self.success(arm, quantile)).sum::<f64>() / GRID as f64
    }

    fn step(&mut self, batch: &[(Job, f64)]) {
        let mut practice = vec![0.0; self.skills.len()];
        batch.iter().for_each(|(job, signal)| practice[job.arm] += signal / batch.len() as f64);
        self.practise(&practice);
    }

    /// One policy step. `practice`: the sum of mean |Â| over the groups of each arm, divided by the groups of a batch.
    pub fn practise(&mut self, practice: &[f64]) {
        for (j, skill) in self.skills.iter_mut().enumerate() {
            let reach = |d: usize| self.config.transfer.powi(d.abs_diff(j) as i32);
            let gain: f64 = practice.iter().enumerate().map(|(d, practice)| practice * reach(d)).sum();
            *skill += self.config.rate * gain - self.config.drift * (*skill - self.start[j]);
        }
    }

    /// Gradients whose cosines are the shares that practice gives to neighbours: g_d = ρ·g_{d−1} + √(1 − ρ²)·e_d.
    fn gradients(&self, batch: &[(Job, f64)]) -> Gradients {
        let (transfer, arms) = (self.config.transfer, self.skills.len());
        let entry = |arm: usize, at: usize| match at {
            0 => transfer.powi(arm as i32),
            at if at <= arm => (1.0 - transfer * transfer).sqrt() * transfer.powi((arm - at) as i32),
            _ => 0.0,
        };
        let trained = batch.iter().filter(|(_, signal)| *signal > 0.0);
        trained.map(|(job, _)| (job.arm, (0..arms).map(|at| entry(job.arm, at) as f32).collect())).collect()
    }

    /// The expected answer reward. Exact, except that the prompts are taken from a grid of quantiles.
    fn evaluation(&self, scheduler: &Scheduler) -> Evaluation {
        let mean = (0..self.skills.len()).map(|arm| self.mean_success(arm)).sum::<f64>() / self.skills.len() as f64;
        let reward = ANSWER_WRONG + (ANSWER_RIGHT - ANSWER_WRONG) * mean;
        Evaluation { step: scheduler.step(), tokens: scheduler.ledger().tokens, reward, success: mean }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curriculum::CurriculumConfig;
    use crate::scheduler::FilterConfig;

    fn simulation(policy: &str) -> Simulation {
        let curriculum = CurriculumConfig { policy: policy.into(), ..CurriculumConfig::default() };
        let filter = FilterConfig::default();
        let scheduler =
            SchedulerConfig { batch_size: 16, max_off_policy_steps: 0, max_steps: 100, seed: 0, curriculum, filter };
        Simulation { scheduler, learner: SimulateConfig::default(), group_size: 8, eval_interval: 10 }
    }

    fn simulate(simulation: &Simulation, seed: u64) -> Vec<Evaluation> {
        let sources = (3..=14).map(|people| format!("kk_logic_{people}")).collect();
        let mixture = Mixture { sources, sizes: vec![900; 12], max_steps: 100, batch_size: 16 };
        run(simulation, &mixture, seed).unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_run_and_another_seed_another() {
        let simulation = simulation("dump");
        assert_eq!(simulate(&simulation, 3), simulate(&simulation, 3));
        assert_ne!(simulate(&simulation, 3), simulate(&simulation, 4));
    }

    #[test]
    fn practice_pays_and_every_pipeline_ends() {
        for (eta, zero_variance) in [(0, false), (1, false), (0, true), (2, true)] {
            let mut simulation = simulation("uniform");
            simulation.scheduler.max_off_policy_steps = eta;
            simulation.scheduler.filter.zero_variance = zero_variance;
            let evaluations = simulate(&simulation, 0);
            let (first, last) = (evaluations[0], evaluations[evaluations.len() - 1]);
            assert_eq!(last.step, 100, "η = {eta}");
            assert!(last.reward > first.reward + 0.2, "{evaluations:?}");
        }
    }

    /// Groups without variance teach nothing. With refill the same number of steps teaches more and takes more tokens.
    #[test]
    fn refilling_costs_tokens_and_saves_steps() {
        let mut simulation = simulation("uniform");
        let last = |simulation: &Simulation| simulate(simulation, 0).pop().unwrap();
        let without = last(&simulation);
        simulation.scheduler.filter.zero_variance = true;
        let with = last(&simulation);
        let tokens = with.tokens as f64 / without.tokens as f64;
        assert!(tokens > 1.2 && with.reward > without.reward + 0.05, "{with:?} {without:?}");
    }

    #[test]
    fn gradients_have_the_cosines_of_transfer() {
        let config = SimulateConfig { transfer: 0.6, ..SimulateConfig::default() };
        let learner = SimulatedLearner::new(&config, 4);
        let job = |arm| (Job { id: 0, arm, row: 0, seed: 0, refills: 0 }, f64::from(u8::from(arm != 3)));
        let gradients = learner.gradients(&[0, 1, 2, 3].map(job));
        let dot = |a: usize, b: usize| gradients[&a].iter().zip(&gradients[&b]).map(|(a, b)| a * b).sum::<f32>();
        for (a, b, expected) in [(0, 0, 1.0), (2, 2, 1.0), (0, 1, 0.6), (1, 2, 0.6), (0, 2, 0.36)] {
            assert!((dot(a, b) - expected).abs() < 1e-6, "{a} {b}: {gradients:?}");
        }
        assert!(!gradients.contains_key(&3), "it had no signal");
    }

    #[test]
    fn without_a_rate_nothing_is_learned() {
        let mut simulation = simulation("dump");
        simulation.learner.rate = 0.0;
        let evaluations = simulate(&simulation, 0);
        assert_eq!(evaluations[0].reward, evaluations[evaluations.len() - 1].reward);
    }
}

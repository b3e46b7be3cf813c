//! Decides what is dispatched next, and keeps the ledger of what became of it. Pure: no clock, no async.
//!
//! Invariants:
//! - Every dispatched job ends exactly once: trained on, dropped with a reason, or still in flight.
//! - Staleness is bounded by admission: with B groups a step and at most η off-policy steps, a job is dispatched only while
//!   accepted + running < (η + step + 1)·B, and never more than the run will train on.
//! - η = 0 is deterministic: jobs are drawn in rounds when nothing runs, and a round's observations are applied in the order
//!   of dispatch once all of them are in. Otherwise an observation counts at once.

use std::collections::{BTreeMap, VecDeque};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::curriculum::{self, ArmScore, CurriculumConfig, Observation, Policy};
use crate::types::Job;

/// The fixed numbers of a run.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// B.
    pub batch_size: usize,
    /// η.
    pub max_off_policy_steps: u64,
    pub max_steps: u64,
    pub seed: u64,
    pub curriculum: CurriculumConfig,
}

/// The scheduler's answer to "what next?".
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Dispatch(Job),
    /// Nothing until a group is settled or a policy published.
    Wait,
    /// Nothing any more.
    Done,
}

/// Why a group was not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Its policy was more than η steps old when its batch was made.
    Stale,
    /// The engine could not answer.
    Failed,
}

/// What became of a finished group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It stands in a batch.
    Accepted,
    Dropped(DropReason),
}

/// A job in flight, with what has happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flight {
    job: Job,
    /// The curriculum has seen its rewards.
    observed: bool,
    /// It stands in a batch that is not trained yet.
    #[serde(skip)]
    accepted: bool,
}

/// Counts of jobs since the start, in all and by distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub dispatched: Vec<u64>,
    pub trained: Vec<u64>,
    pub dropped: BTreeMap<DropReason, u64>,
}

/// What a checkpoint keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SchedulerState {
    /// Names of the distributions, in the order of the arms.
    pub sources: Vec<String>,
    pub step: u64,
    next_id: u64,
    rng: ChaCha8Rng,
    curriculum: serde_json::Value,
    flights: Vec<Flight>,
    ledger: Ledger,
    weights: Vec<f64>,
}

/// See the module.
pub struct Scheduler {
    config: SchedulerConfig,
    /// Rows of each distribution.
    sizes: Vec<usize>,
    policy: Box<dyn Policy>,
    rng: ChaCha8Rng,
    step: u64,
    next_id: u64,
    closed: bool,
    /// Drawn, not yet dispatched.
    queue: VecDeque<Job>,
    flights: BTreeMap<u64, Flight>,
    /// Observations of the present round, by dispatch order (η = 0).
    pending: BTreeMap<u64, Observation>,
    ledger: Ledger,
    /// The weights of the latest draw.
    weights: Vec<f64>,
}

impl Scheduler {
    /// `sizes[d]` is the number of rows of distribution d; none may be empty.
    pub fn new(config: SchedulerConfig, sizes: Vec<usize>) -> Self {
        let arms = sizes.len();
        let policy = curriculum::build(&config.curriculum, arms);
        let weights = policy.weights();
        Self {
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            ledger: Ledger { dispatched: vec![0; arms], trained: vec![0; arms], dropped: BTreeMap::new() },
            config,
            sizes,
            policy,
            step: 0,
            next_id: 0,
            closed: false,
            queue: VecDeque::new(),
            flights: BTreeMap::new(),
            pending: BTreeMap::new(),
            weights,
        }
    }

    /// What to do with a free slot.
    pub fn next_job(&mut self) -> Next {
        if self.closed || self.step >= self.config.max_steps {
            return Next::Done;
        }
        if self.queue.is_empty() {
            self.draw_jobs();
        }
        match self.queue.pop_front() {
            Some(job) => {
                self.ledger.dispatched[job.arm] += u64::from(!self.flights.contains_key(&job.id));
                self.flights.entry(job.id).or_insert_with(|| Flight {
                    job: job.clone(),
                    observed: false,
                    accepted: false,
                });
                Next::Dispatch(job)
            }
            None => Next::Wait,
        }
    }

    /// Fills the queue as far as admission allows.
    fn draw_jobs(&mut self) {
        let batch = self.config.batch_size as u64;
        let steps = (self.config.max_off_policy_steps + self.step + 1).min(self.config.max_steps);
        let room = (steps * batch).saturating_sub(self.step * batch + self.flights.len() as u64);
        let synchronous = self.is_synchronous();
        if room == 0 || synchronous && self.running() > 0 {
            return;
        }
        self.weights = self.policy.weights();
        for _ in 0..if synchronous { room } else { 1 } {
            let arm = curriculum::draw(&self.weights, &mut self.rng);
            let row = self.rng.random_range(0..self.sizes[arm]);
            let seed = engine::sampler::mix_seed(self.config.seed, self.next_id);
            self.queue.push_back(Job { id: self.next_id, arm, row, seed });
            self.next_id += 1;
        }
    }

    fn is_synchronous(&self) -> bool {
        self.config.max_off_policy_steps == 0
    }

    /// Jobs dispatched or about to be, and not settled.
    fn running(&self) -> usize {
        self.flights.values().filter(|flight| !flight.accepted).count()
    }

    /// Tells the curriculum of a finished group, whatever becomes of it later.
    pub fn observe(&mut self, id: u64, rewards: Vec<f32>, advantages: Vec<f32>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        if flight.observed {
            return;
        }
        let observation = Observation { arm: flight.job.arm, rewards, advantages };
        if self.config.max_off_policy_steps == 0 {
            self.pending.insert(id, observation);
        } else {
            flight.observed = true;
            self.policy.observe(&observation);
        }
    }

    /// Enters what became of a finished group.
    pub fn settle(&mut self, id: u64, outcome: Outcome) {
        match outcome {
            Outcome::Accepted => {
                if let Some(flight) = self.flights.get_mut(&id) {
                    flight.accepted = true;
                }
            }
            Outcome::Dropped(reason) => {
                if self.flights.remove(&id).is_some() {
                    *self.ledger.dropped.entry(reason).or_default() += 1;
                }
            }
        }
        if self.is_synchronous() && self.queue.is_empty() && self.running() == 0 {
            self.apply_pending();
        }
    }

    fn apply_pending(&mut self) {
        for (id, observation) in std::mem::take(&mut self.pending) {
            self.policy.observe(&observation);
            if let Some(flight) = self.flights.get_mut(&id) {
                flight.observed = true;
            }
        }
    }

    /// A batch was trained on and its policy published: the step goes up by one.
    pub fn trained(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(flight) = self.flights.remove(id) {
                self.ledger.trained[flight.job.arm] += 1;
            }
        }
        self.step += 1;
    }

    /// Dispatches nothing more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// The policy step that is published.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The weights that the latest jobs were drawn with, one a distribution.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Learnability, bonus and count of each distribution.
    pub fn scores(&self) -> Vec<ArmScore> {
        self.policy.scores()
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Jobs that are neither trained nor dropped.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What a checkpoint keeps. Jobs in flight are kept as jobs: they are dispatched again.
    pub fn state(&self, sources: &[String]) -> SchedulerState {
        let queued = self.queue.iter().filter(|job| !self.flights.contains_key(&job.id));
        let queued = queued.map(|job| Flight { job: job.clone(), observed: false, accepted: false });
        let mut ledger = self.ledger.clone();
        queued.clone().for_each(|flight| ledger.dispatched[flight.job.arm] += 1);
        SchedulerState {
            sources: sources.to_vec(),
            step: self.step,
            next_id: self.next_id,
            rng: self.rng.clone(),
            curriculum: self.policy.save(),
            flights: self.flights.values().cloned().chain(queued).collect(),
            ledger,
            weights: self.weights.clone(),
        }
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// If the distributions differ or the curriculum's state does not fit its settings.
    pub fn restore(&mut self, state: SchedulerState, sources: &[String]) -> Result<(), String> {
        if state.sources != sources {
            return Err(format!("the checkpoint's distributions are {:?}, the data's {sources:?}", state.sources));
        }
        self.policy.load(state.curriculum)?;
        (self.step, self.next_id, self.rng, self.ledger) = (state.step, state.next_id, state.rng, state.ledger);
        self.weights = state.weights;
        self.queue = state.flights.iter().map(|flight| flight.job.clone()).collect();
        self.flights = state.flights.into_iter().map(|flight| (flight.job.id, flight)).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scheduler(eta: u64, batch_size: usize, max_steps: u64) -> Scheduler {
        let curriculum = CurriculumConfig::default();
        let config = SchedulerConfig { batch_size, max_off_policy_steps: eta, max_steps, seed: 5, curriculum };
        Scheduler::new(config, vec![10, 20, 30])
    }

    fn dispatch_all(scheduler: &mut Scheduler) -> Vec<Job> {
        std::iter::from_fn(|| match scheduler.next_job() {
            Next::Dispatch(job) => Some(job),
            _ => None,
        })
        .collect()
    }

    fn finish(scheduler: &mut Scheduler, job: &Job, outcome: Outcome) {
        let reward = job.arm as f32;
        scheduler.observe(job.id, vec![reward, -reward], vec![reward, -reward]);
        scheduler.settle(job.id, outcome);
    }

    #[test]
    fn admission_bounds_how_far_generation_runs_ahead() {
        let mut scheduler = scheduler(1, 4, 3);
        let jobs = dispatch_all(&mut scheduler);
        assert_eq!(jobs.len(), 8); // (η + 0 + 1)·B
        jobs.iter().for_each(|job| finish(&mut scheduler, job, Outcome::Accepted));
        assert_eq!(scheduler.next_job(), Next::Wait);
        scheduler.trained(&[0, 1, 2, 3]);
        assert_eq!(dispatch_all(&mut scheduler).len(), 4);
        scheduler.trained(&[4, 5, 6, 7]);
        assert_eq!(scheduler.next_job(), Next::Wait); // the run's 3·B jobs are out
        scheduler.trained(&[8, 9, 10, 11]);
        assert_eq!(scheduler.next_job(), Next::Done);
    }

    #[test]
    fn a_dropped_group_is_replaced() {
        let mut scheduler = scheduler(0, 3, 2);
        let jobs = dispatch_all(&mut scheduler);
        finish(&mut scheduler, &jobs[0], Outcome::Dropped(DropReason::Failed));
        assert_eq!(scheduler.next_job(), Next::Wait); // the round is not over
        jobs[1..].iter().for_each(|job| finish(&mut scheduler, job, Outcome::Accepted));
        assert_eq!(dispatch_all(&mut scheduler).iter().map(|job| job.id).collect::<Vec<_>>(), [3]);
    }

    /// With η = 0 the order in which groups finish must not matter.
    #[test]
    fn synchronous_draws_do_not_depend_on_the_order_of_completion() {
        let run = |reverse: bool| {
            let (mut scheduler, mut all) = (scheduler(0, 6, 5), Vec::new());
            for _ in 0..5 {
                let jobs = dispatch_all(&mut scheduler);
                let mut order = jobs.clone();
                if reverse {
                    order.reverse();
                }
                order.iter().for_each(|job| finish(&mut scheduler, job, Outcome::Accepted));
                scheduler.trained(&jobs.iter().map(|job| job.id).collect::<Vec<_>>());
                all.extend(jobs);
            }
            (all, scheduler.policy.weights())
        };
        assert_eq!(run(false), run(true));
    }

    /// A checkpoint in the middle of a round, as text, and the run goes on as if it had never stopped.
    #[test]
    fn a_resumed_run_draws_the_same_jobs() {
        let sources = ["a", "b", "c"].map(String::from);
        let run = |stop_at: Option<usize>| {
            let (mut scheduler, mut trained, mut finished) = (scheduler(0, 4, 6), Vec::new(), 0);
            while scheduler.step() < 6 {
                let mut batch = Vec::new();
                while let Next::Dispatch(job) = scheduler.next_job() {
                    finished += 1;
                    if Some(finished) == stop_at {
                        let text = serde_json::to_string(&scheduler.state(&sources)).unwrap();
                        scheduler = self::scheduler(0, 4, 6);
                        scheduler.restore(serde_json::from_str(&text).unwrap(), &sources).unwrap();
                        batch.clear();
                        continue;
                    }
                    finish(&mut scheduler, &job, Outcome::Accepted);
                    batch.push(job);
                }
                scheduler.trained(&batch.iter().map(|job| job.id).collect::<Vec<_>>());
                trained.extend(batch);
            }
            (trained, scheduler.ledger().clone())
        };
        let straight = run(None);
        for stop_at in [1, 2, 6, 8, 13] {
            assert_eq!(run(Some(stop_at)), straight, "stopped at {stop_at}");
        }
    }

    proptest! {
        /// Under any interleaving every job ends exactly once, no batch is too old, and the run ends.
        #[test]
        fn the_ledger_balances(eta in 0u64..3, batch in 1usize..5, choices in prop::collection::vec(0usize..100, 400)) {
            let mut scheduler = scheduler(eta, batch, 4);
            let (mut running, mut ready): (Vec<Job>, Vec<u64>) = (Vec::new(), Vec::new());
            let mut fates = BTreeMap::new();
            for choice in choices.into_iter().cycle().take(20_000) {
                match choice % 4 {
                    0 | 1 => if let Next::Dispatch(job) = scheduler.next_job() {
                        prop_assert!(fates.insert(job.id, "running").is_none(), "dispatched twice");
                        running.push(job);
                    },
                    2 if !running.is_empty() => {
                        let job = running.swap_remove(choice % running.len());
                        let drops = choice % 7 == 0;
                        finish(&mut scheduler, &job, if drops { Outcome::Dropped(DropReason::Stale) } else { Outcome::Accepted });
                        fates.insert(job.id, if drops { "dropped" } else { "accepted" });
                        if !drops { ready.push(job.id) }
                    }
                    _ if ready.len() >= batch => {
                        let ids: Vec<u64> = ready.drain(..batch).collect();
                        scheduler.trained(&ids);
                        fates.extend(ids.iter().map(|id| (*id, "trained")));
                    }
                    _ => {}
                }
                let ledger = scheduler.ledger();
                let (out, trained): (u64, u64) = (ledger.dispatched.iter().sum(), ledger.trained.iter().sum());
                prop_assert_eq!(out, trained + ledger.dropped.values().sum::<u64>() + scheduler.in_flight() as u64);
                prop_assert!(running.len() + ready.len() <= (eta as usize + 1) * batch);
                if scheduler.next_would_end() { break }
            }
            prop_assert_eq!(scheduler.step(), 4);
            prop_assert!(fates.values().all(|fate| *fate == "trained" || *fate == "dropped"));
        }
    }

    impl Scheduler {
        fn next_would_end(&self) -> bool {
            self.step >= self.config.max_steps
        }
    }
}

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

use crate::config::run::{FilterConfig, RunConfig};
use crate::curriculum::{self, Curriculum, CurriculumConfig, CurriculumState, Mixture, Observation, Score};
use crate::error::KeyError;
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
    pub filter: FilterConfig,
}

impl SchedulerConfig {
    pub fn of(config: &RunConfig) -> Self {
        Self {
            batch_size: config.batch_size,
            max_off_policy_steps: config.pipeline.max_off_policy_steps,
            max_steps: config.max_steps,
            seed: config.seed,
            curriculum: config.curriculum.clone(),
            filter: config.filter,
        }
    }
}

/// A finished group, as far as its fate depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    pub job: &'a Job,
    /// The oldest policy that any of its completions was made by.
    pub policy_step: u64,
    pub rewards: &'a [f32],
    /// All completions are right.
    pub right: bool,
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
    /// All completions are right, so none has an advantage; another group is drawn in its place.
    SolvedAll,
    /// All completions have the same reward and are not right.
    SolvedNone,
}

/// What became of a finished group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It stands in a batch.
    Accepted,
    Dropped(DropReason),
}

/// What a draw knew: with what was observed before, all that another curriculum needs to decide in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Policy steps that were made.
    pub step: u64,
    /// Groups that the curriculum had observed since the start.
    pub seen: u64,
    /// Groups of each arm that were drawn before and not observed.
    pub in_flight: Vec<u64>,
}

/// Why a job was drawn: what stands in decisions.jsonl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub drawn: Drawn,
    /// The probability, value and bonus of each arm, as the draw saw them; in f32, which survives JSON text exactly.
    pub weights: Vec<f32>,
    pub values: Vec<f32>,
    pub bonuses: Vec<f32>,
}

/// A job that has ended; none as the reason: it was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub job: Job,
    pub decision: Decision,
    pub dropped: Option<DropReason>,
}

/// A group that the curriculum saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub drawn: Drawn,
    pub group: Observation,
}

/// What happened since the last step, for the run's logs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// In the order in which the curriculum saw them.
    pub observed: Vec<Observed>,
    /// Jobs in the order in which they ended.
    pub ended: Vec<Ended>,
}

/// A job in flight, with what has happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flight {
    job: Job,
    decision: Decision,
    /// The curriculum has seen its rewards.
    observed: bool,
    /// It stands in a batch that is not trained yet, or is dropped when its round is over.
    #[serde(skip)]
    settled: Option<Outcome>,
}

/// Counts since the start: of jobs, in all or by distribution, and of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub dispatched: Vec<u64>,
    pub trained: Vec<u64>,
    pub dropped: BTreeMap<DropReason, u64>,
    /// Groups that the curriculum observed, also those that were dropped later, and tokens of their completions.
    pub observed: u64,
    pub tokens: u64,
}

impl Ledger {
    /// Groups that ended for this reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or(0)
    }
}

/// What a checkpoint keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SchedulerState {
    /// Names of the distributions, in the order of the arms, and how many rows each has.
    sources: Vec<String>,
    sizes: Vec<usize>,
    pub step: u64,
    next_id: u64,
    rng: ChaCha8Rng,
    curriculum: CurriculumState,
    flights: Vec<Flight>,
    ledger: Ledger,
    weights: Vec<f64>,
    filtered: u64,
    history: History,
}

/// See the module.
pub struct Scheduler {
    config: SchedulerConfig,
    mixture: Mixture,
    curriculum: Curriculum,
    rng: ChaCha8Rng,
    step: u64,
    next_id: u64,
    closed: bool,
    /// Those of the flights that are still to be handed out.
    queue: VecDeque<u64>,
    flights: BTreeMap<u64, Flight>,
    /// Flights of each arm that are not observed.
    in_flight: Vec<u64>,
    /// Observations of the present round, by dispatch order (η = 0).
    pending: BTreeMap<u64, Observation>,
    ledger: Ledger,
    /// The weights of the latest draw.
    weights: Vec<f64>,
    /// Groups without variance that were dropped since the last step.
    filtered: u64,
    history: History,
}

impl Scheduler {
    /// Over a mixture none of whose distributions is empty.
    ///
    /// # Errors
    /// The key inside `[curriculum]` that does not fit the mixture, and what would.
    pub fn new(config: SchedulerConfig, mixture: Mixture) -> Result<Self, KeyError> {
        let zeros = vec![0; mixture.arms()];
        let curriculum = Curriculum::new(&config.curriculum, &mixture)?;
        let (dispatched, trained) = (zeros.clone(), zeros.clone());
        Ok(Self {
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            ledger: Ledger { dispatched, trained, dropped: BTreeMap::new(), observed: 0, tokens: 0 },
            weights: curriculum.weights(0, &zeros),
            config,
            mixture,
            curriculum,
            step: 0,
            next_id: 0,
            closed: false,
            queue: VecDeque::new(),
            flights: BTreeMap::new(),
            in_flight: zeros,
            pending: BTreeMap::new(),
            filtered: 0,
            history: History::default(),
        })
    }

    /// What to do with a free slot.
    pub fn next_job(&mut self) -> Next {
        if self.closed || self.step >= self.config.max_steps {
            return Next::Done;
        }
        if self.queue.is_empty() {
            self.draw_jobs();
        }
        match self.queue.pop_front().and_then(|id| self.flights.get(&id)) {
            Some(flight) => Next::Dispatch(flight.job.clone()),
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
        for _ in 0..if synchronous { room } else { 1 } {
            self.draw_job();
        }
    }

    fn draw_job(&mut self) {
        self.weights = self.curriculum.weights(self.step, &self.in_flight);
        let arm = curriculum::draw(&self.weights, &mut self.rng);
        let row = self.rng.random_range(0..self.mixture.sizes[arm]);
        let seed = engine::sampler::mix_seed(self.config.seed, self.next_id);
        let job = Job { id: self.next_id, arm, row, seed, refills: self.filtered / self.config.batch_size as u64 };
        let scores = self.curriculum.scores(self.step, &self.in_flight);
        let (step, seen, in_flight) = (self.step, self.ledger.observed, self.in_flight.clone());
        let decision = Decision {
            drawn: Drawn { step, seen, in_flight },
            weights: rounded(self.weights.iter().copied()),
            values: rounded(scores.iter().map(|score| score.value)),
            bonuses: rounded(scores.iter().map(|score| score.bonus)),
        };
        self.queue.push_back(job.id);
        self.flights.insert(job.id, Flight { job, decision, observed: false, settled: None });
        self.in_flight[arm] += 1;
        self.ledger.dispatched[arm] += 1;
        self.next_id += 1;
    }

    fn is_synchronous(&self) -> bool {
        self.config.max_off_policy_steps == 0
    }

    /// Jobs dispatched or about to be, and not settled.
    fn running(&self) -> usize {
        self.flights.values().filter(|flight| flight.settled.is_none()).count()
    }

    /// Tells the curriculum of a finished group with so many tokens, whatever becomes of it later.
    pub fn observe(&mut self, id: u64, rewards: Vec<f32>, advantages: Vec<f32>, tokens: u64) {
        let Some(flight) = self.flights.get(&id).filter(|flight| !flight.observed) else { return };
        let arm = flight.job.arm;
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        let (rewards, advantages) = (wide(rewards), wide(advantages));
        let probability = f64::from(flight.decision.weights[arm]);
        let observation = Observation { arm, rewards, advantages, tokens, probability };
        if self.is_synchronous() {
            self.pending.insert(id, observation);
        } else {
            self.apply(id, observation);
        }
    }

    fn apply(&mut self, id: u64, group: Observation) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.observed = true;
        let drawn = flight.decision.drawn.clone();
        self.in_flight[group.arm] -= 1;
        self.ledger.observed += 1;
        self.ledger.tokens += group.tokens;
        self.curriculum.observe(&group, self.step, &self.in_flight);
        self.history.observed.push(Observed { drawn, group });
    }

    /// What is to become of a group in a batch that will train the policy of `step`: too old, nothing to learn from, or good.
    pub fn judge(&self, group: &Finished, step: u64) -> Outcome {
        let FilterConfig { zero_variance, max_refills } = self.config.filter;
        let all_same = || group.rewards.windows(2).all(|pair| pair[0] == pair[1]);
        if step.saturating_sub(group.policy_step) > self.config.max_off_policy_steps {
            Outcome::Dropped(DropReason::Stale)
        } else if zero_variance && group.job.refills < max_refills && all_same() {
            Outcome::Dropped(if group.right { DropReason::SolvedAll } else { DropReason::SolvedNone })
        } else {
            Outcome::Accepted
        }
    }

    /// Enters what became of a finished group. A round (η = 0) ends as a whole: stopped before, all of it is done again.
    pub fn settle(&mut self, id: u64, outcome: Outcome) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.settled = Some(outcome);
        }
        if !self.is_synchronous() {
            self.end_if_dropped(id);
        } else if self.queue.is_empty() && self.running() == 0 {
            for (id, observation) in std::mem::take(&mut self.pending) {
                self.apply(id, observation);
            }
            self.flights.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.end_if_dropped(id));
        }
    }

    fn end_if_dropped(&mut self, id: u64) {
        let settled = self.flights.get(&id).and_then(|flight| flight.settled);
        if let Some(Outcome::Dropped(reason)) = settled {
            *self.ledger.dropped.entry(reason).or_default() += 1;
            self.filtered += u64::from(matches!(reason, DropReason::SolvedAll | DropReason::SolvedNone));
            self.end(id, Some(reason));
        }
    }

    /// Takes a job out of the flights. One that the engine failed to answer was never observed.
    fn end(&mut self, id: u64, dropped: Option<DropReason>) {
        if let Some(Flight { job, decision, observed, .. }) = self.flights.remove(&id) {
            self.in_flight[job.arm] -= u64::from(!observed);
            self.history.ended.push(Ended { job, decision, dropped });
        }
    }

    /// A batch was trained on and its policy published: the step goes up by one.
    pub fn trained(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(flight) = self.flights.get(id) {
                self.ledger.trained[flight.job.arm] += 1;
                self.end(*id, None);
            }
        }
        self.filtered = 0;
        self.step += 1;
    }

    /// What happened since the last call.
    pub fn take_history(&mut self) -> History {
        std::mem::take(&mut self.history)
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

    /// What the curriculum thinks of each distribution now.
    pub fn scores(&self) -> Vec<Score> {
        self.curriculum.scores(self.step, &self.in_flight)
    }

    /// n_d: what was observed of each distribution, in the unit of `curriculum.count`.
    pub fn counts(&self) -> Vec<u64> {
        self.curriculum.arms().as_slice().iter().map(|arm| arm.n).collect()
    }

    /// The names of the distributions, in the order of the arms.
    pub fn sources(&self) -> &[String] {
        &self.mixture.sources
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Jobs that are neither trained nor dropped.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What a checkpoint keeps. Jobs in flight are kept as jobs: they are dispatched again.
    pub fn state(&self) -> SchedulerState {
        SchedulerState {
            sources: self.mixture.sources.clone(),
            sizes: self.mixture.sizes.clone(),
            step: self.step,
            next_id: self.next_id,
            rng: self.rng.clone(),
            curriculum: self.curriculum.save(&self.config.curriculum),
            flights: self.flights.values().cloned().collect(),
            ledger: self.ledger.clone(),
            weights: self.weights.clone(),
            filtered: self.filtered,
            history: self.history.clone(),
        }
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// If the data differ or the curriculum's state does not fit its settings.
    pub fn restore(&mut self, state: SchedulerState) -> Result<(), String> {
        let Mixture { sources, sizes, .. } = &self.mixture;
        if state.sources != *sources {
            return Err(format!("the checkpoint's distributions are {:?}, the data's {sources:?}", state.sources));
        }
        if let Some(arm) = (0..sizes.len()).find(|arm| state.sizes.get(*arm) != Some(&sizes[*arm])) {
            let (name, now, before) = (&sources[arm], sizes[arm], state.sizes.get(arm).unwrap_or(&0));
            return Err(format!("distribution {name} has {now} training rows, and had {before} at the checkpoint"));
        }
        self.curriculum.load(&self.config.curriculum, state.curriculum)?;
        (self.step, self.next_id, self.rng, self.ledger) = (state.step, state.next_id, state.rng, state.ledger);
        (self.weights, self.filtered, self.history) = (state.weights, state.filtered, state.history);
        self.queue = state.flights.iter().map(|flight| flight.job.id).collect();
        self.in_flight = vec![0; sources.len()];
        let waiting = state.flights.iter().filter(|flight| !flight.observed);
        waiting.for_each(|flight| self.in_flight[flight.job.arm] += 1);
        self.flights = state.flights.into_iter().map(|flight| (flight.job.id, flight)).collect();
        Ok(())
    }
}

/// In f32, and finite: JSON has no infinity.
fn rounded(values: impl Iterator<Item = f64>) -> Vec<f32> {
    values.map(|value| (value as f32).clamp(f32::MIN, f32::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scheduler(eta: u64, batch_size: usize, max_steps: u64) -> Scheduler {
        let curriculum = CurriculumConfig::default();
        let filter = FilterConfig::default();
        let config = SchedulerConfig { batch_size, max_off_policy_steps: eta, max_steps, seed: 5, curriculum, filter };
        let sources = ["a", "b", "c"].map(String::from).to_vec();
        Scheduler::new(config, Mixture { sources, sizes: vec![10, 20, 30], max_steps, batch_size }).unwrap()
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
        scheduler.observe(job.id, vec![reward, -reward], vec![reward, -reward], 7);
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
            (all, scheduler.curriculum.weights(5, &[0; 3]))
        };
        assert_eq!(run(false), run(true));
    }

    /// A checkpoint in the middle of a round, as text, and the run goes on as if it had never stopped.
    #[test]
    fn a_resumed_run_draws_the_same_jobs() {
        let run = |stop_at: Option<usize>| {
            let (mut scheduler, mut trained, mut finished) = (scheduler(0, 4, 6), Vec::new(), 0);
            while scheduler.step() < 6 {
                let mut batch = Vec::new();
                while let Next::Dispatch(job) = scheduler.next_job() {
                    finished += 1;
                    if Some(finished) == stop_at {
                        let text = serde_json::to_string(&scheduler.state()).unwrap();
                        scheduler = self::scheduler(0, 4, 6);
                        scheduler.restore(serde_json::from_str(&text).unwrap()).unwrap();
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
